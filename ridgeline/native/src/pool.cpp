#include "pool.h"

#include <sched.h>

#include <algorithm>
#include <chrono>

namespace rl {
namespace {

// A worker spins about as long as a short model takes between two calls; whoever waits gives its
// core away once it is clear that the one it waits for has none.
constexpr int SPINS_BEFORE_SLEEP = 8000;
// Where calls come further apart than this, for so many in a row, spinning only keeps a core from
// those who work meanwhile: another library's threads, when a model runs on both in turns.
constexpr std::chrono::milliseconds LONG_GAP(1);
constexpr int LONG_GAPS_BEFORE_REST = 3, SPINS_AT_REST = 50;
constexpr int SPINS_BEFORE_YIELD = 500;  // some 20 us where a pause takes 140 cycles
constexpr int IDLE_SPINS_BEFORE_YIELD = 5000;

void wait_briefly(int spins, int spins_before_yield = SPINS_BEFORE_YIELD) {
    if (spins < spins_before_yield)
        pause_briefly();
    else
        sched_yield();
}

}  // namespace

// The system likes to wake a thread on the core of the one that woke it, and finds out only after
// many short runs that the two would rather not take turns.
void Places::take(int thread) {
#if defined(__linux__)
    Seat& seat = seats_[thread];
    const int core = sched_getcpu();
    if (core != seat.core.load(std::memory_order_relaxed))
        seat.core.store(core, std::memory_order_relaxed);
    if (!is_shared(thread, core)) {
        seat.shared_rounds = 0;
        if (seat.lone_rounds <= seat.patience && ++seat.lone_rounds > seat.patience)
            seat.patience = LEAST_PATIENCE;
        return;
    }
    seat.lone_rounds = 0;
    if (++seat.shared_rounds < seat.patience) return;
    seat.shared_rounds = 0;
    seat.patience = std::min(2 * seat.patience, MOST_PATIENCE);
    move(thread);
#else
    (void)thread;
#endif
}

bool Places::is_shared(int thread, int core) const {
    for (int other = 0; other < thread; ++other)
        if (seats_[other].core.load(std::memory_order_relaxed) == core) return core >= 0;
    return false;
}

void Places::move(int thread) {
#if defined(__linux__)
    cpu_set_t allowed, free, now;
    if (sched_getaffinity(0, sizeof allowed, &allowed)) return;
    free = allowed;
    for (const Seat& seat : seats_) {
        const int core = seat.core.load(std::memory_order_relaxed);
        if (core >= 0 && core < CPU_SETSIZE) CPU_CLR(core, &free);
    }
    if (!CPU_COUNT(&free) || sched_setaffinity(0, sizeof free, &free)) return;
    seats_[thread].core.store(sched_getcpu(), std::memory_order_relaxed);
    // Where it may go is as before, unless someone has changed that since; it stays for now.
    if (!sched_getaffinity(0, sizeof now, &now) && CPU_EQUAL(&now, &free))
        sched_setaffinity(0, sizeof allowed, &allowed);
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
    int long_gaps = 0;
    for (int64_t seen = 0;; ++seen) {
        const auto start = std::chrono::steady_clock::now();
        const bool is_resting = long_gaps >= LONG_GAPS_BEFORE_REST;
        const int most_spins = is_resting ? SPINS_AT_REST : SPINS_BEFORE_SLEEP;
        for (int spins = 0; spins < most_spins; ++spins) {
            if (round_.load(std::memory_order_acquire) != seen) break;
            wait_briefly(spins, IDLE_SPINS_BEFORE_YIELD);
        }
        if (round_.load(std::memory_order_acquire) == seen) {
            std::unique_lock<std::mutex> lock(sleepers_);
            num_asleep_.fetch_add(1, std::memory_order_seq_cst);
            woken_.wait(lock, [&] { return round_.load(std::memory_order_seq_cst) != seen; });
            num_asleep_.fetch_sub(1, std::memory_order_relaxed);
        }
        if (is_closing_) return;
        const bool is_long = std::chrono::steady_clock::now() - start > LONG_GAP;
        long_gaps = is_long ? std::min(long_gaps + 1, LONG_GAPS_BEFORE_REST) : 0;
        places_.take(thread);
        (*work_)(thread);
        num_done_.fetch_add(1, std::memory_order_acq_rel);
    }
}

}  // namespace rl
