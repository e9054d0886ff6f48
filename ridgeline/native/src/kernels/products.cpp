// gemm: products with packed weights; bmm: products of two computed operands.
#include "areas.h"
#include "kernels.h"
#include "packing.h"

namespace rl::RL_ISA {

#if defined(__AMX_BF16__)
bool has_bf16() { return true; }
#else
bool has_bf16() { return false; }
#endif
#if defined(__AMX_INT8__)
bool has_int8() { return true; }
#else
bool has_int8() { return false; }
#endif

int64_t packed_nbytes(int64_t type, int64_t n, int64_t k) {
#if defined(__AMX_BF16__)
    if (type == BF16) return Strips(n, k).size() * sizeof(uint16_t);
#endif
#if defined(__AMX_INT8__)
    if (type == I8) return Strips(n, k, DEPTH_OF<int8_t>).size();
#endif
    if (type == I8) return n * k;
    return Panels(n, k).size() * sizeof(float);
}

namespace {

template <class W>
void pack_panels(const Panels& panels, const W* w, int64_t stride_n, int64_t stride_k, float* to) {
    for (int64_t p = 0; p < panels.count; ++p) {
        const int64_t first = panels.column(p), width = panels.width(p);
        pack_panel(w + first * stride_n, stride_n, stride_k, panels.k, std::min(width, panels.n - first),
                   width, to + panels.offset(p));
    }
}

#if defined(__AMX_BF16__)
template <class T>
void pack_strips(int64_t n, int64_t k, const T* w, int64_t stride_n, int64_t stride_k, T* to) {
    const Strips strips(n, k, DEPTH_OF<T>);
    for (int64_t s = 0; s < strips.count; ++s)
        pack_strip(w + s * SIDE * stride_n, stride_n, stride_k, k, std::min(SIDE, n - s * SIDE),
                   to + s * strips.stride());
}
#endif

// As they are given to gemm_int8: in strips, or row by row.
void pack_int8(int64_t n, int64_t k, const int8_t* w, int64_t stride_n, int64_t stride_k, int8_t* to) {
#if defined(__AMX_INT8__)
    pack_strips(n, k, w, stride_n, stride_k, to);
#else
    for (int64_t c = 0; c < n; ++c)
        for (int64_t i = 0; i < k; ++i) *to++ = w[c * stride_n + i * stride_k];
#endif
}

}  // namespace

void pack(int64_t type, int64_t n, int64_t k, const void* w, int64_t stride_n, int64_t stride_k,
          void* packed) {
    const uint16_t* narrow = static_cast<const uint16_t*>(w);
    float* to = static_cast<float*>(packed);
    if (type == I8)
        return pack_int8(n, k, static_cast<const int8_t*>(w), stride_n, stride_k, static_cast<int8_t*>(packed));
    if (type == F32) return pack_panels(Panels(n, k), static_cast<const float*>(w), stride_n, stride_k, to);
#if defined(__AMX_BF16__)
    pack_strips(n, k, narrow, stride_n, stride_k, static_cast<uint16_t*>(packed));
#else
    pack_panels(Panels(n, k), narrow, stride_n, stride_k, to);
#endif
}

void gemm(const Context& context, const int64_t* words) {
    const Product p = {context.at(words[0]), words[6], words[7], words[8], words[9]};
    const Expression e(words + 11);
    const Output output = {context,  e,        context.at<float>(words[2]), context.at(words[3]),
                           words[5], words[10], p.n};
    const Area own = own_area(context, p);
    if (words[4] == F32) return multiply_blocks<float>(p, context.at<float>(words[1]), output, own);
#if defined(__AMX_BF16__)
    Tiles tiles;
    multiply_blocks_in_tiles(p, context.at<uint16_t>(words[1]), output, tiles, own);
#else
    multiply_blocks<uint16_t>(p, context.at<float>(words[1]), output, own);
#endif
}

namespace {

// The words of bmm.
enum Word { X_REF, W_REF, Y_REF, X_TYPE, W_TYPE, Y_TYPE, OUTER, INNER, M, N, K, X_OUTER, X_INNER, LDX,
            W_OUTER, W_INNER, LDW, Y_OUTER, Y_INNER, LDY, IS_TRANSPOSED, ALPHA_BITS, EXPRESSION };

// Some columns of w that are computed, not packed yet.
template <class W>
struct Computed {
    const W* w;
    int64_t stride_n, stride_k, cols;
};

constexpr int64_t PACKED_NBYTES = SCRATCH_NBYTES - PARTIAL_NBYTES;  // where they are packed
constexpr int64_t BATCH_NBYTES = 512 << 10;                         // of w that a unit of work takes at most

// A batch of products in units of work: columns and rows of each product are cut so that there are
// enough units, and the packed columns of one stay in the second cache.
template <class X, class W>
class Batches {
  public:
    Batches(const Context& context, const int64_t* words)
        : context_(context), words_(words), expression_(words + EXPRESSION),
          vectors_(parts_of(words[N], LANES)) {
        const int64_t products = words[OUTER] * words[INNER];
        const int64_t wanted = parts_of(2 * context.threads, std::max<int64_t>(products, 1));
        const int64_t vector_nbytes = std::max<int64_t>(words[K], 1) * int64_t(sizeof(V));
        const int64_t fitting = std::max(BATCH_NBYTES / vector_nbytes, PANEL_VECTORS);
        across_ = std::max(parts_of(vectors_, fitting), std::min(wanted, parts_of(vectors_, PANEL_VECTORS)));
        down_ = std::min(words[M], parts_of(wanted, std::max<int64_t>(across_, 1)));
    }

    void run() {
        int64_t first, last;
        context_.share(words_[OUTER] * words_[INNER] * across_ * down_, first, last);
        for (int64_t unit = first; unit < last; ++unit) run_unit(unit);
    }

  private:
    void run_unit(int64_t unit) {
        const int64_t part = unit % down_, cut = unit / down_ % across_, batch = unit / down_ / across_;
        const int64_t i = batch / words_[INNER], j = batch % words_[INNER], m = words_[M];
        const int64_t vector = vectors_ * cut / across_, column = vector * LANES;
        const Area area = {m * part / down_, m * (part + 1) / down_, 0,
                           vectors_ * (cut + 1) / across_ - vector};
        int64_t origins[64];
        for (int64_t o = 0; o < expression_.num_operands; ++o) {
            const int64_t* strides = expression_.operand(o).strides;
            origins[o] = expression_.rank == 4 ? i * strides[0] + j * strides[1] + column * strides[3]
                                               : column * strides[1];
        }
        const X* x = context_.at<X>(words_[X_REF]) + i * words_[X_OUTER] + j * words_[X_INNER];
        const W* w = context_.at<W>(words_[W_REF]) + i * words_[W_OUTER] + j * words_[W_INNER];
        char* y = context_.at(words_[Y_REF]) +
                  (i * words_[Y_OUTER] + j * words_[Y_INNER] + column) * nbytes_of(words_[Y_TYPE]);
        const int64_t ldw = words_[LDW], cols = std::min(area.to * LANES, words_[N] - column);
        const int64_t stride_n = words_[IS_TRANSPOSED] ? ldw : 1, stride_k = words_[IS_TRANSPOSED] ? 1 : ldw;
        multiply({reinterpret_cast<const char*>(x), m, cols, words_[K], words_[LDX]},
                 {w + column * stride_n, stride_n, stride_k, cols},
                 {context_, expression_, nullptr, y, words_[Y_TYPE], words_[LDY], cols, origins,
                  float(number(words_[ALPHA_BITS]))},
                 area);
    }

    void multiply(const Product& p, const Computed<W>& w, const Output& output, const Area& area) {
        if constexpr (sizeof(W) == sizeof(float))
            if (w.stride_n == 1 && area.last - area.first <= max_rows(PANEL_VECTORS))
                return multiply_in_place(p, w, output, area);
#if defined(__AMX_BF16__)
        const Strips strips(w.cols, p.k);
        if (sizeof(X) == 2 && sizeof(W) == 2 && strips.size() * 2 <= PACKED_NBYTES)
            return multiply_in_tiles(p, w, output, area);
#endif
        if (p.k * area.to * int64_t(sizeof(V)) > PACKED_NBYTES) return multiply_pieces(p, w, output, area);
        pack_panels(Panels(w.cols, p.k), w.w, w.stride_n, w.stride_k, packed());
        multiply_blocks<X>(p, packed(), output, area);
    }

    // Few rows by weights that already lie as in a panel: nothing would be gained by packing them.
    void multiply_in_place(const Product& p, const Computed<float>& w, const Output& output,
                           const Area& area) {
        const X *table[MAX_ROWS], *x = reinterpret_cast<const X*>(p.x) + area.first * p.ldx;
        const int64_t rows = area.last - area.first, whole = w.cols / LANES;
        for (int64_t r = 0; r < rows; ++r) table[r] = x + r * p.ldx;
        Tile<X> tile = {table, rows, 1, p.k, w.w, w.stride_k};
        for (int64_t v = 0; v < whole; v += PANEL_VECTORS, tile.w += PANEL_VECTORS * LANES)
            product(tile, output, registers_, area.first, rows, v * LANES,
                    std::min(PANEL_VECTORS, whole - v));
        if (whole * LANES == w.cols) return;
        tile.w_step = LANES;
        tile.start = nullptr;
        pack_panel(w.w + whole * LANES, 1, w.stride_k, p.k, w.cols - whole * LANES, LANES, packed());
        tile.w = packed();
        product(tile, output, registers_, area.first, rows, whole * LANES, 1);
    }

    // Sums k a piece at a time, as the packed weights would not fit.
    void multiply_pieces(const Product& p, const Computed<W>& w, const Output& output, const Area& area) {
        const int64_t row_nbytes = area.to * int64_t(sizeof(V));
        const int64_t height = PARTIAL_NBYTES / row_nbytes, piece = PACKED_NBYTES / row_nbytes;
        for (int64_t row = area.first; row < area.last; row += height)
            for (int64_t k = 0; k < p.k; k += piece) {
                const int64_t count = std::min(piece, p.k - k);
                pack_panels(Panels(w.cols, count), w.w + k * w.stride_k, w.stride_n, w.stride_k, packed());
                multiply_area<X>(p, {packed(), count, k}, output, registers_,
                                 {row, std::min(row + height, area.last), area.from, area.to}, k, k + count,
                                 reinterpret_cast<float*>(context_.scratch));
            }
    }

#if defined(__AMX_BF16__)
    void multiply_in_tiles(const Product& p, const Computed<W>& w, const Output& output, const Area& area) {
        uint16_t* to = reinterpret_cast<uint16_t*>(packed());
        pack_strips(w.cols, p.k, reinterpret_cast<const uint16_t*>(w.w), w.stride_n, w.stride_k, to);
        multiply_blocks_in_tiles(p, to, output, tiles_, area);
    }

    Tiles tiles_;
#endif

    float* packed() const { return reinterpret_cast<float*>(context_.scratch + PARTIAL_NBYTES); }

    const Context& context_;
    const int64_t* words_;
    const Expression expression_;
    const int64_t vectors_;
    int64_t across_, down_;
    alignas(64) Register registers_[REGISTERS];
};

}  // namespace

void bmm(const Context& context, const int64_t* words) {
    const bool is_x_narrow = words[X_TYPE] == BF16, is_w_narrow = words[W_TYPE] == BF16;
    if (is_x_narrow && is_w_narrow) return Batches<uint16_t, uint16_t>(context, words).run();
    if (is_x_narrow) return Batches<uint16_t, float>(context, words).run();
    if (is_w_narrow) return Batches<float, uint16_t>(context, words).run();
    Batches<float, float>(context, words).run();
}

}  // namespace rl::RL_ISA
