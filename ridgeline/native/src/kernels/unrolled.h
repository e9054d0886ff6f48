// Loops that the compiler must unroll, so that arrays of vectors stay in registers.
#pragma once
#include <utility>

#include "../vector.h"

#define RL_INLINE __attribute__((always_inline))

namespace rl::RL_ISA {

template <class F, int... I>
inline RL_INLINE void unrolled(std::integer_sequence<int, I...>, F&& f) {
    (f(std::integral_constant<int, I>()), ...);
}
// Calls f with the constants 0, .., COUNT - 1.
template <int COUNT, class F>
inline RL_INLINE void unrolled(F&& f) {
    unrolled(std::make_integer_sequence<int, COUNT>(), f);
}

// Keeps a value in a register, where the compiler would rather load it again for each use.
inline RL_INLINE void keep(V& value) {
#if defined(__AVX512F__)
    asm("" : "+v"(value));
#elif defined(__x86_64__)
    asm("" : "+x"(value));
#else
    (void)value;
#endif
}

}  // namespace rl::RL_ISA
