// Windows that slide over a channels-last tensor: what conv, depthwise and pool have in common.
#pragma once
#include "../context.h"

namespace rl::RL_ISA {

// One dimension of the window: output position o reads inputs o * stride - pad + tap * dilation.
struct Axis {
    int64_t size, out, kernel, stride, pad, dilation;

    int64_t start(int64_t o) const { return o * stride - pad; }
    // The taps first..last of output o that lie inside the input.
    void inside(int64_t o, int64_t& first, int64_t& last) const {
        const int64_t at = start(o);
        first = at < 0 ? std::min((-at + dilation - 1) / dilation, kernel) : 0;
        last = at >= size ? 0 : std::min((size - 1 - at) / dilation + 1, kernel);
        last = std::max(first, last);
    }
};

struct OutRow;

struct Window {
    int64_t batch, channels, ldx, ldy;
    Axis depth, height, width;

    // `sizes` starts at the field batch, `rest` at out_depth.
    Window(const int64_t* sizes, const int64_t* rest)
        : batch(sizes[0]), channels(sizes[4]), ldx(rest[15]), ldy(rest[16]),
          depth(axis(sizes, rest, 0)), height(axis(sizes, rest, 1)), width(axis(sizes, rest, 2)) {}

    int64_t taps() const { return depth.kernel * height.kernel * width.kernel; }
    // Rows of the output: positions that differ by more than their column.
    int64_t out_rows() const { return batch * depth.out * height.out; }
    // Number of the input position (image, d, h, w).
    int64_t position(int64_t image, int64_t d, int64_t h, int64_t w) const {
        return ((image * depth.size + d) * height.size + h) * width.size + w;
    }

    // That of input row h, column 0, of the plane that tap kd of an output row reads.
    int64_t input(const OutRow& at, int64_t kd, int64_t h) const;

  private:
    static Axis axis(const int64_t* sizes, const int64_t* rest, int64_t d) {
        return {sizes[1 + d], rest[d], rest[3 + d], rest[6 + d], rest[9 + d], rest[12 + d]};
    }
};

// Row `row` of the output: its image, depth and height.
struct OutRow {
    int64_t image, d, h;
    OutRow(const Window& window, int64_t row)
        : image(row / window.height.out / window.depth.out),
          d(row / window.height.out % window.depth.out), h(row % window.height.out) {}
};

inline int64_t Window::input(const OutRow& at, int64_t kd, int64_t h) const {
    return position(at.image, depth.start(at.d) + kd * depth.dilation, h, 0);
}

// Calls f(x, y) with pointers of the types stored.
template <class F>
inline void with_types(const Context& context, Ref x, Ref y, int64_t x_type, int64_t y_type, F f) {
    if (x_type == F32 && y_type == F32) return f(context.at<const float>(x), context.at<float>(y));
    if (x_type == F32) return f(context.at<const float>(x), context.at<uint16_t>(y));
    if (y_type == F32) return f(context.at<const uint16_t>(x), context.at<float>(y));
    f(context.at<const uint16_t>(x), context.at<uint16_t>(y));
}

}  // namespace rl::RL_ISA
