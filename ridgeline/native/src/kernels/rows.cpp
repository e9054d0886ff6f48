// What needs a whole row, or all of a dimension, at once: reductions, norms, softmax, look-ups.
#include "../expression.h"
#include "kernels.h"

namespace rl::RL_ISA {
namespace {

// Calls f with null pointers of the types that hold x and y.
template <class F>
void with_types(int64_t x_type, int64_t y_type, F f) {
    const float* single = nullptr;
    const uint16_t* half = nullptr;
    if (x_type == F32) {
        if (y_type == F32) return f(single, single);
        return f(single, half);
    }
    if (y_type == F32) return f(half, single);
    f(half, half);
}

enum Reduction : int64_t { SUM, MEAN, LARGEST, SMALLEST };

inline V merge(int64_t kind, V a, V b) {
    if (kind <= MEAN) return a + b;
    const V found = kind == LARGEST ? max(a, b) : min(a, b);
    return select(a != a, a, select(b != b, b, found));  // NaN stays, as in torch
}
inline V neutral(int64_t kind) {
    const float infinity = std::numeric_limits<float>::infinity();
    return splat(kind <= MEAN ? 0 : kind == LARGEST ? -infinity : infinity);
}

template <class X, class Y>
void reduce_all(const Context& context, const X* x, Y* y, int64_t kind, int64_t outer, int64_t length,
                int64_t inner) {
    int64_t first, last;
    context.share(outer * inner, first, last);
    for (int64_t i = first; i < last; ++i) {
        const X* from = x + i / inner * length * inner + i % inner;
        V found = neutral(kind);
        for (int64_t k = 0; k < length; ++k) found = merge(kind, found, splat(widen(from[k * inner])));
        narrow(y + i, kind == MEAN ? found[0] / float(length) : found[0]);
    }
}

enum Norm : int64_t { LAYER_NORM, RMS_NORM, SOFTMAX, LOG_SOFTMAX };

template <class X, class Y>
void norm_row(const X* x, Y* y, const float* scale, const float* shift, int64_t kind, int64_t width,
              double epsilon) {
    if (kind >= SOFTMAX) {
        float top = -std::numeric_limits<float>::infinity();
        for (int64_t i = 0; i < width; ++i) top = std::max(top, widen(x[i]));
        double total = 0;
        for (int64_t i = 0; i < width; ++i) total += std::exp(widen(x[i]) - top);
        for (int64_t i = 0; i < width; ++i) {
            const float value = widen(x[i]) - top;
            narrow(y + i, kind == SOFTMAX ? float(std::exp(value) / total) : float(value - std::log(total)));
        }
        return;
    }
    double mean = 0, square = 0;
    for (int64_t i = 0; i < width && kind == LAYER_NORM; ++i) mean += widen(x[i]);
    mean /= width;
    for (int64_t i = 0; i < width; ++i) square += (widen(x[i]) - mean) * (widen(x[i]) - mean);
    const double factor = 1 / std::sqrt(square / width + epsilon);
    for (int64_t i = 0; i < width; ++i) {
        float value = float((widen(x[i]) - mean) * factor);
        if (scale) value *= scale[i];
        narrow(y + i, shift ? value + shift[i] : value);
    }
}

}  // namespace

void reduce(const Context& context, const int64_t* words) {
    with_types(words[2], words[3], [&](auto x_type, auto y_type) {
        using X = std::remove_const_t<std::remove_pointer_t<decltype(x_type)>>;
        using Y = std::remove_const_t<std::remove_pointer_t<decltype(y_type)>>;
        reduce_all(context, context.at<X>(words[0]), context.at<Y>(words[1]), words[4], words[5], words[6],
                   words[7]);
    });
}

void norm(const Context& context, const int64_t* words) {
    with_types(words[4], words[5], [&](auto x_type, auto y_type) {
        using X = std::remove_const_t<std::remove_pointer_t<decltype(x_type)>>;
        using Y = std::remove_const_t<std::remove_pointer_t<decltype(y_type)>>;
        int64_t first, last;
        context.share(words[7], first, last);
        for (int64_t row = first; row < last; ++row)
            norm_row(context.at<X>(words[0]) + row * words[9], context.at<Y>(words[3]) + row * words[10],
                     context.at<float>(words[1]), context.at<float>(words[2]), words[6], words[8],
                     number(words[11]));
    });
}

void group_norm(const Context& context, const int64_t* words) {
    const int64_t batch = words[6], positions = words[7], channels = words[8], groups = words[9];
    const int64_t ldx = words[10], ldy = words[11], width = channels / groups;
    const float *scale = context.at<float>(words[1]), *shift = context.at<float>(words[2]);
    const Expression e(words + 13);
    with_types(words[4], words[5], [&](auto x_type, auto y_type) {
        using X = std::remove_const_t<std::remove_pointer_t<decltype(x_type)>>;
        using Y = std::remove_const_t<std::remove_pointer_t<decltype(y_type)>>;
        int64_t first, last;
        context.share(batch * groups, first, last);
        alignas(64) Register registers[REGISTERS];
        for (int64_t i = first; i < last; ++i) {
            const int64_t sample = i / groups, start = i % groups * width;
            const X* x = context.at<X>(words[0]) + sample * positions * ldx + start;
            Y* y = context.at<Y>(words[3]) + sample * positions * ldy + start;
            double mean = 0, square = 0;
            for (int64_t p = 0; p < positions; ++p)
                for (int64_t c = 0; c < width; ++c) mean += widen(x[p * ldx + c]);
            mean /= double(positions * width);
            for (int64_t p = 0; p < positions; ++p)
                for (int64_t c = 0; c < width; ++c) {
                    const double away = widen(x[p * ldx + c]) - mean;
                    square += away * away;
                }
            const double factor = 1 / std::sqrt(square / double(positions * width) + number(words[12]));
            for (int64_t p = 0; p < positions; ++p)
                for (int64_t c = 0; c < width; c += TILE) {
                    const int64_t cols = std::min(TILE, width - c);
                    for (int64_t k = 0; k < cols; ++k) {
                        const int64_t channel = start + c + k;
                        float value = float((widen(x[p * ldx + c + k]) - mean) * factor);
                        if (scale) value *= scale[channel];
                        registers[0][k] = shift ? value + shift[channel] : value;
                    }
                    const int64_t found =
                        finish(context, e, registers, sample * positions + p, start + c, 1, cols);
                    store_tile(y + p * ldy + c, registers[found], 1, cols, 0, 1);
                }
        }
    });
}

// An index below 0 counts from the end, as in ONNX.
void gather(const Context& context, const int64_t* words) {
    const char* table = context.at(words[0]);
    char* y = context.at(words[2]);
    const int64_t nbytes = words[5], rows = words[6];
    int64_t first, last;
    context.share(words[4], first, last);
    for (int64_t i = first; i < last; ++i) {
        int64_t index = words[3] == I64 ? context.at<int64_t>(words[1])[i] : context.at<int32_t>(words[1])[i];
        if (index < 0) index += rows;
        std::memcpy(y + i * nbytes, table + index * nbytes, nbytes);
    }
}

}  // namespace rl::RL_ISA
