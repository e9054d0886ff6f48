#include "pool.h"

#include <sched.h>

namespace rl {
namespace {

// A worker spins about as long as a short model takes between two calls; whoever waits gives its
// core away once it is clear that the one it waits for has none.
constexpr int SPINS_BEFORE_SLEEP = 4000;
constexpr int SPINS_BEFORE_YIELD = 500;  // some 20 us where a pause takes 140 cycles

void wait_briefly(int spins) {
    if (spins < SPINS_BEFORE_YIELD)
        pause_briefly();
    else
        sched_yield();
}

}  // namespace

// The system likes to wake a thread on the core of the one that woke it, and finds out only after
// many short runs that the two would rather not take turns.
void Places::take(int thread) {
#if defined(__linux__)
    const int core = sched_getcpu();
    cores_[thread].store(core, std::memory_order_relaxed);
    bool is_shared = false;
    for (int other = 0; other < thread; ++other)
        is_shared |= cores_[other].load(std::memory_order_relaxed) == core;
    cpu_set_t allowed;
    if (core < 0 || !is_shared || sched_getaffinity(0, sizeof allowed, &allowed)) return;
    cpu_set_t free = allowed;
    for (const auto& taken : cores_) {
        const int its_core = taken.load(std::memory_order_relaxed);
        if (its_core >= 0 && its_core < CPU_SETSIZE) CPU_CLR(its_core, &free);
    }
    if (!CPU_COUNT(&free) || sched_setaffinity(0, sizeof free, &free)) return;
    cores_[thread].store(sched_getcpu(), std::memory_order_relaxed);
    sched_setaffinity(0, sizeof allowed, &allowed);  // it stays where it is until the system moves it
#else
    (void)thread;
#endif
}

void Barrier::wait() {
    if (count_ == 1) return;
    const int round = round_.load(std::memory_order_relaxed);
    if (arrived_.fetch_add(1, std::memory_order_acq_rel) == count_ - 1) {
        arrived_.store(0, std::memory_order_relaxed);
        round_.store(round + 1, std::memory_order_release);
        return;
    }
    for (int spins = 0; round_.load(std::memory_order_acquire) == round; ++spins)
        wait_briefly(spins);
}

Pool::Pool(int threads) : threads_(threads), barrier_(threads), places_(threads) {
    for (int thread = 1; thread < threads; ++thread)
        workers_.emplace_back([this, thread] { serve(thread); });
}

Pool::~Pool() {
    {
        std::lock_guard<std::mutex> lock(sleepers_);
        is_closing_ = true;
        round_.fetch_add(1, std::memory_order_seq_cst);
    }
    woken_.notify_all();
    for (auto& worker : workers_) worker.join();
}

void Pool::run(const std::function<void(int)>& work) {
    std::lock_guard<std::mutex> one_caller(callers_);
    if (threads_ == 1) return work(0);
    places_.take(0);
    work_ = &work;
    num_done_.store(0, std::memory_order_relaxed);
    round_.fetch_add(1, std::memory_order_seq_cst);
    if (num_asleep_.load(std::memory_order_seq_cst) > 0) {
        std::lock_guard<std::mutex> lock(sleepers_);
        woken_.notify_all();
    }
    work(0);
    for (int spins = 0; num_done_.load(std::memory_order_acquire) < threads_ - 1; ++spins)
        wait_briefly(spins);
}

void Pool::serve(int thread) {
    for (int64_t seen = 0;; ++seen) {
        for (int spins = 0; spins < SPINS_BEFORE_SLEEP; ++spins) {
            if (round_.load(std::memory_order_acquire) != seen) break;
            wait_briefly(spins);
        }
        if (round_.load(std::memory_order_acquire) == seen) {
            std::unique_lock<std::mutex> lock(sleepers_);
            num_asleep_.fetch_add(1, std::memory_order_seq_cst);
            woken_.wait(lock, [&] { return round_.load(std::memory_order_seq_cst) != seen; });
            num_asleep_.fetch_sub(1, std::memory_order_relaxed);
        }
        if (is_closing_) return;
        places_.take(thread);
        (*work_)(thread);
        num_done_.fetch_add(1, std::memory_order_acq_rel);
    }
}

}  // namespace rl
