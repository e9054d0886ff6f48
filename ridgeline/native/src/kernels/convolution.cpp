// conv: the product of the windows of x with the filters, without laying the windows out: a table
// says where each tap of each output position is (an indirect convolution; Dukhan, The Indirect
// Convolution Algorithm, arXiv 1907.02129).
#include <vector>

#include "conv.h"
#include "kernels.h"
#include "panel.h"

namespace rl::RL_ISA {
namespace {

using namespace conv_words;

// Part of the results of one group: output positions first..last, panels from..to.
struct Area {
    int64_t first, last, from, to;
};

constexpr int64_t ROW_UNIT = 24;  // a multiple of max_rows() of any panel
constexpr int64_t L1_NBYTES = 16 << 10, L2_NBYTES = 1 << 20;  // what a thread counts on for one matrix

// The convolution of one group as the micro-kernel sees it: `taps` runs of k contiguous values.
template <class X>
struct Job {
    const Context& context;
    const Window window;
    const X* x;
    const float* w;
    int64_t k;
    bool is_merged;  // a run is a whole row of the kernel, not one tap
    bool is_copied;  // rows are read from a strip that goes on beyond the edges, with zeros
    const Panels panels;
    const Output output;
    const X* zeros;   // k of them
    const X** table;  // [tap][position of the chunk]
    X* strip;

    int64_t taps() const { return is_merged ? window.depth.kernel * window.height.kernel : window.taps(); }
    int64_t positions() const { return window.out_rows() * window.width.out; }
    // Values from one column of a row to the next, and from one row of the strip to the next.
    int64_t step() const { return is_copied ? window.channels : window.ldx; }
    int64_t strip_row() const {
        const Axis& axis = window.width;
        return window.channels * std::max(axis.pad + axis.size, axis.start(axis.out - 1) + axis.pad + axis.kernel);
    }
    // Rows of the strip that one plane of `rows` rows of the output reads.
    int64_t strip_rows(int64_t rows) const {
        const Axis& axis = window.height;
        return (rows - 1) * axis.stride + (axis.kernel - 1) * axis.dilation + 1;
    }
};

// Where one tap of some columns o..o + count of an output row is. from: that of input column 0, or
// nullptr where the row lies outside.
template <class X>
void point_columns(const Job<X>& job, const X* from, int64_t kw, int64_t o, int64_t count, const X** to) {
    const Axis& axis = job.window.width;
    const int64_t step = job.step(), at = axis.start(o) + kw * axis.dilation;
    if (!from) {
        std::fill(to, to + count, job.zeros);
        return;
    }
    int64_t i = 0, inside = count;
    if (!job.is_merged) {
        for (; i < count && at + i * axis.stride < 0; ++i) to[i] = job.zeros;
        inside = at >= axis.size ? 0 : std::min((axis.size - at + axis.stride - 1) / axis.stride, count);
    }
    const X* x = from + (at + i * axis.stride) * step;
    for (; i < inside; ++i, x += axis.stride * step) to[i] = x;
    for (; i < count; ++i) to[i] = job.zeros;
}

// The input positions of a plane of the strip, for output rows h.. of one plane.
template <class X>
void fill_strip(const Job<X>& job, const OutRow& at, int64_t rows) {
    const Window& window = job.window;
    const int64_t channels = window.channels, count = job.strip_rows(rows), row = job.strip_row();
    const int64_t pad = window.width.pad * channels, size = window.width.size * channels;
    int64_t d0, d1;
    window.depth.inside(at.d, d0, d1);
    for (int64_t kd = d0; kd < d1; ++kd)
        for (int64_t i = 0; i < count; ++i) {
            const int64_t h = window.height.start(at.h) + i;
            if (h < 0 || h >= window.height.size) continue;
            const X* from = job.x + window.input(at, kd, h) * window.ldx;
            X* to = job.strip + (kd * count + i) * row;
            std::fill(to, to + pad, X{});
            if (window.ldx == channels)
                std::copy(from, from + size, to + pad);
            else
                for (int64_t p = 0; p < window.width.size; ++p)
                    std::copy(from + p * window.ldx, from + p * window.ldx + channels, to + pad + p * channels);
            std::fill(to + pad + size, to + row, X{});
        }
}

// The taps of output positions first..last; where they are copied, all of one plane.
template <class X>
void point(const Job<X>& job, int64_t first, int64_t last) {
    const Window& window = job.window;
    const int64_t width = window.width.out, step = last - first;
    const OutRow start(window, first / width);
    const int64_t rows = (last - 1) / width - first / width + 1;
    if (job.is_copied) fill_strip(job, start, rows);
    for (int64_t i = first, count; i < last; i += count) {
        const OutRow at(window, i / width);
        const int64_t o = i % width;
        count = std::min(width - o, last - i);
        const X** to = job.table + (i - first);
        for (int64_t kd = 0; kd < window.depth.kernel; ++kd)
            for (int64_t kh = 0; kh < window.height.kernel; ++kh) {
                const int64_t d = window.depth.start(at.d) + kd * window.depth.dilation;
                const int64_t h = window.height.start(at.h) + kh * window.height.dilation;
                const X* from = nullptr;
                if (d >= 0 && d < window.depth.size && h >= 0 && h < window.height.size)
                    from = job.is_copied ? job.strip + (kd * job.strip_rows(rows) + h - window.height.start(start.h)) * job.strip_row() +
                                               window.width.pad * window.channels
                                         : job.x + window.position(at.image, d, h, 0) * window.ldx;
                for (int64_t kw = 0; kw < (job.is_merged ? 1 : window.width.kernel); ++kw, to += step)
                    point_columns(job, from, kw, o, count, to);
            }
    }
}

// The results of an area whose positions the table holds, panel by panel.
template <class X>
void multiply_area(const Job<X>& job, Register* registers, const Area& area) {
    const Panels& panels = job.panels;
    const int64_t positions = area.last - area.first;
    for (int64_t p = area.from; p < area.to; ++p) {
        const int64_t vectors = panels.vectors(p), width = panels.width(p);
        const int64_t most = max_rows(vectors), blocks = (positions + most - 1) / most;
        const float* next_w = job.w + panels.offset(p + 1 < panels.count ? p + 1 : 0);
        for (int64_t b = 0; b < blocks; ++b) {
            const int64_t row = positions * b / blocks, rows = positions * (b + 1) / blocks - row;
            Tile<X> tile = {job.table + row, positions, job.taps(), job.k, job.w + panels.offset(p), width};
            tile.ahead_step = width * int64_t(sizeof(float)) / blocks;
            tile.ahead = reinterpret_cast<const char*>(next_w) + b * tile.ahead_step * panels.k;
            product(tile, job.output, registers, area.first + row, rows, panels.column(p), vectors);
        }
    }
}

// The grid of threads, over positions and panels, whose largest area takes least.
template <class X>
Area own_area(const Job<X>& job) {
    const int64_t threads = job.context.threads, positions = job.positions(), count = job.panels.count;
    int64_t best = 0, found = 1;
    for (int64_t down = 1; down <= threads; ++down) {
        if (threads % down) continue;
        const int64_t across = threads / down;
        const int64_t rows = (positions + down - 1) / down, cols = (count + across - 1) / across * PANEL_VECTORS * LANES;
        const int64_t cost = rows * cols + ROW_UNIT * (rows + cols);
        if (!best || cost < best) best = cost, found = down;
    }
    const int64_t across = threads / found, i = job.context.thread / across, j = job.context.thread % across;
    return {positions * i / found, positions * (i + 1) / found, count * j / across, count * (j + 1) / across};
}

template <class X>
void convolve(const Job<X>& job) {
    alignas(64) Register registers[REGISTERS];
    const Area own = own_area(job);
    if (own.from == own.to || own.first == own.last) return;
    const int64_t cols = (job.panels.column(own.to - 1) + job.panels.width(own.to - 1) - job.panels.column(own.from));
    const int64_t position_nbytes = job.k * job.window.width.stride * job.window.height.stride * int64_t(sizeof(X));
    int64_t rows = (cols * job.panels.k * 4 <= L2_NBYTES ? L1_NBYTES : L2_NBYTES) / position_nbytes;
    rows = std::min(rows, (SCRATCH_NBYTES / 2) / 8 / job.taps());
    rows = std::max(rows / ROW_UNIT, int64_t(1)) * ROW_UNIT;
    const int64_t plane = job.window.height.out * job.window.width.out;
    for (int64_t first = own.first, last; first < own.last; first = last) {
        last = std::min(first + rows, own.last);
        if (job.is_copied) last = std::min(last, (first / plane + 1) * plane);
        point(job, first, last);
        multiply_area(job, registers, {first, last, own.from, own.to});
    }
}

// Runs of few channels are worth a copy of x in which a row of the kernel is one run.
constexpr int64_t FEW_CHANNELS = 8;

bool is_mergeable(const Window& window, int64_t groups) {
    return groups == 1 && window.width.kernel > 1 && window.width.dilation == 1;
}
bool is_inside(const Axis& axis) { return axis.pad == 0 && axis.start(axis.out - 1) + axis.kernel <= axis.size; }

template <class X>
void convolve_groups(const Context& context, const int64_t* words) {
    const Window window = conv_window(words);
    const Expression e(words + EXPRESSION);
    const int64_t groups = words[GROUPS], channels = window.channels / groups, n = words[FILTERS] / groups;
    const int64_t packed = packed_nbytes(words[X_TYPE], n, window.taps() * channels);
    const bool is_dense = window.ldx == channels && is_inside(window.width);
    const bool is_merged = is_mergeable(window, groups) && (is_dense || channels <= FEW_CHANNELS);
    const int64_t k = is_merged ? window.width.kernel * channels : channels;
    X* zeros = reinterpret_cast<X*>(context.scratch);
    std::fill(zeros, zeros + k, X{});
    char* table = context.scratch + (k * int64_t(sizeof(X)) + 63) / 64 * 64;
    int64_t origins[64];
    for (int64_t g = 0; g < groups; ++g) {
        for (int64_t i = 0; i < e.num_operands; ++i) origins[i] = g * n * e.operand(i).strides[1];
        char* y = context.at(words[Y_REF]) + g * n * nbytes_of(words[Y_TYPE]);
        const float* bias = words[BIAS_REF] == ABSENT ? nullptr : context.at<float>(words[BIAS_REF]) + g * n;
        const Job<X> job{context,
                         window,
                         context.at<X>(words[X_REF]) + g * channels,
                         reinterpret_cast<const float*>(context.at(words[W_REF]) + g * packed),
                         k,
                         is_merged,
                         is_merged && !is_dense,
                         Panels(n, window.taps() * channels),
                         {context, e, bias, y, words[Y_TYPE], window.ldy, n, origins},
                         zeros,
                         reinterpret_cast<const X**>(table),
                         reinterpret_cast<X*>(context.scratch + SCRATCH_NBYTES / 2)};
        convolve(job);
    }
}

// A product of whole positions: the words of gemm.
void convolve_points(const Context& context, const int64_t* words) {
    const Window window = conv_window(words);
    const Expression e(words + EXPRESSION);
    std::vector<int64_t> found = {words[X_REF], words[W_REF], words[BIAS_REF], words[Y_REF], words[X_TYPE], words[Y_TYPE],
                                  window.out_rows() * window.width.out, words[FILTERS], window.channels, window.ldx, window.ldy};
    found.insert(found.end(), words + EXPRESSION, e.steps + 6 * e.num_steps);
    gemm(context, found.data());
}

bool is_plain(const Axis& axis) { return axis.kernel == 1 && axis.stride == 1 && axis.pad == 0; }

}  // namespace

void conv(const Context& context, const int64_t* words) {
    const Window window = conv_window(words);
    if (words[GROUPS] == 1 && is_plain(window.depth) && is_plain(window.height) && is_plain(window.width))
        return convolve_points(context, words);
#if defined(__AMX_BF16__)
    if (words[X_TYPE] != F32) __builtin_trap();  // its weights are packed for conv_grid
#endif
    if (is_narrow(window, words[GROUPS])) return convolve_narrow(context, words);
    words[X_TYPE] == F32 ? convolve_groups<float>(context, words) : convolve_groups<uint16_t>(context, words);
}

}  // namespace rl::RL_ISA
