// Every instruction of a program, and every step of an expression, with the names of its fields.
// Python reads this table from the built library (rl_fields, rl_steps), so it stands here alone.
//
// A program is an array of 64-bit words: opcode, number of words that follow, those words. A field
// is one word; fields called *_ref are a Ref, *_bits the bits of a double, *_type a Type. Sizes and
// strides count elements. X marks the instructions that end with an expression:
//
//   rank, number of operands, number of steps,
//   per operand: ref, type, one stride per dimension,
//   per step: step, destination register, register or operand a, register b, bits p, bits q
//
// An expression works on tiles of up to TILE fp32 values in registers. Where it follows a product,
// dimensions are (row, column) of the result, register 0 holds it, and the destination of the last
// step is what gets stored. In `map` the dimensions are those of `map` and STORE steps write.
#pragma once
#include <cstdint>

namespace rl {

// base in the high 24 bits, bytes from it in the low 40. Bases: 0 the arena, then the constants,
// the inputs and the outputs. ABSENT for a tensor that is not there.
using Ref = int64_t;
constexpr Ref ABSENT = -1;

enum Type : int64_t { F32, BF16, I64, I32, U8, I8 };

constexpr int64_t TILE = 512;      // values per register
constexpr int64_t REGISTERS = 16;  // of an expression
constexpr int64_t MAX_RANK = 6;

// name, whether an expression follows, fields
#define RL_INSTRUCTIONS(I)                                                                        \
    /* y[size0, ..] by an expression, element by element */                                       \
    I(map, 1, "rank size0 size1 size2 size3 size4 size5")                                         \
    /* y = x in another shape of strides; of 1, 2, 4 or 8 bytes each */                           \
    I(copy, 0,                                                                                    \
      "x_ref y_ref item_nbytes rank size0 size1 size2 size3 size4 size5 x_stride0 x_stride1 "     \
      "x_stride2 x_stride3 x_stride4 x_stride5 y_stride0 y_stride1 y_stride2 y_stride3 "          \
      "y_stride4 y_stride5")                                                                      \
    /* one number everywhere in y, dense */                                                       \
    I(fill, 0, "y_ref y_type count value_bits")                                                   \
    /* y[m, n] = x[m, k] @ w + bias. w: packed by rl_pack, of the type of x; rows of x and y      \
       lie ldx, ldy apart; bias: fp32 or ABSENT */                                                \
    I(gemm, 1, "x_ref w_ref bias_ref y_ref x_type y_type m n k ldx ldy")                          \
    /* rows of x in eight bits: x = low + scale y of whole numbers y from 0 to 255, every row from  \
       its smallest to its largest; values from width to ldy are 0 */                             \
    I(quantize, 0, "x_ref y_ref scale_ref low_ref x_type rows width ldx ldy")                     \
    /* y[m, n] = column_scale[n] row_scale[m] (x[m, k] @ w) + row_low[m] column_low[n] + bias[n].  \
       x: as quantize gives it, ldx a multiple of 64; w: packed by rl_pack as I8; the others fp32, \
       bias may be ABSENT, column_low is that of a row of ones */                                 \
    I(gemm_int8, 1,                                                                               \
      "x_ref w_ref row_scale_ref row_low_ref column_scale_ref column_low_ref bias_ref y_ref "     \
      "y_type m n k ldx ldy")                                                                     \
    /* batch products y[b] = alpha x[b] @ w[b] of computed operands; w[b] is (n, k) row by row    \
       where is_transposed, else (k, n). Two batch dimensions (outer, inner) with their strides   \
       (0 repeats), which an expression of rank 4 has before row and column */                    \
    I(bmm, 1,                                                                                     \
      "x_ref w_ref y_ref x_type w_type y_type outer inner m n k x_outer x_inner ldx w_outer "     \
      "w_inner ldw y_outer y_inner ldy is_transposed alpha_bits")                                 \
    /* convolution, channels last: x (batch, depth, height, width, channels) with ldx between     \
       positions, dense otherwise; w: per group packed by rl_pack of (taps x channels / groups,   \
       filters / groups); y likewise with ldy; two-dimensional ones have depth 1. Of bf16 only     \
       where there are no units for it: conv_grid is for those */                                  \
    I(conv, 1,                                                                                    \
      "x_ref w_ref bias_ref y_ref x_type y_type batch depth height width channels filters "       \
      "groups out_depth out_height out_width kernel_depth kernel_height kernel_width "            \
      "stride_depth stride_height stride_width pad_depth pad_height pad_width dilation_depth "    \
      "dilation_height dilation_width ldx ldy")                                                   \
    /* x (batch, depth, height, width, channels), positions ldx apart, in a grid of a kind (grid.h), \
       columns ldy apart: of bf16, or of whole numbers y from 0 to 255 where x = low + scale y,     \
       scale and low for each image; there 0 is a whole number. RUNS of eight bits are followed by  \
       room for what the last of them reads in vain */                                             \
    I(grid, 0,                                                                                    \
      "x_ref y_ref scale_ref low_ref x_type y_type batch depth height width channels groups "     \
      "kind out_depth out_height out_width kernel_depth kernel_height kernel_width "              \
      "stride_depth stride_height stride_width pad_depth pad_height pad_width dilation_depth "    \
      "dilation_height dilation_width ldx ldy")                                                   \
    /* the convolution of a tensor that lies in a grid, columns ldx apart; w: per group packed by \
       rl_pack of (filters / groups, taps x room), of bf16, or of I8 where x is U8; the other       \
       fields as in gemm_int8 (rows: one scale for each image), and ABSENT for bf16 */             \
    I(conv_grid, 1,                                                                               \
      "x_ref w_ref row_scale_ref row_low_ref column_scale_ref column_low_ref bias_ref y_ref "     \
      "x_type y_type batch depth height width channels filters groups kind out_depth "            \
      "out_height out_width kernel_depth kernel_height kernel_width stride_depth stride_height "  \
      "stride_width pad_depth pad_height pad_width dilation_depth dilation_height "               \
      "dilation_width ldx ldy")                                                                   \
    /* a convolution of 3 x 3 taps, stride and dilation 1, by Winograd's F(tile x tile, 3 x 3),    \
       tile 2 or 4; w: for each of its (tile + 2)^2 points rl_pack of fp32 (channels, filters),   \
       as ridgeline.native.winograd gives them */                                                 \
    I(winograd, 1,                                                                                \
      "x_ref w_ref bias_ref y_ref x_type y_type tile batch height width channels filters "        \
      "out_height out_width pad_height pad_width ldx ldy")                                        \
    /* depthwise, one filter per channel; w: (taps, channels) fp32 */                              \
    I(depthwise, 1,                                                                               \
      "x_ref w_ref bias_ref y_ref x_type y_type batch depth height width channels out_depth "     \
      "out_height out_width kernel_depth kernel_height kernel_width stride_depth stride_height "  \
      "stride_width pad_depth pad_height pad_width dilation_depth dilation_height "               \
      "dilation_width ldx ldy")                                                                   \
    /* convolution of groups with as many channels as filters, `group`: a power of two up to 32;  \
       w: (taps, group, channels) fp32, of each filter its group's. Weights of one vector and the \
       positions that a row of y reads have to fit into the scratch memory (grouped.cpp) */       \
    I(grouped, 1,                                                                                 \
      "x_ref w_ref bias_ref y_ref x_type y_type batch depth height width channels out_depth "     \
      "out_height out_width kernel_depth kernel_height kernel_width stride_depth stride_height "  \
      "stride_width pad_depth pad_height pad_width dilation_depth dilation_height "               \
      "dilation_width ldx ldy group")                                                             \
    /* windows of x, channels last; kind 0 largest, 1 mean of what lies inside, 2 sum / divisor */ \
    I(pool, 0,                                                                                    \
      "x_ref y_ref x_type y_type kind divisor_bits batch depth height width channels out_depth "  \
      "out_height out_width kernel_depth kernel_height kernel_width stride_depth stride_height "  \
      "stride_width pad_depth pad_height pad_width dilation_depth dilation_height "               \
      "dilation_width ldx ldy")                                                                   \
    /* y[outer, inner] over x[outer, length, inner], all dense; kind 0 sum, 1 mean, 2 largest,    \
       3 smallest */                                                                              \
    I(reduce, 0, "x_ref y_ref x_type y_type kind outer length inner")                             \
    /* rows of width; kind 0 layer norm, 1 RMS norm, 2 softmax, 3 log softmax. scale, shift: fp32 \
       of width, or ABSENT. y (rows, width), rows ldx and ldy apart */                            \
    I(norm, 0,                                                                                    \
      "x_ref scale_ref shift_ref y_ref x_type y_type kind rows width ldx ldy epsilon_bits")       \
    /* x (batch, positions, channels) channels last; groups of channels / groups */               \
    I(group_norm, 1,                                                                              \
      "x_ref scale_ref shift_ref y_ref x_type y_type batch positions channels groups ldx ldy "    \
      "epsilon_bits")                                                                             \
    /* softmax(scale q k^T + mask) v. q (batch, heads, queries, width), k and v (batch, kv_heads, \
       keys, width or value_width), each with strides of batch, head and row; mask: fp32 with     \
       four strides, added, or U8 where 0 hides, or ABSENT. y like q, value_width wide */         \
    I(attention, 0,                                                                               \
      "q_ref k_ref v_ref mask_ref y_ref q_type y_type mask_type batch heads kv_heads queries "    \
      "keys width value_width q_batch q_head q_row k_batch k_head k_row v_batch v_head v_row "    \
      "mask_batch mask_head mask_row mask_column y_batch y_head y_row is_causal scale_bits")      \
    /* one layer, in one direction or in both: the second_* fields are those of the other one, or  \
       ABSENT. gates (steps, batch, 4 x hidden) hold the products with the input and both biases,  \
       i f g o; w: rl_pack of (4 x hidden, hidden) fp32; h, c: the state, (batch, hidden) fp32,    \
       replaced; y (steps, batch, hidden); both directions have the same strides */               \
    I(lstm, 0, "gates_ref w_ref h_ref c_ref y_ref second_gates_ref second_w_ref second_h_ref "    \
      "second_c_ref second_y_ref y_type steps batch hidden y_step y_batch gates_step gates_batch "\
      "is_reverse")                                                                               \
    /* rows of a table: y[i] = table[index[i]] */                                                 \
    I(gather, 0, "table_ref index_ref y_ref index_type count row_nbytes rows")                    \
    /* channels last, two-dimensional; kind 0 nearest, 1 bilinear; scale: input per output step */ \
    I(upsample, 0,                                                                                \
      "x_ref y_ref x_type y_type kind batch height width channels out_height out_width ldx ldy "  \
      "scale_height_bits scale_width_bits is_corners_aligned")

// a, b: registers (LOAD, STORE: a is an operand, b the register stored); p, q: numbers.
#define RL_STEPS(S)                                                                               \
    S(LOAD) S(STORE) S(CONSTANT) S(COPY)                                                          \
    S(ADD) S(SUB) S(MUL) S(DIV) S(MIN) S(MAX)                                                     \
    S(AFFINE) /* a p + q */ S(CLAMP) /* to p..q */ S(RELU)                                        \
    S(NEG) S(ABS) S(SQUARE) S(SQRT) S(RSQRT) S(RECIPROCAL) S(FLOOR) S(CEIL) S(ROUND)              \
    S(EXP) S(LOG) S(SIN) S(COS) S(TANH) S(SIGMOID) S(ERF) S(POW) /* a ** p */                     \
    S(GELU) S(GELU_TANH) S(SILU) S(HARDSWISH) S(HARDSIGMOID) S(LEAKY_RELU) /* slope p */          \
    S(ELU) /* alpha p */ S(SOFTPLUS) S(MISH)                                                      \
    S(LT) S(LE) S(EQ) S(NE) S(AND) S(OR) S(NOT)                                                   \
    S(SELECT) /* a where register p holds no 0, else b */

enum Opcode : int64_t {
#define RL_OPCODE(name, has_expression, fields) OP_##name,
    RL_INSTRUCTIONS(RL_OPCODE)
#undef RL_OPCODE
        NUM_OPCODES
};

enum Step : int64_t {
#define RL_STEP(name) STEP_##name,
    RL_STEPS(RL_STEP)
#undef RL_STEP
        NUM_STEPS
};

}  // namespace rl
