// Products of fp32 with packed weights: the micro-kernel that gemm, convolution and lstm share.
//
// Packed weights w[n, k] stand in panels of up to PANEL_VECTORS vectors of columns (outputs n);
// `Panels` says which. A panel is k-major: the value of (k, column c of the panel) is at
// offset(panel) + k * width(panel) + c, columns beyond n hold 0. Taps of a convolution follow each
// other in k: pack the matrix (filters, taps x channels).
//
//   const Panels panels(n, k);
//   Output output(context, expression, bias, y, y_type, ldy, n);
//   alignas(64) Register registers[REGISTERS];
//   for each panel p, for each block of rows <= max_rows(panels.vectors(p)):
//       const float* table[..] = where each row of x starts, per tap;
//       Tile<float> tile = {table, rows, taps, k of a tap, w + panels.offset(p), panels.width(p)};
//       product(tile, output, registers, row, rows, panels.column(p), panels.vectors(p));
//
// A caller may also take some vectors of a panel (w advanced by LANES per vector it skips), and cut
// k: multiply() writes a tile of sums, which starts the next multiply(), and finish() takes the last.
#pragma once
#include "../expression.h"
#include "unrolled.h"

namespace rl::RL_ISA {

// With 32 vector registers 24 hold sums, with 16 it is 12: the others hold weights and values of x.
#if defined(__AVX512F__) || defined(__aarch64__)
constexpr int64_t PANEL_VECTORS = 4, ACCUMULATORS = 24;
#else
constexpr int64_t PANEL_VECTORS = 2, ACCUMULATORS = 12;
#endif
constexpr int64_t MAX_ROWS = 12;
static_assert(ACCUMULATORS * LANES <= TILE);

// Rows that one micro-kernel takes at most beside `vectors` vectors of columns.
constexpr int64_t max_rows(int64_t vectors) {
    return ACCUMULATORS / vectors < MAX_ROWS ? ACCUMULATORS / vectors : MAX_ROWS;
}

// How the columns of a matrix (n, k) are cut into panels: as evenly as whole vectors allow.
struct Panels {
    int64_t n, k, num_vectors, count;

    Panels(int64_t n, int64_t k)
        : n(n), k(k), num_vectors((n + LANES - 1) / LANES),
          count((num_vectors + PANEL_VECTORS - 1) / PANEL_VECTORS) {}

    int64_t first_vector(int64_t panel) const { return num_vectors * panel / count; }
    int64_t vectors(int64_t panel) const { return first_vector(panel + 1) - first_vector(panel); }
    int64_t width(int64_t panel) const { return vectors(panel) * LANES; }
    int64_t column(int64_t panel) const { return first_vector(panel) * LANES; }
    // The panel where a vector of columns stands.
    int64_t panel_of(int64_t vector) const { return ((vector + 1) * count - 1) / num_vectors; }
    int64_t offset(int64_t panel) const { return column(panel) * k; }  // in values
    int64_t size() const { return num_vectors * LANES * k; }
};

// One call of the micro-kernel: out[r][c] = start[r][c] + sum over taps t and i < k of
// rows[t * row_step + r][i] * w[(t * k + i) * w_step + c].
template <class X>
struct Tile {
    const X* const* rows;
    int64_t row_step, taps, k;
    const float* w;
    int64_t w_step;
    const float* start = nullptr;  // nullptr: zeros
    int64_t start_step = 0;        // 0: the same for every row, as a bias
    float* out = nullptr;          // rows are written in order, whole vectors each
    int64_t out_step = 0;
    // What is read soon, as the next weights are: one line of it per i, ahead_step bytes apart, is
    // asked into the second cache meanwhile.
    const void* ahead = nullptr;
    int64_t ahead_step = 0;
};

// An expression that takes one pass over the sums: a residual added, then bounds. Others, longer
// ones, run step by step.
struct Ending {
    bool is_short = true;
    int64_t residual = -1;  // the operand added
    float low = -std::numeric_limits<float>::infinity(), high = -low;

    explicit Ending(const Expression& e) {
        int64_t at = 0, from = 0;  // where the value stands
        if (e.num_steps > 1 && e.step(0)[0] == STEP_LOAD && e.step(1)[0] == STEP_ADD) {
            const int64_t *add = e.step(1), loaded = e.step(0)[1];
            residual = e.step(0)[2];
            const Operand operand = e.operand(residual);
            is_short = loaded != 0 && add[2] + add[3] == loaded && (add[2] == 0 || add[3] == 0) &&
                       operand.strides[e.rank - 1] == 1 && (operand.type == F32 || operand.type == BF16);
            from = add[1];
            at = 2;
        }
        if (at < e.num_steps) {
            const int64_t* last = e.step(at++);
            is_short = is_short && (last[0] == STEP_RELU || last[0] == STEP_CLAMP) && last[2] == from;
            if (last[0] == STEP_RELU) low = 0;
            if (last[0] == STEP_CLAMP) low = float(number(last[4])), high = float(number(last[5]));
        }
        is_short = is_short && at == e.num_steps;
    }
};

// Where the fp32 sums of a product go: rows ldy apart in y, through the expression. origins: where
// the result starts in each operand, in elements; nullptr: at their beginning.
struct Output {
    const Context& context;
    const Expression& expression;
    const float* bias;
    char* y;
    int64_t type, ldy, n;
    const int64_t* origins = nullptr;
    float alpha = 1;  // times the sums
    const Ending ending = Ending(expression);

    bool is_plain() const { return expression.num_steps == 0 && type == F32 && alpha == 1; }
    float* at(int64_t row, int64_t column) const {
        return reinterpret_cast<float*>(y) + row * ldy + column;
    }
    // Where (row, column) lies in an operand.
    int64_t offset(int64_t operand, int64_t row, int64_t column) const {
        const int64_t* strides = expression.operand(operand).strides + expression.rank - 2;
        return (origins ? origins[operand] : 0) + row * strides[0] + column * strides[1];
    }
};

// Runs the expression on rows x cols sums that stand in registers[0]; returns the register to store.
inline int64_t evaluate(const Output& output, Register* registers, int64_t row, int64_t column,
                        int64_t rows, int64_t cols) {
    const Expression& e = output.expression;
    int64_t offsets[64];
    for (int64_t i = 0; i < e.num_operands; ++i) offsets[i] = output.offset(i, row, column);
    return evaluate(output.context, e, registers, offsets, rows, cols);
}

// The whole of a short expression. sum(row, column, lanes): the sums of some columns. residual:
// nullptr where nothing is added.
template <class Y, class R, class Sum>
RL_INLINE void finish_short(const Output& output, Sum sum, Y* y, const R* residual, int64_t residual_step,
                            int64_t rows, int64_t cols) {
    const V low = splat(output.ending.low), high = splat(output.ending.high), alpha = splat(output.alpha);
    const int64_t ldy = output.ldy;
    for (int64_t r = 0; r < rows; ++r, y += ldy) {
        int64_t c = 0;
        for (; c + LANES <= cols; c += LANES) {
            V value = sum(r, c, LANES) * alpha;
            if (residual) value += load(residual + c);
            store(y + c, clamp(value, low, high));
        }
        if (c < cols) {
            V value = sum(r, c, cols - c) * alpha;
            if (residual) value += load_some(residual + c, cols - c);
            store_some(y + c, clamp(value, low, high), cols - c);
        }
        if (residual) residual += residual_step;
    }
}

template <class Y, class Sum>
RL_INLINE void finish_short_as(const Output& output, Sum sum, int64_t row, int64_t column, int64_t rows, int64_t cols) {
    Y* y = reinterpret_cast<Y*>(output.y) + row * output.ldy + column;
    const int64_t residual = output.ending.residual;
    if (residual < 0) return finish_short<Y, float>(output, sum, y, nullptr, 0, rows, cols);
    const Operand operand = output.expression.operand(residual);
    const char* from = output.context.at(operand.ref) + output.offset(residual, row, column) * nbytes_of(operand.type);
    const int64_t step = operand.strides[output.expression.rank - 2];
    if (operand.type == F32)
        finish_short(output, sum, y, reinterpret_cast<const float*>(from), step, rows, cols);
    else
        finish_short(output, sum, y, reinterpret_cast<const uint16_t*>(from), step, rows, cols);
}

// Of an output whose expression is short.
template <class Sum>
RL_INLINE void finish_short(const Output& output, Sum sum, int64_t row, int64_t column, int64_t rows, int64_t cols) {
    if (output.type == F32)
        finish_short_as<float>(output, sum, row, column, rows, cols);
    else
        finish_short_as<uint16_t>(output, sum, row, column, rows, cols);
}

// Of one whose expression is not.
template <class Y>
void finish_long(const Output& output, Register* registers, int64_t row, int64_t column, int64_t rows, int64_t cols) {
    if (output.alpha != 1)
        for (int64_t i = 0; i < rows * cols; i += LANES)
            store(registers[0] + i, load(registers[0] + i) * output.alpha);
    const int64_t found = evaluate(output, registers, row, column, rows, cols);
    Y* y = reinterpret_cast<Y*>(output.y) + row * output.ldy + column;
    store_tile(y, registers[found], rows, cols, output.ldy, 1);
}

// Takes rows x cols sums that stand in registers[0] without gaps to their place in y.
inline void finish(const Output& output, Register* registers, int64_t row, int64_t column, int64_t rows,
                   int64_t cols) {
    if (output.ending.is_short) {
        const float* sums = registers[0];
        return finish_short(output, [=](int64_t r, int64_t c, int64_t) RL_INLINE { return load(sums + r * cols + c); }, row,
                            column, rows, cols);
    }
    if (output.type == F32)
        finish_long<float>(output, registers, row, column, rows, cols);
    else
        finish_long<uint16_t>(output, registers, row, column, rows, cols);
}

// The same of sums whose rows lie `step` apart.
inline void put_sums(const Output& output, Register* registers, const float* sums, int64_t step, int64_t row, int64_t column,
                     int64_t rows, int64_t cols) {
    if (output.ending.is_short)
        return finish_short(output, [=](int64_t r, int64_t c, int64_t) RL_INLINE { return load(sums + r * step + c); }, row,
                            column, rows, cols);
    for (int64_t r = 0; r < rows; ++r) std::memcpy(registers[0] + r * cols, sums + r * step, cols * sizeof(float));
    finish(output, registers, row, column, rows, cols);
}

// Asks for lines of rows that lie apart, to write or to read. Always in place: GCC takes a function
// that only asks for lines for one without effects, and drops its calls.
template <int FOR_WRITING>
[[gnu::always_inline]] inline void prefetch_rows(const char* at, int64_t step, int64_t rows, int64_t nbytes) {
    for (int64_t r = 0; r < rows; ++r, at += step)
        for (int64_t i = 0; i < nbytes; i += 64) __builtin_prefetch(at + i, FOR_WRITING);
}

// Asks for what the end of a tile needs, while its sums are computed.
[[gnu::always_inline]] inline void prefetch_end(const Output& output, int64_t row, int64_t column, int64_t rows, int64_t cols) {
    const int64_t size = nbytes_of(output.type);
    prefetch_rows<1>(output.y + (row * output.ldy + column) * size, output.ldy * size, rows, cols * size);
    if (output.ending.residual < 0) return;
    const Operand operand = output.expression.operand(output.ending.residual);
    const int64_t item = nbytes_of(operand.type), step = operand.strides[output.expression.rank - 2] * item;
    const char* at = output.context.at(operand.ref) + output.offset(output.ending.residual, row, column) * item;
    prefetch_rows<0>(at, step, rows, cols * item);
}

// Moves rows of cols values together that stand `step` apart.
inline void close_gaps(float* tile, int64_t rows, int64_t step, int64_t cols) {
    if (step == cols) return;
    for (int64_t r = 1; r < rows; ++r) std::memmove(tile + r * cols, tile + r * step, cols * sizeof(float));
}

template <class X, int ROWS, int VECTORS>
void multiply_block(const Tile<X>& tile) {
    // few sums are several times as many partial ones, as one FMA waits for the one before it
    constexpr int SPLIT = ROWS * VECTORS > 4 ? 1 : 8 / (ROWS * VECTORS);
    V sums[SPLIT][ROWS][VECTORS] = {};
    if (tile.start) {
        const float* from = tile.start;
#pragma GCC unroll 16
        for (int r = 0; r < ROWS; ++r, from += tile.start_step)
#pragma GCC unroll 16
            for (int v = 0; v < VECTORS; ++v) sums[0][r][v] = load(from + v * LANES);
    }
    const float* w = tile.w;
    const int64_t w_step = tile.w_step, ahead_step = tile.ahead_step;
    const char* ahead = static_cast<const char*>(tile.ahead ? tile.ahead : tile.w);
    const X* const* rows = tile.rows;
    for (int64_t t = 0; t < tile.taps; ++t, rows += tile.row_step) {
        const X* x[ROWS];
#pragma GCC unroll 16
        for (int r = 0; r < ROWS; ++r) x[r] = rows[r];
        auto step = [&](int64_t i, auto& sums) __attribute__((always_inline)) {
            V columns[VECTORS];
#pragma GCC unroll 16
            for (int v = 0; v < VECTORS; ++v) columns[v] = load(w + v * LANES);
#pragma GCC unroll 16
            for (int r = 0; r < ROWS; ++r) {
                const V value = splat(widen(x[r][i]));
#pragma GCC unroll 16
                for (int v = 0; v < VECTORS; ++v) sums[r][v] += value * columns[v];
            }
            w += w_step;
            if (SPLIT == 1) {
                __builtin_prefetch(ahead, 0, 2);
                ahead += ahead_step;
            }
        };
        int64_t i = 0;
        for (; i + SPLIT <= tile.k; i += SPLIT)
#pragma GCC unroll 16
            for (int s = 0; s < SPLIT; ++s) step(i + s, sums[s]);
        if (SPLIT > 1)
            for (; i < tile.k; ++i) step(i, sums[0]);
    }
    float* to = tile.out;
#pragma GCC unroll 16
    for (int r = 0; r < ROWS; ++r, to += tile.out_step)
#pragma GCC unroll 16
        for (int v = 0; v < VECTORS; ++v) {
            V total = sums[0][r][v];
#pragma GCC unroll 16
            for (int s = 1; s < SPLIT; ++s) total += sums[s][r][v];
            store(to + v * LANES, total);
        }
}

template <class X, int VECTORS>
void multiply_rows(const Tile<X>& tile, int64_t rows) {
    constexpr int most = max_rows(VECTORS);
#define RL_ROWS(count) \
    case count:        \
        if constexpr (count <= most) return multiply_block<X, count, VECTORS>(tile);
    switch (rows) {
        RL_ROWS(1) RL_ROWS(2) RL_ROWS(3) RL_ROWS(4) RL_ROWS(5) RL_ROWS(6)
        RL_ROWS(7) RL_ROWS(8) RL_ROWS(9) RL_ROWS(10) RL_ROWS(11) RL_ROWS(12)
    }
#undef RL_ROWS
}

// The sums of rows <= max_rows(vectors) by vectors <= PANEL_VECTORS vectors of columns.
template <class X>
void multiply(const Tile<X>& tile, int64_t rows, int64_t vectors) {
    switch (vectors) {
        case 1: return multiply_rows<X, 1>(tile, rows);
        case 2: return multiply_rows<X, 2>(tile, rows);
        case 3: if constexpr (PANEL_VECTORS > 2) return multiply_rows<X, 3>(tile, rows);
        case 4: if constexpr (PANEL_VECTORS > 2) return multiply_rows<X, 4>(tile, rows);
    }
}

// The bias of some vectors of columns, where a sum starts: in place, or in `held` with 0 beyond n.
inline const float* bias_of(const Output& output, int64_t column, int64_t vectors, float* held) {
    const float* from = output.bias ? output.bias + column : nullptr;
    if (!from || column + vectors * LANES <= output.n) return from;
    std::copy(from, output.bias + output.n, held);
    std::fill(held + output.n - column, held + vectors * LANES, 0.0f);
    return held;
}

// A whole tile to y, from the bias or what tile.start holds; it starts at (row, column) of the result.
template <class X>
void product(Tile<X> tile, const Output& output, Register* registers, int64_t row, int64_t rows,
             int64_t column, int64_t vectors) {
    const int64_t cols = std::min(vectors * LANES, output.n - column);
    const bool is_straight = cols == vectors * LANES && output.is_plain();
    alignas(64) float held[PANEL_VECTORS * LANES];
    if (!tile.start) tile.start = bias_of(output, column, vectors, held);
    tile.out = is_straight ? output.at(row, column) : registers[0];
    tile.out_step = is_straight ? output.ldy : cols;
    prefetch_end(output, row, column, rows, cols);
    multiply(tile, rows, vectors);
    if (!is_straight) finish(output, registers, row, column, rows, cols);
}

}  // namespace rl::RL_ISA
