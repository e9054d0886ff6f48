// Convolutions whose results depend on the few channels of their group: what depthwise and grouped
// share.
#pragma once
#include "activation.h"
#include "columns.h"

namespace rl::RL_ISA {

struct Channelwise {
    static constexpr bool HAS_WEIGHTS = true;

    const Context& context;
    const Window& window;
    const Expression& expression;
    const Activation activation;
    const float *w, *bias;  // w: (taps, group, channels)
    char* y;
    int64_t y_type;
    float* weights;
    Register* registers;
    int64_t group;  // channels that a filter reads

    void choose(const Blocks& blocks) const {
        const int64_t rows = window.taps() * group, channels = window.channels;
        float* to = weights;
        for (int64_t c = blocks.first * LANES; c < blocks.last * LANES; c += LANES)
            for (int64_t row = 0; row < rows; ++row, to += LANES)
                store(to, load_first(w + row * channels + c, std::min(LANES, channels - c)));
    }

    V start(int64_t c, int64_t lanes) const { return bias ? load_first(bias + c, lanes) : V{}; }
    static V combine(V sum, V value, V weight) { return sum + value * weight; }

    template <class Y, int COUNT>
    RL_INLINE void finish_as(V (&sums)[COUNT], const Place& place) const {
        const int64_t ldy = window.ldy, i = place.row * window.width.out + place.o;
        Y* to = reinterpret_cast<Y*>(y) + i * ldy + place.c;
        if (activation.is_simple()) {
            activation.apply(sums);
            unrolled<COUNT>([&](auto j) RL_INLINE {
                if (j < place.count) store_first(to + j * ldy, sums[j], place.lanes);
            });
            return;
        }
        unrolled<COUNT>([&](auto j) RL_INLINE { store(registers[0] + j * place.lanes, sums[j]); });
        const int64_t found =
            rl::RL_ISA::finish(context, expression, registers, i, place.c, place.count, place.lanes);
        store_tile(to, registers[found], place.count, place.lanes, ldy, 1);
    }
    template <int COUNT>
    RL_INLINE void finish(V (&sums)[COUNT], const Place& place) const {
        y_type == F32 ? finish_as<float>(sums, place) : finish_as<uint16_t>(sums, place);
    }
};

// What the words of depthwise and grouped have in common. e, window, registers: what they name, to
// be kept.
inline Channelwise channelwise(const Context& context, const int64_t* words, const Window& window, const Expression& e,
                               Register* registers, int64_t group) {
    return {context, window, e, Activation(e), context.at<float>(words[1]), context.at<float>(words[2]),
            context.at(words[3]), words[5], reinterpret_cast<float*>(context.scratch), registers, group};
}

}  // namespace rl::RL_ISA
