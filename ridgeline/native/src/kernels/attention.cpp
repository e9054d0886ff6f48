// softmax(scale q k^T + mask) v without ever holding all scores: keys are taken block by block, the
// softmax is kept up to date as in FlashAttention (Dao et al. 2022, algorithm 1).
#include "kernels.h"
#include "packing.h"

namespace rl::RL_ISA {
namespace {

constexpr float INFINITE = std::numeric_limits<float>::infinity();

// The words of the instruction.
struct Attention {
    Ref q, k, v, mask, y;
    int64_t q_type, y_type, mask_type, batch, heads, kv_heads, queries, keys, width, value_width;
    int64_t q_batch, q_head, q_row, k_batch, k_head, k_row, v_batch, v_head, v_row;
    int64_t mask_batch, mask_head, mask_row, mask_column, y_batch, y_head, y_row, is_causal, scale_bits;

    int64_t group() const { return heads / kv_heads; }  // heads that share keys and values
    int64_t rows() const { return group() * queries; }  // that share them
    float scale() const { return float(number(scale_bits)); }
};

constexpr int64_t whole(int64_t count) { return (count + LANES - 1) / LANES * LANES; }

// Few rows use each key too seldom to lay keys out for the micro-kernel.
constexpr int64_t FEW_ROWS = 8;
constexpr int64_t ROWS = 12;  // that go through a block of keys together: their scores stay in L1
static_assert(FEW_ROWS <= ROWS);

// Scratch memory in floats, and what of it blocks of keys and the results of rows may take. A block
// of keys and its values stay in L2 while rows pass.
constexpr int64_t BLOCK_FLOATS = 256 << 10, RESULT_FLOATS = 256 << 10, MOST_KEYS = 512;
constexpr int64_t SHARED_FLOATS = 128 << 10;  // of the first thread: results of parts of the keys
static_assert(2 * BLOCK_FLOATS + RESULT_FLOATS + SHARED_FLOATS <= SCRATCH_NBYTES / 4);

// What is known of the softmax of up to N rows so far, whole vectors of them: their largest scores
// and the sums of 2^(score - top). Scores are in units of ln 2, so that weights are powers of 2.
constexpr float LOG2_E = 1.44269504088896341f;
template <int64_t N>
struct SoftmaxOf {
    float top[N], total[N];

    void clear() {
        std::fill_n(top, N, -INFINITE);
        std::fill_n(total, N, 0.0f);
    }
};
constexpr int64_t WHOLE_ROWS = (ROWS + LANES - 1) / LANES * LANES;
using Softmax = SoftmaxOf<WHOLE_ROWS>;

// One head of k and v and some of the rows that share it: rows of all its queries, head after head.
template <class X>
struct Head {
    const Context& context;
    const Attention& a;
    int64_t batch, kv_head;
    const X *k, *v;

    Head(const Context& context, const Attention& a, int64_t number)
        : context(context), a(a), batch(number / a.kv_heads), kv_head(number % a.kv_heads),
          k(context.at<X>(a.k) + batch * a.k_batch + kv_head * a.k_head),
          v(context.at<X>(a.v) + batch * a.v_batch + kv_head * a.v_head) {}

    int64_t head(int64_t row) const { return kv_head * a.group() + row / a.queries; }
    int64_t query(int64_t row) const { return row % a.queries; }
    const X* q(int64_t row) const {
        return context.at<X>(a.q) + batch * a.q_batch + head(row) * a.q_head + query(row) * a.q_row;
    }
    template <class Y>
    Y* y(int64_t row) const {
        return context.at<Y>(a.y) + batch * a.y_batch + head(row) * a.y_head + query(row) * a.y_row;
    }
    int64_t mask_offset(int64_t row, int64_t key) const {
        return batch * a.mask_batch + head(row) * a.mask_head + query(row) * a.mask_row + key * a.mask_column;
    }
    // query i sees keys 0..i, as in torch
    int64_t seen(int64_t row) const { return a.is_causal ? std::min(a.keys, query(row) + 1) : a.keys; }
};

// Masks as something to add, for one row and some keys.
class Mask {
  public:
    // `room` holds as many values as keys are asked for at once
    Mask(const Context& context, const Attention& a, float* room) : context_(context), a_(a), room_(room) {}

    const float* at(int64_t offset, int64_t count) {
        if (a_.mask_type == F32 && a_.mask_column == 1) return context_.at<float>(a_.mask) + offset;
        if (offset != offset_ || count > count_) fill(offset, count);
        offset_ = offset;
        count_ = count;
        return room_;
    }

  private:
    void fill(int64_t offset, int64_t count) {
        if (a_.mask_type == F32)
            for (int64_t i = 0; i < count; ++i) room_[i] = context_.at<float>(a_.mask)[offset + i * a_.mask_column];
        else
            for (int64_t i = 0; i < count; ++i)
                room_[i] = context_.at<uint8_t>(a_.mask)[offset + i * a_.mask_column] ? 0 : -INFINITE;
    }

    const Context& context_;
    const Attention& a_;
    float* room_;
    int64_t offset_ = -1, count_ = 0;  // of what the room holds
};

// Adds the mask and finds the largest per lane; what is beyond count becomes -infinity.
V mask_scores(float* scores, int64_t count, int64_t cover, const float* mask) {
    V top = splat(-INFINITE);
    int64_t i = 0;
    for (; i + LANES <= count; i += LANES) {
        V value = load(scores + i);
        if (mask) store(scores + i, value += LOG2_E * load(mask + i));
        top = max(top, value);
    }
    if (i < count) {
        V value = load(scores + i);
        if (mask) value += LOG2_E * load_some(mask + i, count - i);
        value = first_of(value, count - i, splat(-INFINITE));
        store(scores + i, value);
        top = max(top, value);
        i += LANES;
    }
    for (; i < cover; i += LANES) store(scores + i, splat(-INFINITE));
    return top;
}

// Scores become 2^(score - top); returns their sum per lane.
V weigh(float* scores, int64_t cover, float top) {
    V total = {};
    for (int64_t i = 0; i < cover; i += LANES) {
        const V weight = exp2_below(load(scores + i) - top);
        total += weight;
        store(scores + i, weight);
    }
    return total;
}

// Takes in the scores of more keys, the largest of which per row stand in tops. weigh_row(row, base):
// makes 2^(score - base) of a row's scores and returns their sum. shrink: by how much what was summed
// before gets less.
template <int64_t N, class WeighRow>
void update(SoftmaxOf<N>& softmax, int64_t rows, V* tops, float* shrink, WeighRow weigh_row) {
    alignas(64) float from[N];
    for (int64_t r = 0; r < N; r += LANES) {
        const V before = load(softmax.top + r), top = max(before, largest_each(tops + r));
        const V base = select(top == -INFINITE, V{}, top);  // a row that sees nothing has no weights
        store(softmax.top + r, top);
        store(from + r, base);
        store(shrink + r, exp2_below(before - base));
    }
    V totals[N] = {};
    for (int64_t r = 0; r < rows; ++r) totals[r] = weigh_row(r, from[r]);
    for (int64_t r = 0; r < N; r += LANES)
        store(softmax.total + r, load(softmax.total + r) * load(shrink + r) + sum_each(totals + r));
}

void scale_row(float* row, int64_t width, float factor) {
    for (int64_t i = 0; i < width; i += LANES) store(row + i, load(row + i) * factor);
}

template <class Y>
void write_row(Y* y, const float* sums, int64_t width, float total) {
    const float factor = total == 0 ? 0 : 1 / total;  // a row that sees nothing is 0
    int64_t i = 0;
    for (; i + LANES <= width; i += LANES) store(y + i, load(sums + i) * factor);
    if (i < width) store_some(y + i, load(sums + i) * factor, width - i);
}

// Many rows -------------------------------------------------------------------------------------

// Keys first.. of a head in panels of keys, times scale: the value of (c, key) of a panel is at
// offset + c * width of the panel + key.
template <class X>
void pack_keys(const X* k, int64_t k_row, int64_t width, int64_t count, float scale, float* to) {
    const Panels panels(count, width);
    for (int64_t panel = 0; panel < panels.count; ++panel)
        for (int64_t vector = 0; vector < panels.vectors(panel); ++vector) {
            const int64_t key = panels.column(panel) + vector * LANES, num_keys = std::min(LANES, count - key);
            const int64_t step = panels.width(panel);
            float* out = to + panels.offset(panel) + vector * LANES;
            for (int64_t c = 0; c < width; c += LANES) {
                const int64_t cols = std::min(LANES, width - c);
                V block[LANES] = {};
                for (int64_t i = 0; i < num_keys; ++i) {
                    const X* from = k + (key + i) * k_row + c;
                    block[i] = scale * (cols == LANES ? load(from) : load_some(from, cols));
                }
                transpose(block);
                for (int64_t i = 0; i < cols; ++i) store(out + (c + i) * step, block[i]);
            }
        }
}

// Rows of whole vectors, 0 beyond width.
template <class X>
void pack_rows(const X* from, int64_t step, int64_t rows, int64_t width, float* to) {
    for (int64_t r = 0; r < rows; ++r, from += step, to += whole(width)) {
        int64_t c = 0;
        for (; c + LANES <= width; c += LANES) store(to + c, load(from + c));
        if (c < width) store(to + c, load_some(from + c, width - c));
    }
}

// out = start + x w for any number of rows; x: where each begins.
void multiply_rows(Tile<float> tile, const float* const* x, int64_t rows, int64_t vectors) {
    const float *start = tile.start;
    float* out = tile.out;
    const int64_t blocks = (rows + max_rows(vectors) - 1) / max_rows(vectors);
    for (int64_t b = 0; b < blocks; ++b) {
        const int64_t row = rows * b / blocks;
        tile.rows = x + row;
        tile.start = start ? start + row * tile.start_step : nullptr;
        tile.out = out + row * tile.out_step;
        multiply(tile, rows * (b + 1) / blocks - row, vectors);
    }
}

// A block of keys with its values, laid out for the micro-kernel, and the memory of one thread.
template <class X>
struct Block {
    static constexpr int64_t GROUP = ROWS;
    using Known = Softmax;

    const Attention& a;
    int64_t most;  // keys
    int64_t start = 0, count = 0;
    float *keys, *values, *scores, *queries, *results;
    Mask mask;

    Block(const Context& context, const Attention& a)
        : a(a), most(most_keys(a)), keys(reinterpret_cast<float*>(context.scratch)),
          values(keys + a.width * most), scores(values + whole(a.value_width) * most),
          queries(scores + ROWS * score_step()), results(keys + 2 * BLOCK_FLOATS),
          mask(context, a, queries + ROWS * a.width) {}

    static int64_t most_keys(const Attention& a) {
        const int64_t fitting = BLOCK_FLOATS / (a.width + whole(a.value_width));
        return std::max(LANES, std::min({fitting / LANES * LANES, MOST_KEYS, whole(a.keys)}));
    }
    int64_t score_step() const { return most + LANES; }  // rows do not all begin in the same sets of the cache
    int64_t value_step() const { return whole(a.value_width); }

    void fill(const Head<X>& head, int64_t first) {
        start = first;
        count = std::min(most, a.keys - first);
        pack_keys(head.k + first * a.k_row, a.k_row, a.width, count, LOG2_E * a.scale(), keys);
        pack_rows(head.v + first * a.v_row, a.v_row, count, a.value_width, values);
    }
    void find_rows(const Head<X>& head, int64_t row, int64_t rows, const float** table) {
        for (int64_t r = 0; r < rows; ++r)
            if constexpr (std::is_same_v<X, float>) {
                table[r] = head.q(row + r);
            } else {
                float* to = queries + r * a.width;
                load_tile(to, head.q(row + r), 1, a.width, 0, 1);
                table[r] = to;
            }
    }
    // Scores of rows against the first `cover` keys.
    void score(const float* const* table, int64_t rows, int64_t cover) const {
        const Panels panels(count, a.width);
        for (int64_t panel = 0; panel < panels.count && panels.column(panel) < cover; ++panel) {
            Tile<float> tile = {nullptr, rows, 1, a.width, keys + panels.offset(panel), panels.width(panel)};
            tile.out = scores + panels.column(panel);
            tile.out_step = score_step();
            const int64_t vectors = std::min(panels.vectors(panel), whole(cover - panels.column(panel)) / LANES);
            multiply_rows(tile, table, rows, vectors);
        }
    }
    // results = results + weights values; is_first: there are none yet
    void add_values(float* results, int64_t rows, int64_t cover, bool is_first) const {
        const Panels panels(a.value_width, cover);
        const float* table[ROWS];
        for (int64_t r = 0; r < rows; ++r) table[r] = scores + r * score_step();
        for (int64_t panel = 0; panel < panels.count; ++panel) {
            Tile<float> tile = {nullptr, rows, 1, cover, values + panels.column(panel), value_step()};
            tile.out = results + panels.column(panel);
            tile.out_step = tile.start_step = value_step();
            tile.start = is_first ? nullptr : tile.out;
            multiply_rows(tile, table, rows, panels.vectors(panel));
        }
    }
    // Takes rows through the block; softmax and results are theirs.
    void attend(const Head<X>& head, int64_t row, int64_t rows, Softmax& softmax, float* results) {
        int64_t cover = 0;
        for (int64_t r = 0; r < rows; ++r) cover = std::max(cover, std::min(head.seen(row + r) - start, count));
        if (cover <= 0) return;
        const float* table[ROWS];
        find_rows(head, row, rows, table);
        score(table, rows, cover);
        V tops[WHOLE_ROWS];
        std::fill_n(tops, WHOLE_ROWS, splat(-INFINITE));
        for (int64_t r = 0; r < rows; ++r) {
            const int64_t seen = std::clamp<int64_t>(head.seen(row + r) - start, 0, count);
            const float* added = a.mask == ABSENT ? nullptr : mask.at(head.mask_offset(row + r, start), count);
            tops[r] = mask_scores(scores + r * score_step(), seen, cover, added);
        }
        alignas(64) float shrink[WHOLE_ROWS];
        update(softmax, rows, tops, shrink, [&](int64_t r, float base) { return weigh(scores + r * score_step(), cover, base); });
        for (int64_t r = 0; start && r < rows; ++r)
            if (shrink[r] != 1) scale_row(results + r * value_step(), value_step(), shrink[r]);
        add_values(results, rows, cover, start == 0);
    }
};

#if defined(__AMX_BF16__)
// The same in tiles, of bf16: GROUP rows at a time, weights rounded to bf16.
struct TiledBlock {
    static constexpr int64_t GROUP = 2 * SIDE, MOST = 256, MOST_WIDTH = 512;
    static_assert(2 * MOST * MOST_WIDTH * 2 + GROUP * (MOST_WIDTH * 2 + MOST * 2 + (MOST + LANES) * 4) + MOST * 4 <=
                  2 * BLOCK_FLOATS * 4);
    using Known = SoftmaxOf<GROUP>;

    const Attention& a;
    const int64_t most = MOST, depth;  // values of a query, with zeros up to a multiple of DEPTH
    int64_t start = 0, count = 0;
    uint16_t *keys, *values, *queries, *weights;
    float *scores, *results;
    Mask mask;
    Tiles tiles;

    TiledBlock(const Context& context, const Attention& a)
        : a(a), depth(Strips(1, a.width).steps * DEPTH), keys(reinterpret_cast<uint16_t*>(context.scratch)),
          values(keys + MOST * depth), queries(values + MOST * whole(a.value_width)), weights(queries + GROUP * depth),
          scores(reinterpret_cast<float*>(weights + GROUP * MOST)),
          results(reinterpret_cast<float*>(context.scratch) + 2 * BLOCK_FLOATS),
          mask(context, a, scores + GROUP * score_step()) {}

    static bool is_fit(const Attention& a) { return std::max(a.width, a.value_width) <= MOST_WIDTH; }
    static int64_t score_step() { return MOST + LANES; }  // rows do not all begin in the same sets of the cache
    int64_t value_step() const { return whole(a.value_width); }
    float scale() const { return LOG2_E * a.scale(); }

    void fill(const Head<uint16_t>& head, int64_t first) {
        start = first;
        count = std::min(most, a.keys - first);
        pack(head.k + first * a.k_row, a.k_row, 1, count, a.width, keys);
        pack(head.v + first * a.v_row, 1, a.v_row, a.value_width, count, values);
    }
    static void pack(const uint16_t* from, int64_t stride_n, int64_t stride_k, int64_t n, int64_t k, uint16_t* to) {
        const Strips strips(n, k);
        for (int64_t s = 0; s < strips.count; ++s)
            pack_strip(from + s * SIDE * stride_n, stride_n, stride_k, k, std::min(SIDE, n - s * SIDE), to + s * strips.stride());
    }
    // x, GROUP rows of `steps` tiles, by the first n columns of w: out = x w, or out + x w.
    void multiply(const uint16_t* x, int64_t step, int64_t steps, const uint16_t* w, const Strips& strips, int64_t n, int64_t rows,
                  bool is_added, float* out, int64_t out_step) const {
        const int64_t down = rows > SIDE ? 2 : 1, most_across = 4 / down, count = (n + SIDE - 1) / SIDE;
        const Rows piece = {{x, x + SIDE * step}, step, steps};
        auto nothing = [] {};
        for (int64_t strip = 0; strip < count; strip += most_across) {
            const Place at{0, 0, {std::min(rows, SIDE), rows - SIDE}, down, std::min(count - strip, most_across)};
            const BlockOf<uint16_t> block = {&piece, 1, w + strip * strips.stride(), strips.stride(), w};
            float* to = out + strip * SIDE;
            is_added ? load_tiles(at, to, out_step * 4) : zero_tiles();
            multiply_tiles(block, down, at.across, nothing);
            store_tiles(at, to, out_step * 4);
        }
    }
    // A row's scores become weights, those beyond `seen` 0.
    V weigh_narrow(const float* from, int64_t cover, float factor, float base, uint16_t* to) const {
        V total = {};
        for (int64_t i = 0; i < cover; i += LANES) {
            const V weight = exp2_below(load(from + i) * factor - base);
            total += weight;
            store(to + i, weight);
        }
        return total;
    }
    // Takes rows through the block; softmax and results are theirs.
    void attend(const Head<uint16_t>& head, int64_t row, int64_t rows, Known& softmax, float* results) {
        int64_t cover = 0;
        for (int64_t r = 0; r < rows; ++r) cover = std::max(cover, std::min(head.seen(row + r) - start, count));
        if (cover <= 0) return;
        for (int64_t r = 0; r < rows; ++r) {
            std::memcpy(queries + r * depth, head.q(row + r), a.width * 2);
            std::fill(queries + r * depth + a.width, queries + (r + 1) * depth, uint16_t(0));
        }
        asm volatile("" ::: "memory");  // the compiler does not know that tiles read memory
        tiles.configure(std::min(rows, SIDE), rows > SIDE ? rows - SIDE : rows);
        multiply(queries, depth, depth / DEPTH, keys, Strips(count, a.width), cover, rows, false, scores, score_step());
        // what has a mask is scaled before that is added
        const float factor = a.mask == ABSENT && a.scale() > 0 ? scale() : 1;
        const int64_t whole_cover = Strips(1, cover).steps * DEPTH;
        V tops[GROUP];
        std::fill_n(tops, GROUP, splat(-INFINITE));
        for (int64_t r = 0; r < rows; ++r) {
            const int64_t seen = std::clamp<int64_t>(head.seen(row + r) - start, 0, count);
            const float* added = a.mask == ABSENT ? nullptr : mask.at(head.mask_offset(row + r, start), count);
            float* own = scores + r * score_step();
            if (factor == 1) scale_row(own, whole(cover), scale());
            tops[r] = mask_scores(own, seen, whole_cover, added) * factor;
        }
        alignas(64) float shrink[GROUP];
        update(softmax, rows, tops, shrink, [&](int64_t r, float base) {
            return weigh_narrow(scores + r * score_step(), whole_cover, factor, base, weights + r * MOST);
        });
        for (int64_t r = 0; start && r < rows; ++r)
            if (shrink[r] != 1) scale_row(results + r * value_step(), value_step(), shrink[r]);
        asm volatile("" ::: "memory");
        multiply(weights, MOST, whole_cover / DEPTH, values, Strips(a.value_width, count), a.value_width, rows, start > 0, results,
                 value_step());
    }
};
#endif

// Rows first..last of one head, by Block<X> or TiledBlock.
template <class X, class Y, class Way>
void attend_rows(Way& block, const Head<X>& head, int64_t first, int64_t last) {
    constexpr int64_t GROUP = Way::GROUP;
    using Softmax = typename Way::Known;
    const int64_t rows = last - first, step = block.value_step(), groups = (rows + GROUP - 1) / GROUP;
    Softmax* softmax = reinterpret_cast<Softmax*>(block.results);
    float* results = reinterpret_cast<float*>(softmax + groups);
    int64_t seen = 0;
    for (int64_t row = first; row < last; ++row) seen = std::max(seen, head.seen(row));
    if (seen == 0) std::fill_n(results, rows * step, 0.0f);
    for (int64_t g = 0; g < groups; ++g) softmax[g].clear();
    for (int64_t start = 0; start < seen; start += block.most) {
        block.fill(head, start);
        for (int64_t g = 0; g < groups; ++g) {
            const int64_t row = rows * g / groups;
            block.attend(head, first + row, rows * (g + 1) / groups - row, softmax[g], results + row * step);
        }
    }
    for (int64_t g = 0; g < groups; ++g) {
        const int64_t row = rows * g / groups;
        for (int64_t r = row; r < rows * (g + 1) / groups; ++r)
            write_row(head.template y<Y>(first + r), results + r * step, head.a.value_width, softmax[g].total[r - row]);
    }
}

// Into how many parts to cut each of `count` units so that every thread has nearly as much to do.
int64_t parts_of(int64_t count, int64_t threads, int64_t most) {
    for (int64_t parts = 1; parts < most; ++parts) {
        const int64_t units = count * parts, longest = (units + threads - 1) / threads;
        if (units * 10 >= longest * threads * 9) return parts;
    }
    return most;
}

template <class X, class Y, class Way>
void attend_many(const Context& context, const Attention& a) {
    constexpr int64_t GROUP = Way::GROUP, SOFTMAX_FLOATS = sizeof(typename Way::Known) / sizeof(float);
    const int64_t heads = a.batch * a.kv_heads, rows = a.rows(), row_floats = whole(a.value_width);
    const int64_t most_rows = (RESULT_FLOATS - SOFTMAX_FLOATS) / (row_floats + SOFTMAX_FLOATS / GROUP + 1);
    int64_t parts = parts_of(heads, context.threads, std::min<int64_t>(8, (rows + GROUP - 1) / GROUP));
    parts = std::max(parts, (rows + most_rows - 1) / most_rows);
    Way block(context, a);
    auto attend_unit = [&](int64_t unit) {
        const int64_t part = unit % parts;
        attend_rows<X, Y>(block, Head<X>(context, a, unit / parts), rows * part / parts, rows * (part + 1) / parts);
    };
    int64_t first, last;
    context.share(heads * parts, first, last);
    if (a.is_causal && parts > 1)  // parts take unlike times
        while ((first = context.claim()) < heads * parts) attend_unit(first);
    else
        for (int64_t unit = first; unit < last; ++unit) attend_unit(unit);
}

// Few rows --------------------------------------------------------------------------------------

// Scores of one row against LANES keys, of which there are `count`.
template <class X>
V score_keys(const X* q, const X* k, int64_t k_row, int64_t width, int64_t count) {
    V sums[LANES] = {};
    const X* keys[LANES];
    for (int64_t i = 0; i < LANES; ++i) keys[i] = k + std::min(i, count - 1) * k_row;
    int64_t c = 0;
    for (; c + LANES <= width; c += LANES) {
        const V own = load(q + c);
#pragma GCC unroll 16
        for (int64_t i = 0; i < LANES; ++i) sums[i] += own * load(keys[i] + c);
    }
    if (c < width) {
        const V own = load_some(q + c, width - c);
#pragma GCC unroll 16
        for (int64_t i = 0; i < LANES; ++i) sums[i] += own * load_some(keys[i] + c, width - c);
    }
    return sum_each(sums);
}

// results += weights v for VECTORS vectors of columns; the last one has `last` of them.
template <int VECTORS, class X>
void add_values(const X* v, int64_t v_row, const float* weights, int64_t count, int64_t last, float* results) {
    constexpr int CHAINS = 8 / VECTORS;  // as one FMA waits for the one before it
    V sums[CHAINS][VECTORS] = {};
    auto add = [&](int64_t key, V(&to)[VECTORS]) __attribute__((always_inline)) {
        const V weight = splat(weights[key]);
        const X* from = v + key * v_row;
#pragma GCC unroll 8
        for (int i = 0; i < VECTORS - 1; ++i) to[i] += weight * load(from + i * LANES);
        const X* end = from + (VECTORS - 1) * LANES;
        to[VECTORS - 1] += weight * (last == LANES ? load(end) : load_some(end, last));
    };
    int64_t key = 0;
    for (; key + CHAINS <= count; key += CHAINS)
#pragma GCC unroll 8
        for (int chain = 0; chain < CHAINS; ++chain) add(key + chain, sums[chain]);
    for (; key < count; ++key) add(key, sums[0]);
#pragma GCC unroll 8
    for (int i = 0; i < VECTORS; ++i) {
        V total = load(results + i * LANES);
#pragma GCC unroll 8
        for (int chain = 0; chain < CHAINS; ++chain) total += sums[chain][i];
        store(results + i * LANES, total);
    }
}

template <class X>
void add_columns(const X* v, int64_t v_row, const float* weights, int64_t count, int64_t width, float* results) {
    for (int64_t c = 0; c < width; c += 4 * LANES) {
        const int64_t cols = std::min(4 * LANES, width - c), last = (cols - 1) % LANES + 1;
        switch ((cols + LANES - 1) / LANES) {
            case 1: add_values<1>(v + c, v_row, weights, count, last, results + c); break;
            case 2: add_values<2>(v + c, v_row, weights, count, last, results + c); break;
            case 3: add_values<3>(v + c, v_row, weights, count, last, results + c); break;
            case 4: add_values<4>(v + c, v_row, weights, count, last, results + c); break;
        }
    }
}

constexpr int64_t NEAR_KEYS = 64;  // whose values stay in L1 while the rows pass

// All rows of one head against keys first..last; results: of whole(value_width) per row.
template <class X>
void attend_keys(const Head<X>& head, int64_t first, int64_t last, float* memory, Softmax& softmax, float* results) {
    const Attention& a = head.a;
    const int64_t rows = a.rows(), step = whole(a.value_width);
    constexpr int64_t most = 2048;
    float* scores = memory;
    Mask mask(head.context, a, memory + rows * most);
    softmax.clear();
    std::fill_n(results, rows * step, 0.0f);
    for (int64_t start = first; start < last; start += most) {
        const int64_t count = std::min(most, last - start);
        for (int64_t key = 0; key < count; key += LANES)
            for (int64_t r = 0; r < rows; ++r)
                store(scores + r * most + key, LOG2_E * a.scale() * score_keys(head.q(r), head.k + (start + key) * a.k_row, a.k_row,
                                                                               a.width, std::min(LANES, count - key)));
        V tops[WHOLE_ROWS];
        std::fill_n(tops, WHOLE_ROWS, splat(-INFINITE));
        for (int64_t r = 0; r < rows; ++r) {
            const int64_t seen = std::clamp<int64_t>(head.seen(r) - start, 0, count);
            const float* added = a.mask == ABSENT ? nullptr : mask.at(head.mask_offset(r, start), count);
            tops[r] = mask_scores(scores + r * most, seen, count, added);
        }
        alignas(64) float shrink[WHOLE_ROWS];
        update(softmax, rows, tops, shrink, [&](int64_t r, float base) { return weigh(scores + r * most, count, base); });
        for (int64_t r = 0; r < rows; ++r) scale_row(results + r * step, step, shrink[r]);
        for (int64_t key = 0; key < count; key += NEAR_KEYS)
            for (int64_t r = 0; r < rows; ++r)
                add_columns(head.v + (start + key) * a.v_row, a.v_row, scores + r * most + key,
                            std::min(NEAR_KEYS, count - key), a.value_width, results + r * step);
    }
}

// Brings together what parts of the keys gave for all rows of a head, in the results of the first.
void merge_parts(int64_t parts, int64_t rows, int64_t step, Softmax* softmax, float* results) {
    for (int64_t r = 0; r < rows; ++r) {
        float top = -INFINITE, total = 0;
        for (int64_t p = 0; p < parts; ++p) top = std::max(top, softmax[p].top[r]);
        for (int64_t p = 0; p < parts; ++p) {
            const float factor = softmax[p].top[r] == top ? 1 : std::exp2(softmax[p].top[r] - top);
            total += softmax[p].total[r] * factor;
            scale_row(results + (p * rows + r) * step, step, factor);
            for (int64_t i = 0; p && i < step; i += LANES)
                store(results + r * step + i, load(results + r * step + i) + load(results + (p * rows + r) * step + i));
        }
        softmax[0].total[r] = total;
    }
}

// Keys and values are read where they are. Where there are too few heads for all threads, each head's
// keys are cut into parts, whose results stand in the first thread's memory.
template <class X, class Y>
void attend_few(const Context& context, const Attention& a) {
    const int64_t heads = a.batch * a.kv_heads, rows = a.rows(), step = whole(a.value_width);
    const int64_t unit_floats = sizeof(Softmax) / sizeof(float) + rows * step;
    const int64_t most_parts = std::min(a.keys / 256, SHARED_FLOATS / (heads * unit_floats));
    const int64_t parts = parts_of(heads, context.threads, std::max<int64_t>(most_parts, 1));
    float* own = reinterpret_cast<float*>(context.scratch) + SHARED_FLOATS;
    float* shared = parts == 1 ? own : reinterpret_cast<float*>(context.scratches[0]);
    const int64_t slots = parts == 1 ? 1 : heads * parts;
    Softmax* softmax = reinterpret_cast<Softmax*>(shared);
    float* results = reinterpret_cast<float*>(softmax + slots);
    float* memory = own + SHARED_FLOATS + unit_floats;
    auto write = [&](int64_t head, int64_t slot) {
        for (int64_t r = 0; r < rows; ++r)
            write_row(Head<X>(context, a, head).template y<Y>(r), results + (slot * rows + r) * step, a.value_width, softmax[slot].total[r]);
    };
    int64_t first, last;
    context.share(heads * parts, first, last);
    for (int64_t unit = first; unit < last; ++unit) {
        const int64_t part = unit % parts, head = unit / parts, slot = parts == 1 ? 0 : unit;
        attend_keys(Head<X>(context, a, head), a.keys * part / parts, a.keys * (part + 1) / parts, memory, softmax[slot],
                    results + slot * rows * step);
        if (parts == 1) write(head, 0);
    }
    if (parts == 1) return;
    context.wait();
    context.share(heads, first, last);
    for (int64_t head = first; head < last; ++head) {
        merge_parts(parts, rows, step, softmax + head * parts, results + head * parts * rows * step);
        write(head, head * parts);
    }
}

template <class X, class Y>
void attend(const Context& context, const Attention& a) {
    if (a.rows() <= FEW_ROWS) return attend_few<X, Y>(context, a);
#if defined(__AMX_BF16__)
    if constexpr (sizeof(X) == 2)
        if (TiledBlock::is_fit(a)) return attend_many<X, Y, TiledBlock>(context, a);
#endif
    attend_many<X, Y, Block<X>>(context, a);
}

}  // namespace

void attention(const Context& context, const int64_t* words) {
    Attention a;
    std::memcpy(&a, words, sizeof a);
    if (a.batch * a.heads * a.queries * a.value_width == 0) return;
    const bool is_narrow = a.q_type == BF16, is_y_narrow = a.y_type == BF16;
    if (is_narrow) return is_y_narrow ? attend<uint16_t, uint16_t>(context, a) : attend<uint16_t, float>(context, a);
    is_y_narrow ? attend<float, uint16_t>(context, a) : attend<float, float>(context, a);
}

}  // namespace rl::RL_ISA
