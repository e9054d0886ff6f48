// Vectors of which only the first values exist, without a detour through memory where the
// instruction set has masks.
#pragma once
#if defined(__AVX2__)
#include <immintrin.h>
#endif

#include "../vector.h"

namespace rl::RL_ISA {

// As load_some and store_some; count may be LANES.
template <class T>
inline V load_first(const T* from, int64_t count) {
    return count == LANES ? load(from) : load_some(from, count);
}
template <class T>
inline void store_first(T* to, V value, int64_t count) {
    count == LANES ? store(to, value) : store_some(to, value, count);
}

#if defined(__AVX512F__)
inline __mmask16 first_lanes(int64_t count) { return __mmask16((1u << count) - 1); }

// Word i of the lower half in both words of lane i.
inline __m512i words_of_lanes() {
    return _mm512_mullo_epi32(_mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15),
                              _mm512_set1_epi32(0x10001));
}

template <>
inline V load_first(const float* from, int64_t count) {
    return (V)_mm512_maskz_loadu_ps(first_lanes(count), from);
}
template <>
inline V load_first(const uint16_t* from, int64_t count) {
    const __m256i half = _mm256_maskz_loadu_epi16(first_lanes(count), from);
    return (V)_mm512_maskz_permutexvar_epi16(0xaaaaaaaa, words_of_lanes(), _mm512_castsi256_si512(half));
}
template <>
inline void store_first(float* to, V value, int64_t count) {
    _mm512_mask_storeu_ps(to, first_lanes(count), (__m512)value);
}
template <>
inline void store_first(uint16_t* to, V value, int64_t count) {
#if defined(__AVX512BF16__)
    const __m256i half = (__m256i)_mm512_cvtneps_pbh((__m512)value);
#else
    uint16_t held[LANES];
    store(held, value);
    const __m256i half = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(held));
#endif
    _mm256_mask_storeu_epi16(to, first_lanes(count), half);
}
#elif defined(__AVX2__)
inline __m256i first_lanes(int64_t count) {
    const __m256i numbers = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(int(count)), numbers);
}

template <>
inline V load_first(const float* from, int64_t count) {
    return (V)_mm256_maskload_ps(from, first_lanes(count));
}
template <>
inline void store_first(float* to, V value, int64_t count) {
    _mm256_maskstore_ps(to, first_lanes(count), (__m256)value);
}
#endif

}  // namespace rl::RL_ISA
