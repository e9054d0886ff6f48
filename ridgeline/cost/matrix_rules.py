"""Cost rules of matrix work: matmul in every spelling, convolution, attention, recurrence."""

from dataclasses import replace
from math import ceil, prod

from ridgeline.cost.einsum import contraction_of
from ridgeline.cost.op_cost import OpCost, matrix_cost, total
from ridgeline.cost.products import recurrence_of, recurrent_products
from ridgeline.cost.rules import cost_of, read_bytes, rule, write_bytes
from ridgeline.graph import Node, TensorSpec


def _macs(node: Node, macs: int) -> OpCost:
    return matrix_cost(macs, read_bytes(node), write_bytes(node))


def _inner(left: TensorSpec) -> int:
    """The contracted size of a (..., M, K) operand; two fp4 values share one element."""
    size = left.shape[-1] if left.shape else 1
    return 2 * size if left.dtype.endswith("_x2") else size


@rule("linear")
def _linear(node: Node) -> OpCost:
    return _macs(node, node.out.numel * node.spec("weight").shape[-1])


@rule("matmul", "int_mm", "scaled_mm", "int4_mm", "int8_mm")
def _matmul(node: Node) -> OpCost:
    # The first operand is dense and (..., M, K) in all of these, however the second is packed.
    left, right = node.tensors[:2]
    return _macs(node, node.out.numel * (_inner(left) if right.shape else 1))


@rule("sparse_mm")
def _sparse_mm(node: Node) -> OpCost:
    """FLOPs as if dense; 2:4 sparsity multiplies half of them."""
    macs = node.out.numel * node.spec("input").shape[-1]
    return replace(_macs(node, macs), executed_flops=macs)


@rule("addmm")
def _addmm(node: Node) -> OpCost:
    left = node.tensors[1]
    # addbmm sums over the batch as well: (b, n, k) x (b, k, m) -> (n, m)
    batch = left.shape[0] if node.target.startswith("aten.addbmm") else 1
    return _macs(node, batch * node.out.numel * left.shape[-1])


@rule("tensordot")
def _tensordot(node: Node) -> OpCost:
    left, dims = node.spec("self"), node.arg("dims_self")
    contracted = dims if isinstance(dims, tuple) else ()
    return _macs(node, node.out.numel * prod(left.shape[d] for d in contracted if type(d) is int))


@rule("vecdot")
def _vecdot(node: Node) -> OpCost:
    return _macs(node, node.out.numel * node.spec("x").shape[node.int_arg("dim")])


@rule("dyn_quant_mm")
def _dyn_quant_mm(node: Node) -> OpCost:
    return _macs(node, node.out.numel * node.int_arg("in_features"))


@rule("bilinear")
def _bilinear(node: Node) -> OpCost:
    # out[n, o] = x1[n, :] W[o] x2[n, :]: first x1 W for each o, then a dot with x2
    weight = node.spec("weight")
    _, in1, in2 = weight.shape
    return _macs(node, node.out.numel * (in1 * in2 + in2))


@rule("grouped_mm", "scaled_grouped_mm")
def _grouped_mm(node: Node) -> OpCost:
    """Routed tokens only: rows are sorted by group, so each meets one group's matrix.

    Operands (M, K) x (G, K, N) as in MoE, (G, M, K) x (G, K, N), (G, M, K) x (K, N), and
    (M, K) x (K, N) with groups along K, which makes (G, M, N).
    """
    left, right = node.tensors[0], node.tensors[1]
    macs = node.out.numel * _inner(left)
    if len(left.shape) == len(right.shape) == 2:
        macs //= node.out.shape[0]
    unused = _untouched_bytes(left, right) if len(left.shape) == 2 else 0
    return matrix_cost(macs, read_bytes(node) - unused, write_bytes(node))


def _untouched_bytes(rows: TensorSpec, experts: TensorSpec) -> int:
    """Bytes of experts that no row is routed to, expected under uniform routing."""
    if len(experts.shape) != 3:
        return 0
    count = experts.shape[0]
    touched = ceil(count * (1 - (1 - 1 / count) ** rows.shape[0]))
    return (count - touched) * (experts.nbytes // count)


@rule("einsum")
def _einsum(node: Node) -> OpCost:
    found = contraction_of(node)
    macs = sum(product.macs for product in found.products)
    return _macs(node, macs) + OpCost(vector_ops=found.vector_ops)


@rule("convolution")
def _convolution(node: Node) -> OpCost:
    # x: (N, C, *S); w: (K, C/groups, *R), transposed: (C, K/groups, *R)
    x, w = node.spec("input"), node.spec("weight")
    # a transposed convolution scatters every input, a plain one gathers for every output
    pivot = x if node.has("transposed") and node.arg("transposed") else node.out
    return _macs(node, pivot.numel * prod(w.shape[1:]))


@rule("convolution_backward")
def _convolution_backward(node: Node) -> OpCost:
    """One product of the forward's size for each of the input's and the weight's gradients."""
    grad, x, w = (node.spec(name) for name in ("grad_output", "input", "weight"))
    wanted = node.arg("output_mask")
    products = sum(map(bool, wanted[:2])) if isinstance(wanted, tuple) else 2
    pivot = x if node.arg("transposed") else grad
    return _macs(node, products * pivot.numel * prod(w.shape[1:]))


@rule("sdpa")
def _sdpa(node: Node) -> OpCost:
    q_BHTD, k_BHSD, v_BHSE = (node.spec(name) for name in ("query", "key", "value"))
    *_, length, width = q_BHTD.shape
    keys, depth = k_BHSD.shape[-2], v_BHSE.shape[-1]
    scores = q_BHTD.numel // width * keys
    is_causal = node.has("is_causal") and bool(node.arg("is_causal"))
    return _attention(node, scores, width + depth, length, keys, is_causal=is_causal)


@rule("sdpa_backward")
def _sdpa_backward(node: Node) -> OpCost:
    """Two products for each of the forward's two, and the scores once more (5 in place of 2)."""
    forward = _sdpa(node)
    return replace(
        forward,
        flops=2 * forward.flops,
        causal_flops=2 * forward.causal_flops,
        executed_flops=forward.executed_flops * 5 // 2,
        vector_ops=2 * forward.vector_ops,
    )


@rule("flash_attention")
def _flash_attention(node: Node) -> OpCost:
    """Kernels called directly: (B, T, H, D), cuDNN's (B, H, T, D), or packed (total, H, D).

    Packed sequences count as if each were as long as the longest, which the graph knows.
    """
    q, k, v = (node.spec(name) for name in ("query", "key", "value"))
    is_packed = node.has("cum_seq_k") or node.has("cu_seqlens_k")
    axis = -2 if node.target.startswith("aten._cudnn") and not is_packed else -3
    length, keys = q.shape[axis], k.shape[axis]
    if is_packed:
        length, keys = (_longest(node, *names) for names in _LONGEST)
    *_, width = q.shape
    mask = _kernel_mask(node)
    # aligned to the bottom right, the last `length` rows of a keys x keys triangle
    above = length * (2 * keys - length) if mask == "bottom" and length <= keys else None
    return _attention(
        node,
        q.numel // width * keys,
        width + v.shape[-1],
        length,
        keys,
        is_causal=mask != "",
        pairs=above,
    )


_LONGEST = (("max_q", "max_seqlen_q"), ("max_k", "max_seqlen_k"))
_EFFICIENT_MASKS = {0: "", 1: "top", 2: "bottom"}  # torch's CustomMaskType


def _longest(node: Node, *names: str) -> int:
    return next(node.int_arg(name) for name in names if node.has(name))


def _kernel_mask(node: Node) -> str:
    """Where a kernel aligns its causal mask: FlashAttention 2 bottom right, cuDNN top left."""
    if node.has("custom_mask_type"):
        return _EFFICIENT_MASKS[node.int_arg("custom_mask_type")]
    if not (node.has("is_causal") and node.arg("is_causal")):
        return ""
    return "top" if node.target.startswith("aten._cudnn") else "bottom"


@rule("flex_attention")
def _flex_attention(node: Node) -> OpCost:
    """Counted full: which blocks a mask leaves is data. The score and mask functions run on every
    score.
    """
    q_BHTD, k_BHSD, v_BHSE = node.tensors[:3]
    *_, length, width = q_BHTD.shape
    keys = k_BHSD.shape[-2]
    scores = q_BHTD.numel // width * keys
    modified = total(cost_of(child) for branch in node.branches for child in branch)
    function = OpCost(
        vector_ops=scores * modified.vector_ops, special_ops=scores * modified.special_ops
    )
    attention = _attention(node, scores, width + v_BHSE.shape[-1], length, keys, is_causal=False)
    return attention + function


def _attention(
    node: Node,
    scores: int,
    width: int,
    length: int,
    keys: int,
    *,
    is_causal: bool,
    pairs: int | None = None,
) -> OpCost:
    """Scores and their weighted sum; the scores themselves stay on chip (FlashAttention, 2022).

    pairs: twice the (query, key) pairs of a causal mask that is not aligned to the top left.
    """
    macs = scores * width
    kept = causal_pairs(length, keys) if pairs is None else pairs
    causal_macs = macs * kept // (2 * length * keys) if is_causal and macs else macs
    matrix = matrix_cost(macs, read_bytes(node), write_bytes(node), causal_macs=causal_macs)
    evaluated = scores * causal_macs // macs if macs else 0
    return matrix + OpCost(vector_ops=4 * evaluated, special_ops=evaluated)


def causal_pairs(length: int, keys: int) -> int:
    """Twice the (query, key) pairs a causal mask keeps, S^2/2 for S x S by convention.

    torch aligns the mask to the top left: query i sees keys 0..i.
    """
    if length <= keys:
        return length * length
    return keys * keys + 2 * (length - keys) * keys


@rule("lstm", "gru", "rnn", "lstm_cell", "gru_cell", "rnn_cell")
def _recurrent(node: Node) -> OpCost:
    of = recurrence_of(node)
    activations = of.rows * sum(node.specs[ref].shape[0] for ref in of.hidden)
    cell = OpCost(vector_ops=6 * activations, special_ops=2 * activations)
    return _macs(node, sum(product.macs for product in recurrent_products(node))) + cell


@rule("rnn_layer")
def _rnn_layer(node: Node) -> OpCost:
    """oneDNN's: one direction of one layer, as torch runs recurrence on a CPU."""
    return _one_layer(node, node.spec("weight0"), node.spec("weight1"))


@rule("rnn_layer_backward")
def _rnn_layer_backward(node: Node) -> OpCost:
    """Two products for each of the forward's; this schema counts the weights from one."""
    forward = _one_layer(node, node.spec("weight1"), node.spec("weight2"))
    arithmetic = ("flops", "causal_flops", "executed_flops", "vector_ops")
    return replace(forward, **{name: 2 * getattr(forward, name) for name in arithmetic})


def _one_layer(node: Node, w_ih: TensorSpec, w_hh: TensorSpec) -> OpCost:
    x = node.spec("input")
    steps = x.numel // x.shape[-1]
    gates = steps * w_hh.shape[0]
    cell = OpCost(vector_ops=6 * gates, special_ops=2 * gates)
    return _macs(node, steps * (w_ih.numel + w_hh.numel)) + cell
