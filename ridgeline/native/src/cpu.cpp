// Which instruction sets this processor and system have.
#include <cstring>

#include "isas.h"
#if defined(__x86_64__) && defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace rl {
namespace {

#if defined(__x86_64__)
[[maybe_unused]] bool has_avx2() { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); }

[[maybe_unused]] bool has_avx512() {
    return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
}

// Linux lends the tiles' registers to processes that ask (arch_prctl, Documentation/arch/x86/xstate).
[[maybe_unused]] bool has_amx() {
#if defined(__linux__)
    constexpr int ARCH_REQ_XCOMP_PERM = 0x1023, XFEATURE_XTILEDATA = 18;
    unsigned a, b, c, d;
    __asm__("cpuid" : "=a"(a), "=b"(b), "=c"(c), "=d"(d) : "a"(7), "c"(0));
    const bool has_tiles = (d >> 24 & 1) && (d >> 22 & 1) && (d >> 25 & 1);
    return has_tiles && has_avx512() && __builtin_cpu_supports("avx512bf16") &&
           __builtin_cpu_supports("avx512vnni") &&
           syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) == 0;
#else
    return false;
#endif
}
#endif

struct Entry {
    const char* name;
    bool (*is_here)();
    const Kernels& (*table)();
};

bool always() { return true; }

const Entry ENTRIES[] = {
// The build says which sets it compiled.
#if defined(RL_WITH_AMX)
    {"amx", has_amx, kernels_amx},
#endif
#if defined(RL_WITH_AVX512)
    {"avx512", has_avx512, kernels_avx512},
#endif
#if defined(RL_WITH_AVX2)
    {"avx2", has_avx2, kernels_avx2},
#endif
    {"base", always, kernels_base},
};

}  // namespace

const Kernels* find_kernels(const char* name) {
    for (const Entry& entry : ENTRIES)
        if ((!name || !*name || !std::strcmp(name, entry.name)) && entry.is_here()) return &entry.table();
    return nullptr;
}

}  // namespace rl
