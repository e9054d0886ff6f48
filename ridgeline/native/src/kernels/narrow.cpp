// Convolutions of few channels. Columns that stand side by side read values a constant distance
// apart, which the kernels are made for; the bordering ones read a copy with zeros around it.
#include "activation.h"
#include "conv.h"
#include "masked.h"
#include "panel.h"

namespace rl::RL_ISA {
namespace {

// Columns of the output that stand in registers beside so many vectors of filters.
constexpr int columns_beside(int vectors) {
#if defined(__AVX512F__) || defined(__aarch64__)
    constexpr int found[] = {0, 14, 14, 8, 6};
#else
    constexpr int found[] = {0, 7, 6};
#endif
    return found[vectors];
}

// A row of the kernel that lies inside the input: where it starts, and in the weights.
struct Line {
    const float* x;
    int64_t k;
};

struct Narrow {
    const Context& context;
    const Window window;
    const float* w;
    const Panels panels;
    const Output output;
    const Activation activation;
    Register* registers;

    int64_t run() const { return window.width.kernel * window.channels; }
    int64_t step() const { return window.width.stride * window.channels; }
};

// Columns of a row of the output beside a panel of filters. lines: of their first column.
struct Block {
    const Line* lines;
    int64_t num_lines, row, o, count, panel;
};

template <int VECTORS, class Y>
inline RL_INLINE void put(const Narrow& n, const Block& block, Y* y, V (&sums)[columns_beside(VECTORS) * VECTORS]) {
    const int64_t ldy = n.window.ldy;
    n.activation.apply<false>(sums);
    unrolled<columns_beside(VECTORS)>([&](auto j) RL_INLINE {
        if (j < block.count)
            unrolled<VECTORS>([&](auto v) RL_INLINE { store(y + j * ldy + v * LANES, sums[j * VECTORS + v]); });
    });
}

// STEP: values between columns that stand side by side; 0: as the window says.
template <int VECTORS, int STEP>
void multiply_columns(const Narrow& n, const Block& block) {
    constexpr int COLUMNS = columns_beside(VECTORS);
    const int64_t step = STEP ? STEP : n.step(), run = n.run(), column = n.panels.column(block.panel);
    const float* panel = n.w + n.panels.offset(block.panel);
    V sums[COLUMNS * VECTORS];
    alignas(64) float held[PANEL_VECTORS * LANES];
    const float* bias = bias_of(n.output, column, VECTORS, held);
    unrolled<VECTORS>([&](auto v) RL_INLINE {
        const V first = bias ? load(bias + v * LANES) : V{};
        unrolled<COLUMNS>([&](auto j) RL_INLINE { sums[j * VECTORS + v] = first; });
    });
    for (int64_t l = 0; l < block.num_lines; ++l) {
        const float *x = block.lines[l].x, *w = panel + block.lines[l].k * VECTORS * LANES;
        for (int64_t i = 0; i < run; ++i, ++x, w += VECTORS * LANES) {
            V weights[VECTORS];
            unrolled<VECTORS>([&](auto v) RL_INLINE { weights[v] = load(w + v * LANES); });
            unrolled<COLUMNS>([&](auto j) RL_INLINE {
                const V value = splat(x[j * step]);
                unrolled<VECTORS>([&](auto v) RL_INLINE { sums[j * VECTORS + v] += value * weights[v]; });
            });
        }
    }
    const int64_t i = block.row * n.window.width.out + block.o;
    const int64_t cols = std::min(VECTORS * LANES, n.output.n - column);
    if (cols == VECTORS * LANES && n.activation.is_cheap()) {
        if (n.output.type == F32) return put<VECTORS>(n, block, n.output.at(i, column), sums);
        return put<VECTORS>(n, block, reinterpret_cast<uint16_t*>(n.output.y) + i * n.window.ldy + column, sums);
    }
    unrolled<COLUMNS>([&](auto j) RL_INLINE {
        float* to = n.registers[0] + j * cols;
        unrolled<VECTORS>([&](auto v) RL_INLINE { store(to + v * LANES, sums[j * VECTORS + v]); });
    });
    finish(n.output, n.registers, i, column, block.count, cols);
}

template <int STEP>
void multiply_vectors(const Narrow& n, const Block& block, int64_t vectors) {
    switch (vectors) {
        case 1: return multiply_columns<1, STEP>(n, block);
        case 2: return multiply_columns<2, STEP>(n, block);
        case 3: if constexpr (PANEL_VECTORS > 2) return multiply_columns<3, STEP>(n, block);
        case 4: if constexpr (PANEL_VECTORS > 2) return multiply_columns<4, STEP>(n, block);
    }
}

auto kernel_of(int64_t step) {
    switch (step) {
        case 1: return multiply_vectors<1>;
        case 2: return multiply_vectors<2>;
        case 3: return multiply_vectors<3>;
        case 6: return multiply_vectors<6>;
    }
    return multiply_vectors<0>;
}

// Values first..first + count of a row of x, which holds input columns from 0 on; 0 beside them.
template <class X>
void copy_part(const Window& window, const X* row, int64_t first, int64_t count, float* to) {
    const int64_t channels = window.channels, size = window.width.size * channels;
    const int64_t from = std::clamp<int64_t>(-first, 0, count), last = std::clamp<int64_t>(size - first, from, count);
    std::fill(to, to + from, 0.0f);
    if (window.ldx == channels)
        for (int64_t i = from; i < last; ++i) to[i] = widen(row[first + i]);
    else
        for (int64_t i = from; i < last; ++i) to[i] = widen(row[(first + i) / channels * window.ldx + (first + i) % channels]);
    std::fill(to + last, to + count, 0.0f);
}

// A row of the output.
template <class X>
void convolve_row(const Narrow& n, const X* x, int64_t row, Line* lines, float* copied) {
    const Window& window = n.window;
    const Axis& axis = window.width;
    const OutRow at(window, row);
    const auto kernel = kernel_of(n.step());
    int64_t d0, d1, h0, h1;
    window.depth.inside(at.d, d0, d1);
    window.height.inside(at.h, h0, h1);
    for (int64_t p = 0; p < n.panels.count; ++p) {
        const int64_t columns = columns_beside(int(n.panels.vectors(p)));
        const int64_t span = (columns - 1) * n.step() + n.run(), size = axis.size * window.channels;
        for (int64_t o = 0; o < axis.out; o += columns) {
            const int64_t first = axis.start(o) * window.channels;
            const bool is_direct = sizeof(X) == 4 && window.ldx == window.channels && first >= 0 && first + span <= size;
            int64_t count = 0;
            for (int64_t kd = d0; kd < d1; ++kd)
                for (int64_t kh = h0; kh < h1; ++kh, ++count) {
                    const int64_t h = window.height.start(at.h) + kh * window.height.dilation;
                    const X* from = x + window.input(at, kd, h) * window.ldx;
                    if (!is_direct) copy_part(window, from, first, span, copied + count * span);
                    lines[count] = {is_direct ? reinterpret_cast<const float*>(from) + first : copied + count * span,
                                    (kd * window.height.kernel + kh) * n.run()};
                }
            kernel(n, {lines, count, row, o, std::min(columns, axis.out - o), p}, n.panels.vectors(p));
        }
    }
}

template <class X>
void convolve_rows(const Narrow& n, const X* x) {
    Line* lines = reinterpret_cast<Line*>(n.context.scratch);
    float* copied = reinterpret_cast<float*>(lines + n.window.depth.kernel * n.window.height.kernel);
    int64_t first, last;
    n.context.share(n.window.out_rows(), first, last);
    for (int64_t row = first; row < last; ++row) convolve_row(n, x, row, lines, copied);
}

}  // namespace

bool is_narrow(const Window& window, int64_t groups) {
    constexpr int64_t FEW_CHANNELS = 4;
    return groups == 1 && window.channels <= FEW_CHANNELS && window.width.dilation == 1;
}

void convolve_narrow(const Context& context, const int64_t* words) {
    using namespace conv_words;
    const Window window = conv_window(words);
    const Expression e(words + EXPRESSION);
    const int64_t n = words[FILTERS];
    alignas(64) Register registers[REGISTERS];
    const Narrow narrow{context,
                        window,
                        context.at<float>(words[W_REF]),
                        Panels(n, window.taps() * window.channels),
                        {context, e, context.at<float>(words[BIAS_REF]), context.at(words[Y_REF]), words[Y_TYPE], window.ldy, n},
                        Activation(e),
                        registers};
    words[X_TYPE] == F32 ? convolve_rows(narrow, context.at<float>(words[X_REF]))
                         : convolve_rows(narrow, context.at<uint16_t>(words[X_REF]));
}

}  // namespace rl::RL_ISA
