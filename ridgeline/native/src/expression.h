// Expressions: short programs over tiles of fp32 values, run a step at a time so that a tile stays
// in the nearest cache.
#pragma once
#include "context.h"
#include "vector.h"

namespace rl::RL_ISA {

struct Operand {
    Ref ref;
    int64_t type;
    const int64_t* strides;  // one per dimension, in elements
};

// One register holds TILE values and the slack that a whole vector at its end may write.
using Register = float[TILE + 16];

// A view of the words that end an instruction.
struct Expression {
    int64_t rank, num_operands, num_steps;
    const int64_t *operands, *steps;

    explicit Expression(const int64_t* words)
        : rank(words[0]), num_operands(words[1]), num_steps(words[2]), operands(words + 3),
          steps(words + 3 + num_operands * (2 + rank)) {}

    Operand operand(int64_t i) const {
        const int64_t* words = operands + i * (2 + rank);
        return {words[0], words[1], words + 2};
    }
    const int64_t* step(int64_t i) const { return steps + i * 6; }
};

template <class T>
inline float as_float(T value) {
    return float(value);
}
template <>
inline float as_float<uint16_t>(uint16_t value) {
    return from_bf16(value);
}

// Fills rows x cols of a register, row after row without gaps.
template <class T>
inline void load_tile(float* to, const T* from, int64_t rows, int64_t cols, int64_t row_stride,
                      int64_t col_stride) {
    constexpr bool is_vector = std::is_same_v<T, float> || std::is_same_v<T, uint16_t>;
    if (col_stride == 1 && row_stride == cols) {
        cols *= rows;
        rows = 1;
    }
    for (int64_t r = 0; r < rows; ++r, to += cols, from += row_stride) {
        if (col_stride == 0) {
            const V value = splat(as_float(*from));
            for (int64_t c = 0; c < cols; c += LANES) store(to + c, value);
        } else if (col_stride == 1) {
            int64_t c = 0;
            if constexpr (is_vector) {
                for (; c + LANES <= cols; c += LANES) store(to + c, load(from + c));
                if (c < cols) store(to + c, load_some(from + c, cols - c));
            } else {
                for (; c < cols; ++c) to[c] = as_float(from[c]);
            }
        } else {
            for (int64_t c = 0; c < cols; ++c) to[c] = as_float(from[c * col_stride]);
        }
    }
}

template <class T>
inline void store_tile(T* to, const float* from, int64_t rows, int64_t cols, int64_t row_stride,
                       int64_t col_stride) {
    if (col_stride == 1 && row_stride == cols) {
        cols *= rows;
        rows = 1;
    }
    for (int64_t r = 0; r < rows; ++r, from += cols, to += row_stride) {
        int64_t c = 0;
        if (col_stride == 1) {
            for (; c + LANES <= cols; c += LANES) store(to + c, load(from + c));
            if (c < cols) store_some(to + c, load(from + c), cols - c);
        } else {
            for (; c < cols; ++c) narrow(to + c * col_stride, from[c]);
        }
    }
}

inline void load_tile(float* to, const Context& c, const Operand& operand, int64_t offset,
                      int64_t rows, int64_t cols, int64_t row_stride, int64_t col_stride) {
    char* base = c.at(operand.ref) + offset * nbytes_of(operand.type);
    switch (operand.type) {
        case F32: return load_tile(to, reinterpret_cast<float*>(base), rows, cols, row_stride, col_stride);
        case BF16: return load_tile(to, reinterpret_cast<uint16_t*>(base), rows, cols, row_stride, col_stride);
        case I64: return load_tile(to, reinterpret_cast<int64_t*>(base), rows, cols, row_stride, col_stride);
        case I32: return load_tile(to, reinterpret_cast<int32_t*>(base), rows, cols, row_stride, col_stride);
        case U8: return load_tile(to, reinterpret_cast<uint8_t*>(base), rows, cols, row_stride, col_stride);
        case I8: return load_tile(to, reinterpret_cast<int8_t*>(base), rows, cols, row_stride, col_stride);
    }
}

template <class T, class F>
inline void store_each(T* to, const float* from, int64_t rows, int64_t cols, int64_t row_stride,
                       int64_t col_stride, F f) {
    for (int64_t r = 0; r < rows; ++r)
        for (int64_t c = 0; c < cols; ++c) to[r * row_stride + c * col_stride] = f(from[r * cols + c]);
}

// Integers drop what follows the point, as in torch; U8 holds the truth of a comparison.
inline void store_tile(const float* from, const Context& c, const Operand& operand, int64_t offset,
                       int64_t rows, int64_t cols, int64_t row_stride, int64_t col_stride) {
    char* base = c.at(operand.ref) + offset * nbytes_of(operand.type);
    auto store_as = [&](auto* to, auto f) { store_each(to, from, rows, cols, row_stride, col_stride, f); };
    switch (operand.type) {
        case F32: return store_tile(reinterpret_cast<float*>(base), from, rows, cols, row_stride, col_stride);
        case BF16: return store_tile(reinterpret_cast<uint16_t*>(base), from, rows, cols, row_stride, col_stride);
        case I64: return store_as(reinterpret_cast<int64_t*>(base), [](float v) { return int64_t(v); });
        case I32: return store_as(reinterpret_cast<int32_t*>(base), [](float v) { return int32_t(v); });
        case U8: return store_as(reinterpret_cast<uint8_t*>(base), [](float v) { return uint8_t(v != 0); });
        case I8: return store_as(reinterpret_cast<int8_t*>(base), [](float v) { return int8_t(int32_t(v)); });
    }
}

// Where the values of a register stand: rows of the tile, `step` apart. Usually in the register;
// but fp32 values that whole vectors can read are left where a tensor has them.
struct Held {
    const float* at;
    int64_t step;
};

// Where the result of an expression goes, rows ldy apart.
struct Destination {
    char* y;
    int64_t type, ldy;
};

// to = f(a) of whole vectors, for values that stand in a register.
template <class F>
inline void unary(float* to, const float* a, int64_t count, F f) {
    for (int64_t i = 0; i < count; i += LANES) store(to + i, f(load(a + i)));
}

inline V truth(VI mask) { return select(mask, splat(1.0f), V{}); }

// One evaluation: of rows x cols <= TILE values, tile by tile.
struct Evaluation {
    const Context& context;
    const Expression& e;
    Register* registers;
    const int64_t* offsets;  // where the tile starts in each operand, in elements
    int64_t rows, cols;
    Held held[REGISTERS];
    float* to = nullptr;  // where the step that runs puts its values, and how far its rows are apart
    int64_t to_step = 0;

    // Whether rows `step` apart can be read and written by whole vectors with nothing beside them.
    bool is_whole(int64_t step) const {
        return cols % LANES == 0 || ((step == cols || rows == 1) && rows * cols % LANES == 0);
    }
    float* whole_place(int64_t i) const {  // of the tile in operand i, nullptr where there is none
        const Operand operand = e.operand(i);
        if (operand.type != F32 || operand.strides[e.rank - 1] != 1 || !is_whole(row_stride(operand))) return nullptr;
        return context.at<float>(operand.ref) + offsets[i];
    }
    int64_t row_stride(const Operand& operand) const {
        return e.rank > 1 && rows > 1 ? operand.strides[e.rank - 2] : cols;
    }
    // A later step may overwrite what this operand holds while its register is still in use.
    bool is_overwritten(int64_t i) const {
        for (int64_t k = 0; k + 1 < e.num_steps; ++k)
            if (e.step(k)[0] == STEP_STORE && e.operand(e.step(k)[2]).ref == e.operand(i).ref) return true;
        return false;
    }

    void load(int64_t to, int64_t i) {
        const Operand operand = e.operand(i);
        const float* place = whole_place(i);
        if (place && !is_overwritten(i)) {
            held[to] = {place, row_stride(operand)};
            return;
        }
        load_tile(registers[to], context, operand, offsets[i], rows, cols, row_stride(operand), operand.strides[e.rank - 1]);
        held[to] = {registers[to], cols};
    }
    void store(int64_t from, int64_t i) {
        const Operand operand = e.operand(i);
        settle(from);
        store_tile(registers[from], context, operand, offsets[i], rows, cols, row_stride(operand), operand.strides[e.rank - 1]);
    }
    // Brings the values into the register itself, without gaps.
    void settle(int64_t i) {
        if (held[i].at == registers[i]) return;
        load_tile(registers[i], held[i].at, rows, cols, held[i].step, 1);
        held[i] = {registers[i], cols};
    }

    template <class F, class... From>
    void each(F f, From... from) const {
        int64_t num_rows = rows, count = cols;
        if (((from.step == cols) && ... && (to_step == cols))) {
            count *= num_rows;
            num_rows = 1;
        }
        for (int64_t r = 0; r < num_rows; ++r)
            for (int64_t c = 0; c < count; c += LANES)
                rl::RL_ISA::store(to + r * to_step + c, f(rl::RL_ISA::load(from.at + r * from.step + c)...));
    }
    void compute(const int64_t* s);
    int64_t run(const Destination* destination);
};

inline void Evaluation::compute(const int64_t* s) {
    const Held a = held[s[2]], b = held[s[3]];
    const float p = float(number(s[4])), q = float(number(s[5]));
    switch (s[0]) {
        case STEP_CONSTANT: return each([=](V) { return splat(p); }, Held{to, to_step});
        case STEP_COPY: return each([](V x) { return x; }, a);
        case STEP_ADD: return each([](V x, V y) { return x + y; }, a, b);
        case STEP_SUB: return each([](V x, V y) { return x - y; }, a, b);
        case STEP_MUL: return each([](V x, V y) { return x * y; }, a, b);
        case STEP_DIV: return each([](V x, V y) { return x / y; }, a, b);
        // NaN on either side gives NaN, as in torch
        case STEP_MIN: return each([](V x, V y) { return select(x != x, x, min(x, y)); }, a, b);
        case STEP_MAX: return each([](V x, V y) { return select(x != x, x, max(x, y)); }, a, b);
        case STEP_AFFINE: return each([=](V x) { return x * p + q; }, a);
        case STEP_CLAMP: return each([=](V x) { return clamp(x, splat(p), splat(q)); }, a);
        case STEP_RELU: return each([](V x) { return max(V{}, x); }, a);
        case STEP_NEG: return each([](V x) { return -x; }, a);
        case STEP_ABS: return each([](V x) { return size_of(x); }, a);
        case STEP_SQUARE: return each([](V x) { return x * x; }, a);
        case STEP_SQRT: return each([](V x) { return sqrt(x); }, a);
        case STEP_RSQRT: return each([](V x) { return 1.0f / sqrt(x); }, a);
        case STEP_RECIPROCAL: return each([](V x) { return 1.0f / x; }, a);
        case STEP_FLOOR: return each([](V x) { return floor(x); }, a);
        case STEP_CEIL: return each([](V x) { return -floor(-x); }, a);
        case STEP_ROUND: return each([](V x) { return round(x); }, a);
        case STEP_EXP: return each([](V x) { return exp(x); }, a);
        case STEP_LOG: return each([](V x) { return log(x); }, a);
        case STEP_SIN: return each([](V x) { return sin(x); }, a);
        case STEP_COS: return each([](V x) { return cos(x); }, a);
        case STEP_TANH: return each([](V x) { return tanh(x); }, a);
        case STEP_SIGMOID: return each([](V x) { return sigmoid(x); }, a);
        case STEP_ERF: return each([](V x) { return erf(x); }, a);
        case STEP_POW: return each([=](V x) { return pow(x, p); }, a);
        case STEP_GELU: return each([](V x) { return gelu(x); }, a);
        case STEP_GELU_TANH: return each([](V x) { return gelu_tanh(x); }, a);
        case STEP_SILU: return each([](V x) { return silu(x); }, a);
        case STEP_HARDSWISH: return each([](V x) { return x * hardsigmoid(x); }, a);
        case STEP_HARDSIGMOID: return each([](V x) { return hardsigmoid(x); }, a);
        case STEP_LEAKY_RELU: return each([=](V x) { return select(x > 0.0f, x, x * p); }, a);
        case STEP_ELU: return each([=](V x) { return select(x > 0.0f, x, p * expm1(x)); }, a);
        case STEP_SOFTPLUS: return each([](V x) { return softplus(x); }, a);
        case STEP_MISH: return each([](V x) { return mish(x); }, a);
        case STEP_LT: return each([](V x, V y) { return truth(x < y); }, a, b);
        case STEP_LE: return each([](V x, V y) { return truth(x <= y); }, a, b);
        case STEP_EQ: return each([](V x, V y) { return truth(x == y); }, a, b);
        case STEP_NE: return each([](V x, V y) { return truth(x != y); }, a, b);
        case STEP_AND: return each([](V x, V y) { return truth((x != 0.0f) & (y != 0.0f)); }, a, b);
        case STEP_OR: return each([](V x, V y) { return truth((x != 0.0f) | (y != 0.0f)); }, a, b);
        case STEP_NOT: return each([](V x) { return truth(x == 0.0f); }, a);
        case STEP_SELECT:
            return each([](V x, V y, V mask) { return select(mask != 0.0f, x, y); }, a, b, held[int64_t(number(s[4]))]);
    }
}

// Runs the steps and returns the register that the last one wrote. A step whose values are stored
// next writes them straight to their place.
inline int64_t Evaluation::run(const Destination* destination) {
    for (int64_t i = 0; i < REGISTERS; ++i) held[i] = {registers[i], cols};
    int64_t last = 0;
    for (int64_t i = 0; i < e.num_steps; ++i) {
        const int64_t* s = e.step(i);
        if (s[0] == STEP_STORE) {
            store(s[3], s[2]);
            continue;
        }
        last = s[1];
        if (s[0] == STEP_LOAD) {
            load(last, s[2]);
            continue;
        }
        const int64_t* next = i + 1 < e.num_steps ? e.step(i + 1) : nullptr;
        to = registers[last];
        to_step = cols;
        if (next && next[0] == STEP_STORE && next[3] == last) {
            if (float* place = whole_place(next[2])) {
                to = place;
                to_step = row_stride(e.operand(next[2]));
                ++i;
            }
        } else if (!next && destination && destination->type == F32 && is_whole(destination->ldy)) {
            to = reinterpret_cast<float*>(destination->y);
            to_step = rows > 1 ? destination->ldy : cols;
        }
        compute(s);
        held[last] = {to, to_step};
    }
    return last;
}

// Runs the steps on one tile of rows x cols <= TILE values; `offsets` are where the tile starts in
// each operand, in elements. Strides of the last two dimensions walk the tile. Returns the register
// that the last step wrote; it holds the values without gaps.
inline int64_t evaluate(const Context& context, const Expression& e, Register* registers,
                        const int64_t* offsets, int64_t rows, int64_t cols) {
    Evaluation evaluation = {context, e, registers, offsets, rows, cols};
    const int64_t last = evaluation.run(nullptr);
    if (e.num_steps) evaluation.settle(last);
    return last;
}

// The same, and takes the values to their destination.
inline void evaluate(const Context& context, const Expression& e, Register* registers,
                     const int64_t* offsets, int64_t rows, int64_t cols, const Destination& destination) {
    Evaluation evaluation = {context, e, registers, offsets, rows, cols};
    const int64_t last = evaluation.run(&destination);
    if (evaluation.held[last].at == reinterpret_cast<float*>(destination.y)) return;
    evaluation.settle(last);
    if (destination.type == F32)
        store_tile(reinterpret_cast<float*>(destination.y), registers[last], rows, cols, destination.ldy, 1);
    else
        store_tile(reinterpret_cast<uint16_t*>(destination.y), registers[last], rows, cols, destination.ldy, 1);
}

// Where a tile at (row, col) of the result of a product starts in each operand.
inline void find_offsets(const Expression& e, int64_t row, int64_t col, int64_t* offsets) {
    for (int64_t i = 0; i < e.num_operands; ++i) {
        const int64_t* strides = e.operand(i).strides;
        offsets[i] = row * strides[0] + col * strides[1];
    }
}

// What follows a product: runs the expression on the rows x cols values in registers[0], which
// start at (row, col) of the result, and returns the register to store.
inline int64_t finish(const Context& context, const Expression& e, Register* registers, int64_t row,
                      int64_t col, int64_t rows, int64_t cols) {
    if (e.num_steps == 0) return 0;
    int64_t offsets[64];
    find_offsets(e, row, col, offsets);
    return evaluate(context, e, registers, offsets, rows, cols);
}

// The same, and takes the values to their destination, which is where the tile starts.
inline void finish(const Context& context, const Expression& e, Register* registers, int64_t row,
                   int64_t col, int64_t rows, int64_t cols, const Destination& destination) {
    int64_t offsets[64];
    find_offsets(e, row, col, offsets);
    evaluate(context, e, registers, offsets, rows, cols, destination);
}

}  // namespace rl::RL_ISA
