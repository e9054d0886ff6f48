// depthwise: a convolution with one filter per channel.
#include "channelwise.h"
#include "kernels.h"

namespace rl::RL_ISA {

void depthwise(const Context& context, const int64_t* words) {
    const Expression e(words + 28);
    const Window window(words + 6, words + 11);
    alignas(64) Register registers[REGISTERS];
    Channelwise op = channelwise(context, words, window, e, registers, 1);
    Line* lines = reinterpret_cast<Line*>(op.weights + CHUNK_BLOCKS * window.taps() * LANES);
    if (words[4] == F32)
        put_windows(context, window, context.at<float>(words[0]), op, lines);
    else
        put_windows(context, window, context.at<uint16_t>(words[0]), op, lines);
}

}  // namespace rl::RL_ISA
