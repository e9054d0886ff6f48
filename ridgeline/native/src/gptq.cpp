// GPTQ's inner loop: the columns of one block are rounded in turn, each after it took over its
// share of the errors of those before it.
//
// Without an inverse: with H = R R^T, R upper triangular, column k takes the sum over the columns
// j before it of error_j R_jk / R_kk (QuIP, arXiv 2307.13304, theorem 6: the same as GPTQ). R is
// the Cholesky factor L of H with rows and columns reversed, so columns come last to first here.
#include <algorithm>
#include <cstdint>
#include <cstring>

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) && defined(__linux__)
#define RL_CLONES __attribute__((target_clones("avx512f", "avx2", "default")))
#else
#define RL_CLONES
#endif

namespace {

constexpr int64_t LANES = 16, VECTORS = 4, ROWS = LANES * VECTORS;  // of the weight, at a time
constexpr int64_t MOST_COLUMNS = 128, CHUNK = 16;  // a chunk of fp32 is a line of the cache

typedef float V __attribute__((vector_size(LANES * 4)));

// What one call works on.
struct Block {
    int64_t columns, inputs, outputs;
    const float* weight;           // (outputs, inputs)
    const int64_t* place;          // (columns): where each stands in a row of the weight
    const float* taken;            // (columns, outputs): error_j L_jk of all later blocks, summed
    const float* factor;           // L_jk at factor[k * pitch + j]
    int64_t pitch;
    const float *scales, *zeros;   // (groups, outputs)
    const int64_t* group;          // (columns)
    const float* importance;       // (columns): of the squared difference, in the loss
    float low, high;
    int8_t* codes;                 // (outputs, inputs)
    float* errors;                 // (columns, outputs): weight less its value
    double* loss;                  // (outputs), added to
};

#define RL_INLINE inline __attribute__((always_inline))

// The lanes beyond n become `fill`.
RL_INLINE void read(const float* from, int64_t n, float fill, V* to) {
    for (int64_t v = 0; v < VECTORS; ++v) to[v] = fill - V{};
    std::memcpy(to, from, n * sizeof(float));
}

// Chunks of columns of `n` rows, turned so that rows are lanes.
RL_INLINE void turn(const Block& b, int64_t row, int64_t n, int64_t first, int64_t end,
                    float (*to)[ROWS]) {
    for (int64_t r = 0; r < n; ++r) {
        const float* from = b.weight + (row + r) * b.inputs;
        for (int64_t k = first; k < end; ++k) to[k - first][r] = from[b.place[k]];
    }
}

RL_INLINE void turn_back(const Block& b, int64_t row, int64_t n, int64_t first, int64_t end,
                         const int8_t (*codes)[ROWS]) {
    for (int64_t r = 0; r < n; ++r) {
        int8_t* to = b.codes + (row + r) * b.inputs;
        for (int64_t k = first; k < end; ++k) to[b.place[k]] = codes[k - first][r];
    }
}

RL_INLINE void round_column(const Block& b, int64_t k, int64_t row, int64_t n, const float* weight,
                            V (*errors)[VECTORS], V* loss, int8_t* codes) {
    constexpr float MAGIC = 12582912.0f;  // 1.5 * 2^23: what is added to it is rounded to a whole
    const float* column = b.factor + k * b.pitch;
    V sum[VECTORS], w[VECTORS], scale[VECTORS], zero[VECTORS], code[VECTORS];
    read(b.taken + k * b.outputs + row, n, 0, sum);
    for (int64_t j = k + 1; j < b.columns; ++j)
        for (int64_t v = 0; v < VECTORS; ++v) sum[v] += errors[j][v] * column[j];
    read(weight, ROWS, 0, w);
    read(b.scales + b.group[k] * b.outputs + row, n, 1, scale);
    read(b.zeros + b.group[k] * b.outputs + row, n, 0, zero);
    const float inverse = 1 / column[k];
    for (int64_t v = 0; v < VECTORS; ++v) {
        const V now = w[v] + sum[v] * inverse;
        V whole = now / scale[v] + zero[v];
        whole = whole > b.high ? b.high - V{} : whole;
        whole = whole < b.low ? b.low - V{} : whole;
        whole = (whole + MAGIC) - MAGIC;
        const V value = (whole - zero[v]) * scale[v], off = now - value;
        errors[k][v] = w[v] - value;
        loss[v] += off * off * b.importance[k];
        code[v] = whole;
    }
    std::memcpy(b.errors + k * b.outputs + row, errors[k], n * sizeof(float));
    const float* flat = reinterpret_cast<const float*>(code);
    for (int64_t r = 0; r < ROWS; ++r) codes[r] = int8_t(int32_t(flat[r]));
}

RL_CLONES void round_block(const Block& b) {
    alignas(64) V errors[MOST_COLUMNS][VECTORS];
    alignas(64) float weight[CHUNK][ROWS] = {};
    alignas(64) int8_t codes[CHUNK][ROWS];
    for (int64_t row = 0; row < b.outputs; row += ROWS) {
        const int64_t n = std::min(ROWS, b.outputs - row);
        alignas(64) V loss[VECTORS] = {};
        for (int64_t end = b.columns; end > 0; end -= CHUNK) {
            const int64_t first = std::max<int64_t>(end - CHUNK, 0);
            turn(b, row, n, first, end, weight);
            for (int64_t k = end - 1; k >= first; --k)
                round_column(b, k, row, n, weight[k - first], errors, loss, codes[k - first]);
            turn_back(b, row, n, first, end, codes);
        }
        const float* flat = reinterpret_cast<const float*>(loss);
        for (int64_t r = 0; r < n; ++r) b.loss[row + r] += flat[r];
    }
}

}  // namespace

extern "C" {

int64_t rl_gptq_version() { return 1; }

int64_t rl_gptq_most_columns() { return MOST_COLUMNS; }

// As Block says. columns is at most rl_gptq_most_columns.
void rl_gptq_block(int64_t columns, int64_t inputs, int64_t outputs, const float* weight,
                   const int64_t* place, const float* taken, const float* factor, int64_t pitch,
                   const float* scales, const float* zeros, const int64_t* group,
                   const float* importance, int64_t low, int64_t high, int8_t* codes, float* errors,
                   double* loss) {
    round_block(Block{columns, inputs, outputs, weight, place, taken, factor, pitch, scales,
                      zeros, group, importance, float(low), float(high), codes, errors, loss});
}

}  // extern "C"
