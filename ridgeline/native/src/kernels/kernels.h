// Every kernel of one instruction set: a function per instruction, of the same name.
#pragma once
#include "../context.h"

namespace rl::RL_ISA {

#define RL_DECLARE(name, has_expression, fields) void name(const Context&, const int64_t* words);
RL_INSTRUCTIONS(RL_DECLARE)
#undef RL_DECLARE

int64_t packed_nbytes(int64_t type, int64_t n, int64_t k);
void pack(int64_t type, int64_t n, int64_t k, const void* w, int64_t stride_n, int64_t stride_k,
          void* packed);
bool has_bf16();
bool has_int8();

}  // namespace rl::RL_ISA
