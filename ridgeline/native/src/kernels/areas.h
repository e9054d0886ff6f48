// Products cut into parts: an area of the results per thread, blocks of it that suit the caches.
#pragma once
#include <utility>

#include "panel.h"
#include "tiles.h"

namespace rl::RL_ISA {

// x[m, k], rows ldx apart, by weights of n columns.
struct Product {
    const char* x;
    int64_t m, n, k, ldx;
};

// Part of the results: rows first..last, vectors of columns from..to.
struct Area {
    int64_t first, last, from, to;

    bool is_empty() const { return first >= last || from >= to; }
};

constexpr int64_t ROW_UNIT = 24;  // a multiple of max_rows() of any panel, its half of whole ones
constexpr int64_t L1_NBYTES = 16 << 10, L2_NBYTES = 1 << 20;  // what a matrix may take of a cache
constexpr int64_t PIECE = 1024;  // of k that is summed in one go, as a block of rows has to stay in L1

constexpr int64_t PARTIAL_NBYTES = SCRATCH_NBYTES / 2;  // of scratch memory; the rest is the caller's

inline int64_t parts_of(int64_t whole, int64_t part) { return (whole + part - 1) / part; }

// The area of this thread. Threads form the grid whose areas take least: each value of w or x read
// costs about as much as ROW_UNIT products with it.
inline Area own_area(const Context& context, const Product& p) {
    const int64_t vectors = parts_of(p.n, LANES);
    int64_t least = 0, down = 1;
    for (int64_t d = 1; d <= context.threads; ++d) {
        if (context.threads % d) continue;
        const int64_t rows = parts_of(p.m, d), cols = parts_of(vectors, context.threads / d) * LANES;
        const int64_t cost = rows * cols + ROW_UNIT * (rows + cols);
        if (!least || cost < least) least = cost, down = d;
    }
    const int64_t across = context.threads / down;
    const int64_t i = context.thread / across, j = context.thread % across;
    return {p.m * i / down, p.m * (i + 1) / down, vectors * j / across, vectors * (j + 1) / across};
}

// Packed weights for `k` values of k, of which the first is k number `first_k` of the product.
struct Weights {
    const float* panels;
    int64_t k, first_k;
};

// The results of an area that sums first_k..last_k, panel by panel. Sums that are not whole yet are
// kept in `partial`, (rows, columns of the area).
template <class X>
void multiply_area(const Product& p, const Weights& weights, const Output& output, Register* registers,
                   const Area& area, int64_t first_k, int64_t last_k, float* partial) {
    const Panels panels(p.n, weights.k);
    const X* x = reinterpret_cast<const X*>(p.x) + first_k;
    const auto panel_at = [&](int64_t panel) {
        return weights.panels + panels.offset(panel) + (first_k - weights.first_k) * panels.width(panel);
    };
    alignas(64) float bias[PANEL_VECTORS * LANES];
    const int64_t partial_step = (area.to - area.from) * LANES;
    for (int64_t panel = panels.panel_of(area.from); panel <= panels.panel_of(area.to - 1); ++panel) {
        const int64_t from = std::max(area.from, panels.first_vector(panel));
        const int64_t vectors = std::min(area.to, panels.first_vector(panel + 1)) - from;
        const int64_t width = panels.width(panel);
        const int64_t blocks = parts_of(area.last - area.first, max_rows(vectors));
        const float* w = panel_at(panel) + (from - panels.first_vector(panel)) * LANES;
        const char* next = reinterpret_cast<const char*>(panel_at(std::min(panel + 1, panels.count - 1)));
        for (int64_t b = 0; b < blocks; ++b) {
            const int64_t row = area.first + (area.last - area.first) * b / blocks;
            const int64_t rows = area.first + (area.last - area.first) * (b + 1) / blocks - row;
            const X* table[MAX_ROWS];
            for (int64_t r = 0; r < rows; ++r) table[r] = x + (row + r) * p.ldx;
            Tile<X> tile = {table, rows, 1, last_k - first_k, w, width};
            tile.ahead_step = width * int64_t(sizeof(float)) / blocks;
            tile.ahead = next + b * tile.ahead_step * tile.k;
            float* sums = partial + (row - area.first) * partial_step + (from - area.from) * LANES;
            if (first_k) tile.start = sums, tile.start_step = partial_step;
            if (last_k < p.k) {
                if (!first_k) tile.start = bias_of(output, from * LANES, vectors, bias);
                tile.out = sums, tile.out_step = partial_step;
                multiply(tile, rows, vectors);
            } else {
                product(tile, output, registers, row, rows, from * LANES, vectors);
            }
        }
    }
}

// The results of an area in blocks: rows of x that the second cache holds, or the first where that
// holds the weights; vectors of columns whose partial sums fit into PARTIAL_NBYTES of scratch memory.
template <class X>
void multiply_blocks(const Product& p, const float* w, const Output& output, const Area& area) {
    if (area.is_empty()) return;
    alignas(64) Register registers[REGISTERS];
    float* partial = reinterpret_cast<float*>(output.context.scratch);
    const int64_t rows = area.last - area.first, vectors = area.to - area.from;
    const int64_t pieces = rows <= MAX_ROWS ? 1 : parts_of(std::max<int64_t>(p.k, 1), PIECE);
    const int64_t piece = parts_of(std::max<int64_t>(p.k, 1), pieces);
    const int64_t x_nbytes = piece * int64_t(sizeof(X)), y_nbytes = vectors * int64_t(sizeof(V));
    const bool is_w_near = y_nbytes * p.k <= L2_NBYTES;
    const int64_t fitting = is_w_near ? L1_NBYTES / (x_nbytes + y_nbytes) : L2_NBYTES / x_nbytes;
    const int64_t unit = vectors % PANEL_VECTORS ? ROW_UNIT : ROW_UNIT / 2;
    const int64_t height = parts_of(parts_of(rows, parts_of(rows, std::max(fitting, unit))), unit) * unit;
    const int64_t vectors_held = PARTIAL_NBYTES / int64_t(sizeof(V)) / height;
    const int64_t width = pieces > 1 ? vectors_held / PANEL_VECTORS * PANEL_VECTORS : vectors;
    for (int64_t row = area.first; row < area.last; row += height)
        for (int64_t from = area.from; from < area.to; from += width) {
            const Area block = {row, std::min(row + height, area.last), from,
                                std::min(from + width, area.to)};
            for (int64_t i = 0; i < pieces; ++i)
                multiply_area<X>(p, {w, p.k, 0}, output, registers, block, std::min(i * piece, p.k),
                                 std::min((i + 1) * piece, p.k), partial);
        }
}

#if defined(__AMX_BF16__)
// The last values of each row, where DEPTH does not divide k, with zeros behind them.
inline void copy_tails(const Product& p, int64_t first, int64_t last, uint16_t* to) {
    const uint16_t* x = reinterpret_cast<const uint16_t*>(p.x) + p.k / DEPTH * DEPTH;
    const __mmask32 mask = (1u << p.k % DEPTH) - 1;
    for (int64_t row = first; row < last; ++row, to += DEPTH)
        _mm512_storeu_si512(to, _mm512_maskz_loadu_epi16(mask, x + row * p.ldx));
}

// An area in tiles, block by block: put(block, place). All blocks of rows are of one size, as the
// tiles are configured once; the last one begins among the rows of the one before it and skips those.
// pieces_at(row, upper): the rows of a block, `upper` of them in the first tile, in pieces, and how
// many those are. Ahead is asked for the rows that follow where w is near, else for the next strips.
template <class T, class PiecesAt, class Put>
inline void multiply_area_in_tiles(const Product& p, const T* w, Tiles& tiles, const Area& area, bool is_w_near,
                                   PiecesAt pieces_at, Put put) {
    const Strips strips(p.n, p.k, DEPTH_OF<T>);
    const int64_t rows = area.last - area.first, down = rows > SIDE ? 2 : 1, most = 4 / down;
    const int64_t blocks = parts_of(rows, down * SIDE), height = parts_of(rows, blocks);
    const int64_t upper = parts_of(height, down);
    const int64_t calls = parts_of(area.to - area.from, most) * blocks;
    const int64_t x_lines = is_w_near ? parts_of(rows * p.ldx * int64_t(sizeof(T)), 64 * calls * strips.steps) : 0;
    const char* next_x = reinterpret_cast<const char*>(reinterpret_cast<const T*>(p.x) + area.last * p.ldx);
    asm volatile("" ::: "memory");  // the compiler does not know that tiles read memory
    tiles.configure(upper, down == 2 ? height - upper : upper);
    for (int64_t strip = area.from; strip < area.to; strip += most) {
        const int64_t across = std::min(area.to - strip, most);
        const T* own = w + strip * strips.stride();
        const int64_t lines = is_w_near ? x_lines : down == 1 ? 0 : across * SIDE / blocks;
        const char* next = is_w_near ? next_x : reinterpret_cast<const char*>(own + across * strips.stride());
        for (int64_t b = 0; b < blocks; ++b, next += lines * strips.steps * 64) {
            const int64_t wanted = area.first + b * height, row = std::min(wanted, area.last - height);
            const auto [pieces, count] = pieces_at(row, upper);
            const BlockOf<T> block = {pieces, count, own, strips.stride(), next, lines};
            put(block, Place{row, strip * SIDE, {upper, height - upper}, down, across, wanted - row});
        }
        next_x += blocks * x_lines * strips.steps * 64;
    }
}

// Cuts an area into rows that the second cache holds, or the first where that holds the weights:
// multiply(area, whether it does). row_nbytes: what a row of x takes of a cache.
template <class T, class Multiply>
inline void in_chunks_of_rows(const Product& p, const Area& area, int64_t row_nbytes, Multiply multiply) {
    if (area.is_empty()) return;
    const int64_t rows = area.last - area.first, column_nbytes = std::max(p.k * int64_t(sizeof(T)), int64_t(64));
    const bool is_w_near = (area.to - area.from) * SIDE * column_nbytes <= L2_NBYTES;
    const int64_t fitting = std::max((is_w_near ? L1_NBYTES : L2_NBYTES) / row_nbytes, 2 * SIDE);
    const int64_t chunks = parts_of(rows, fitting / (2 * SIDE) * (2 * SIDE));
    for (int64_t i = 0; i < chunks; ++i)
        multiply(Area{area.first + rows * i / chunks, area.first + rows * (i + 1) / chunks, area.from, area.to}, is_w_near);
}

// The results of an area in tiles, in blocks of rows as for fp32. scratch: room for DEPTH_OF<T>
// values of each row of a chunk, for bf16; of eight bits k is a multiple of their depth.
template <class T, class Put>
inline void multiply_blocks_in_tiles(const Product& p, const T* w, Tiles& tiles, const Area& area, char* scratch,
                                     Put put) {
    constexpr int64_t DEPTH = DEPTH_OF<T>;
    const T* x = reinterpret_cast<const T*>(p.x);
    T* tails = reinterpret_cast<T*>(scratch);
    const int64_t depth = p.k / DEPTH, tail_depth = p.k % DEPTH ? 1 : 0;
    const int64_t row_nbytes = std::max(p.k * int64_t(sizeof(T)), int64_t(64));
    in_chunks_of_rows<T>(p, area, row_nbytes, [&](const Area& chunk, bool is_w_near) {
        if constexpr (sizeof(T) == 2)
            if (tail_depth) copy_tails(p, chunk.first, chunk.last, tails);
        RowsOf<T> pieces[2];
        const auto pieces_at = [&](int64_t row, int64_t upper) {
            const T *from = x + row * p.ldx, *tail = tails + (row - chunk.first) * DEPTH;
            pieces[0] = {{from, from + upper * p.ldx}, p.ldx, depth};
            pieces[1] = {{tail, tail + upper * DEPTH}, DEPTH, tail_depth};
            return std::pair<const RowsOf<T>*, int64_t>(pieces, 2);
        };
        multiply_area_in_tiles(p, w, tiles, chunk, is_w_near, pieces_at, put);
    });
}

// Of bf16, through the expression to y.
inline void multiply_blocks_in_tiles(const Product& p, const uint16_t* w, const Output& output, Tiles& tiles,
                                     const Area& area) {
    Endings endings(output, ToOutput(output));
    multiply_blocks_in_tiles(p, w, tiles, area, output.context.scratch, [&](const Block& block, const Place& place) {
        product(block, output, endings, place);
    });
}
#endif

}  // namespace rl::RL_ISA
