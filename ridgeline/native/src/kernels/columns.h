// Windows over single channels: what depthwise and pool share.
//
// Along a row of the output several columns stand in registers together and share the inputs that
// they read, for one vector of channels after another. An operation Op says what happens to them:
//
//   Op::HAS_WEIGHTS                          one vector per tap and block of channels
//   float* op.weights                        (block, tap, LANES) of the blocks at work
//   void op.choose(Blocks)                   which these are
//   V op.start(c, lanes)                     what an output starts from
//   static V Op::combine(sum, value, weight)
//   void op.finish(V (&sums)[COLUMNS], Place)
#pragma once
#include <type_traits>

#include "masked.h"
#include "unrolled.h"
#include "window.h"

namespace rl::RL_ISA {

constexpr int COLUMNS = 7;  // divides the widths of most networks: 7, 14, 28, 56, 112

// Rows of the output and vectors of channels that are worked on together: the rows share inputs,
// which should still be in a near cache, and the vectors of a position lie side by side in memory.
// Measured on the layers of MobileNetV3 with 2 MiB of L2.
constexpr int64_t CHUNK_ROWS = 16, CHUNK_BLOCKS = 4;

// The vectors of channels first..last.
struct Blocks {
    int64_t first, last;
};

// A row of a window that lies inside the input: where input column 0 of it is, and its weights.
struct Line {
    int64_t x, w;
};

// Where results go: `count` columns of output row `row` from column o on, `lanes` channels from c on.
struct Place {
    OutRow at;
    int64_t row, o, count, c, lanes;
};

// Adds what one line gives to the sums of columns that start at input column `start`, which is where
// x is; `count` of them are wanted. IS_EDGE: some lie outside. WIDTH and STRIDE: the window's, of
// dilation 1; 0: as axis says.
template <class Op, int WIDTH, int STRIDE, bool IS_EDGE, class X>
inline RL_INLINE void add_line(const Axis& axis, int64_t start, int64_t step, int64_t count, int64_t lanes,
                               const X* x, const float* w, V (&sums)[COLUMNS]) {
    const auto is_inside = [&](int64_t j) RL_INLINE {
        return !IS_EDGE || uint64_t(start + j) < uint64_t(axis.size);
    };
    const auto weight = [&](int64_t k) RL_INLINE { return Op::HAS_WEIGHTS ? load(w + k * LANES) : V{}; };
    if constexpr (WIDTH == 0) {
        for (int64_t k = 0; k < axis.kernel; ++k) {
            const V own = weight(k);
            unrolled<COLUMNS>([&](auto c) RL_INLINE {
                const int64_t j = c * axis.stride + k * axis.dilation;
                if (c < count && is_inside(j)) sums[c] = Op::combine(sums[c], load_first(x + j * step, lanes), own);
            });
        }
    } else {
        V own[WIDTH];
        unrolled<WIDTH>([&](auto k) RL_INLINE { own[k] = weight(k); });
        unrolled<(COLUMNS - 1) * STRIDE + WIDTH>([&](auto j) RL_INLINE {
            if (is_inside(j)) {
                V value = load_first(x, lanes);
                keep(value);
                unrolled<WIDTH>([&](auto k) RL_INLINE {
                    constexpr int at = j - k, column = at / STRIDE;
                    if constexpr (at >= 0 && at % STRIDE == 0 && column < COLUMNS)
                        sums[column] = Op::combine(sums[column], value, own[k]);
                });
            }
            x += step;
        });
    }
}

// COLUMNS columns of a row for some vectors of channels.
template <class Op, int WIDTH, int STRIDE, bool IS_EDGE, class X>
void put_columns(const Op& op, const Window& window, const Blocks& blocks, const X* x, const Line* lines,
                 int64_t num_lines, Place place) {
    const Axis axis = window.width;
    const int64_t start = axis.start(place.o), step = window.ldx, taps = window.taps() * LANES;
    const float* weights = op.weights;
    place.count = std::min<int64_t>(COLUMNS, axis.out - place.o);
    for (int64_t b = blocks.first; b < blocks.last; ++b, weights += taps) {
        place.c = b * LANES;
        place.lanes = std::min(LANES, window.channels - place.c);
        const X* from = x + start * step + place.c;
        const V first = op.start(place.c, place.lanes);
        V sums[COLUMNS];
        unrolled<COLUMNS>([&](auto j) RL_INLINE { sums[j] = first; });
        const auto add_lines = [&](int64_t lanes) RL_INLINE {
            for (int64_t l = 0; l < num_lines; ++l)
                add_line<Op, WIDTH, STRIDE, IS_EDGE>(axis, start, step, place.count, lanes, from + lines[l].x,
                                                     weights + lines[l].w, sums);
        };
        if (place.lanes == LANES)
            add_lines(LANES);
        else
            add_lines(place.lanes);
        op.finish(sums, place);
    }
}

// One row of the output.
template <class Op, int WIDTH, int STRIDE, class X>
void put_row(const Op& op, const Window& window, const Blocks& blocks, const X* x, const Line* lines,
             int64_t num_lines, Place place) {
    const Axis& axis = window.width;
    const int64_t span = (COLUMNS - 1) * axis.stride + (axis.kernel - 1) * axis.dilation + 1;
    for (place.o = 0; place.o < axis.out; place.o += COLUMNS) {
        const int64_t start = axis.start(place.o);
        if (start >= 0 && start + span <= axis.size)
            put_columns<Op, WIDTH, STRIDE, false>(op, window, blocks, x, lines, num_lines, place);
        else
            put_columns<Op, WIDTH, STRIDE, true>(op, window, blocks, x, lines, num_lines, place);
    }
}

template <class Op, class X>
auto row_kernel(const Axis& axis) {
    if (axis.dilation == 1 && axis.stride == 1) {
        if (axis.kernel == 3) return put_row<Op, 3, 1, X>;
        if (axis.kernel == 5) return put_row<Op, 5, 1, X>;
        if (axis.kernel == 7 && Op::HAS_WEIGHTS) return put_row<Op, 7, 1, X>;
    }
    if (axis.dilation == 1 && axis.stride == 2) {
        if (axis.kernel == 2 && !Op::HAS_WEIGHTS) return put_row<Op, 2, 2, X>;
        if (axis.kernel == 3) return put_row<Op, 3, 2, X>;
        if (axis.kernel == 5 && Op::HAS_WEIGHTS) return put_row<Op, 5, 2, X>;
    }
    return put_row<Op, 0, 0, X>;
}

// The lines of each window of output rows first..last of the plane of `at`; counts: how many each has.
inline void find_lines(const Window& window, const OutRow& at, int64_t first, int64_t last, Line* line,
                       int64_t* counts) {
    int64_t d0, d1, h0, h1;
    window.depth.inside(at.d, d0, d1);
    for (int64_t h = first; h < last; ++h) {
        window.height.inside(h, h0, h1);
        *counts++ = (d1 - d0) * (h1 - h0);
        for (int64_t kd = d0; kd < d1; ++kd)
            for (int64_t kh = h0; kh < h1; ++kh, ++line) {
                line->x = window.input(at, kd, window.height.start(h) + kh * window.height.dilation) * window.ldx;
                line->w = (kd * window.height.kernel + kh) * window.width.kernel * LANES;
            }
    }
}

// Chunks that the rows of a plane are cut into: as many for every thread where there are enough.
inline int64_t num_chunks(const Context& context, int64_t rows) {
    const int64_t count = (rows + CHUNK_ROWS - 1) / CHUNK_ROWS;
    if (rows < 8 * context.threads) return count;
    return (count + context.threads - 1) / context.threads * context.threads;
}

// This thread's part of all windows. `lines`: room for those of CHUNK_ROWS rows.
template <class X, class Op>
void put_windows(const Context& context, const Window& window, const X* x, Op& op, Line* lines) {
    const int64_t blocks = (window.channels + LANES - 1) / LANES, out = window.height.out;
    const int64_t planes = window.batch * window.depth.out, chunks = num_chunks(context, out);
    const int64_t groups = planes * chunks % context.threads == 0 ? 1 : std::min(context.threads, blocks);
    const auto kernel = row_kernel<Op, X>(window.width);
    int64_t counts[CHUNK_ROWS], first, last;
    context.share(groups * planes * chunks, first, last);
    for (int64_t unit = first; unit < last; ++unit) {
        const int64_t group = unit / chunks / planes, plane = unit / chunks % planes, number = unit % chunks;
        const int64_t h0 = out * number / chunks, h1 = out * (number + 1) / chunks;
        Place place{OutRow(window, plane * out), 0, 0, 0, 0, 0};
        find_lines(window, place.at, h0, h1, lines, counts);
        const int64_t last_block = blocks * (group + 1) / groups;
        for (int64_t b = blocks * group / groups; b < last_block; b += CHUNK_BLOCKS) {
            const Blocks own{b, std::min(last_block, b + CHUNK_BLOCKS)};
            op.choose(own);
            const Line* line = lines;
            for (int64_t h = h0; h < h1; ++h) {
                place.at.h = h;
                place.row = plane * out + h;
                kernel(op, window, own, x, line, counts[h - h0], place);
                line += counts[h - h0];
            }
        }
    }
}

}  // namespace rl::RL_ISA
