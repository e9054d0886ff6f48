// What needs a whole row, or all of a dimension, at once: reductions, norms, softmax, look-ups.
#include "../expression.h"
#include "kernels.h"

namespace rl::RL_ISA {
namespace {

constexpr float INFINITE = std::numeric_limits<float>::infinity();

// Calls f with null pointers of the types that hold x and y.
template <class F>
void with_types(int64_t x_type, int64_t y_type, F f) {
    float* const single = nullptr;
    uint16_t* const half = nullptr;
    if (x_type == F32) {
        if (y_type == F32) return f(single, single);
        return f(single, half);
    }
    if (y_type == F32) return f(half, single);
    f(half, half);
}

template <class T>
inline V load_first(const T* from, int64_t count) {
    return count >= LANES ? load(from) : load_some(from, count);
}
template <class T>
inline void store_first(T* to, V value, int64_t count) {
    count >= LANES ? store(to, value) : store_some(to, value, count);
}

// Folds f(values, index) of all values of a row; values beyond its end count as `rest`. Four chains,
// as one operation waits for the one before it.
template <class X, class Of, class Merge>
inline float fold_row(const X* x, int64_t width, float rest, Of of, Merge merge) {
    V found[4] = {splat(rest), splat(rest), splat(rest), splat(rest)};
    int64_t i = 0;
    for (; i + 4 * LANES <= width; i += 4 * LANES)
#pragma GCC unroll 4
        for (int k = 0; k < 4; ++k) found[k] = merge(found[k], of(load(x + i + k * LANES)));
    for (; i + LANES <= width; i += LANES) found[0] = merge(found[0], of(load(x + i)));
    if (i < width) found[1] = merge(found[1], first_of(of(load_some(x + i, width - i)), width - i, splat(rest)));
    return fold(merge(merge(found[0], found[1]), merge(found[2], found[3])), merge);
}

struct Sum {
    V operator()(V a, V b) const { return a + b; }
};
struct Largest {  // NaN stays, as in torch
    V operator()(V a, V b) const { return select(a != a, a, max(a, b)); }
};
struct Smallest {
    V operator()(V a, V b) const { return select(a != a, a, min(a, b)); }
};

// reduce ----------------------------------------------------------------------------------------

enum Reduction : int64_t { SUM, MEAN, LARGEST, SMALLEST };

// Sums of more values than this are sums of sums, which loses less.
constexpr int64_t CHUNK = 512;

template <class X, class Merge>
struct Reducer {
    const X* x;
    int64_t length, inner;
    float neutral;
    Merge merge;

    float row(const X* from, int64_t count) const {
        V found = splat(neutral);
        for (int64_t i = 0; i < count; i += 16 * CHUNK) {
            const float part = fold_row(from + i, std::min(16 * CHUNK, count - i), neutral, [](V v) { return v; }, merge);
            found = merge(found, splat(part));
        }
        return found[0];
    }
    // VECTORS vectors of columns, the last of `last` columns, over positions.
    template <int VECTORS>
    void columns(const X* from, int64_t positions, int64_t last, float* to) const {
        constexpr int CHAINS = VECTORS < 4 ? 4 / VECTORS : 1;
        V found[CHAINS][VECTORS];
        for (auto& chain : found)
            for (V& v : chain) v = splat(neutral);
        auto add = [&](const X* at, V(&chain)[VECTORS]) __attribute__((always_inline)) {
#pragma GCC unroll 8
            for (int v = 0; v < VECTORS - 1; ++v) chain[v] = merge(chain[v], load(at + v * LANES));
            chain[VECTORS - 1] = merge(chain[VECTORS - 1], load_first(at + (VECTORS - 1) * LANES, last));
        };
        int64_t p = 0;
        for (; p + CHAINS <= positions; p += CHAINS)
#pragma GCC unroll 4
            for (int chain = 0; chain < CHAINS; ++chain) add(from + (p + chain) * inner, found[chain]);
        for (; p < positions; ++p) add(from + p * inner, found[0]);
#pragma GCC unroll 8
        for (int v = 0; v < VECTORS; ++v) {
            V total = load(to + v * LANES);
#pragma GCC unroll 4
            for (int chain = 0; chain < CHAINS; ++chain) total = merge(total, found[chain][v]);
            store(to + v * LANES, total);
        }
    }
    // Columns first..last at positions start..end of one outer index, as whole vectors.
    void area(int64_t outer, int64_t start, int64_t end, int64_t first, int64_t last, float* to) const {
        for (int64_t c = first; c < last; c += LANES) store(to + c - first, splat(neutral));
        for (int64_t p = start; p < end; p += CHUNK) {
            const X* from = x + (outer * length + p) * inner;
            const int64_t positions = std::min(CHUNK, end - p);
            for (int64_t c = first; c < last; c += 8 * LANES) {
                const int64_t cols = std::min(8 * LANES, last - c), whole = (cols - 1) / LANES, rest = cols - whole * LANES;
                switch (whole + 1) {
                    case 1: columns<1>(from + c, positions, rest, to + c - first); break;
                    case 2: columns<2>(from + c, positions, rest, to + c - first); break;
                    case 3: columns<3>(from + c, positions, rest, to + c - first); break;
                    case 4: columns<4>(from + c, positions, rest, to + c - first); break;
                    case 5: columns<5>(from + c, positions, rest, to + c - first); break;
                    case 6: columns<6>(from + c, positions, rest, to + c - first); break;
                    case 7: columns<7>(from + c, positions, rest, to + c - first); break;
                    case 8: columns<8>(from + c, positions, rest, to + c - first); break;
                }
            }
        }
    }
};

template <class Y>
void write_scaled(Y* y, const float* from, int64_t count, float scale) {
    for (int64_t i = 0; i < count; i += LANES) store_first(y + i, load_first(from + i, count - i) * scale, count - i);
}

// Each thread has some of the columns, of every outer index.
template <class X, class Y, class Merge>
void reduce_by_columns(const Context& context, const Reducer<X, Merge>& r, Y* y, int64_t outer, float scale) {
    constexpr int64_t most = 4096;
    float* found = reinterpret_cast<float*>(context.scratch);
    const int64_t vectors = (r.inner + LANES - 1) / LANES;
    int64_t first, last;
    context.share(vectors, first, last);
    for (int64_t o = 0; o < outer; ++o)
        for (int64_t c = first * LANES; c < std::min(last * LANES, r.inner); c += most) {
            const int64_t end = std::min({c + most, last * LANES, r.inner});
            r.area(o, 0, r.length, c, end, found);
            write_scaled(y + o * r.inner + c, found, end - c, scale);
        }
}

// The positions of each outer index are cut into parts, as whoever wrote x had some of them in its
// cache; their results meet in the first thread's memory.
template <class X, class Y, class Merge>
void reduce_by_positions(const Context& context, const Reducer<X, Merge>& r, Y* y, int64_t outer, int64_t parts, float scale) {
    const int64_t step = (r.inner + LANES - 1) / LANES * LANES;
    float* shared = reinterpret_cast<float*>(context.scratches[0]);
    float* own = reinterpret_cast<float*>(context.scratch);
    int64_t first, last;
    context.share(outer * parts, first, last);
    for (int64_t unit = first; unit < last; ++unit) {
        const int64_t o = unit / parts, part = unit % parts;
        const int64_t start = r.length * part / parts, end = r.length * (part + 1) / parts;
        float* found = parts == 1 ? own : shared + unit * step;
        if (r.inner == 1)
            *found = r.row(r.x + o * r.length + start, end - start);
        else
            r.area(o, start, end, 0, r.inner, found);
        if (parts == 1) write_scaled(y + o * r.inner, found, r.inner, scale);
    }
    if (parts == 1) return;
    context.wait();
    context.share(outer, first, last);
    for (int64_t o = first; o < last; ++o) {
        float* found = shared + o * parts * step;
        for (int64_t part = 1; part < parts; ++part)
            for (int64_t c = 0; c < step; c += LANES)
                store(found + c, r.merge(load(found + c), load(found + part * step + c)));
        write_scaled(y + o * r.inner, found, r.inner, scale);
    }
}

template <class X, class Y, class Merge>
void reduce_all(const Context& context, const Reducer<X, Merge>& r, Y* y, int64_t outer, float scale) {
    const int64_t step = (r.inner + LANES - 1) / LANES * LANES, room = SCRATCH_NBYTES / 4;
    const bool is_short = r.length * r.inner < 4096;
    int64_t parts = outer % context.threads == 0 || outer >= 8 * context.threads || is_short ? 1 : context.threads;
    if (step > room || (parts > 1 && outer * parts * step > room)) return reduce_by_columns(context, r, y, outer, scale);
    if (parts > 1 && r.length < 4 * parts) parts = 1;
    if (parts == 1 && outer < context.threads && !is_short) return reduce_by_columns(context, r, y, outer, scale);
    reduce_by_positions(context, r, y, outer, parts, scale);
}

}  // namespace

void reduce(const Context& context, const int64_t* words) {
    const int64_t kind = words[4], outer = words[5], length = words[6], inner = words[7];
    if (outer * inner == 0) return;
    with_types(words[2], words[3], [&](auto* x_type, auto* y_type) {
        const auto* x = context.at<std::remove_pointer_t<decltype(x_type)>>(words[0]);
        auto* y = context.at<std::remove_pointer_t<decltype(y_type)>>(words[1]);
        auto run = [&](auto merge, float neutral, float scale) {
            reduce_all(context, Reducer<std::remove_pointer_t<decltype(x_type)>, decltype(merge)>{x, length, inner, neutral, merge}, y,
                       outer, scale);
        };
        switch (kind) {
            case SUM: return run(Sum(), 0, 1);
            case MEAN: return run(Sum(), 0, 1 / float(length));
            case LARGEST: return run(Largest(), -INFINITE, 1);
            case SMALLEST: return run(Smallest(), INFINITE, 1);
        }
    });
}

// norm ------------------------------------------------------------------------------------------

namespace {

enum Norm : int64_t { LAYER_NORM, RMS_NORM, SOFTMAX, LOG_SOFTMAX };

// y = ((x - mean) factor + term) scale + shift
template <class X, class Y>
void normalise_row(const X* x, Y* y, const float* scale, const float* shift, int64_t width, float mean, float factor, float term) {
    auto piece = [&](V value, int64_t i, auto load_at) {
        value = (value - mean) * factor + term;
        if (scale) value *= load_at(scale + i);
        return shift ? value + load_at(shift + i) : value;
    };
    int64_t i = 0;
    for (; i + LANES <= width; i += LANES)
        store(y + i, piece(load(x + i), i, [](const float* at) { return load(at); }));
    if (i < width) {
        const int64_t rest = width - i;
        store_some(y + i, piece(load_some(x + i, rest), i, [=](const float* at) { return load_some(at, rest); }), rest);
    }
}

// The row is read three times, from the nearest cache but for the first. Squares are those of the
// distance from the mean; how far fp32 rounded it off shows in the sum of the distances.
template <class X, class Y>
void layer_norm_row(const X* x, Y* y, const float* scale, const float* shift, int64_t width, double epsilon) {
    const float mean = fold_row(x, width, 0, [](V v) { return v; }, Sum()) / float(width);
    V sums[2] = {}, squares[2] = {};
    int64_t i = 0;
    auto add = [&](V away, int chain) {
        sums[chain] += away;
        squares[chain] += away * away;
    };
    for (; i + 2 * LANES <= width; i += 2 * LANES) {
        add(load(x + i) - mean, 0);
        add(load(x + i + LANES) - mean, 1);
    }
    for (; i < width; i += LANES) add(first_of(load_first(x + i, width - i) - mean, width - i, V{}), 0);
    const double off = sum_of(sums[0] + sums[1]) / double(width);
    const double variance = sum_of(squares[0] + squares[1]) / double(width) - off * off;
    const double factor = 1 / std::sqrt(std::max(variance, 0.0) + epsilon);
    normalise_row(x, y, scale, shift, width, mean, float(factor), float(-off * factor));
}

template <class X, class Y>
void rms_norm_row(const X* x, Y* y, const float* scale, const float* shift, int64_t width, double epsilon) {
    const float squares = fold_row(x, width, 0, [](V v) { return v * v; }, Sum());
    normalise_row(x, y, scale, shift, width, 0, float(1 / std::sqrt(squares / double(width) + epsilon)), 0);
}

constexpr float LOG2_E = 1.44269504088896341f;

template <class X>
float top_of(const X* x, int64_t width) {
    return fold_row(x, width, -INFINITE, [](V v) { return v; }, [](V a, V b) { return max(a, b); });
}

// held: where the powers of a row wait for their sum.
template <class X, class Y>
void softmax_row(const X* x, Y* y, int64_t width, float* held) {
    const float top = top_of(x, width);
    V total = {};
    int64_t i = 0;
    for (; i + LANES <= width; i += LANES) {
        const V power = exp2_below((load(x + i) - top) * LOG2_E);
        total += power;
        store(held + i, power);
    }
    if (i < width) {
        const V power = exp2_below((load_some(x + i, width - i) - top) * LOG2_E);
        total += first_of(power, width - i, V{});
        store_some(held + i, power, width - i);
    }
    write_scaled(y, held, width, 1 / sum_of(total));
}

template <class X, class Y>
void log_softmax_row(const X* x, Y* y, int64_t width) {
    const float top = top_of(x, width);
    const float total = fold_row(x, width, 0, [=](V v) { return exp2_below((v - top) * LOG2_E); }, Sum());
    const float rest = std::log(total);
    for (int64_t i = 0; i < width; i += LANES) store_first(y + i, (load_first(x + i, width - i) - top) - rest, width - i);
}

template <class X, class Y>
void norm_rows(const Context& context, const int64_t* words, const X* x, Y* y) {
    const float *scale = context.at<float>(words[1]), *shift = context.at<float>(words[2]);
    const int64_t kind = words[6], width = words[8], ldx = words[9], ldy = words[10];
    int64_t first, last;
    context.share(words[7], first, last);
    for (int64_t row = first; row < last; ++row) {
        const X* from = x + row * ldx;
        Y* to = y + row * ldy;
        switch (kind) {
            case LAYER_NORM: layer_norm_row(from, to, scale, shift, width, number(words[11])); break;
            case RMS_NORM: rms_norm_row(from, to, scale, shift, width, number(words[11])); break;
            case SOFTMAX:
                if constexpr (std::is_same_v<Y, float>)
                    softmax_row(from, to, width, to);
                else
                    softmax_row(from, to, width, reinterpret_cast<float*>(context.scratch));
                break;
            case LOG_SOFTMAX: log_softmax_row(from, to, width); break;
        }
    }
}

}  // namespace

void norm(const Context& context, const int64_t* words) {
    if (words[8] == 0) return;
    with_types(words[4], words[5], [&](auto* x_type, auto* y_type) {
        norm_rows(context, words, context.at<std::remove_pointer_t<decltype(x_type)>>(words[0]),
                  context.at<std::remove_pointer_t<decltype(y_type)>>(words[3]));
    });
}

// group_norm ------------------------------------------------------------------------------------

namespace {

// How many values, their mean, and the sum of squares of their distance from it.
struct Moments {
    double count = 0, mean = 0, squares = 0;

    void add(const Moments& other) {  // Chan, Golub and LeVeque 1979
        if (other.count == 0) return;
        const double total = count + other.count, away = other.mean - mean;
        squares += other.squares + away * away * count * other.count / total;
        mean += away * other.count / total;
        count = total;
    }
};

// The words of the instruction.
struct GroupNorm {
    Ref x, scale, shift, y;
    int64_t x_type, y_type, batch, positions, channels, groups, ldx, ldy, epsilon_bits;

    int64_t width() const { return channels / groups; }
};

constexpr int64_t FEW_POSITIONS = 16;

// Sums of x - shift and of its square over positions, for one vector of channels. Shifts are near
// the mean, so that the difference of squares that follows keeps its bits.
template <class X>
void sum_channels(const X* x, int64_t ldx, int64_t positions, int64_t count, V& shift, V& sum, V& squares) {
    const int64_t few = std::min(FEW_POSITIONS, positions);
    shift = sum = squares = V{};
    for (int64_t p = 0; p < few; ++p) shift += load_first(x + p * ldx, count);
    shift *= 1 / float(few);
    for (int64_t start = 0; start < positions; start += CHUNK) {
        V sums[2] = {}, square_sums[2] = {};
        for (int64_t p = start; p < std::min(start + CHUNK, positions); ++p) {
            const V away = load_first(x + p * ldx, count) - shift;
            sums[p % 2] += away;
            square_sums[p % 2] += away * away;
        }
        sum += sums[0] + sums[1];
        squares += square_sums[0] + square_sums[1];
    }
}

// The moments of every group of one sample, of some positions.
template <class X>
void measure_groups(const GroupNorm& g, const X* x, int64_t positions, Moments* moments) {
    for (int64_t c = 0; c < g.channels; c += LANES) {
        const int64_t count = std::min(LANES, g.channels - c);
        V shift, sum, squares;
        sum_channels(x + c, g.ldx, positions, count, shift, sum, squares);
        for (int64_t i = 0; i < count; ++i) {
            const double away = double(sum[i]) / double(positions), left = double(squares[i]) - away * sum[i];
            moments[(c + i) / g.width()].add({double(positions), shift[i] + away, std::max(left, 0.0)});
        }
    }
}

// What becomes of x, per channel: (x - mean) factor + shift.
struct Terms {
    float *means, *factors, *shifts;
};

void find_terms(const Context& context, const GroupNorm& g, int64_t sample, const Terms& terms) {
    const float *scale = context.at<float>(g.scale), *shift = context.at<float>(g.shift);
    for (int64_t group = 0; group < g.groups; ++group) {
        Moments all;
        for (int64_t t = 0; t < context.threads; ++t)
            all.add(reinterpret_cast<const Moments*>(context.scratches[t])[sample * g.groups + group]);
        const double factor = 1 / std::sqrt(all.squares / all.count + number(g.epsilon_bits));
        for (int64_t c = group * g.width(); c < (group + 1) * g.width(); ++c) {
            terms.means[c] = float(all.mean);
            terms.factors[c] = float(scale ? factor * scale[c] : factor);
            terms.shifts[c] = shift ? shift[c] : 0;
        }
    }
}

// Positions first.. of one sample, of which `row` is the number of the first among all.
template <class X>
void write_groups(const Context& context, const GroupNorm& g, const Expression& e, Register* registers, int64_t row,
                  int64_t positions, const Terms& terms) {
    const X* x = context.at<X>(g.x) + row * g.ldx;
    char* y = context.at(g.y) + row * g.ldy * nbytes_of(g.y_type);
    const int64_t tile_cols = std::min(g.channels, TILE), tile_rows = TILE / tile_cols;
    for (int64_t p = 0; p < positions; p += tile_rows)
        for (int64_t c = 0; c < g.channels; c += tile_cols) {
            const int64_t rows = std::min(tile_rows, positions - p), cols = std::min(tile_cols, g.channels - c);
            for (int64_t r = 0; r < rows; ++r)
                for (int64_t i = 0; i < cols; i += LANES) {
                    const V away = load_first(x + (p + r) * g.ldx + c + i, cols - i) - load(terms.means + c + i);
                    store(registers[0] + r * cols + i, away * load(terms.factors + c + i) + load(terms.shifts + c + i));
                }
            const Destination to = {y + (p * g.ldy + c) * nbytes_of(g.y_type), g.y_type, g.ldy};
            finish(context, e, registers, row + p, c, rows, cols, to);
        }
}

template <class X>
void norm_groups(const Context& context, const GroupNorm& g, const Expression& e) {
    Moments* moments = reinterpret_cast<Moments*>(context.scratch);
    std::fill_n(moments, g.batch * g.groups, Moments());
    int64_t first, last;
    context.share(g.batch * g.positions, first, last);
    auto each_sample = [&](auto f) {
        for (int64_t row = first; row < last;) {
            const int64_t sample = row / g.positions, end = std::min(last, (sample + 1) * g.positions);
            f(sample, row, end - row);
            row = end;
        }
    };
    each_sample([&](int64_t sample, int64_t row, int64_t positions) {
        measure_groups(g, context.at<X>(g.x) + row * g.ldx, positions, moments + sample * g.groups);
    });
    context.wait();
    float* room = reinterpret_cast<float*>(moments + g.batch * g.groups);
    const Terms terms = {room, room + g.channels + LANES, room + 2 * (g.channels + LANES)};
    alignas(64) Register registers[REGISTERS];
    each_sample([&](int64_t sample, int64_t row, int64_t positions) {
        find_terms(context, g, sample, terms);
        write_groups<X>(context, g, e, registers, row, positions, terms);
    });
}

}  // namespace

void group_norm(const Context& context, const int64_t* words) {
    GroupNorm g;
    std::memcpy(&g, words, sizeof g);
    if (g.channels == 0) return;
    const Expression e(words + sizeof g / sizeof(int64_t));
    g.x_type == F32 ? norm_groups<float>(context, g, e) : norm_groups<uint16_t>(context, g, e);
}

// gather ----------------------------------------------------------------------------------------

// An index below 0 counts from the end, as in ONNX; beyond the table there is NaN.
void gather(const Context& context, const int64_t* words) {
    const char* table = context.at(words[0]);
    char* y = context.at(words[2]);
    const int64_t nbytes = words[5], rows = words[6];
    int64_t first, last;
    context.share(words[4], first, last);
    for (int64_t i = first; i < last; ++i) {
        int64_t index = words[3] == I64 ? context.at<int64_t>(words[1])[i] : context.at<int32_t>(words[1])[i];
        if (index < 0) index += rows;
        if (index >= 0 && index < rows)
            std::memcpy(y + i * nbytes, table + index * nbytes, nbytes);
        else
            std::memset(y + i * nbytes, 0xff, nbytes);
    }
}

}  // namespace rl::RL_ISA
