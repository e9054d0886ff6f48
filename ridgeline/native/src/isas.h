// The instruction sets that the kernels are compiled for.
#pragma once
#include "context.h"

#define RL_PASTE_(a, b) a##b
#define RL_PASTE(a, b) RL_PASTE_(a, b)
#define RL_QUOTE_(a) #a
#define RL_QUOTE(a) RL_QUOTE_(a)
#ifdef RL_ISA
#define RL_ISA_TABLE RL_PASTE(kernels_, RL_ISA)
#define RL_ISA_NAME RL_QUOTE(RL_ISA)
#endif

namespace rl {

const Kernels& kernels_base();
#if defined(__x86_64__)
const Kernels& kernels_avx2();
const Kernels& kernels_avx512();
const Kernels& kernels_amx();
#endif

// The best that this processor has, or the one named; nullptr where it lacks that.
const Kernels* find_kernels(const char* name);

}  // namespace rl
