// depthwise: a convolution with one filter per channel.
#include "activation.h"
#include "columns.h"
#include "kernels.h"

namespace rl::RL_ISA {
namespace {

struct Depthwise {
    static constexpr bool HAS_WEIGHTS = true;

    const Context& context;
    const Window& window;
    const Expression& expression;
    const Activation activation;
    const float *w, *bias;  // w: (taps, channels)
    char* y;
    int64_t y_type;
    float* weights;
    Register* registers;

    void choose(const Blocks& blocks) {
        const int64_t taps = window.taps(), channels = window.channels;
        float* to = weights;
        for (int64_t c = blocks.first * LANES; c < blocks.last * LANES; c += LANES)
            for (int64_t t = 0; t < taps; ++t, to += LANES)
                store(to, load_first(w + t * channels + c, std::min(LANES, channels - c)));
    }

    V start(int64_t c, int64_t lanes) const { return bias ? load_first(bias + c, lanes) : V{}; }
    static V combine(V sum, V value, V weight) { return sum + value * weight; }

    template <class Y>
    RL_INLINE void finish_as(V (&sums)[COLUMNS], const Place& place) const {
        const int64_t ldy = window.ldy, i = place.row * window.width.out + place.o;
        Y* to = reinterpret_cast<Y*>(y) + i * ldy + place.c;
        if (activation.is_simple()) {
            activation.apply(sums);
            unrolled<COLUMNS>([&](auto j) RL_INLINE {
                if (j < place.count) store_first(to + j * ldy, sums[j], place.lanes);
            });
            return;
        }
        unrolled<COLUMNS>([&](auto j) RL_INLINE { store(registers[0] + j * place.lanes, sums[j]); });
        const int64_t found =
            rl::RL_ISA::finish(context, expression, registers, i, place.c, place.count, place.lanes);
        store_tile(to, registers[found], place.count, place.lanes, ldy, 1);
    }
    RL_INLINE void finish(V (&sums)[COLUMNS], const Place& place) const {
        y_type == F32 ? finish_as<float>(sums, place) : finish_as<uint16_t>(sums, place);
    }
};

}  // namespace

void depthwise(const Context& context, const int64_t* words) {
    const Expression e(words + 28);
    const Window window(words + 6, words + 11);
    alignas(64) Register registers[REGISTERS];
    float* weights = reinterpret_cast<float*>(context.scratch);
    Line* lines = reinterpret_cast<Line*>(weights + CHUNK_BLOCKS * window.taps() * LANES);
    Depthwise op{context,
                 window,
                 e,
                 Activation(e),
                 context.at<float>(words[1]),
                 context.at<float>(words[2]),
                 context.at(words[3]),
                 words[5],
                 weights,
                 registers};
    if (words[4] == F32)
        put_windows(context, window, context.at<float>(words[0]), op, lines);
    else
        put_windows(context, window, context.at<uint16_t>(words[0]), op, lines);
}

}  // namespace rl::RL_ISA
