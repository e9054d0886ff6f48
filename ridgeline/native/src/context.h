// What an instruction sees: its words, the memory it may touch, and the threads that share it.
#pragma once
#include <algorithm>
#include <atomic>
#include <cstring>

#include "instructions.h"
#include "pool.h"

namespace rl {

// All threads run every instruction; each takes its share by `share` or `claim`. The program waits
// for all of them between two instructions; within one, `wait` does.
struct Context {
    int64_t thread, threads;
    char* const* bases;
    char* scratch;  // of this thread, SCRATCH_NBYTES
    std::atomic<int64_t>* counter;  // zero when the instruction starts
    Barrier* barrier;
    char* const* scratches;  // of every thread, for what they hand each other across a `wait`

    template <class T = char>
    T* at(Ref ref) const {
        return ref == ABSENT ? nullptr
                             : reinterpret_cast<T*>(bases[ref >> 40] + (ref & ((1LL << 40) - 1)));
    }

    // The units first..last that are this thread's: the same ones in every run, so that what it
    // reads stays in its caches.
    void share(int64_t units, int64_t& first, int64_t& last) const {
        first = units * thread / threads;
        last = units * (thread + 1) / threads;
    }

    // The next unit of work that nobody has taken; for units of uneven length.
    int64_t claim(int64_t step = 1) const { return counter->fetch_add(step, std::memory_order_relaxed); }

    void wait() const { barrier->wait(); }
};

constexpr int64_t SCRATCH_NBYTES = 4 << 20;

inline double number(int64_t bits) {
    double value;
    std::memcpy(&value, &bits, sizeof value);
    return value;
}

inline int64_t nbytes_of(int64_t type) {
    constexpr int64_t sizes[] = {4, 2, 8, 4, 1, 1};
    return sizes[type];
}

using Kernel = void (*)(const Context&, const int64_t* words);

// What one instruction set offers. pack: lays a matrix w[n, k] (element strides) out for gemm;
// packed_nbytes: the room it takes.
struct Kernels {
    const char* name;
    Kernel instructions[NUM_OPCODES];
    bool has_bf16, has_int8;  // units for products of them
    int64_t (*packed_nbytes)(int64_t type, int64_t n, int64_t k);
    void (*pack)(int64_t type, int64_t n, int64_t k, const void* w, int64_t stride_n,
                 int64_t stride_k, void* packed);
};

}  // namespace rl
