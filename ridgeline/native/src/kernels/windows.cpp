// pool: the largest or mean of windows; upsample: nearest or bilinear.
#include "columns.h"
#include "kernels.h"

namespace rl::RL_ISA {
namespace {

enum PoolKind : int64_t { LARGEST, MEAN_INSIDE, SUM_OVER_DIVISOR };

// As torch: NaN on either side gives NaN.
inline V larger(V a, V b) { return select((a > b) | (a != a), a, b); }

template <PoolKind KIND>
struct Pooling {
    static constexpr bool HAS_WEIGHTS = false;

    const Window& window;
    const float divisor;
    char* y;
    int64_t y_type;
    float* weights = nullptr;

    void choose(const Blocks&) const {}
    V start(int64_t, int64_t) const {
        return splat(KIND == LARGEST ? -std::numeric_limits<float>::infinity() : 0.0f);
    }
    static V combine(V sum, V value, V) { return KIND == LARGEST ? larger(sum, value) : sum + value; }

    // Positions of a window that lie inside the input.
    float num_inside(const OutRow& at, int64_t o) const {
        int64_t d0, d1, h0, h1, w0, w1;
        window.depth.inside(at.d, d0, d1);
        window.height.inside(at.h, h0, h1);
        window.width.inside(o, w0, w1);
        return float((d1 - d0) * (h1 - h0) * (w1 - w0));
    }

    template <class Y>
    RL_INLINE void finish_as(V (&sums)[COLUMNS], const Place& place) const {
        Y* to = reinterpret_cast<Y*>(y) + (place.row * window.width.out + place.o) * window.ldy + place.c;
        unrolled<COLUMNS>([&](auto j) RL_INLINE {
            if (j >= place.count) return;
            if (KIND == MEAN_INSIDE) sums[j] = sums[j] / num_inside(place.at, place.o + j);
            if (KIND == SUM_OVER_DIVISOR) sums[j] = sums[j] / divisor;
            store_first(to + j * window.ldy, sums[j], place.lanes);
        });
    }
    RL_INLINE void finish(V (&sums)[COLUMNS], const Place& place) const {
        y_type == F32 ? finish_as<float>(sums, place) : finish_as<uint16_t>(sums, place);
    }
};

template <PoolKind KIND>
void pool_windows(const Context& context, const int64_t* words) {
    const Window window(words + 6, words + 11);
    Pooling<KIND> op{window, float(number(words[5])), context.at(words[1]), words[3]};
    Line* lines = reinterpret_cast<Line*>(context.scratch);
    if (words[2] == F32)
        put_windows(context, window, context.at<float>(words[0]), op, lines);
    else
        put_windows(context, window, context.at<uint16_t>(words[0]), op, lines);
}

}  // namespace

void pool(const Context& context, const int64_t* words) {
    switch (words[4]) {
        case LARGEST: return pool_windows<LARGEST>(context, words);
        case MEAN_INSIDE: return pool_windows<MEAN_INSIDE>(context, words);
        case SUM_OVER_DIVISOR: return pool_windows<SUM_OVER_DIVISOR>(context, words);
    }
}

namespace {

// Two neighbours along one dimension and the weight of the second.
struct Between {
    int64_t low, high;
    float weight;

    // torch, aten/src/ATen/native/UpSample.h: area_pixel_compute_source_index
    Between(int64_t kind, bool is_corners_aligned, int64_t o, float scale, int64_t size) {
        const float at = kind == 0 || is_corners_aligned
                             ? o * scale
                             : std::max((o + 0.5f) * scale - 0.5f, 0.0f);
        low = std::min(int64_t(at), size - 1);
        high = kind == 0 ? low : std::min(low + 1, size - 1);
        weight = kind == 0 ? 0.0f : std::min(std::max(at - float(low), 0.0f), 1.0f);
    }
};

struct Upsampling {
    int64_t kind, batch, height, width, channels, out_height, out_width, ldx, ldy;
    float scale_height, scale_width;
    bool is_corners_aligned;

    explicit Upsampling(const int64_t* w)
        : kind(w[0]), batch(w[1]), height(w[2]), width(w[3]), channels(w[4]), out_height(w[5]),
          out_width(w[6]), ldx(w[7]), ldy(w[8]), scale_height(float(number(w[9]))),
          scale_width(float(number(w[10]))), is_corners_aligned(w[11]) {}
};

// `rows`: the input rows above and below.
template <class X, class Y>
inline void upsample_position(const Upsampling& u, const X* const rows[2], const Between& v,
                              const Between& h, Y* y) {
    const X *a = rows[0] + h.low * u.ldx, *b = rows[0] + h.high * u.ldx;
    const X *c = rows[1] + h.low * u.ldx, *d = rows[1] + h.high * u.ldx;
    const auto blend = [&](V a, V b, V c, V d) {
        return (a * (1 - h.weight) + b * h.weight) * (1 - v.weight) +
               (c * (1 - h.weight) + d * h.weight) * v.weight;
    };
    int64_t i = 0;
    for (; i + LANES <= u.channels; i += LANES)
        store(y + i, u.kind == 0 ? load(a + i) : blend(load(a + i), load(b + i), load(c + i), load(d + i)));
    const int64_t rest = u.channels - i;
    if (!rest) return;
    const auto some = [&](const X* from) { return load_some(from + i, rest); };
    store_some(y + i, u.kind == 0 ? some(a) : blend(some(a), some(b), some(c), some(d)), rest);
}

template <class X, class Y>
void upsample_rows(const Context& context, const Upsampling& u, const X* x, Y* y) {
    int64_t first, last;
    context.share(u.batch * u.out_height, first, last);
    for (int64_t row = first; row < last; ++row) {
        const int64_t image = row / u.out_height;
        const Between v(u.kind, u.is_corners_aligned, row % u.out_height, u.scale_height, u.height);
        const X* const rows[2] = {x + (image * u.height + v.low) * u.width * u.ldx,
                                  x + (image * u.height + v.high) * u.width * u.ldx};
        for (int64_t o = 0; o < u.out_width; ++o) {
            const Between h(u.kind, u.is_corners_aligned, o, u.scale_width, u.width);
            upsample_position(u, rows, v, h, y + (row * u.out_width + o) * u.ldy);
        }
    }
}

}  // namespace

void upsample(const Context& context, const int64_t* words) {
    const Upsampling u(words + 4);
    with_types(context, words[0], words[1], words[2], words[3],
               [&](auto* x, auto* y) { upsample_rows(context, u, x, y); });
}

}  // namespace rl::RL_ISA
