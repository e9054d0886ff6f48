"""FLOPs of every matrix op kind, worked out by hand; argument names come from the real schemas."""

import pytest
import torch
from cost_helpers import cost, macs, meta
from torch import Tensor

aten = torch.ops.aten
BF16, FP8, INT8, INT32 = torch.bfloat16, torch.float8_e4m3fn, torch.int8, torch.int32


def bf16(*shape: int) -> Tensor:
    return meta(*shape, dtype=BF16)


PRODUCTS = {
    # (5, 7) x (7, 3): 5 * 3 outputs, 7 products each
    "linear": (aten.linear.default, (meta(5, 7), meta(3, 7), meta(3)), 5 * 3 * 7),
    "linear of a batch": (aten.linear.default, (meta(2, 5, 7), meta(3, 7)), 2 * 5 * 3 * 7),
    "mm": (aten.mm.default, (meta(5, 7), meta(7, 3)), 105),
    "matmul that broadcasts": (aten.matmul.default, (meta(4, 1, 5, 7), meta(2, 7, 3)), 8 * 105),
    "matmul vector": (aten.matmul.default, (meta(7), meta(7, 3)), 21),
    "bmm": (aten.bmm.default, (meta(2, 5, 7), meta(2, 7, 3)), 210),
    "mv": (aten.mv.default, (meta(5, 7), meta(7)), 35),
    "dot": (aten.dot.default, (meta(7), meta(7)), 7),
    "vdot": (aten.vdot.default, (meta(7), meta(7)), 7),
    "inner": (aten.inner.default, (meta(5, 7), meta(3, 7)), 105),
    "inner with a number": (aten.inner.default, (meta(5, 7), meta()), 35),
    "addmm": (aten.addmm.default, (meta(3), meta(5, 7), meta(7, 3)), 105),
    "addmv": (aten.addmv.default, (meta(5), meta(5, 7), meta(7)), 35),
    "baddbmm": (aten.baddbmm.default, (meta(2, 5, 3), meta(2, 5, 7), meta(2, 7, 3)), 210),
    "addbmm": (aten.addbmm.default, (meta(5, 3), meta(2, 5, 7), meta(2, 7, 3)), 210),
    "tensordot": (
        aten.tensordot.default,
        (meta(4, 5, 7), meta(7, 5, 3), [1, 2], [1, 0]),
        4 * 3 * 5 * 7,
    ),
    "vecdot": (aten.linalg_vecdot.default, (meta(5, 7), meta(5, 7)), 35),
    # x1 W for each of 3 outputs, 4 * 5 products, then a dot of 5
    "bilinear": (aten.bilinear.default, (meta(8, 4), meta(8, 5), meta(3, 4, 5)), 8 * 3 * (20 + 5)),
    "conv1d": (aten.conv1d.default, (meta(2, 3, 10), meta(4, 3, 5)), 2 * 4 * 6 * 15),
    "conv2d strided, dilated": (
        aten.conv2d.default,  # 9 - 2 * 2 = 5, every second: 3 x 3
        (meta(2, 3, 9, 9), meta(4, 3, 3, 3), None, [2, 2], [0, 0], [2, 2]),
        2 * 4 * 9 * 27,
    ),
    "conv2d grouped": (
        aten.conv2d.default,
        (meta(2, 6, 8, 8), meta(4, 3, 3, 3), None, [1, 1], [1, 1], [1, 1], 2),
        2 * 4 * 64 * 27,
    ),
    "conv2d same": (
        aten.conv2d.padding,
        (meta(2, 3, 8, 8), meta(4, 3, 3, 3), None, [1, 1], "same"),
        2 * 4 * 64 * 27,
    ),
    "conv3d": (aten.conv3d.default, (meta(1, 2, 4, 4, 4), meta(3, 2, 2, 2, 2)), 3 * 27 * 16),
    "convolution, unbatched weight": (
        aten.convolution.default,
        (meta(2, 3, 8, 8), meta(4, 3, 3, 3), None, [1, 1], [0, 0], [1, 1], False, [0, 0], 1),
        2 * 4 * 36 * 27,
    ),
    # a transposed convolution scatters each input to every tap: 2 * 3 * 64 inputs, 4 * 9 each
    "convolution transposed": (
        aten.convolution.default,
        (meta(2, 3, 8, 8), meta(3, 4, 3, 3), None, [2, 2], [0, 0], [1, 1], True, [0, 0], 1),
        2 * 3 * 64 * 36,
    ),
    "conv_transpose2d": (
        aten.conv_transpose2d.input,
        (meta(2, 3, 8, 8), meta(3, 4, 3, 3), None, [2, 2]),
        2 * 3 * 64 * 36,
    ),
    "conv_transpose1d grouped": (
        aten.conv_transpose1d.default,
        (meta(2, 4, 8), meta(4, 3, 5), None, [1], [0], [0], 2),
        2 * 4 * 8 * 15,
    ),
    "conv_transpose3d": (
        aten.conv_transpose3d.input,
        (meta(1, 2, 3, 3, 3), meta(2, 4, 2, 2, 2)),
        2 * 27 * 32,
    ),
}


@pytest.mark.parametrize("name", PRODUCTS)
def test_products(name: str) -> None:
    op, args, expected = PRODUCTS[name]
    assert macs(op, *args) == expected


EINSUMS = [
    ("ij,jk->ik", [(5, 7), (7, 3)], 105),
    ("ij,jk", [(5, 7), (7, 3)], 105),
    ("bij,bjk->bik", [(2, 5, 7), (2, 7, 3)], 210),
    ("...ij,...jk->...ik", [(2, 4, 5, 7), (4, 7, 3)], 8 * 105),
    ("...i,ij->...j", [(2, 5, 7), (7, 3)], 210),
    ("ij,jk,kl->il", [(5, 7), (7, 3), (3, 11)], 105 + 5 * 3 * 11),
    ("i,i->", [(7,), (7,)], 7),
    ("i,j->ij", [(5,), (7,)], 0),  # nothing is summed: elementwise
    ("i,j,jk->ik", [(5,), (7,), (7, 3)], 105),  # an outer product, then a matrix product
    ("ij,jk->k", [(5, 7), (7, 3)], 21),  # i is summed first
    ("ij,ij->ij", [(5, 7), (5, 7)], 0),
    ("ii->i", [(5, 5)], 0),
    ("ii", [(5, 5)], 0),
    ("ij->ji", [(5, 7)], 0),
    ("ij->", [(5, 7)], 0),
    ("bhqd,bhkd->bhqk", [(2, 4, 5, 8), (2, 4, 6, 8)], 2 * 4 * 5 * 6 * 8),
    ("bhqd, bkd -> bhqk", [(2, 4, 5, 8), (2, 6, 8)], 2 * 4 * 5 * 6 * 8),
]


@pytest.mark.parametrize(("equation", "shapes", "expected"), EINSUMS)
def test_einsum(equation: str, shapes: list[tuple[int, ...]], expected: int) -> None:
    assert macs(aten.einsum.default, equation, [meta(*s) for s in shapes]) == expected


@pytest.mark.parametrize(
    ("equation", "shapes", "expected"),
    [
        ("i,j->ij", [(5,), (7,)], 35),
        ("i,j,jk->ik", [(5,), (7,), (7, 3)], 35),
        ("ij,jk->k", [(5, 7), (7, 3)], 35),  # i is summed first
        ("ij->j", [(5, 7)], 35),
        ("ij,jk->ik", [(5, 7), (7, 3)], 0),
    ],
)
def test_what_an_einsum_does_element_by_element(
    equation: str, shapes: list[tuple[int, ...]], expected: int
) -> None:
    found = cost(aten.einsum.default, equation, [meta(*s) for s in shapes])
    assert found.vector_ops == expected


# q (B=2, H=4, L=6, D=8), k (2, 4, S=10, 8), v (2, 4, 10, E=8): 2 * 4 * 6 * 10 * (8 + 8)
Q, K = bf16(2, 4, 6, 8), bf16(2, 4, 10, 8)
FULL = 2 * 4 * 6 * 10 * 16
TOP_LEFT = FULL * 36 // (2 * 60)  # 6 x 10, query i sees keys 0..i: 6^2 / 2 of 60
LSE = meta(2, 4, 6)
FUSED_OUT = (Q, LSE, None, None, 6, 10, LSE, LSE, LSE)
SDPA = {
    "sdpa": (aten.scaled_dot_product_attention.default, (), {}, None),
    "flash": (aten._scaled_dot_product_flash_attention.default, (), {}, FUSED_OUT),
    "flash for cpu": (aten._scaled_dot_product_flash_attention_for_cpu.default, (), {}, (Q, LSE)),
    "efficient": (
        aten._scaled_dot_product_efficient_attention.default,
        (None, True),
        {},
        (Q, LSE, LSE, LSE),
    ),
    "cudnn": (aten._scaled_dot_product_cudnn_attention.default, (None, True), {}, FUSED_OUT),
    "overrideable": (
        aten._scaled_dot_product_fused_attention_overrideable.default,
        (),
        {},
        FUSED_OUT,
    ),
    "math": (aten._scaled_dot_product_attention_math.default, (), {}, (Q, LSE)),
}


@pytest.mark.parametrize("name", SDPA)
@pytest.mark.parametrize("is_causal", [False, True])
def test_attention_in_every_spelling(name: str, is_causal: bool) -> None:
    op, args, kwargs, out = SDPA[name]
    found = cost(op, Q, K, K, *args, out=out or Q, is_causal=is_causal, **kwargs)
    assert found.flops == 2 * FULL
    assert found.causal_flops == found.executed_flops == 2 * (TOP_LEFT if is_causal else FULL)
    scores = 2 * 4 * 60 * found.causal_flops // found.flops
    assert found.special_ops == scores  # one exponential per score that is not masked


def test_square_causal_attention_counts_half() -> None:
    q = bf16(1, 2, 128, 16)
    found = cost(aten.scaled_dot_product_attention.default, q, q, q, is_causal=True)
    assert 2 * found.causal_flops == found.flops == 2 * 2 * 128 * 128 * 32


def test_more_queries_than_keys_see_every_key() -> None:
    q, k = bf16(1, 1, 10, 8), bf16(1, 1, 4, 8)
    found = cost(aten.scaled_dot_product_attention.default, q, k, k, is_causal=True)
    # 4 x 4 / 2 = 8 pairs, then 6 queries of 4 keys each: 32 of 40
    assert found.causal_flops * 40 == found.flops * 32


def test_grouped_query_attention_reads_few_heads_and_multiplies_for_all() -> None:
    q, k = bf16(2, 8, 6, 16), bf16(2, 2, 10, 16)
    found = cost(aten.scaled_dot_product_attention.default, q, k, k, enable_gqa=True)
    assert found.flops == 2 * 2 * 8 * 6 * 10 * 32
    assert found.read_bytes == q.nbytes + k.nbytes  # k and v are the same tensor here


def test_attention_with_wider_values_and_a_mask() -> None:
    q, k, v, mask = bf16(2, 4, 6, 8), bf16(2, 4, 10, 8), bf16(2, 4, 10, 24), bf16(6, 10)
    found = cost(aten.scaled_dot_product_attention.default, q, k, v, mask)
    assert found.flops == 2 * 2 * 4 * 60 * (8 + 24)
    assert found.read_bytes == q.nbytes + k.nbytes + v.nbytes + mask.nbytes


BTHD_Q, BSHD_K = bf16(2, 6, 4, 8), bf16(2, 10, 4, 8)
BOTTOM_RIGHT = 2 * 4 * (6 * 10 - 6 * 6 // 2) * 16  # rows 5..10 of the 10 x 10 triangle


@pytest.mark.parametrize(
    ("op", "q", "k", "args", "causal"),
    [
        (
            aten._flash_attention_forward, BTHD_Q, BSHD_K,
            (None, None, 6, 10, 0.0, False, False), FULL,
        ),
        (
            aten._flash_attention_forward, BTHD_Q, BSHD_K,
            (None, None, 6, 10, 0.0, True, False), BOTTOM_RIGHT,
        ),
        (
            aten._efficient_attention_forward, BTHD_Q, BSHD_K,
            (None, None, None, None, None, 0.0, 0), FULL,
        ),
        (
            aten._efficient_attention_forward, BTHD_Q, BSHD_K,
            (None, None, None, None, None, 0.0, 1), TOP_LEFT,
        ),
        (
            aten._efficient_attention_forward, BTHD_Q, BSHD_K,
            (None, None, None, None, None, 0.0, 2), BOTTOM_RIGHT,
        ),
        (aten._cudnn_attention_forward, Q, K, (None, None, None, 6, 10, True), FULL),
        (
            aten._cudnn_attention_forward, Q, K,
            (None, None, None, 6, 10, True, 0.0, True), TOP_LEFT,
        ),
    ],
)  # fmt: skip
def test_attention_kernels(op, q: Tensor, k: Tensor, args: tuple[object, ...], causal: int) -> None:
    found = cost(op.default, q, k, k, *args, out=(q, LSE))
    assert found.flops == 2 * FULL
    assert found.causal_flops == 2 * causal


def test_packed_sequences_count_as_the_longest() -> None:
    # three sequences in 20 tokens, the longest 10: 20 * 10 scores a head at most
    q, ends = bf16(20, 4, 8), meta(4, dtype=INT32)
    flash = (ends, ends, 10, 10, 0.0, False, False)
    assert macs(aten._flash_attention_forward.default, q, q, q, *flash, out=(q, LSE)) == (
        20 * 4 * 10 * 16
    )
    row = bf16(1, 20, 4, 8)
    efficient = (None, ends, ends, 10, 10, 0.0, 0)
    assert macs(
        aten._efficient_attention_forward.default, row, row, row, *efficient, out=(row, LSE)
    ) == (20 * 4 * 10 * 16)


def test_attention_backward_multiplies_four_times_usefully_and_five_really() -> None:
    forward = cost(aten._scaled_dot_product_flash_attention.default, Q, K, K, out=FUSED_OUT)
    backward = cost(
        aten._scaled_dot_product_flash_attention_backward.default,
        Q, Q, K, K, Q, LSE, LSE, LSE, 6, 10, 0.0, False, LSE, LSE, out=(Q, K, K),
    )  # fmt: skip
    assert backward.flops == 2 * forward.flops
    assert backward.executed_flops * 2 == 5 * forward.executed_flops


ENDS = meta(4, dtype=INT32)
GROUPED = {
    # 20 rows over 4 experts of (7, 3)
    "rows by experts": ((20, 8), (4, 8, 16), ENDS, (20, 16), 20 * 8 * 16),
    "batch by batch": ((4, 5, 8), (4, 8, 16), None, (4, 5, 16), 4 * 5 * 8 * 16),
    "experts by columns": ((4, 5, 8), (8, 20), ENDS, (5, 20), 5 * 8 * 20),
    "shared dimension in groups": ((5, 20), (20, 16), ENDS, (4, 5, 16), 5 * 20 * 16),
}


@pytest.mark.parametrize("name", GROUPED)
def test_grouped_mm_in_its_four_forms(name: str) -> None:
    left, right, ends, out, expected = GROUPED[name]
    args = (bf16(*left), bf16(*right), ends)
    assert macs(aten._grouped_mm.default, *args, out=bf16(*out)) == expected
    scale = meta(left[-2])
    fp8 = (meta(*left, dtype=FP8), meta(*right, dtype=FP8), scale, scale, ends)
    assert macs(aten._scaled_grouped_mm.default, *fp8, out=bf16(*out)) == expected


def test_few_tokens_touch_few_experts() -> None:
    experts = bf16(8, 64, 32)
    one = cost(
        aten._grouped_mm.default, bf16(2, 64), experts, meta(8, dtype=INT32), out=bf16(2, 32)
    )
    # two rows over eight experts: 8 * (1 - (7/8)^2) = 1.875, so two are read
    assert one.read_bytes == 2 * 64 * 2 + 8 * 4 + 2 * 64 * 32 * 2
    many = cost(
        aten._grouped_mm.default, bf16(512, 64), experts, meta(8, dtype=INT32), out=bf16(512, 32)
    )
    assert many.read_bytes == 512 * 64 * 2 + 8 * 4 + experts.nbytes


QUANTIZED = {
    "_scaled_mm": (
        aten._scaled_mm.default,
        (meta(5, 16, dtype=FP8), meta(16, 32, dtype=FP8), meta(), meta()),
        bf16(5, 32),
        5 * 16 * 32,
    ),
    "_scaled_mm of fp4": (  # two values in each element
        aten._scaled_mm.default,
        (
            meta(5, 16, dtype=torch.float4_e2m1fn_x2), meta(16, 32, dtype=torch.float4_e2m1fn_x2),
            meta(), meta(),
        ),
        bf16(5, 32),
        5 * 32 * 32,
    ),
    "_int_mm": (
        aten._int_mm.default,
        (meta(32, 16, dtype=INT8), meta(16, 8, dtype=INT8)),
        meta(32, 8, dtype=INT32),
        32 * 16 * 8,
    ),
    "_weight_int4pack_mm": (
        aten._weight_int4pack_mm.default,
        (bf16(5, 64), meta(4, 2, 32, 4, dtype=INT32), 32, bf16(2, 32, 2)),
        bf16(5, 32),
        5 * 64 * 32,
    ),
    "_weight_int4pack_mm_for_cpu": (
        aten._weight_int4pack_mm_for_cpu.default,
        (bf16(5, 64), meta(32, 32, dtype=torch.uint8), 32, bf16(2, 32, 2)),
        bf16(5, 32),
        5 * 64 * 32,
    ),
    "_weight_int8pack_mm": (
        aten._weight_int8pack_mm.default,
        (bf16(5, 64), meta(32, 64, dtype=INT8), bf16(32)),
        bf16(5, 32),
        5 * 64 * 32,
    ),
    "_dyn_quant_matmul_4bit": (
        aten._dyn_quant_matmul_4bit.default,
        (meta(5, 64), meta(32 * 64 // 2 + 128, dtype=torch.uint8), 64, 64, 32),
        meta(5, 32),
        5 * 64 * 32,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", QUANTIZED)
def test_quantized_products(name: str) -> None:
    op, args, out, expected = QUANTIZED[name]
    found = cost(op, *args, out=out)
    assert found.flops == found.executed_flops == 2 * expected
    assert found.read_bytes == sum(a.nbytes for a in args if isinstance(a, Tensor))


def test_a_recurrent_layer_of_onednn_and_its_backward() -> None:
    """Seven steps of two sequences, 4 features in, 5 out, four gates."""
    forward = 7 * 2 * (4 + 5) * 4 * 5
    x, state = meta(7, 2, 4), meta(2, 5)
    weights = (meta(20, 4), meta(20, 5), meta(20), meta(20))
    settings = (2, 5, 1, True)  # an LSTM, hidden size, one layer, biases
    out = (meta(7, 2, 5), state, state, meta(64, dtype=torch.uint8))
    found = macs(
        aten.mkldnn_rnn_layer.default,
        x, *weights, state, state, False, [], *settings, False, False, True, out=out,
    )  # fmt: skip
    assert found == forward
    found = macs(
        aten.mkldnn_rnn_layer_backward.default,
        x, *weights, state, state, *out[:3], out[0], state, state, False, *settings, True, False,
        [], False, out[3], out=(x, *weights, state, state),
    )  # fmt: skip
    assert found == 2 * forward


def test_half_sparse_weights_multiply_half_as_often() -> None:
    found = cost(
        aten._sparse_semi_structured_linear.default,
        bf16(5, 64), bf16(32, 32), meta(32, 4, dtype=torch.int16), out=bf16(5, 32),
    )  # fmt: skip
    assert found.flops == 2 * found.executed_flops == 2 * 5 * 64 * 32


@pytest.mark.parametrize("wanted", [[True, True, True], [False, True, False], [True, False, True]])
@pytest.mark.parametrize("is_transposed", [False, True])
def test_convolution_backward(wanted: list[bool], is_transposed: bool) -> None:
    x, grad = meta(2, 4, 8, 8), meta(2, 4, 10, 10) if is_transposed else meta(2, 4, 6, 6)
    weight = meta(4, 4, 3, 3)
    forward = 2 * 4 * (64 if is_transposed else 36) * 36
    found = macs(
        aten.convolution_backward.default,
        grad, x, weight, [4], [1, 1], [0, 0], [1, 1], is_transposed, [0, 0], 1, wanted,
        out=(x, weight, meta(4)),
    )  # fmt: skip
    assert found == forward * sum(wanted[:2])


def weights_of(
    gates: int, inputs: int, hidden: int, layers: int, *, both: bool, projection: int = 0
) -> list[Tensor]:
    """The parameters of a recurrent network in torch's order."""
    found, ways, state = [], 2 if both else 1, projection or hidden
    for layer in range(layers):
        for _ in range(ways):
            size = inputs if layer == 0 else state * ways
            found += [meta(gates * hidden, size), meta(gates * hidden, state)]
            found += [meta(gates * hidden), meta(gates * hidden)]
            found += [meta(projection, hidden)] if projection else []
    return found


@pytest.mark.parametrize(
    ("op", "gates"), [(aten.lstm, 4), (aten.gru, 3), (aten.rnn_tanh, 1), (aten.rnn_relu, 1)]
)
@pytest.mark.parametrize(("layers", "both"), [(1, False), (1, True), (2, False), (2, True)])
@pytest.mark.parametrize("is_packed", [False, True])
def test_recurrence(op, gates: int, layers: int, both: bool, is_packed: bool) -> None:
    steps, batch, inputs, hidden = 5, 3, 7, 4
    ways = 2 if both else 1
    state = meta(layers * ways, batch, hidden)
    states = [state, state] if gates == 4 else state
    params = weights_of(gates, inputs, hidden, layers, both=both)
    out = (meta(steps, batch, hidden * ways), state, state)
    if is_packed:
        sizes = meta(steps, dtype=torch.int64)
        args = (meta(15, inputs), sizes, states, params, True, layers, 0.0, False, both)
        found = cost(op.data, *args, out=out)
    else:
        x = meta(steps, batch, inputs)
        args = (x, states, params, True, layers, 0.0, False, both, False)
        found = cost(op.input, *args, out=out)
    first = gates * hidden * (inputs + hidden)
    deeper = gates * hidden * (hidden * ways + hidden) * (layers - 1)
    assert found.flops == 2 * 15 * ways * (first + deeper)
    assert found.vector_ops == 6 * 15 * gates * hidden * ways * layers


def test_projected_lstm() -> None:
    hidden, projection = 8, 3
    params = weights_of(4, 7, hidden, 1, both=False, projection=projection)
    states = [meta(1, 2, projection), meta(1, 2, hidden)]
    args = (meta(5, 2, 7), states, params, True, 1, 0.0, False, False, False)
    found = cost(aten.lstm.input, *args, out=(meta(5, 2, 3), *states))
    assert found.flops == 2 * 10 * (32 * 7 + 32 * 3 + 3 * 8)
    assert found.vector_ops == 6 * 10 * 32  # the projection has no gates


@pytest.mark.parametrize(
    ("op", "gates"),
    [
        (aten.lstm_cell.default, 4), (aten.gru_cell.default, 3),
        (aten.rnn_tanh_cell.default, 1), (aten.rnn_relu_cell.default, 1),
    ],
)  # fmt: skip
def test_cells(op, gates: int) -> None:
    x, state = meta(3, 7), meta(3, 4)
    hx = [state, state] if gates == 4 else state
    found = cost(op, x, hx, meta(gates * 4, 7), meta(gates * 4, 4), out=(state, state))
    assert found.flops == 2 * 3 * gates * 4 * (7 + 4)


def test_an_operand_used_twice_is_read_once() -> None:
    x = meta(64, 64)
    assert cost(aten.mm.default, x, x).read_bytes == x.nbytes
