// The table of this instruction set.
#include "../isas.h"
#include "kernels.h"

namespace rl {

const Kernels& RL_ISA_TABLE() {
    static const Kernels table = {
        RL_ISA_NAME,
        {
#define RL_ENTRY(name, has_expression, fields) RL_ISA::name,
            RL_INSTRUCTIONS(RL_ENTRY)
#undef RL_ENTRY
        },
        RL_ISA::has_bf16(),
        RL_ISA::has_int8(),
        RL_ISA::packed_nbytes,
        RL_ISA::pack,
    };
    return table;
}

}  // namespace rl
