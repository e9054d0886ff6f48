// quantize and gemm_int8: products of whole numbers of eight bits, every row of x and every column of
// w on a scale of its own, that of a row found when it is known (dynamic quantisation).
#include "areas.h"
#include "kernels.h"
#include "rounded.h"

namespace rl::RL_ISA {
namespace {

// What is not finite makes the whole row NaN, by way of its scale.
template <class X>
Range quantize_row(const X* x, int64_t width, int64_t room, uint8_t* y) {
    const Extremes found = extremes_of(x, width, {widen(x[0]), widen(x[0]), 0});
    const float least = found.low, bad = found.odd;
    const float scale = found.high / LARGEST_UINT8 - least / LARGEST_UINT8;  // no overflow between
    const float twice = scale > 0 && bad == 0 ? 2 / scale : 0, half = 0.5f * least;
    const auto whole = [&](auto value) { return (value * 0.5f - half) * twice; };
    int64_t c = 0;
    for (; c + LANES <= width; c += LANES) store_bytes(y + c, min(whole(load(x + c)), splat(LARGEST_UINT8)));
    for (; c < width; ++c)
        y[c] = bad == 0 ? uint8_t(std::min(std::nearbyint(whole(widen(x[c]))), LARGEST_UINT8)) : 0;
    std::memset(y + width, 0, room - width);
    return {scale + bad, least + bad};
}

template <class X>
void quantize_rows(const Context& context, const int64_t* words) {
    const int64_t rows = words[5], width = words[6], ldx = words[7], ldy = words[8];
    float *scales = context.at<float>(words[2]), *lows = context.at<float>(words[3]);
    int64_t first, last;
    context.share(rows, first, last);
    for (int64_t row = first; row < last; ++row) {
        const Range found = quantize_row(context.at<X>(words[0]) + row * ldx, width, ldy, context.at<uint8_t>(words[1]) + row * ldy);
        scales[row] = found.scale, lows[row] = found.low;
    }
}

// What turns sums of whole numbers into results.
struct Scales {
    const float *rows, *row_lows;
    Columns columns;
};

// rows x cols sums, `step` apart, to y.
inline void finish_sums(const Output& output, const Scales& scales, const int32_t* sums, int64_t step, Register* registers,
                        int64_t row, int64_t column, int64_t rows, int64_t cols) {
    const auto own = [&](int64_t r) RL_INLINE { return Range{scales.rows[row + r], scales.row_lows[row + r]}; };
    finish_sums(output, scales.columns, own, sums, step, registers, row, column, rows, cols);
}

#if defined(__AMX_INT8__)
void multiply_int8(Product p, const int8_t* w, const Output& output, const Scales& scales, const Area& own) {
    alignas(64) Register registers[REGISTERS];
    Tiles tiles;
    Endings endings(output, [&](const int32_t* sums, int64_t step, int64_t row, int64_t column, int64_t rows, int64_t cols) {
        finish_sums(output, scales, sums, step, registers, row, column, rows, cols);
    });
    p.k = parts_of(p.k, DEPTH_OF<int8_t>) * DEPTH_OF<int8_t>;  // with the zeros that follow
    multiply_blocks_in_tiles(p, w, tiles, own, output.context.scratch, [&](const BlockOf<int8_t>& block, const Place& at) {
        zero_tiles();
        prefetch_block(output, at);
        endings.spread(steps_of(block));
        multiply_tiles(block, at.down, at.across, endings);
        endings.take(at, std::min(at.across * SIDE, output.n - at.column));
    });
}
#else
// Row by row: right, not fast. Backends ask has_int8 first.
void multiply_int8(const Product& p, const int8_t* w, const Output& output, const Scales& scales, const Area& own) {
    alignas(64) Register registers[REGISTERS];
    constexpr int64_t WIDTH = 16 * LANES;
    alignas(64) int32_t sums[WIDTH];
    const int64_t last = std::min(own.to * LANES, p.n), k = p.k;
    for (int64_t row = own.first; row < own.last; ++row)
        for (int64_t column = own.from * LANES; column < last; column += WIDTH) {
            const int64_t cols = std::min(WIDTH, last - column);
            const uint8_t* x = reinterpret_cast<const uint8_t*>(p.x) + row * p.ldx;
            for (int64_t c = 0; c < cols; ++c) {
                const int8_t* own_w = w + (column + c) * k;
                int32_t sum = 0;
                for (int64_t i = 0; i < k; ++i) sum += int32_t(x[i]) * int32_t(own_w[i]);
                sums[c] = sum;
            }
            finish_sums(output, scales, sums, WIDTH, registers, row, column, 1, cols);
        }
}
#endif

}  // namespace

void quantize(const Context& context, const int64_t* words) {
    words[4] == F32 ? quantize_rows<float>(context, words) : quantize_rows<uint16_t>(context, words);
}

void gemm_int8(const Context& context, const int64_t* words) {
    const Product p = {context.at(words[0]), words[9], words[10], words[11], words[12]};
    const Expression e(words + 14);
    const Output output = {context, e, nullptr, context.at(words[7]), words[8], words[13], p.n};
    const Scales scales = {context.at<float>(words[2]), context.at<float>(words[3]),
                           {context.at<float>(words[4]), context.at<float>(words[5]), context.at<float>(words[6])}};
    multiply_int8(p, context.at<int8_t>(words[1]), output, scales, own_area(context, p));
}

}  // namespace rl::RL_ISA
