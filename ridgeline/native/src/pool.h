// Threads that wait for work by spinning a little, then asleep; and a barrier among them.
#pragma once
#include <atomic>
#include <condition_variable>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

namespace rl {

inline void pause_briefly() {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    asm volatile("yield");
#endif
}

// All of `count` threads arrive before any goes on.
class Barrier {
  public:
    explicit Barrier(int count) : count_(count) {}
    void wait();

  private:
    const int count_;
    alignas(64) std::atomic<int> arrived_{0};
    alignas(64) std::atomic<int> round_{0};
};

// The cores that the threads of a pool run on.
class Places {
  public:
    explicit Places(int threads) : seats_(threads) {}
    // Notes the calling thread's core; leaves it for one without a thread of the pool after some
    // rounds in which a thread before it had the same, later each time that this does not last.
    void take(int thread);

  private:
    static constexpr int LEAST_PATIENCE = 4, MOST_PATIENCE = 1 << 20;  // rounds
    struct alignas(64) Seat {
        std::atomic<int> core{-1};
        // of its own thread alone
        int shared_rounds = 0, lone_rounds = 0, patience = LEAST_PATIENCE;
    };
    bool is_shared(int thread, int core) const;
    void move(int thread);

    std::vector<Seat> seats_;
};

// `threads` threads, the caller among them, that run one function together.
class Pool {
  public:
    explicit Pool(int threads);
    ~Pool();
    Pool(const Pool&) = delete;
    Pool& operator=(const Pool&) = delete;

    int threads() const { return threads_; }
    Barrier& barrier() { return barrier_; }

    // Runs work(thread) once per thread and returns when all are done. One caller at a time.
    void run(const std::function<void(int)>& work);

  private:
    void serve(int thread);

    const int threads_;
    Barrier barrier_;
    Places places_;
    std::vector<std::thread> workers_;
    const std::function<void(int)>* work_ = nullptr;
    bool is_closing_ = false;
    std::mutex callers_, sleepers_;
    std::condition_variable woken_;
    alignas(64) std::atomic<int64_t> round_{0};
    alignas(64) std::atomic<int> num_asleep_{0};
    alignas(64) std::atomic<int> num_done_{0};
};

}  // namespace rl
