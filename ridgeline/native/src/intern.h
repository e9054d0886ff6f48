// Every distinct piece of text once, numbered in the order in which they came.
#pragma once
#include <cstdint>
#include <cstring>
#include <vector>

#include "json_cursor.h"

namespace rl {

inline uint64_t hash_of(Span text, uint64_t seed = 0) {
    constexpr uint64_t FACTOR = 0x9E3779B97F4A7C15ull;
    uint64_t hash = seed ^ text.nbytes() * FACTOR;
    const char* at = text.first;
    for (; text.last - at >= 8; at += 8) {
        uint64_t word;
        std::memcpy(&word, at, 8);
        hash = (hash ^ word) * FACTOR;
        hash ^= hash >> 32;
    }
    uint64_t word = 0;
    if (at != text.last) std::memcpy(&word, at, text.last - at);
    hash = (hash ^ word) * FACTOR;
    return hash ^ hash >> 29;
}

// The text stays where it is: it must outlive the table.
class Interned {
public:
    int32_t number(Span text) {
        if (spans.size() * 2 >= slots_.size()) grow();
        const uint64_t hash = hash_of(text);
        uint64_t slot = hash & (slots_.size() - 1);
        for (; slots_[slot] >= 0; slot = (slot + 1) & (slots_.size() - 1)) {
            const int32_t found = slots_[slot];
            if (hashes_[found] == hash && spans[found].is(text.first, text.nbytes())) return found;
        }
        slots_[slot] = static_cast<int32_t>(spans.size());
        hashes_.push_back(hash);
        spans.push_back(text);
        return slots_[slot];
    }

    std::vector<Span> spans;

private:
    std::vector<int32_t> slots_ = std::vector<int32_t>(64, -1);
    std::vector<uint64_t> hashes_;

    void grow() {
        slots_.assign(slots_.size() * 2, -1);
        for (size_t i = 0; i < spans.size(); ++i) {
            uint64_t slot = hashes_[i] & (slots_.size() - 1);
            while (slots_[slot] >= 0) slot = (slot + 1) & (slots_.size() - 1);
            slots_[slot] = static_cast<int32_t>(i);
        }
    }
};

}  // namespace rl
