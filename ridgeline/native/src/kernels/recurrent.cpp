// LSTM: the products with the state, step by step. Sources: Hochreiter and Schmidhuber 1997 with the
// forget gate of Gers et al. 2000, in the form of torch.nn.LSTM.
#include "kernels.h"
#include "panel.h"

namespace rl::RL_ISA {
namespace {

struct Direction {
    Ref gates, w, h, c, y;
};

struct Lstm {
    Direction directions[2];
    int64_t y_type, steps, batch, hidden, y_step, y_batch, gates_step, gates_batch, is_reverse;

    int64_t num_directions() const { return directions[1].w == ABSENT ? 1 : 2; }
};

// Units of hidden size, or columns of the product, in vectors; the same thread computes the same
// ones at every step, so that their weights stay in its cache.
struct Range {
    int64_t first, last;

    Range of(int64_t direction, int64_t each) const {  // what lies in one of directions of `each` vectors
        return {std::clamp<int64_t>(first - direction * each, 0, each),
                std::clamp<int64_t>(last - direction * each, 0, each)};
    }
};

// One direction for some of the batch.
struct Work {
    const Context& context;
    const Lstm& l;
    const Direction& d;
    int64_t start, rows;  // of the batch
    bool is_reverse;
    float *sums, *states;  // in memory that all threads see
    Panels panels;

    int64_t step(int64_t i) const { return is_reverse ? l.steps - 1 - i : i; }
    float* state(int64_t i) const { return states + i % 2 * rows * l.hidden; }
    float* given(Ref state) const { return context.at<float>(state) + start * l.hidden; }
    const float* before(int64_t i) const { return i ? state(i - 1) : given(d.h); }
    int64_t sums_step() const { return panels.num_vectors * LANES; }
};

// sums = gates + h w for vectors of columns in [range.first, range.last) of the packed weights.
void multiply_columns(const Work& work, int64_t i, const Range& range) {
    const Lstm& l = work.l;
    const float* gates = work.context.at<float>(work.d.gates) + work.step(i) * l.gates_step + work.start * l.gates_batch;
    const float *w = work.context.at<float>(work.d.w), *h = work.before(i);
    const Panels& panels = work.panels;
    for (int64_t panel = 0; panel < panels.count; ++panel) {
        const int64_t from = std::max(range.first, panels.first_vector(panel));
        const int64_t vectors = std::min(range.last, panels.first_vector(panel + 1)) - from;
        if (vectors <= 0) continue;
        const int64_t skipped = from - panels.first_vector(panel), column = from * LANES;
        const int64_t blocks = (work.rows + max_rows(vectors) - 1) / max_rows(vectors);
        for (int64_t b = 0; b < blocks; ++b) {
            const int64_t row = work.rows * b / blocks, rows = work.rows * (b + 1) / blocks - row;
            const float* table[MAX_ROWS];
            for (int64_t r = 0; r < rows; ++r) table[r] = h + (row + r) * l.hidden;
            Tile<float> tile = {table, rows, 1, l.hidden, w + panels.offset(panel) + skipped * LANES, panels.width(panel)};
            tile.start = gates + row * l.gates_batch + column;
            tile.start_step = l.gates_batch;
            tile.out = work.sums + row * work.sums_step() + column;
            tile.out_step = work.sums_step();
            if (column + vectors * LANES > panels.n) {  // whole vectors would be read beyond the gates
                for (int64_t r = 0; r < rows; ++r)
                    std::copy_n(tile.start + r * l.gates_batch, panels.n - column, tile.out + r * tile.out_step);
                tile.start = tile.out;
                tile.start_step = tile.out_step;
            }
            multiply(tile, rows, vectors);
        }
    }
}

template <class Y, class Load, class Store>
void update(const float* sums, int64_t hidden, float* c, float* h, Y* y, Load load, Store store) {
    const V in = sigmoid(load(sums)), forget = sigmoid(load(sums + hidden));
    const V fresh = tanh(load(sums + 2 * hidden)), out = sigmoid(load(sums + 3 * hidden));
    const V cell = forget * load(c) + in * fresh;
    const V value = out * tanh(cell);
    store(c, cell);
    store(h, value);
    store(y, value);
}

// The new state of units in vectors [range.first, range.last).
template <class Y>
void update_units(const Work& work, int64_t i, const Range& range) {
    const Lstm& l = work.l;
    for (int64_t row = 0; row < work.rows; ++row) {
        const float* sums = work.sums + row * work.sums_step();
        float *c = work.given(work.d.c) + row * l.hidden, *h = work.state(i) + row * l.hidden;
        Y* y = work.context.at<Y>(work.d.y) + work.step(i) * l.y_step + (work.start + row) * l.y_batch;
        for (int64_t u = range.first * LANES; u < std::min(range.last * LANES, l.hidden); u += LANES) {
            const int64_t count = std::min(LANES, l.hidden - u);
            if (count == LANES)
                update(sums + u, l.hidden, c + u, h + u, y + u, [](const float* from) { return load(from); },
                       [](auto* to, V v) { store(to, v); });
            else
                update(sums + u, l.hidden, c + u, h + u, y + u, [=](const float* from) { return load_some(from, count); },
                       [=](auto* to, V v) { store_some(to, v, count); });
        }
    }
}

void keep_state(const Work& work, const Range& range) {
    const int64_t hidden = work.l.hidden, first = range.first * LANES, last = std::min(range.last * LANES, hidden);
    for (int64_t row = 0; row < work.rows && first < last; ++row)
        std::copy(work.state(work.l.steps - 1) + row * hidden + first, work.state(work.l.steps - 1) + row * hidden + last,
                  work.given(work.d.h) + row * hidden + first);
}

// All steps for `rows` of the batch. Where hidden is whole vectors a thread computes all four gates
// of its units and threads wait once a step; else the sums of a gate straddle vectors, and they wait
// for each other's sums as well. Threads that have whole directions to themselves never wait.
void run(const Context& context, const Lstm& l, int64_t start, int64_t rows) {
    const int64_t num_directions = l.num_directions(), unit_vectors = (l.hidden + LANES - 1) / LANES;
    const Panels panels(4 * l.hidden, l.hidden);
    const int64_t sums_size = rows * panels.num_vectors * LANES;
    const bool is_apart = num_directions % context.threads == 0, is_whole = l.hidden % LANES == 0;
    Range units, columns;
    context.share(num_directions * unit_vectors, units.first, units.last);
    context.share(num_directions * panels.num_vectors, columns.first, columns.last);
    auto work_of = [&](int64_t d) {
        float* memory = reinterpret_cast<float*>(context.scratches[0]) + d * (sums_size + 2 * rows * l.hidden);
        return Work{context, l, l.directions[d], start, rows, (l.is_reverse != 0) != (d == 1), memory, memory + sums_size, panels};
    };
    for (int64_t i = 0; i < l.steps; ++i) {
        for (int64_t d = 0; d < num_directions; ++d) {
            if (!is_whole) multiply_columns(work_of(d), i, columns.of(d, panels.num_vectors));
            const Range own = units.of(d, unit_vectors);
            for (int64_t gate = 0; is_whole && gate < 4; ++gate)
                multiply_columns(work_of(d), i, {gate * unit_vectors + own.first, gate * unit_vectors + own.last});
        }
        if (!is_whole && !is_apart) context.wait();
        for (int64_t d = 0; d < num_directions; ++d) {
            const Range own = units.of(d, unit_vectors);
            l.y_type == F32 ? update_units<float>(work_of(d), i, own) : update_units<uint16_t>(work_of(d), i, own);
        }
        if (!is_apart) context.wait();
    }
    for (int64_t d = 0; d < num_directions; ++d) keep_state(work_of(d), units.of(d, unit_vectors));
}

}  // namespace

void lstm(const Context& context, const int64_t* words) {
    Lstm l;
    std::memcpy(&l, words, sizeof l);
    if (l.steps == 0) return;
    const int64_t row_nbytes = 4 * 2 * (4 * l.hidden + LANES + 2 * l.hidden);  // of sums and states, both directions
    const int64_t rows = std::max<int64_t>(1, SCRATCH_NBYTES / row_nbytes);
    for (int64_t start = 0; start < l.batch; start += rows) {
        if (start && context.threads > 1) context.wait();  // the memory is free again
        run(context, l, start, std::min(rows, l.batch - start));
    }
}

}  // namespace rl::RL_ISA
