// grouped: a convolution of groups with as many channels as filters, a power of two that is small.
//
// A vector of channels after another. The rows of the input that an output row reads are copied into
// a strip, with zeros where they go on beyond the edges: channels last, the positions of one vector
// lie so far apart that a row of them does not stay in the nearest cache.
#include "channelwise.h"
#include "kernels.h"

namespace rl::RL_ISA {
namespace {

#if defined(__AVX512F__) || defined(__aarch64__)
constexpr int COLUMNS_OF_GROUPS = 14;  // of the output that stand in registers together
#else
constexpr int COLUMNS_OF_GROUPS = 7;
#endif

// A vector holds whole groups: lane i takes, in turn, each input of its group.
struct Narrow {
    VI first;
    explicit Narrow(int64_t group) : first(lane_numbers() & int32_t(-group)) {}
    RL_INLINE V read(const float* x, int64_t way) const { return __builtin_shuffle(load(x), first + int32_t(way)); }
};

// A group holds whole vectors: all lanes take the same input.
struct Wide {
    explicit Wide(int64_t) {}
    RL_INLINE V read(const float* x, int64_t way) const { return splat(x[way]); }
};

// The rows of a strip, of which those of one window are there at a time.
struct Strip {
    const Window& window;
    const int64_t item;       // values per position: the channels that a vector of filters reads
    const int64_t positions;  // per row
    float* values;
    int64_t* held;  // the row of the input that each row of the strip holds

    Strip(const Window& window, int64_t group, float* to)
        : window(window), item(std::max(group, LANES)), positions(count(window)), values(to),
          held(reinterpret_cast<int64_t*>(to + num_rows() * row_values())) {}

    static int64_t count(const Window& window) {
        const Axis& axis = window.width;
        const int64_t columns = (axis.out + COLUMNS_OF_GROUPS - 1) / COLUMNS_OF_GROUPS * COLUMNS_OF_GROUPS;
        return (columns - 1) * axis.stride + (axis.kernel - 1) * axis.dilation + 1;
    }
    int64_t num_rows() const { return window.depth.kernel * height(); }
    int64_t height() const { return (window.height.kernel - 1) * window.height.dilation + 1; }
    int64_t row_values() const { return positions * item; }
    void forget() { std::fill(held, held + num_rows(), int64_t(-1)); }

    // Row h of the plane that tap kd reads, channels from c on, `lanes` of them.
    template <class X>
    const float* row(const X* x, const OutRow& at, int64_t kd, int64_t h, int64_t c, int64_t lanes) {
        const int64_t number = window.input(at, kd, h), slot = kd * height() + h % height();
        float* to = values + slot * row_values();
        if (held[slot] != number) copy(x + number * window.ldx + c, to, lanes);
        held[slot] = number;
        return to;
    }

    template <class X>
    void copy(const X* x, float* to, int64_t lanes) const {
        const int64_t pad = std::min(window.width.pad, positions), size = std::min(window.width.size, positions - pad);
        std::fill(to, to + pad * item, 0.0f);
        to += pad * item;
        if (lanes % LANES == 0)
            for (int64_t p = 0; p < size; ++p, to += item)
                for (int64_t i = 0; i < lanes; i += LANES) store(to + i, load(x + p * window.ldx + i));
        else
            for (int64_t p = 0; p < size; ++p, to += item) store(to, load_some(x + p * window.ldx, lanes));
        std::fill(to, to + (positions - pad - size) * item, 0.0f);
    }
};

// COLUMNS_OF_GROUPS columns of the output. lines: `count` rows of the strip, by their addresses, and
// where their weights are. WIDTH and STRIDE: the window's, of dilation 1; 0: as the window says.
template <class Reader, int WIDTH, int STRIDE>
void put_columns(const Channelwise& op, const Reader& reader, int64_t item, const Line* lines, int64_t count,
                 const Place& place) {
    const Axis& axis = op.window.width;
    const int64_t group = op.group;
    const V first = op.start(place.c, place.lanes);
    V sums[COLUMNS_OF_GROUPS];
    unrolled<COLUMNS_OF_GROUPS>([&](auto j) RL_INLINE { sums[j] = first; });
    for (int64_t l = 0; l < count; ++l) {
        const float* x = reinterpret_cast<const float*>(lines[l].x) + place.o * axis.stride * item;
        const float* w = op.weights + lines[l].w;
        for (int64_t way = 0; way < group; ++way, w += LANES)
            if constexpr (WIDTH == 0) {
                for (int64_t k = 0; k < axis.kernel; ++k) {
                    const V weight = load(w + k * group * LANES);
                    const float* from = x + k * axis.dilation * item;
                    unrolled<COLUMNS_OF_GROUPS>([&](auto j) RL_INLINE {
                        sums[j] += reader.read(from + j * axis.stride * item, way) * weight;
                    });
                }
            } else {
                V weights[WIDTH];
                unrolled<WIDTH>([&](auto k) RL_INLINE { weights[k] = load(w + k * group * LANES); });
                unrolled<(COLUMNS_OF_GROUPS - 1) * STRIDE + WIDTH>([&](auto j) RL_INLINE {
                    V value = reader.read(x + j * item, way);
                    keep(value);
                    unrolled<WIDTH>([&](auto k) RL_INLINE {
                        constexpr int at = j - k, column = at / STRIDE;
                        if constexpr (at >= 0 && at % STRIDE == 0 && column < COLUMNS_OF_GROUPS)
                            sums[column] += value * weights[k];
                    });
                });
            }
    }
    op.finish(sums, place);
}

template <class Reader>
auto kernel_of(const Axis& axis) {
    if (axis.kernel == 3 && axis.dilation == 1 && axis.stride == 1) return put_columns<Reader, 3, 1>;
    if (axis.kernel == 3 && axis.dilation == 1 && axis.stride == 2) return put_columns<Reader, 3, 2>;
    return put_columns<Reader, 0, 0>;
}

// One vector of filters in rows first..last of the output, all of one plane.
template <class Reader, class X>
void put_rows(const Channelwise& op, const X* x, Strip& strip, Line* lines, int64_t first, int64_t last, int64_t block) {
    const Window& window = op.window;
    const auto kernel = kernel_of<Reader>(window.width);
    const Reader reader(op.group);
    Place place{OutRow(window, first), 0, 0, 0, block * LANES, 0};
    place.lanes = std::min(LANES, window.channels - place.c);
    const int64_t from = place.c / op.group * op.group, lanes = std::min(strip.item, window.channels - from);
    int64_t d0, d1, h0, h1;
    window.depth.inside(place.at.d, d0, d1);
    strip.forget();
    op.choose({block, block + 1});
    for (place.row = first; place.row < last; ++place.row, ++place.at.h) {
        window.height.inside(place.at.h, h0, h1);
        int64_t count = 0;
        for (int64_t kd = d0; kd < d1; ++kd)
            for (int64_t kh = h0; kh < h1; ++kh, ++count) {
                const int64_t h = window.height.start(place.at.h) + kh * window.height.dilation;
                lines[count] = {reinterpret_cast<int64_t>(strip.row(x, place.at, kd, h, from, lanes)),
                                (kd * window.height.kernel + kh) * window.width.kernel * op.group * LANES};
            }
        for (place.o = 0; place.o < window.width.out; place.o += COLUMNS_OF_GROUPS) {
            place.count = std::min<int64_t>(COLUMNS_OF_GROUPS, window.width.out - place.o);
            kernel(op, reader, strip.item, lines, count, place);
        }
    }
}

template <class Reader, class X>
void put_groups(const Channelwise& op, const X* x) {
    const Window& window = op.window;
    const int64_t taps = window.taps() * op.group, blocks = (window.channels + LANES - 1) / LANES;
    Line* lines = reinterpret_cast<Line*>(op.weights + taps * LANES);
    Strip strip(window, op.group, reinterpret_cast<float*>(lines + window.depth.kernel * window.height.kernel));
    const int64_t planes = window.batch * window.depth.out, out = window.height.out, chunks = num_chunks(op.context, out);
    int64_t first, last;
    op.context.share(planes * chunks * blocks, first, last);
    for (int64_t unit = first; unit < last; ++unit) {
        const int64_t block = unit % blocks, chunk = unit / blocks % chunks, plane = unit / blocks / chunks;
        put_rows<Reader>(op, x, strip, lines, plane * out + out * chunk / chunks, plane * out + out * (chunk + 1) / chunks, block);
    }
}

}  // namespace

void grouped(const Context& context, const int64_t* words) {
    const Expression e(words + 29);
    const Window window(words + 6, words + 11);
    alignas(64) Register registers[REGISTERS];
    const Channelwise op = channelwise(context, words, window, e, registers, words[28]);
    const bool is_narrow = op.group < LANES;
    if (words[4] == F32)
        (is_narrow ? put_groups<Narrow, float> : put_groups<Wide, float>)(op, context.at<float>(words[0]));
    else
        (is_narrow ? put_groups<Narrow, uint16_t> : put_groups<Wide, uint16_t>)(op, context.at<uint16_t>(words[0]));
}

}  // namespace rl::RL_ISA
