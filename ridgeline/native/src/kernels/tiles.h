// Products of bf16, or of whole numbers of eight bits, with packed weights in AMX tiles: what panel.h
// is for fp32.
//
// Packed weights w[n, k] stand in strips of SIDE columns (outputs n): strip s holds a tile for every
// DEPTH values of k (twice as many of eight bits), of SIDE rows with two (four) values of k side by
// side for each column. Beyond n and k there are zeros. Taps of a convolution follow each other in k,
// each filled up to a multiple of DEPTH, so that it can be read tap by tap, where its rows lie.
//
//   const Strips strips(n, k);
//   const Output output = {context, expression, bias, y, y_type, ldy, n};
//   Tiles tiles;
//   tiles.configure(rows of the first tile of x, rows of the second);
//   Endings endings(output, ToOutput(output));
//   for each block of rows, for each group of strips (2 beside two tiles of rows, 4 beside one):
//       const Rows pieces[] = {{{where each tile's rows start}, how far they lie apart, k}, ..};
//       Block block = {pieces, number of pieces, w + s * strips.stride(), strips.stride()};
//       product(block, output, endings, {row, rows, ..});
//
// What follows a block's sums, an expression and the way to y, is done piece by piece between the
// products of the next block, as tiles and vectors work side by side.
//
// Source: Intel 64 and IA-32 Architectures Software Developer's Manual, volume 1, chapter 18.
#pragma once
#include "panel.h"

#if defined(__AMX_BF16__)
#include <immintrin.h>

namespace rl::RL_ISA {

constexpr int64_t SIDE = 16;   // rows and columns of fp32 sums in a tile
template <class T>
constexpr int64_t DEPTH_OF = 64 / int64_t(sizeof(T));  // values in a row of a tile
constexpr int64_t DEPTH = DEPTH_OF<uint16_t>;          // of bf16
static_assert(SIDE == LANES && 2 * SIDE * SIDE <= TILE);

// How the columns of a matrix (n, k) are cut into strips.
struct Strips {
    int64_t count, steps, depth;

    Strips(int64_t n, int64_t k, int64_t depth = DEPTH)
        : count((n + SIDE - 1) / SIDE), steps((k + depth - 1) / depth), depth(depth) {}

    int64_t stride() const { return steps * depth * SIDE; }  // from strip to strip, in values
    int64_t size() const { return count * stride(); }
};

// Tiles 0 to 3 hold sums, 4 and 5 rows of x, 6 and 7 weights. Two tiles of rows are multiplied by
// two strips: sums 0 and 1 belong to the first rows, 2 and 3 to the second. One is by up to four.
struct alignas(64) TileConfiguration {
    uint8_t palette = 1, start_row = 0, reserved[14] = {};
    uint16_t row_nbytes[16] = {};
    uint8_t rows[16] = {};
};

inline void configure_tiles(int64_t first, int64_t second) {
    TileConfiguration c;
    const int64_t rows[] = {first, first, second, second, first, second, SIDE, SIDE};
    for (int i = 0; i < 8; ++i) {
        c.rows[i] = uint8_t(rows[i]);
        c.row_nbytes[i] = 64;
    }
    asm volatile("ldtilecfg %0" ::"m"(c));
}
inline void release_tiles() { _tile_release(); }

// The tiles of this thread, as long as it lives. To load a configuration takes some 300 cycles.
class Tiles {
  public:
    Tiles() = default;
    Tiles(const Tiles&) = delete;
    Tiles& operator=(const Tiles&) = delete;
    ~Tiles() {
        if (first_) release_tiles();
    }

    void configure(int64_t first, int64_t second) {
        if (first == first_ && second == second_) return;
        configure_tiles(first_ = first, second_ = second);
    }

  private:
    int64_t first_ = 0, second_ = 0;
};

// Rows of x, those of each tile `step` values apart: `depth` times DEPTH_OF<T> values of each.
template <class T>
struct RowsOf {
    const T* first[2];
    int64_t step, depth;
};
using Rows = RowsOf<uint16_t>;

// Up to two tiles of rows times up to four strips. The pieces follow each other in k.
template <class T>
struct BlockOf {
    const RowsOf<T>* pieces;
    int64_t num_pieces;
    const T* w;
    int64_t w_stride;         // from strip to strip, in values
    const void* ahead;        // read soon, as the next weights are
    int64_t lines_ahead = 0;  // how many lines of it are asked into the second cache per step
};
using Block = BlockOf<uint16_t>;

// sums += x w, of eight bits x without a sign; the numbers of tiles have to be written out
#define RL_MULTIPLY(sums, x, w)          \
    if constexpr (sizeof(T) == 2)        \
        _tile_dpbf16ps(sums, x, w);      \
    else                                 \
        _tile_dpbusd(sums, x, w)

// between: called once per DEPTH values of k, for other work.
template <int DOWN, int ACROSS, class T, class Between>
[[gnu::always_inline]] inline void multiply_tiles(const BlockOf<T>& block, Between& between) {
    static_assert(DOWN == 1 ? ACROSS <= 4 : ACROSS <= 2);
    constexpr int64_t DEPTH = DEPTH_OF<T>;
    const T* w = block.w;
    const int64_t next = block.w_stride;
    const char* ahead = static_cast<const char*>(block.ahead);
    for (int64_t p = 0; p < block.num_pieces; ++p) {
        const RowsOf<T>& rows = block.pieces[p];
        const T *first = rows.first[0], *second = rows.first[1];
        const int64_t step = rows.step * int64_t(sizeof(T));
        for (int64_t i = 0; i < rows.depth; ++i, first += DEPTH, second += DEPTH, w += DEPTH * SIDE) {
            for (int64_t line = 0; line < block.lines_ahead; ++line, ahead += 64)
                __builtin_prefetch(ahead, 0, 2);
            _tile_loadd(4, first, step);
            _tile_loadd(6, w, 64);
            RL_MULTIPLY(0, 4, 6);
            if constexpr (ACROSS > 1) {
                _tile_loadd(7, w + next, 64);
                RL_MULTIPLY(1, 4, 7);
            }
            if constexpr (DOWN == 2) {
                _tile_loadd(5, second, step);
                RL_MULTIPLY(2, 5, 6);
                if constexpr (ACROSS > 1) { RL_MULTIPLY(3, 5, 7); }
            }
            if constexpr (ACROSS > 2) {
                _tile_loadd(6, w + 2 * next, 64);
                RL_MULTIPLY(2, 4, 6);
            }
            if constexpr (ACROSS > 3) {
                _tile_loadd(7, w + 3 * next, 64);
                RL_MULTIPLY(3, 4, 7);
            }
            between();
        }
    }
}
#undef RL_MULTIPLY

template <class T, class Between>
void multiply_tiles(const BlockOf<T>& block, int64_t down, int64_t across, Between& between) {
    if (down == 2)
        across == 2 ? multiply_tiles<2, 2>(block, between) : multiply_tiles<2, 1>(block, between);
    else if (across > 2)
        across == 4 ? multiply_tiles<1, 4>(block, between) : multiply_tiles<1, 3>(block, between);
    else
        across == 2 ? multiply_tiles<1, 2>(block, between) : multiply_tiles<1, 1>(block, between);
}

// Where a block's sums belong: `rows` of them from `row` on, those of the first tile `first`.
struct Place {
    int64_t row, column, rows[2], down, across;
    int64_t skip = 0;
};

// Asks for what the end of a block needs, while its sums are computed.
inline void prefetch_block(const Output& output, const Place& p) {
    const int64_t rows = p.rows[0] + (p.down == 2 ? p.rows[1] : 0);
    prefetch_end(output, p.row + p.skip, p.column, rows - p.skip, std::min(p.across * SIDE, output.n - p.column));
}

inline void zero_tiles() {
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
}

inline void start_tiles(const Output& output, int64_t column, int64_t down, int64_t across) {
    alignas(64) float held[4 * SIDE];
    const float* bias = bias_of(output, column, across, held);
    if (!bias) return zero_tiles();
    asm volatile("" ::: "memory");  // the compiler does not know that tiles read memory
    const float* second = down == 2 ? bias : bias + 2 * SIDE;
    _tile_loadd(0, bias, 0);
    if (across > 1) _tile_loadd(1, bias + SIDE, 0);
    if (down == 2 || across > 2) _tile_loadd(2, second, 0);
    if ((down == 2 && across > 1) || across > 3) _tile_loadd(3, second + SIDE, 0);
}

// All sums of a block to rows `step` bytes apart.
inline void store_tiles(const Place& p, void* to, int64_t step) {
    char *first = static_cast<char*>(to), *second = p.down == 2 ? first + p.rows[0] * step : first + 2 * SIDE * 4;
    _tile_stored(0, first, step);
    if (p.across > 1) _tile_stored(1, first + SIDE * 4, step);
    if (p.down == 2 || p.across > 2) _tile_stored(2, second, step);
    if ((p.down == 2 && p.across > 1) || p.across > 3) _tile_stored(3, second + SIDE * 4, step);
    asm volatile("" ::: "memory");  // the compiler does not know that tiles write memory
}

// Sums that were stored so, to go on from.
inline void load_tiles(const Place& p, const void* from, int64_t step) {
    const char *first = static_cast<const char*>(from), *second = p.down == 2 ? first + p.rows[0] * step : first + 2 * SIDE * 4;
    asm volatile("" ::: "memory");  // the compiler does not know that tiles read memory
    _tile_loadd(0, first, step);
    if (p.across > 1) _tile_loadd(1, first + SIDE * 4, step);
    if (p.down == 2 || p.across > 2) _tile_loadd(2, second, step);
    if ((p.down == 2 && p.across > 1) || p.across > 3) _tile_loadd(3, second + SIDE * 4, step);
}

// The sums of the block before, on their way while the next are multiplied: put(sums, step, row,
// column, rows, cols) takes rows of them, `step` apart, to their place.
template <class Put>
class Endings {
  public:
    Endings(const Output& output, Put put) : put_(put), is_short_(output.ending.is_short) {}
    Endings(const Endings&) = delete;
    Endings& operator=(const Endings&) = delete;
    ~Endings() { flush(); }

    // The next block has so many steps.
    void spread(int64_t steps) {
        steps = std::max(steps, int64_t(1));
        const int64_t pieces = (rows_ - done_ + most_rows_ - 1) / most_rows_;
        per_step_ = pieces > steps ? (pieces + steps - 1) / steps : 1;
        pause_ = pieces ? std::max(steps / pieces, int64_t(1)) : steps + 1;
        countdown_ = pause_;
    }
    // One step of it is done.
    void operator()() {
        if (--countdown_) return;
        countdown_ = pause_;
        for (int64_t i = 0; i < per_step_ && done_ < rows_; ++i) put_piece();
    }
    // The block in the tiles, of which the first `cols` columns are there.
    void take(const Place& p, int64_t cols) {
        flush();
        width_ = p.across * SIDE, cols_ = cols, row_ = p.row, column_ = p.column;
        most_rows_ = is_short_ ? 4 : TILE / width_;
        rows_ = p.rows[0] + (p.down == 2 ? p.rows[1] : 0), done_ = p.skip;
        store_tiles(p, sums_, width_ * 4);
    }
    void flush() {
        while (done_ < rows_) put_piece();
    }

  private:
    alignas(64) int32_t sums_[4 * SIDE * SIDE];  // or fp32
    Put put_;
    const bool is_short_;
    int64_t most_rows_ = 1;  // in one piece: whole registers, where an expression is run step by step
    int64_t rows_ = 0, done_ = 0, width_ = 0, cols_ = 0, row_ = 0, column_ = 0;
    int64_t pause_ = 1, countdown_ = 1, per_step_ = 1;

    void put_piece() {
        const int64_t rows = std::min(most_rows_, rows_ - done_);
        put_(sums_ + done_ * width_, width_, row_ + done_, column_, rows, cols_);
        done_ += rows;
    }
};

// Sums of fp32 through the expression to y.
class ToOutput {
  public:
    explicit ToOutput(const Output& output) : output_(output) {}

    void operator()(const void* sums, int64_t step, int64_t row, int64_t column, int64_t rows, int64_t cols) {
        put_sums(output_, registers_, static_cast<const float*>(sums), step, row, column, rows, cols);
    }

  private:
    const Output& output_;
    alignas(64) Register registers_[REGISTERS];
};

template <class T>
int64_t steps_of(const BlockOf<T>& block) {
    int64_t steps = 0;
    for (int64_t p = 0; p < block.num_pieces; ++p) steps += block.pieces[p].depth;
    return steps;
}

// A whole block from the bias to y, or on its way.
inline void product(const Block& block, const Output& output, Endings<ToOutput>& endings, const Place& p) {
    start_tiles(output, p.column, p.down, p.across);
    prefetch_block(output, p);
    endings.spread(steps_of(block));
    multiply_tiles(block, p.down, p.across, endings);
    const int64_t width = p.across * SIDE, cols = std::min(width, output.n - p.column);
    if (output.is_plain() && cols == width)
        store_tiles(p, output.at(p.row, p.column), output.ldy * int64_t(sizeof(float)));
    else
        endings.take(p, cols);
}

}  // namespace rl::RL_ISA
#endif
