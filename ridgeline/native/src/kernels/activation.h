// Expressions of one step that a kernel applies while its results are still in vector registers.
#pragma once
#include "../expression.h"
#include "unrolled.h"

namespace rl::RL_ISA {

struct Activation {
    // NUM_STEPS: none; STEP_LOAD: an expression that only `finish` can run
    int64_t step = NUM_STEPS;
    V p{}, q{};

    explicit Activation(const Expression& e) {
        if (e.num_steps == 0) return;
        const int64_t* s = e.step(0);
        const bool is_known = s[0] == STEP_RELU || s[0] == STEP_CLAMP || s[0] == STEP_HARDSWISH ||
                              s[0] == STEP_HARDSIGMOID || s[0] == STEP_SILU || s[0] == STEP_SIGMOID;
        step = e.num_steps == 1 && is_known && s[2] == 0 ? s[0] : int64_t(STEP_LOAD);
        p = splat(float(number(s[4])));
        q = splat(float(number(s[5])));
    }

    bool is_simple() const { return step != STEP_LOAD; }
    // Takes few instructions, so that many values may be unrolled.
    bool is_cheap() const { return is_simple() && step != STEP_SILU && step != STEP_SIGMOID; }

    template <bool HAS_EXP = true, int COUNT>
    RL_INLINE void apply(V (&values)[COUNT]) const {
        const V six = splat(6.0f);
        const auto all = [&](auto f) RL_INLINE {
            unrolled<COUNT>([&](auto i) RL_INLINE { values[i] = f(values[i]); });
        };
        switch (step) {
            case STEP_RELU: return all([](V x) { return select(x < 0.0f, V{}, x); });
            case STEP_CLAMP: return all([&](V x) { return clamp(x, p, q); });
            case STEP_HARDSWISH: return all([&](V x) { return x * clamp(x + 3.0f, V{}, six) * (1.0f / 6); });
            case STEP_HARDSIGMOID: return all([&](V x) { return clamp(x + 3.0f, V{}, six) * (1.0f / 6); });
        }
        if constexpr (HAS_EXP) {
            if (step == STEP_SILU) all([](V x) { return silu(x); });
            if (step == STEP_SIGMOID) all([](V x) { return sigmoid(x); });
        }
    }
};

}  // namespace rl::RL_ISA
