// grid: lays a tensor out for conv_grid, as it is or in eight bits, every image on a scale of its own.
#include "grid.h"

#include "kernels.h"
#include "rounded.h"

namespace rl::RL_ISA {
namespace {

enum Word { X_REF, Y_REF, SCALE_REF, LOW_REF, X_TYPE, Y_TYPE, BATCH, GROUPS = 11, KIND, OUT_DEPTH, LDY = 29 };

// How values of an image become whole numbers: x / scale + zero.
struct Rounding {
    float scale, times, zero;

    explicit Rounding(const Extremes& e) {
        const bool is_odd = e.odd != 0;  // NaN
        scale = e.high / LARGEST_UINT8 - e.low / LARGEST_UINT8;  // no overflow between
        const bool is_flat = is_odd || !(scale >= std::numeric_limits<float>::min());
        times = is_flat ? 0 : 1 / scale;
        zero = is_flat ? 0 : std::nearbyint(-e.low * times);
        scale = is_odd ? std::numeric_limits<float>::quiet_NaN() : is_flat ? 0 : scale;
    }
    float low() const { return -zero * scale; }
    V operator()(V value) const {
        return min(max(value * times + zero, V{}), splat(LARGEST_UINT8));
    }
};

// Values as they are.
struct Same {
    static uint16_t zero() { return 0; }
    static void put(const uint16_t* from, int64_t count, uint16_t* to) { std::memcpy(to, from, count * sizeof(uint16_t)); }
};

// Values rounded.
struct Rounded {
    const Rounding& rounding;

    uint8_t zero() const { return uint8_t(rounding.zero); }
    template <class X>
    void put(const X* from, int64_t count, uint8_t* to) const {
        int64_t c = 0;
        for (; c + LANES <= count; c += LANES) store_bytes(to + c, rounding(load(from + c)));
        if (c == count) return;
        const VB bytes = to_bytes(rounding(load_some(from + c, count - c)));
        std::memcpy(to + c, &bytes, count - c);
    }
};

// Rows of the grid, each in all its column phases.
template <class X, class Y, class How>
class Laying {
  public:
    Laying(const Grid& grid, const How& how, const X* x) : grid_(grid), how_(how), x_(x) {}

    // Row `row` of phase `phase` of a plane of an image.
    void put_row(int64_t image, int64_t plane, int64_t phase, int64_t row, Y* plane_at) const {
        const Window& window = grid_.window;
        const int64_t d = plane - window.depth.pad, h = row * window.height.stride + phase - window.height.pad;
        const bool is_inside = d >= 0 && d < window.depth.size && h >= 0 && h < window.height.size;
        const X* x = is_inside ? x_ + window.position(image, d, h, 0) * window.ldx : nullptr;
        for (int64_t p = 0; p < grid_.column_phases; ++p) {
            const int64_t line = (phase * grid_.column_phases + p) * grid_.rows + row;
            Y* y = plane_at + line * grid_.columns * grid_.pitch;
            if (!x)
                std::fill(y, y + grid_.columns * grid_.pitch, how_.zero());
            else if (grid_.kind == TAPS)
                put_taps(x, p, y);
            else if (grid_.kind == ROWS)
                put_rows(x, y);
            else
                put_run(x, y);
        }
    }

  private:
    const Grid& grid_;
    const How& how_;
    const X* x_;

    // The columns of a phase, one position of x each.
    void put_taps(const X* x, int64_t phase, Y* y) const {
        const Axis& axis = grid_.window.width;
        const int64_t pitch = grid_.pitch, ldx = grid_.window.ldx;
        const bool is_dense = axis.stride == 1 && pitch == ldx && pitch == grid_.window.channels;
        put_inside(x, axis.pad - phase, axis.stride, grid_.columns, pitch, y, [&](const X* from, int64_t count, Y* to) {
            if (is_dense) return how_.put(from, count * pitch, to);
            for (int64_t o = 0; o < count; ++o, from += axis.stride * ldx) put_position(from, to + o * pitch);
        });
    }

    // All positions of x, one after the other.
    void put_run(const X* x, Y* y) const {
        const Axis& axis = grid_.window.width;
        const int64_t channels = grid_.window.channels, ldx = grid_.window.ldx;
        put_inside(x, axis.pad, 1, grid_.columns * axis.stride, channels, y, [&](const X* from, int64_t count, Y* to) {
            if (ldx == channels) return how_.put(from, count * channels, to);
            for (int64_t o = 0; o < count; ++o, from += ldx) how_.put(from, channels, to + o * channels);
        });
    }

    // `count` places of `pitch` values for positions -before, -before + stride .. of x: zeros where
    // that lies outside, put(from, count, to) for the others.
    template <class Put>
    void put_inside(const X* x, int64_t before, int64_t stride, int64_t count, int64_t pitch, Y* y, Put put) const {
        const auto places = [&](int64_t positions) {  // that so many positions take
            return positions > 0 ? std::min((positions + stride - 1) / stride, count) : 0;
        };
        const int64_t first = places(before), last = std::max(first, places(grid_.window.width.size + before));
        std::fill(y, y + first * pitch, how_.zero());
        put(x + (first * stride - before) * grid_.window.ldx, last - first, y + first * pitch);
        std::fill(y + last * pitch, y + count * pitch, how_.zero());
    }

    void put_position(const X* x, Y* y) const {
        const int64_t channels = grid_.channels(), room = grid_.room();
        for (int64_t g = 0; g < grid_.groups; ++g, x += channels, y += room) {
            how_.put(x, channels, y);
            std::fill(y + channels, y + room, Y{});
        }
    }

    // The rows of the kernel at every column of the output.
    void put_rows(const X* x, Y* y) const {
        const Axis& axis = grid_.window.width;
        const int64_t channels = grid_.channels(), room = grid_.room(), ldx = grid_.window.ldx;
        const bool is_run = grid_.groups == 1 && ldx == channels && axis.dilation == 1;
        for (int64_t o = 0; o < axis.out; ++o)
            for (int64_t g = 0; g < grid_.groups; ++g, y += room) {
                int64_t first, last;
                axis.inside(o, first, last);
                std::fill(y, y + first * channels, how_.zero());
                const X* from = x + (axis.start(o) + first * axis.dilation) * ldx + g * channels;
                if (is_run) {
                    how_.put(from, (last - first) * channels, y + first * channels);
                } else {
                    for (int64_t k = first; k < last; ++k, from += axis.dilation * ldx) how_.put(from, channels, y + k * channels);
                }
                std::fill(y + last * channels, y + axis.kernel * channels, how_.zero());
                std::fill(y + axis.kernel * channels, y + room, Y{});
            }
    }
};

template <class X, class Y, class HowOf>
void lay(const Context& context, const Grid& grid, const int64_t* words, HowOf how_of) {
    const X* x = context.at<X>(words[X_REF]);
    Y* y = context.at<Y>(words[Y_REF]);
    const int64_t rows = grid.row_phases * grid.rows, planes = grid.planes;
    int64_t first, last;
    context.share(grid.window.batch * planes * rows, first, last);
    for (int64_t unit = first; unit < last; ++unit) {
        const int64_t at = unit / rows, row = unit % rows, image = at / planes;
        const auto how = how_of(image);
        Laying<X, Y, decltype(how)>(grid, how, x)
            .put_row(image, at % planes, row / grid.rows, row % grid.rows, y + at * grid.plane * grid.pitch);
    }
}

// The extremes of every image, by all threads: each looks at its share of the positions.
template <class X>
void find_extremes(const Context& context, const Window& window, const X* x, Extremes* found) {
    const int64_t positions = window.position(1, 0, 0, 0), channels = window.channels;
    std::fill(found, found + window.batch, Extremes{});  // 0 is among them
    int64_t first, last;
    context.share(window.batch * positions, first, last);
    for (int64_t at = first, end; at < last; at = end) {
        end = std::min(last, (at / positions + 1) * positions);
        Extremes& own = found[at / positions];
        if (window.ldx == channels)
            own = extremes_of(x + at * channels, (end - at) * channels, own);
        else
            for (int64_t i = at; i < end; ++i) own = extremes_of(x + i * window.ldx, channels, own);
    }
    context.wait();
}

Rounding rounding_of(const Context& context, int64_t image) {
    Extremes whole{};
    for (int64_t t = 0; t < context.threads; ++t) {
        const Extremes& own = reinterpret_cast<const Extremes*>(context.scratches[t])[image];
        whole = {std::min(whole.low, own.low), std::max(whole.high, own.high), whole.odd + own.odd};
    }
    return Rounding(whole);
}

template <class X>
void lay_rounded(const Context& context, const Grid& grid, const int64_t* words) {
    find_extremes(context, grid.window, context.at<X>(words[X_REF]), reinterpret_cast<Extremes*>(context.scratch));
    int64_t known = -1;
    Rounding rounding{Extremes{}};
    lay<X, uint8_t>(context, grid, words, [&](int64_t image) {
        if (image != known) rounding = rounding_of(context, known = image);
        return Rounded{rounding};
    });
    if (context.thread) return;
    float *scales = context.at<float>(words[SCALE_REF]), *lows = context.at<float>(words[LOW_REF]);
    for (int64_t image = 0; image < grid.window.batch; ++image) {
        const Rounding own = rounding_of(context, image);
        scales[image] = own.scale, lows[image] = own.low();
    }
}

}  // namespace

void grid(const Context& context, const int64_t* words) {
    const Grid grid(words + BATCH, words + OUT_DEPTH, words[GROUPS], words[KIND], words[LDY]);
    if (words[Y_TYPE] == BF16) return lay<uint16_t, uint16_t>(context, grid, words, [](int64_t) { return Same(); });
    words[X_TYPE] == F32 ? lay_rounded<float>(context, grid, words) : lay_rounded<uint16_t>(context, grid, words);
}

}  // namespace rl::RL_ISA
