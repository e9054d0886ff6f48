// winograd: convolutions of 3 x 3 taps in fewer products.
//
// A tile of outputs is A^T ((G g G^T) * (B^T d B)) A for its inputs d and the taps g, where * is a
// product over channels for each of the points of d: points x tiles rows times a matrix per point.
// Source: Lavin and Gray, Fast Algorithms for Convolutional Neural Networks, arXiv 1509.09308; the
// points of F(4, 3) are ours, chosen for small errors (ridgeline/native/winograd.py has G).
#include "kernels.h"
#include "masked.h"
#include "panel.h"
#include "unrolled.h"

namespace rl::RL_ISA {
namespace {

enum Word { X_REF, W_REF, BIAS_REF, Y_REF, X_TYPE, Y_TYPE, SIDE_OF_TILE, BATCH, HEIGHT, WIDTH, CHANNELS, FILTERS,
            OUT_HEIGHT, OUT_WIDTH, PAD_HEIGHT, PAD_WIDTH, LDX, LDY, EXPRESSION };

// One dimension of the transforms: to_points is B^T, to_outputs A^T.
template <int SIDE>
struct Transform;

template <>
struct Transform<2> {  // points 0, 1, -1, infinity
    static RL_INLINE void to_points(const V (&d)[4], V (&p)[4]) {
        p[0] = d[2] - d[0];
        p[1] = d[2] + d[1];
        p[2] = d[2] - d[1];
        p[3] = d[3] - d[1];
    }
    static RL_INLINE void to_outputs(const V (&p)[4], V (&y)[2]) {
        y[0] = p[0] + p[1] + p[2];
        y[1] = p[1] - p[2] + p[3];
    }
};

template <>
struct Transform<4> {  // points 0, a, -a, b, -b, infinity
    static constexpr float a = 0.75f, b = 1.5f, a2 = a * a, b2 = b * b;

    static RL_INLINE void to_points(const V (&d)[6], V (&p)[6]) {
        const V even_a = d[4] - b2 * d[2], odd_a = d[3] - b2 * d[1];
        const V even_b = d[4] - a2 * d[2], odd_b = d[3] - a2 * d[1];
        p[0] = d[4] - (a2 + b2) * d[2] + (a2 * b2) * d[0];
        p[1] = even_a + a * odd_a;
        p[2] = even_a - a * odd_a;
        p[3] = even_b + b * odd_b;
        p[4] = even_b - b * odd_b;
        p[5] = d[5] - (a2 + b2) * d[3] + (a2 * b2) * d[1];
    }
    static RL_INLINE void to_outputs(const V (&p)[6], V (&y)[4]) {
        const V even_a = p[1] + p[2], odd_a = p[1] - p[2], even_b = p[3] + p[4], odd_b = p[3] - p[4];
        y[0] = p[0] + even_a + even_b;
        y[1] = a * odd_a + b * odd_b;
        y[2] = a2 * even_a + b2 * even_b;
        y[3] = p[5] + (a2 * a) * odd_a + (b2 * b) * odd_b;
    }
};

constexpr int64_t CHUNK_NBYTES = 1 << 20;  // of points that are worked on together, beside the weights

// Tiles first..last of all images, panels of filters from..to.
struct Area {
    int64_t first, last, from, to;
};

template <int SIDE, class X>
struct Winograd {
    static constexpr int N = SIDE + 2;

    const Context& context;
    const int64_t* words;
    const X* x;
    const float* w;
    const Panels panels;
    const Output output;
    Register* registers;
    const X* zeros;  // as many as channels
    float *inputs, *products;  // (point, tile of a chunk, channels or filters of a panel)

    int64_t down() const { return (words[OUT_HEIGHT] + SIDE - 1) / SIDE; }
    int64_t across() const { return (words[OUT_WIDTH] + SIDE - 1) / SIDE; }
    int64_t tiles() const { return words[BATCH] * down() * across(); }
    int64_t vectors() const { return (words[CHANNELS] + LANES - 1) / LANES; }
    // From point to point; one vector more than needed, so that points do not fall on each other in
    // the cache.
    int64_t input_step(int64_t tiles) const { return (tiles * vectors() + 1) * LANES; }
    int64_t product_step(int64_t tiles) const { return (tiles * PANEL_VECTORS + 1) * LANES; }

    // The inputs of a tile, row after row.
    void find(int64_t tile, const X* (&found)[N * N]) const {
        const int64_t image = tile / across() / down();
        const int64_t top = tile / across() % down() * SIDE - words[PAD_HEIGHT];
        const int64_t left = tile % across() * SIDE - words[PAD_WIDTH];
        for (int64_t i = 0; i < N; ++i)
            for (int64_t j = 0; j < N; ++j) {
                const bool is_inside = uint64_t(top + i) < uint64_t(words[HEIGHT]) && uint64_t(left + j) < uint64_t(words[WIDTH]);
                const int64_t position = (image * words[HEIGHT] + top + i) * words[WIDTH] + left + j;
                found[i * N + j] = is_inside ? x + position * words[LDX] : zeros;
            }
    }

    // One vector of channels of a tile's inputs to its points, `step` apart.
    RL_INLINE void to_points(const X* const (&from)[N * N], int64_t c, int64_t lanes, float* to, int64_t step) const {
        V half[N][N];
        unrolled<N>([&](auto j) RL_INLINE {
            V column[N], found[N];
            unrolled<N>([&](auto i) RL_INLINE { column[i] = load_first(from[i * N + j] + c, lanes); });
            Transform<SIDE>::to_points(column, found);
            unrolled<N>([&](auto i) RL_INLINE { half[i][j] = found[i]; });
        });
        unrolled<N>([&](auto i) RL_INLINE {
            V found[N];
            Transform<SIDE>::to_points(half[i], found);
            unrolled<N>([&](auto j) RL_INLINE { store(to + (i * N + j) * step, found[j]); });
        });
    }

    void transform_inputs(int64_t first, int64_t last) const {
        const int64_t step = input_step(last - first), channels = words[CHANNELS];
        for (int64_t t = first; t < last; ++t) {
            const X* from[N * N];
            find(t, from);
            float* to = inputs + (t - first) * vectors() * LANES;
            int64_t c = 0;
            for (; c + LANES <= channels; c += LANES) to_points(from, c, LANES, to + c, step);
            if (c < channels) to_points(from, c, channels - c, to + c, step);
        }
    }

    // All points of some tiles beside one panel.
    void multiply_panel(int64_t tiles, int64_t panel) const {
        const int64_t vectors = panels.vectors(panel), width = panels.width(panel), size = panels.size();
        const int64_t most = max_rows(vectors), blocks = (tiles + most - 1) / most, row = this->vectors() * LANES;
        for (int64_t p = 0; p < N * N; ++p) {
            const float* own = w + p * size + panels.offset(panel);
            const bool is_last = p + 1 == N * N;
            const float* next = is_last ? w + panels.offset(panel + 1 < panels.count ? panel + 1 : 0) : own + size;
            for (int64_t b = 0; b < blocks; ++b) {
                const int64_t first = tiles * b / blocks, rows = tiles * (b + 1) / blocks - first;
                const float* table[MAX_ROWS];
                for (int64_t r = 0; r < rows; ++r) table[r] = inputs + p * input_step(tiles) + (first + r) * row;
                Tile<float> tile = {table, rows, 1, panels.k, own, width};
                tile.out = products + p * product_step(tiles) + first * width;
                tile.out_step = width;
                tile.ahead_step = width * int64_t(sizeof(float)) / blocks;
                tile.ahead = reinterpret_cast<const char*>(next) + b * tile.ahead_step * panels.k;
                multiply(tile, rows, vectors);
            }
        }
    }

    // The outputs of a tile for one panel.
    void put_tile(int64_t tile, const float* from, int64_t step, int64_t panel) const {
        const int64_t vectors = panels.vectors(panel), width = panels.width(panel), column = panels.column(panel);
        const int64_t image = tile / across() / down(), top = tile / across() % down() * SIDE, left = tile % across() * SIDE;
        const int64_t rows = std::min<int64_t>(SIDE, words[OUT_HEIGHT] - top), columns = std::min<int64_t>(SIDE, words[OUT_WIDTH] - left);
        alignas(64) float held[PANEL_VECTORS * LANES];
        const float* bias = bias_of(output, column, vectors, held);
        V half[PANEL_VECTORS][SIDE][N];
        for (int64_t v = 0; v < vectors; ++v)
            unrolled<N>([&](auto j) RL_INLINE {
                V points[N], found[SIDE];
                unrolled<N>([&](auto i) RL_INLINE { points[i] = load(from + (i * N + j) * step + v * LANES); });
                Transform<SIDE>::to_outputs(points, found);
                unrolled<SIDE>([&](auto i) RL_INLINE { half[v][i][j] = found[i]; });
            });
        for (int64_t i = 0; i < rows; ++i) {
            for (int64_t v = 0; v < vectors; ++v) {
                V found[SIDE];
                Transform<SIDE>::to_outputs(half[v][i], found);
                const V add = bias ? load(bias + v * LANES) : V{};
                unrolled<SIDE>([&](auto j) RL_INLINE { store(registers[0] + j * width + v * LANES, found[j] + add); });
            }
            const int64_t cols = std::min(width, output.n - column);
            close_gaps(registers[0], columns, width, cols);
            finish(output, registers, (image * words[OUT_HEIGHT] + top + i) * words[OUT_WIDTH] + left, column, columns, cols);
        }
    }

    void run(const Area& own) const {
        if (own.first == own.last || own.from == own.to) return;
        const int64_t count = chunks(own);
        for (int64_t i = 0; i < count; ++i) {
            const int64_t first = own.first + (own.last - own.first) * i / count;
            const int64_t last = own.first + (own.last - own.first) * (i + 1) / count;
            transform_inputs(first, last);
            for (int64_t panel = own.from; panel < own.to; ++panel) {
                multiply_panel(last - first, panel);
                for (int64_t t = first; t < last; ++t)
                    put_tile(t, products + (t - first) * panels.width(panel), product_step(last - first), panel);
            }
        }
    }

    int64_t chunks(const Area& own) const {
        const int64_t tile_nbytes = N * N * (vectors() + PANEL_VECTORS) * LANES * 4;
        const int64_t most = std::max<int64_t>(CHUNK_NBYTES / tile_nbytes, 1), tiles = own.last - own.first;
        return (tiles + most - 1) / most;
    }
};

// The area of this thread where tiles and panels are shared by a grid of threads.
Area area_of(const Context& context, int64_t tiles, int64_t panels, int64_t down) {
    const int64_t across = context.threads / down, i = context.thread / across, j = context.thread % across;
    return {tiles * i / down, tiles * (i + 1) / down, panels * j / across, panels * (j + 1) / across};
}

// That of the grid whose largest area takes least: of a product per point, of reading the weights,
// which costs as much as 12 products with each, and of the transforms, which cost as much as 10 with
// each value.
Area own_area(const Context& context, int64_t tiles, const Panels& panels) {
    int64_t best = 0, found = 1;
    for (int64_t down = 1; down <= context.threads; ++down) {
        if (context.threads % down) continue;
        const int64_t rows = (tiles + down - 1) / down, across = context.threads / down;
        const int64_t cols = (panels.count + across - 1) / across * panels.width(0);
        const int64_t cost = (rows + 12) * cols * panels.k + 10 * rows * (panels.k + cols);
        if (!best || cost < best) best = cost, found = down;
    }
    return area_of(context, tiles, panels.count, found);
}

template <int SIDE, class X>
void convolve(const Context& context, const int64_t* words) {
    using W = Winograd<SIDE, X>;
    const Expression e(words + EXPRESSION);
    const int64_t filters = words[FILTERS], channels = words[CHANNELS];
    alignas(64) Register registers[REGISTERS];
    X* zeros = reinterpret_cast<X*>(context.scratch);
    std::fill(zeros, zeros + channels, X{});
    float* room = reinterpret_cast<float*>(context.scratch + (channels * int64_t(sizeof(X)) + 63) / 64 * 64);
    W own{context,
          words,
          context.at<X>(words[X_REF]),
          context.at<float>(words[W_REF]),
          Panels(filters, channels),
          {context, e, context.at<float>(words[BIAS_REF]), context.at(words[Y_REF]), words[Y_TYPE], words[LDY], filters},
          registers,
          zeros,
          room,
          nullptr};
    const Area area = own_area(context, own.tiles(), own.panels);
    const int64_t most = (area.last - area.first + own.chunks(area) - 1) / std::max<int64_t>(own.chunks(area), 1);
    own.products = room + W::N * W::N * own.input_step(most);
    own.run(area);
}

}  // namespace

void winograd(const Context& context, const int64_t* words) {
    const bool is_narrow = words[X_TYPE] == BF16;
    if (words[SIDE_OF_TILE] == 2) return is_narrow ? convolve<2, uint16_t>(context, words) : convolve<2, float>(context, words);
    is_narrow ? convolve<4, uint16_t>(context, words) : convolve<4, float>(context, words);
}

}  // namespace rl::RL_ISA
