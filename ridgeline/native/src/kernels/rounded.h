// What the instructions on whole numbers of eight bits share: how values are rounded, and how sums of
// products become values again.
#pragma once
#include <type_traits>

#include "masked.h"
#include "panel.h"
#include "unrolled.h"

namespace rl::RL_ISA {

constexpr float LARGEST_UINT8 = 255;

typedef uint8_t VB __attribute__((vector_size(LANES)));

// Values from 0 to 255 to whole numbers, halves to even ones.
inline VB to_bytes(V value) {
#if defined(__AVX512F__)
    return (VB)_mm512_cvtepi32_epi8(_mm512_cvtps_epi32((__m512)value));  // GCC rounds in four steps
#else
    return __builtin_convertvector(__builtin_convertvector(round_to_even(value), VI), VB);
#endif
}
inline void store_bytes(uint8_t* to, V value) {
    const VB bytes = to_bytes(value);
    std::memcpy(to, &bytes, sizeof bytes);
}

// What values are between. odd: 0, or NaN where one of them is not finite.
struct Extremes {
    float low, high, odd;
};

// Those of `count` values and of what was found before, in four chains, as each step waits for the
// one before it.
template <class X>
inline Extremes extremes_of(const X* x, int64_t count, Extremes found) {
    constexpr int64_t CHAINS = 4;
    V low[CHAINS], high[CHAINS], odd[CHAINS];
    unrolled<CHAINS>([&](auto i) RL_INLINE { low[i] = splat(found.low), high[i] = splat(found.high), odd[i] = splat(found.odd); });
    const auto take = [&](auto i, V value) RL_INLINE {
        low[i] = min(value, low[i]), high[i] = max(value, high[i]), odd[i] += value * 0.0f;
    };
    int64_t c = 0;
    for (; c + CHAINS * LANES <= count; c += CHAINS * LANES)
        unrolled<CHAINS>([&](auto i) RL_INLINE { take(i, load(x + c + i * LANES)); });
    constexpr std::integral_constant<int, 0> first;
    for (; c + LANES <= count; c += LANES) take(first, load(x + c));
    if (c < count) take(first, first_of(load_some(x + c, count - c), count - c, splat(found.low)));
    const auto least = [](V a, V b) { return min(a, b); };
    const auto most = [](V a, V b) { return max(a, b); };
    return {fold(least(least(low[0], low[1]), least(low[2], low[3])), least),
            fold(most(most(high[0], high[1]), most(high[2], high[3])), most),
            sum_of(odd[0] + odd[1] + odd[2] + odd[3])};
}

// x = low + scale y of whole numbers y from 0 to LARGEST_UINT8.
struct Range {
    float scale, low;
};

// Of columns: their scales, what a row of ones sums up to, and the bias or nullptr.
struct Columns {
    const float *scales, *lows, *bias;
};

// rows x cols sums of whole numbers, `step` apart, to y. range_of(r): that of row r of them.
template <class RangeOf>
RL_INLINE void finish_sums(const Output& output, const Columns& columns, RangeOf range_of, const int32_t* sums, int64_t step,
                           Register* registers, int64_t row, int64_t column, int64_t rows, int64_t cols) {
    const auto sum = [&](int64_t r, int64_t c, int64_t lanes) RL_INLINE {
        VI whole;
        std::memcpy(&whole, sums + r * step + c, sizeof whole);
        const auto column_of = [&](const float* vector) RL_INLINE {
            return lanes == LANES ? load(vector + column + c) : load_first(vector + column + c, lanes);
        };
        const Range own = range_of(r);
        V start = column_of(columns.lows) * own.low;
        if (columns.bias) start += column_of(columns.bias);
        return __builtin_convertvector(whole, V) * (column_of(columns.scales) * own.scale) + start;
    };
    if (output.ending.is_short) return finish_short(output, sum, row, column, rows, cols);
    for (int64_t r = 0; r < rows; ++r)
        for (int64_t c = 0; c < cols; c += LANES) store(registers[0] + r * cols + c, sum(r, c, std::min(LANES, cols - c)));
    finish(output, registers, row, column, rows, cols);
}

}  // namespace rl::RL_ISA
