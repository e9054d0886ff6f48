// Weights laid out for products: panels of fp32 (panel.h) and strips of bf16 (tiles.h).
#pragma once
#include <utility>

#include "panel.h"
#include "tiles.h"

namespace rl::RL_ISA {

template <int64_t S, bool IS_UPPER, size_t... I>
inline V exchanged(V a, V b, std::index_sequence<I...>) {
    constexpr VI order = {int32_t(IS_UPPER ? (I & S ? LANES + I : I + S) : (I & S ? LANES + I - S : I))...};
#if defined(__AVX512F__)
    return _mm512_permutex2var_ps(a, (__m512i)order, b);  // GCC makes three of some of these
#else
    return __builtin_shuffle(a, b, order);
#endif
}

// Rounds of exchanges between rows S apart, S = 1, 2, 4 ..
template <int64_t S = 1>
inline void transpose(V* rows) {
    if constexpr (S < LANES) {
        constexpr auto lanes = std::make_index_sequence<LANES>();
#pragma GCC unroll 16
        for (int64_t i = 0; i < LANES; ++i) {
            if (i & S) continue;
            const V a = rows[i], b = rows[i + S];
            rows[i] = exchanged<S, false>(a, b, lanes);
            rows[i + S] = exchanged<S, true>(a, b, lanes);
        }
        transpose<2 * S>(rows);
    }
}

// to[i][c] = from[c][i] for LANES i and count <= LANES columns `stride` apart, 0 for the others.
template <class Load>
inline void pack_square(Load load_row, int64_t count, float* to, int64_t width) {
    V rows[LANES];
#pragma GCC unroll 16
    for (int64_t c = 0; c < LANES; ++c) rows[c] = c < count ? load_row(c) : V{};
    transpose(rows);
#pragma GCC unroll 16
    for (int64_t i = 0; i < LANES; ++i) store(to + i * width, rows[i]);
}

// `width` columns of w from column 0 on, of which the first cols are there, as a panel of k rows.
template <class W>
void pack_panel(const W* w, int64_t stride_n, int64_t stride_k, int64_t k, int64_t cols, int64_t width,
                float* to) {
    int64_t i = 0;
    if (stride_k == 1)
        for (; i + LANES <= k; i += LANES)
            for (int64_t c = 0; c < width; c += LANES) {
                const W* from = w + c * stride_n + i;
                pack_square([&](int64_t j) { return load(from + j * stride_n); },
                            std::min(cols - c, LANES), to + i * width + c, width);
            }
    for (; i < k; ++i) {
        const W* from = w + i * stride_k;
        float* row = to + i * width;
        int64_t c = 0;
        if (stride_n == 1)
            for (; c + LANES <= cols; c += LANES) store(row + c, load(from + c));
        for (; c < cols; ++c) row[c] = widen(from[c * stride_n]);
        for (; c < width; ++c) row[c] = 0;
    }
}

#if defined(__AMX_BF16__)
// DEPTH values of k, of which the first `depth` are there, of cols <= SIDE columns.
inline void pack_tile(const uint16_t* w, int64_t stride_n, int64_t stride_k, int64_t depth, int64_t cols,
                      uint16_t* to) {
    float* pairs = reinterpret_cast<float*>(to);
    if (stride_k == 1) {
        const __mmask32 mask = __mmask32((1ull << depth) - 1);
        const auto column = [&](int64_t c) { return (V)_mm512_maskz_loadu_epi16(mask, w + c * stride_n); };
        return pack_square(column, cols, pairs, SIDE);
    }
    if (stride_n == 1) {
        const auto row = [&](int64_t i) {
            const __mmask16 mask = i < depth ? __mmask16((1u << cols) - 1) : 0;
            return __builtin_convertvector((VH)_mm256_maskz_loadu_epi16(mask, w + i * stride_k), VI);
        };
        for (int64_t i = 0; i < DEPTH; i += 2)
            store(pairs + i / 2 * SIDE, bits_to_float(row(i) | row(i + 1) << 16));
        return;
    }
    for (int64_t i = 0; i < DEPTH; ++i)
        for (int64_t c = 0; c < SIDE; ++c)
            to[(i / 2 * SIDE + c) * 2 + i % 2] = c < cols && i < depth ? w[c * stride_n + i * stride_k] : 0;
}

// cols <= SIDE columns of w from column 0 on as a strip.
inline void pack_strip(const uint16_t* w, int64_t stride_n, int64_t stride_k, int64_t k, int64_t cols,
                       uint16_t* to) {
    for (int64_t i = 0; i < k; i += DEPTH, to += DEPTH * SIDE)
        pack_tile(w + i * stride_k, stride_n, stride_k, std::min(DEPTH, k - i), cols, to);
}
#endif

#if defined(__AMX_INT8__)
// The same of eight bits: four values of k side by side for each column.
inline void pack_strip(const int8_t* w, int64_t stride_n, int64_t stride_k, int64_t k, int64_t cols, int8_t* to) {
    constexpr int64_t DEPTH = DEPTH_OF<int8_t>;
    for (int64_t i = 0; i < (k + DEPTH - 1) / DEPTH * DEPTH; ++i)
        for (int64_t c = 0; c < SIDE; ++c)
            to[(i / 4 * SIDE + c) * 4 + i % 4] = c < cols && i < k ? w[c * stride_n + i * stride_k] : 0;
}
#endif

}  // namespace rl::RL_ISA
