// Vectors of fp32, as wide as the instruction set that this file is compiled for.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>

#include "instructions.h"
#if defined(__SSE2__)
#include <immintrin.h>
#endif

// Each kernel file is compiled once per instruction set, in a namespace of that name.
#ifndef RL_ISA
#error "compile with -DRL_ISA=base, avx2, avx512 or amx"
#endif

namespace rl::RL_ISA {

#if defined(__AVX512F__)
constexpr int64_t LANES = 16;
#elif defined(__AVX2__)
constexpr int64_t LANES = 8;
#else
constexpr int64_t LANES = 4;
#endif

typedef float V __attribute__((vector_size(LANES * 4)));
typedef int32_t VI __attribute__((vector_size(LANES * 4)));
typedef uint16_t VH __attribute__((vector_size(LANES * 2)));
typedef float VUnaligned __attribute__((vector_size(LANES * 4), aligned(4), may_alias));
typedef uint16_t VHUnaligned __attribute__((vector_size(LANES * 2), aligned(2), may_alias));

// Not V{} + value, which turns -0 into 0 and so is an addition in earnest.
inline V splat(float value) { return value - V{}; }
inline V load(const float* from) { return *reinterpret_cast<const VUnaligned*>(from); }
inline void store(float* to, V value) { *reinterpret_cast<VUnaligned*>(to) = value; }

inline V bits_to_float(VI bits) { return (V)bits; }
inline VI float_to_bits(V value) { return (VI)value; }

inline V select(VI mask, V yes, V no) { return mask ? yes : no; }
// Where one of the two is NaN: b. GCC compares and blends where one instruction does it.
#if defined(__AVX512F__)
inline V min(V a, V b) { return (V)_mm512_min_ps((__m512)a, (__m512)b); }
inline V max(V a, V b) { return (V)_mm512_max_ps((__m512)a, (__m512)b); }
#elif defined(__AVX2__)
inline V min(V a, V b) { return (V)_mm256_min_ps((__m256)a, (__m256)b); }
inline V max(V a, V b) { return (V)_mm256_max_ps((__m256)a, (__m256)b); }
#elif defined(__SSE2__)
inline V min(V a, V b) { return (V)_mm_min_ps((__m128)a, (__m128)b); }
inline V max(V a, V b) { return (V)_mm_max_ps((__m128)a, (__m128)b); }
#else
inline V min(V a, V b) { return a < b ? a : b; }
inline V max(V a, V b) { return a > b ? a : b; }
#endif
// As torch has it: NaN stays NaN, and `high` wins where it is below `low`.
inline V clamp(V a, V low, V high) { return min(high, max(low, a)); }
inline V size_of(V x) { return bits_to_float(float_to_bits(x) & 0x7fffffff); }
inline V with_sign_of(V size, V x) {
    return bits_to_float(float_to_bits(size) | (float_to_bits(x) & int32_t(0x80000000)));
}

inline float from_bf16(uint16_t half) {
    uint32_t bits = uint32_t(half) << 16;
    float value;
    std::memcpy(&value, &bits, 4);
    return value;
}
inline uint16_t to_bf16(float value) {  // to nearest, ties to even
    uint32_t bits;
    std::memcpy(&bits, &value, 4);
    if ((bits & 0x7fffffff) > 0x7f800000) return uint16_t((bits >> 16) | 0x40);
    return uint16_t((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}
// GCC widens each half of a vector by itself where one instruction does it.
inline VI widened(VH half) {
#if defined(__AVX512F__)
    return (VI)_mm512_cvtepu16_epi32((__m256i)half);
#elif defined(__AVX2__)
    return (VI)_mm256_cvtepu16_epi32((__m128i)half);
#else
    return __builtin_convertvector(half, VI);
#endif
}
inline V load(const uint16_t* from) {
    return bits_to_float(widened(*reinterpret_cast<const VHUnaligned*>(from)) << 16);
}
inline void store(uint16_t* to, V value) {
#if defined(__AVX512BF16__)
    *reinterpret_cast<VHUnaligned*>(to) = (VH)_mm512_cvtneps_pbh(value);
#else
    VI bits = float_to_bits(value);
    VI rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
    VI quiet = (bits >> 16) | 0x40;
    VI is_nan = value != value;
    VI half = (quiet & is_nan) | (rounded & ~is_nan);
    *reinterpret_cast<VHUnaligned*>(to) = __builtin_convertvector(half, VH);
#endif
}
inline float widen(float value) { return value; }
inline float widen(uint16_t value) { return from_bf16(value); }
inline void narrow(float* to, float value) { *to = value; }
inline void narrow(uint16_t* to, float value) { *to = to_bf16(value); }

// The first count (1..LANES) values; the others are 0, and nothing beyond is read or written.
template <class T>
inline V load_some(const T* from, int64_t count) {
    T held[LANES] = {};
    std::memcpy(held, from, count * sizeof(T));
    return load(held);
}
template <class T>
inline void store_some(T* to, V value, int64_t count) {
    T held[LANES];
    store(held, value);
    std::memcpy(to, held, count * sizeof(T));
}
#if defined(__AVX512F__)
inline V load_some(const float* from, int64_t count) {
    return _mm512_maskz_loadu_ps(__mmask16((1u << count) - 1), from);
}
inline V load_some(const uint16_t* from, int64_t count) {
    VH half = (VH)_mm256_maskz_loadu_epi16(__mmask16((1u << count) - 1), from);
    return bits_to_float(widened(half) << 16);
}
inline void store_some(float* to, V value, int64_t count) {
    _mm512_mask_storeu_ps(to, __mmask16((1u << count) - 1), value);
}
inline void store_some(uint16_t* to, V value, int64_t count) {
    uint16_t held[LANES];
    store(held, value);
    _mm256_mask_storeu_epi16(to, __mmask16((1u << count) - 1), _mm256_loadu_si256((const __m256i*)held));
}
#elif defined(__AVX2__)
inline __m256i lanes_below(int64_t count) {
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(int32_t(count)), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}
inline V load_some(const float* from, int64_t count) { return _mm256_maskload_ps(from, lanes_below(count)); }
inline void store_some(float* to, V value, int64_t count) { _mm256_maskstore_ps(to, lanes_below(count), value); }
#endif

inline VI lane_numbers() {
    VI found;
    for (int32_t i = 0; i < LANES; ++i) found[i] = i;
    return found;
}
inline V first_of(V v, int64_t count, V rest) { return select(lane_numbers() < int32_t(count), v, rest); }

// Lanes change places with those whose number differs in the bits of `step`.
template <int STEP>
inline V swap_lanes(V v) {
    VI places;
    for (int32_t i = 0; i < LANES; ++i) places[i] = i ^ STEP;
    return __builtin_shuffle(v, places);
}
template <class F>
inline float fold(V v, F f) {
    if constexpr (LANES > 8) v = f(v, swap_lanes<8>(v));
    if constexpr (LANES > 4) v = f(v, swap_lanes<4>(v));
    v = f(v, swap_lanes<2>(v));
    return f(v, swap_lanes<1>(v))[0];
}
inline float sum_of(V v) {
    return fold(v, [](V a, V b) { return a + b; });
}
inline float largest_of(V v) {
    return fold(v, [](V a, V b) { return max(a, b); });
}

// Lane i of the result is the fold of v[i], which are lost: of two vectors at a time, halves that
// differ in the bit STEP of row and lane numbers come together.
template <int STEP, class F>
inline void fold_halves(V* v, F f) {
    VI low, high;
    for (int32_t i = 0; i < LANES; ++i) {
        low[i] = i & STEP ? LANES + i - STEP : i;
        high[i] = i & STEP ? LANES + i : i + STEP;
    }
#pragma GCC unroll 16
    for (int i = 0; i < STEP; ++i) v[i] = f(__builtin_shuffle(v[i], v[i + STEP], low), __builtin_shuffle(v[i], v[i + STEP], high));
}
template <class F>
inline V fold_each(V* v, F f) {  // LANES of them
    if constexpr (LANES > 8) fold_halves<8>(v, f);
    if constexpr (LANES > 4) fold_halves<4>(v, f);
    fold_halves<2>(v, f);
    fold_halves<1>(v, f);
    return v[0];
}
inline V sum_each(V* v) {
    return fold_each(v, [](V a, V b) { return a + b; });
}
inline V largest_each(V* v) {
    return fold_each(v, [](V a, V b) { return max(a, b); });
}

// Rows become columns: at every step the bit STEP of row and lane numbers trade places.
template <int STEP>
inline void trade(V* rows) {
    VI low, high;
    for (int32_t i = 0; i < LANES; ++i) {
        low[i] = i & STEP ? LANES + i - STEP : i;
        high[i] = i & STEP ? LANES + i : i + STEP;
    }
#pragma GCC unroll 16
    for (int64_t i = 0; i < LANES; ++i)
        if (!(i & STEP)) {
            const V a = rows[i], b = rows[i + STEP];
            rows[i] = __builtin_shuffle(a, b, low);
            rows[i + STEP] = __builtin_shuffle(a, b, high);
        }
}
inline void transpose(V* rows) {  // LANES of them
    if constexpr (LANES > 8) trade<8>(rows);
    if constexpr (LANES > 4) trade<4>(rows);
    trade<2>(rows);
    trade<1>(rows);
}

// 1 / x of finite x other than 0, 2 ulp. A division of vectors this wide takes longer than all the
// rest of most functions; one step of Newton's method doubles the estimate's 14 bits.
inline V reciprocal(V x) {
#if defined(__AVX512F__)
    const V guess = (V)_mm512_rcp14_ps((__m512)x);
    return guess * (2.0f - x * guess);
#else
    return 1.0f / x;
#endif
}

template <int N>
inline V polynomial(V x, const float (&coefficients)[N]) {  // lowest first
    V found = splat(coefficients[N - 1]);
#pragma GCC unroll 16
    for (int i = N - 2; i >= 0; --i) found = found * x + coefficients[i];
    return found;
}

inline V round_to_even(V x) {  // of |x| < 2^22
    const V magic = splat(12582912.0f);
    return (x + magic) - magic;
}
inline V round(V x) { return select(size_of(x) < 4194304.0f, round_to_even(x), x); }
inline V floor(V x) {
    V whole = __builtin_convertvector(__builtin_convertvector(x, VI), V);
    V lower = whole > x ? whole - 1.0f : whole;
    return select(size_of(x) < 8388608.0f, lower, x);  // from 2^23 on, and NaN, x is whole
}

// e^x = 2^n (1 + rest): x = n ln 2 + r with |r| <= ln 2 / 2, ln 2 in two parts (Cody and Waite), and
// e^r = 1 + r + r^2 q(r) with a minimax q: 3e-9.
struct Power {
    V n, rest;

    explicit Power(V x) : n(round_to_even(x * 1.44269504088896341f)) {
        const V r = x - n * 0.693359375f + n * 2.12194440e-4f;
        const float q[] = {0.499999934125f, 0.166665201078f, 0.0416683942109f, 0.00836878041118f, 0.00138144670593f};
        rest = r * r * polynomial(r, q) + r;
    }
    // 2^n in two factors, as one of them may be beyond what fp32 holds
    V times(V value) const {
#if defined(__AVX512F__)
        return (V)_mm512_scalef_ps((__m512)value, (__m512)n);
#else
        const VI whole = __builtin_convertvector(n, VI), half = whole >> 1;
        return value * bits_to_float((half + 127) << 23) * bits_to_float((whole - half + 127) << 23);
#endif
    }
};

// 2 ulp. Overflows to infinity, keeps NaN; what would be subnormal, and slow, is 0.
inline V exp(V x) {
    const Power p(clamp(x, splat(-87.0f), splat(89.0f)));
    return select(x < -87.0f, V{}, p.times(p.rest + 1.0f));
}
inline V expm1(V x) {
    const Power p(clamp(x, splat(-87.0f), splat(89.0f)));
    const V scale = p.times(splat(1.0f));
    return select(x > 88.0f, exp(x), p.rest * scale + (scale - 1.0f));
}

// 2^x of x <= 0, by a minimax polynomial on [-1/2, 1/2] that is exact at 0: 9e-8. 0 where it would be
// subnormal.
inline V exp2_below(V x) {
    const V n = round_to_even(x);
    const float p[] = {1, 0.693146976f, 0.240222405f, 0.0555073503f, 0.009671619f, 0.00132645908f};
    const V found = polynomial(x - n, p);
#if defined(__AVX512F__)
    const __mmask16 is_normal = _mm512_cmp_ps_mask((__m512)x, (__m512)splat(-126.0f), _CMP_NLT_UQ);
    return (V)_mm512_maskz_scalef_ps(is_normal, (__m512)found, (__m512)n);
#else
    const VI exponent = __builtin_convertvector(max(splat(-126.0f), n), VI) + 127;
    return select(x < -126.0f, V{}, found * bits_to_float(exponent << 23));
#endif
}

// m 2^n = x with m in [sqrt(1/2), sqrt(2)), ln m = z - z^2 / 2 + z^3 p(z) of z = m - 1 with a minimax
// p: 8e-10.
inline V log(V x) {
    const VI is_tiny = x < 1.17549435e-38f;
    const V held = select(is_tiny, x * 8388608.0f, x);
    const VI bits = float_to_bits(held) - 0x3f3504f3;  // sqrt(1/2)
    const V n = __builtin_convertvector(bits >> 23, V) - select(is_tiny, splat(23.0f), V{});
    const V z = bits_to_float((bits & 0x7fffff) + 0x3f3504f3) - 1.0f;
    const float p[] = {0.333333126f, -0.250000096f, 0.2000211865f, -0.1666799581f, 0.1421955258f,
                       -0.1240558993f, 0.1188816173f, -0.1167564552f, 0.06746633947f};
    const V square = z * z;
    const V found = n * 0.693359375f + (z - (0.5f * square - square * z * polynomial(z, p) + n * 2.12194440e-4f));
    const float infinity = std::numeric_limits<float>::infinity();
    const V edge = select(x == 0.0f, splat(-infinity), splat(std::numeric_limits<float>::quiet_NaN()));
    return select(x < infinity, select(x > 0.0f, found, edge), select(x > 0.0f, x, edge));
}
// log(1 + x) of x >= 0; what rounding 1 + x loses is put back (Kahan).
inline V log1p(V x) {
    const V one_more = 1.0f + x;
    return log(one_more) + (x - (one_more - 1.0f)) / one_more;
}

// Sine or cosine: x = n pi / 2 + r in three parts (Cody and Waite; good to |x| < 8192), minimax
// polynomials of r: 4e-9.
inline V sine(V x, int32_t quarter) {
    const V n = round_to_even(x * 0.636619772367581343f);
    const V r = ((x - n * 1.5703125f) - n * 4.837512969970703125e-4f) - n * 7.549789954891e-8f;
    const VI turn = __builtin_convertvector(n, VI) + quarter;
    const V square = r * r;
    const float s[] = {-0.1666665423f, 0.008332131498f, -0.0001951083924f};
    const float c[] = {0.04166664565f, -0.001388730604f, 2.44312051e-5f};
    const V sin_r = r + r * square * polynomial(square, s);
    const V cos_r = 1.0f - 0.5f * square + square * square * polynomial(square, c);
    const V found = select((turn & 1) != 0, cos_r, sin_r);
    return bits_to_float(float_to_bits(found) ^ ((turn & 2) << 30));
}

inline V sigmoid(V x) { return select(x < -88.0f, V{}, reciprocal(1.0f + exp(-x))); }
inline V hardsigmoid(V x) { return clamp(x + 3.0f, V{}, splat(6.0f)) * (1.0f / 6); }
// x p(x^2) / q(x^2), a minimax quotient of 2e-8; from `limit` on fp32 holds 1.
template <int M, int N>
inline V saturate(V x, float limit, const float (&p)[M], const float (&q)[N]) {
    const V square = x * x, found = x * polynomial(square, p) * reciprocal(polynomial(square, q));
    return select(size_of(x) >= limit, with_sign_of(splat(1.0f), x), found);
}
inline V tanh(V x) {
    const float p[] = {1, 0.133810312f, 0.00349559542f, 2.06091918e-05f, 1.33547999e-08f};
    const float q[] = {1, 0.467143476f, 0.0258770101f, 0.000328564609f, 7.77661796e-07f};
    return saturate(x, 9, p, q);
}
inline V erf(V x) {
    const float p[] = {1.12837911f, 0.19040595f, 0.0527486615f, 0.00376559631f, 0.000284882495f, 2.05009451e-06f};
    const float q[] = {1, 0.502075613f, 0.114108905f, 0.0149691757f, 0.00116253085f, 3.80917772e-05f};
    return saturate(x, 3.92f, p, q);
}
inline V gelu(V x) {
    const V half = 0.5f * x;
    return half + half * erf(x * 0.70710678118654752f);
}
inline V gelu_tanh(V x) {
    const V half = 0.5f * x;
    return half + half * tanh(x * (0.79788456080286536f + 0.035677408136300125f * x * x));
}
inline V silu(V x) { return x * sigmoid(x); }
inline V softplus(V x) { return max(x, V{}) + log1p(exp(-size_of(x))); }
// x tanh(softplus(x)) = x n / (n + 2) with n = e^x (e^x + 2)
inline V mish(V x) {
    const V power = exp(min(splat(20.0f), x)), n = power * (power + 2.0f);
    return x * (n * reciprocal(n + 2.0f));
}

// A scalar function for what is too rare to be written as a vector.
template <class F>
inline V each(V x, F f) {
    float held[LANES];
    store(held, x);
    for (int64_t i = 0; i < LANES; ++i) held[i] = f(held[i]);
    return load(held);
}

// Far from 0 the parts of pi do not suffice.
inline bool is_near(V x) { return largest_of(size_of(x)) < 8192.0f; }
inline V sin(V x) {
    return is_near(x) ? sine(x, 0) : each(x, [](float v) { return std::sin(v); });
}
inline V cos(V x) {
    return is_near(x) ? sine(x, 1) : each(x, [](float v) { return std::cos(v); });
}
inline V sqrt(V x) {
#if defined(__AVX512F__)
    return (V)_mm512_sqrt_ps((__m512)x);
#elif defined(__AVX2__)
    return (V)_mm256_sqrt_ps((__m256)x);
#elif defined(__SSE2__)
    return (V)_mm_sqrt_ps((__m128)x);
#else
    return each(x, [](float v) { return std::sqrt(v); });
#endif
}
// x ** p
inline V pow(V x, float p) {
    if (p == 2) return x * x;
    if (p == 3) return x * x * x;
    if (p == 4) return x * x * (x * x);
    if (p == -1) return 1.0f / x;
    if (p == 0.5f) return sqrt(x);
    if (p == -0.5f) return 1.0f / sqrt(x);
    return each(x, [=](float v) { return std::pow(v, p); });
}

}  // namespace rl::RL_ISA
