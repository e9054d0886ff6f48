// The earliest times of points that wait for one another: the longest path through what they wait
// for, in one pass.
#include <algorithm>
#include <cstdint>
#include <new>
#include <vector>

extern "C" {

int64_t rl_replay_version() { return 1; }

// Edge e says that point target[e] comes at least lag[e] after point source[e]. time: in, the
// earliest that each point may come; out, when it comes. The edges are sorted by source; first[p]
// is the first of point p, of points + 1. Returns how many points have come, fewer than all where
// they wait for one another in a circle, or -1 without memory.
int64_t rl_replay(int64_t points, const int64_t* first, const int64_t* target, const int64_t* lag,
                  int64_t* time) {
    try {
        std::vector<int32_t> waits(points, 0);
        std::vector<int64_t> ready;
        for (int64_t e = 0; e < first[points]; ++e) ++waits[target[e]];
        for (int64_t p = 0; p < points; ++p)
            if (!waits[p]) ready.push_back(p);
        int64_t come = 0;
        while (!ready.empty()) {
            const int64_t point = ready.back();
            ready.pop_back();
            ++come;
            for (int64_t e = first[point]; e < first[point + 1]; ++e) {
                int64_t& later = time[target[e]];
                later = std::max(later, time[point] + lag[e]);
                if (!--waits[target[e]]) ready.push_back(target[e]);
            }
        }
        return come;
    } catch (const std::bad_alloc&) {
        return -1;
    }
}

}  // extern "C"
