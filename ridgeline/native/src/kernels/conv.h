// What the ways to run conv share.
#pragma once
#include "../context.h"
#include "window.h"

namespace rl::RL_ISA {

namespace conv_words {
enum Word { X_REF, W_REF, BIAS_REF, Y_REF, X_TYPE, Y_TYPE, BATCH, FILTERS = 11, GROUPS, OUT_DEPTH, EXPRESSION = 30 };
}

inline Window conv_window(const int64_t* words) {
    return Window(words + conv_words::BATCH, words + conv_words::OUT_DEPTH);
}

// Convolutions of few channels and one group, as the first ones of networks for images are: a row
// of the kernel is one run of kernel_width x channels values of a row of x. w: fp32 panels.
bool is_narrow(const Window& window, int64_t groups);
void convolve_narrow(const Context& context, const int64_t* words);

}  // namespace rl::RL_ISA
