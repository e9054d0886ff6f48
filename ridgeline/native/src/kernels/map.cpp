// map: element by element; copy: the same values elsewhere; fill.
#include "../expression.h"
#include "kernels.h"

namespace rl::RL_ISA {
namespace {

constexpr int64_t MAX_OPERANDS = 64;

// Dimensions and the strides of some tensors along them, as few dimensions as say the same.
struct Space {
    int64_t rank = 0, num_tensors;
    int64_t sizes[MAX_RANK];
    int64_t strides[MAX_OPERANDS][MAX_RANK];

    // Adds a dimension inside those before. One that goes on where the next begins merges with it.
    void add(int64_t size, const int64_t* stride_of) {
        if (size == 1) return;
        bool is_next = rank > 0;
        for (int64_t i = 0; i < num_tensors && is_next; ++i)
            is_next = strides[i][rank - 1] == stride_of[i] * size;
        if (is_next)
            sizes[rank - 1] *= size;
        else
            sizes[rank++] = size;
        for (int64_t i = 0; i < num_tensors; ++i) strides[i][rank - 1] = stride_of[i];
    }
    void close() {  // a scalar has one dimension
        if (rank > 0) return;
        sizes[rank++] = 1;
        for (int64_t i = 0; i < num_tensors; ++i) strides[i][0] = 1;
    }
    int64_t count(int64_t dims) const {  // of the first dims together
        int64_t found = 1;
        for (int64_t d = 0; d < dims; ++d) found *= sizes[d];
        return found;
    }
    // Where the place with this number, counted through the first dims, stands in each tensor.
    void find(int64_t number, int64_t dims, int64_t* offsets) const {
        for (int64_t i = 0; i < num_tensors; ++i) offsets[i] = 0;
        for (int64_t d = dims - 1; d >= 0; --d) {
            const int64_t index = number % sizes[d];
            number /= sizes[d];
            for (int64_t i = 0; i < num_tensors; ++i) offsets[i] += index * strides[i][d];
        }
    }
};

inline int64_t pieces_of(int64_t size, int64_t piece) { return (size + piece - 1) / piece; }

// The words of an expression's operands over the dimensions of a space.
struct Operands {
    int64_t words[MAX_OPERANDS * (2 + MAX_RANK)];

    Operands(const Expression& e, const Space& space) {
        int64_t* to = words;
        for (int64_t i = 0; i < e.num_operands; ++i) {
            *to++ = e.operand(i).ref;
            *to++ = e.operand(i).type;
            to = std::copy_n(space.strides[i], space.rank, to);
        }
    }
};

}  // namespace

void map(const Context& context, const int64_t* words) {
    Expression e(words + 1 + MAX_RANK);
    Space space;
    space.num_tensors = e.num_operands;
    for (int64_t d = 0; d < e.rank; ++d) {
        int64_t stride_of[MAX_OPERANDS];
        for (int64_t i = 0; i < e.num_operands; ++i) stride_of[i] = e.operand(i).strides[d];
        space.add(words[1 + d], stride_of);
    }
    space.close();
    if (space.count(space.rank) == 0) return;
    const Operands operands(e, space);
    e.rank = space.rank;
    e.operands = operands.words;
    const int64_t outer = std::max<int64_t>(space.rank - 2, 0), planes = space.count(outer);
    const int64_t cols = space.sizes[space.rank - 1], rows = space.rank > 1 ? space.sizes[outer] : 1;
    const int64_t tile_cols = std::min(cols, TILE), tile_rows = std::min(rows, TILE / tile_cols);
    const int64_t across = pieces_of(cols, tile_cols), down = pieces_of(rows, tile_rows);
    alignas(64) Register registers[REGISTERS];
    int64_t first, last, starts[MAX_OPERANDS], offsets[MAX_OPERANDS];
    context.share(planes * down * across, first, last);
    for (int64_t unit = first; unit < last; ++unit) {
        const int64_t col = unit % across * tile_cols, row = unit / across % down * tile_rows;
        if (unit == first || unit % (down * across) == 0) space.find(unit / (down * across), outer, starts);
        for (int64_t i = 0; i < e.num_operands; ++i) {
            const int64_t* strides = space.strides[i];
            offsets[i] = starts[i] + (space.rank > 1 ? row * strides[outer] : 0) + col * strides[space.rank - 1];
        }
        Evaluation tile = {context, e, registers, offsets, std::min(tile_rows, rows - row), std::min(tile_cols, cols - col)};
        tile.run(nullptr);
    }
}

namespace {

enum { X, Y };

// Values of 2 or 4 bytes side by side, as bits of V.
inline V load_bits(const uint32_t* from) { return load(reinterpret_cast<const float*>(from)); }
inline V load_bits(const uint16_t* from) { return load(from); }
inline void store_bits(uint32_t* to, V bits) { store(reinterpret_cast<float*>(to), bits); }
inline void store_bits(uint16_t* to, V bits) {
    const VI high = (float_to_bits(bits) >> 16) & 0xffff;
    *reinterpret_cast<VHUnaligned*>(to) = __builtin_convertvector(high, VH);
}

template <class T>
void copy_strided(const T* x, T* y, int64_t rows, int64_t cols, int64_t x_row, int64_t x_col, int64_t y_row, int64_t y_col) {
    for (int64_t r = 0; r < rows; ++r)
        for (int64_t c = 0; c < cols; ++c) y[r * y_row + c * y_col] = x[r * x_row + c * x_col];
}

// y[row][col] = x[col][row]: rows of x are x_col apart, those of y y_row.
template <class T>
void copy_transposed(const T* x, T* y, int64_t rows, int64_t cols, int64_t x_col, int64_t y_row) {
    if constexpr (sizeof(T) == 2 || sizeof(T) == 4) {
        int64_t r = 0;
        for (; r + LANES <= rows; r += LANES) {
            int64_t c = 0;
            for (; c + LANES <= cols; c += LANES) {
                V block[LANES];
                for (int64_t i = 0; i < LANES; ++i) block[i] = load_bits(x + (c + i) * x_col + r);
                transpose(block);
                for (int64_t i = 0; i < LANES; ++i) store_bits(y + (r + i) * y_row + c, block[i]);
            }
            copy_strided(x + c * x_col + r, y + r * y_row + c, LANES, cols - c, 1, x_col, y_row, 1);
        }
        copy_strided(x + r, y + r * y_row, rows - r, cols, 1, x_col, y_row, 1);
    } else {
        copy_strided(x, y, rows, cols, 1, x_col, y_row, 1);
    }
}

// The dimensions in the order in which they lie in y, outermost first.
Space space_of_copy(const int64_t* words) {
    const int64_t rank = words[3], *sizes = words + 4, *x_strides = words + 10, *y_strides = words + 16;
    int64_t order[MAX_RANK] = {0, 1, 2, 3, 4, 5};
    std::stable_sort(order, order + rank, [=](int64_t a, int64_t b) { return y_strides[a] > y_strides[b]; });
    Space space;
    space.num_tensors = 2;
    for (int64_t i = 0; i < rank; ++i) {
        const int64_t stride_of[] = {x_strides[order[i]], y_strides[order[i]]};
        space.add(sizes[order[i]], stride_of);
    }
    space.close();
    return space;
}

// Puts the dimension along which x is dense last but one, where the last one is not dense in x: then
// the last two are a matrix that copying transposes.
bool make_transposed(Space& space) {
    const int64_t last = space.rank - 1;
    if (space.rank < 2 || space.strides[Y][last] != 1 || space.strides[X][last] == 1) return false;
    for (int64_t d = 0; d < last; ++d)
        if (space.strides[X][d] == 1) {
            std::swap(space.sizes[d], space.sizes[last - 1]);
            for (int64_t i : {X, Y}) std::swap(space.strides[i][d], space.strides[i][last - 1]);
            return true;
        }
    return false;
}

template <class T>
void copy_blocks(const Context& context, const int64_t* words) {
    Space space = space_of_copy(words);
    if (space.count(space.rank) == 0) return;
    const bool is_transposed = make_transposed(space);
    const int64_t outer = std::max<int64_t>(space.rank - 2, 0), last = space.rank - 1;
    const int64_t cols = space.sizes[last], rows = space.rank > 1 ? space.sizes[outer] : 1;
    const int64_t x_row = space.rank > 1 ? space.strides[X][outer] : 0, y_row = space.rank > 1 ? space.strides[Y][outer] : 0;
    const int64_t x_col = space.strides[X][last], y_col = space.strides[Y][last];
    // what one unit copies stays in the nearest cache while it is transposed
    const int64_t piece_cols = std::min<int64_t>(cols, is_transposed ? 64 : 4096), piece_rows = std::clamp<int64_t>(4096 / piece_cols, 1, rows);
    const int64_t across = pieces_of(cols, piece_cols), down = pieces_of(rows, piece_rows);
    int64_t first, end, starts[2];
    context.share(space.count(outer) * down * across, first, end);
    for (int64_t unit = first; unit < end; ++unit) {
        const int64_t col = unit % across * piece_cols, row = unit / across % down * piece_rows;
        if (unit == first || unit % (down * across) == 0) space.find(unit / (down * across), outer, starts);
        const T* x = context.at<T>(words[0]) + starts[X] + row * x_row + col * x_col;
        T* y = context.at<T>(words[1]) + starts[Y] + row * y_row + col * y_col;
        const int64_t num_rows = std::min(piece_rows, rows - row), num_cols = std::min(piece_cols, cols - col);
        if (is_transposed)
            copy_transposed(x, y, num_rows, num_cols, x_col, y_row);
        else if (x_col == 1 && y_col == 1)
            for (int64_t r = 0; r < num_rows; ++r) std::memcpy(y + r * y_row, x + r * x_row, num_cols * sizeof(T));
        else
            copy_strided(x, y, num_rows, num_cols, x_row, x_col, y_row, y_col);
    }
}

}  // namespace

void copy(const Context& context, const int64_t* words) {
    switch (words[2]) {
        case 1: return copy_blocks<uint8_t>(context, words);
        case 2: return copy_blocks<uint16_t>(context, words);
        case 4: return copy_blocks<uint32_t>(context, words);
        case 8: return copy_blocks<uint64_t>(context, words);
    }
}

namespace {

template <class T>
void fill_all(const Context& context, const int64_t* words, T value) {
    T* y = context.at<T>(words[0]);
    int64_t first, last;
    context.share(words[2], first, last);
    std::fill(y + first, y + last, value);
}

}  // namespace

void fill(const Context& context, const int64_t* words) {
    const double value = number(words[3]);
    switch (words[1]) {
        case F32: return fill_all(context, words, float(value));
        case BF16: return fill_all(context, words, to_bf16(float(value)));
        case I64: return fill_all(context, words, int64_t(value));
        case I32: return fill_all(context, words, int32_t(value));
        default: return fill_all(context, words, uint8_t(int64_t(value)));
    }
}

}  // namespace rl::RL_ISA
