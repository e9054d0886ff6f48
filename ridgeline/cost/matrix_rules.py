"""Cost rules of matrix work: matmul in every spelling, convolution, attention, recurrence."""

from math import ceil, prod

from ridgeline.cost.op_cost import OpCost, matrix_cost
from ridgeline.cost.rules import read_bytes, rule, write_bytes
from ridgeline.errors import GraphError
from ridgeline.graph import Node, TensorSpec


def _macs(node: Node, macs: int) -> OpCost:
    return matrix_cost(macs, read_bytes(node), write_bytes(node))


@rule("linear")
def _linear(node: Node) -> OpCost:
    return _macs(node, node.out.numel * node.spec("weight").shape[-1])


@rule("matmul", "int_mm", "scaled_mm", "int4_mm", "int8_mm", "sparse_mm")
def _matmul(node: Node) -> OpCost:
    # The first operand is dense and (..., M, K) in all of these, however the second is packed.
    return _macs(node, node.out.numel * node.tensors[0].shape[-1])


@rule("addmm")
def _addmm(node: Node) -> OpCost:
    if node.target.startswith("aten.addbmm"):  # sums over the batch: (b, n, k) x (b, k, m)
        left = node.tensors[1]
        return _macs(node, left.shape[0] * node.out.numel * left.shape[-1])
    return _macs(node, node.out.numel * node.tensors[1].shape[-1])


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
    macs = node.out.numel * left.shape[-1]
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
    """Contracted pairwise from the left, as torch does without an optimised path."""
    equation = node.arg("equation")
    if not isinstance(equation, str):
        raise GraphError(f"einsum node {node.name} has no equation.")
    return _macs(node, einsum_macs(equation, [s.shape for s in node.spec_list("tensors")]))


def einsum_macs(equation: str, shapes: list[tuple[int, ...]]) -> int:
    """Multiply-accumulates of an einsum; 0 with one operand, which only sums or permutes."""
    terms = equation.replace(" ", "").split("->")[0].split(",")
    output = equation.replace(" ", "").partition("->")[2]
    sizes: dict[str, int] = {}
    named = [_labels(t, shape, sizes) for t, shape in zip(terms, shapes, strict=True)]
    if "->" not in equation:
        every = [label for labels in named for label in labels]
        output = "".join(sorted({x for x in every if every.count(x) == 1 or x.isdigit()}))
    kept_at_end = set(output.replace("...", "")) | {x for x in sizes if x.isdigit()}
    macs, left = 0, named[0]
    for index, right in enumerate(named[1:], start=1):
        joint = left | right
        macs += prod(sizes[x] for x in joint)
        later: set[str] = set().union(kept_at_end, *named[index + 1 :])
        left = joint & later
    return macs


def _labels(term: str, shape: tuple[int, ...], sizes: dict[str, int]) -> set[str]:
    """The labels of one operand; dimensions under the ellipsis are named by digits."""
    before, dots, after = term.partition("...")
    hidden = len(shape) - len(before) - len(after) if dots else 0
    labels = [*before, *(str(i) for i in reversed(range(hidden))), *after]
    for label, size in zip(labels, shape, strict=True):
        sizes[label] = max(size, sizes.get(label, 1))
    return set(labels)


@rule("convolution")
def _convolution(node: Node) -> OpCost:
    # x: (N, C, *S); w: (K, C/groups, *R), transposed: (C, K/groups, *R)
    x, w = node.spec("input"), node.spec("weight")
    # a transposed convolution scatters every input, a plain one gathers for every output
    pivot = x if node.has("transposed") and node.arg("transposed") else node.out
    return _macs(node, pivot.numel * prod(w.shape[1:]))


@rule("sdpa")
def _sdpa(node: Node) -> OpCost:
    q_BHTD, k_BHSD, v_BHSE = (node.spec(name) for name in ("query", "key", "value"))
    *_, length, width = q_BHTD.shape
    keys, depth = k_BHSD.shape[-2], v_BHSE.shape[-1]
    scores = q_BHTD.numel // width * keys
    is_causal = node.has("is_causal") and bool(node.arg("is_causal"))
    return _attention(node, scores, width + depth, length, keys, is_causal=is_causal)


@rule("flash_attention")
def _flash_attention(node: Node) -> OpCost:
    q_BTHD, k_BSHD, v_BSHE = (node.spec(name) for name in ("query", "key", "value"))
    length, _, width = q_BTHD.shape[-3:]
    keys, depth = k_BSHD.shape[-3], v_BSHE.shape[-1]
    if len(q_BTHD.shape) == 3:  # packed (T, H, D): the longest sequence stands for all
        keys = node.int_arg("max_k") if node.has("max_k") else keys
    scores = q_BTHD.numel // width * keys
    causal = node.has("is_causal") and bool(node.arg("is_causal"))
    return _attention(node, scores, width + depth, length, keys, is_causal=causal)


@rule("flex_attention")
def _flex_attention(node: Node) -> OpCost:
    q_BHTD, k_BHSD, v_BHSE = node.tensors[:3]
    *_, length, width = q_BHTD.shape
    keys = k_BHSD.shape[-2]
    scores = q_BHTD.numel // width * keys
    return _attention(node, scores, width + v_BHSE.shape[-1], length, keys, is_causal=False)


def _attention(
    node: Node, scores: int, width: int, length: int, keys: int, *, is_causal: bool
) -> OpCost:
    """Scores and their weighted sum; the scores themselves stay on chip (FlashAttention, 2022)."""
    macs = scores * width
    causal_macs = macs * causal_pairs(length, keys) // (2 * length * keys) if is_causal else macs
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


@rule("lstm", "gru", "rnn")
def _recurrent(node: Node) -> OpCost:
    """Each weight matrix multiplies every time step of every sequence once."""
    x = node.spec("input") if node.has("input") else node.spec("data")
    steps = x.numel // x.shape[-1]
    weights = [w for w in node.spec_list("params") if len(w.shape) == 2]
    gates = sum(w.shape[0] for w in weights) // 2  # input and hidden matrices share the gates
    cell = OpCost(vector_ops=6 * steps * gates, special_ops=2 * steps * gates)
    return _macs(node, steps * sum(w.numel for w in weights)) + cell


@rule("lstm_cell", "gru_cell")
def _cell(node: Node) -> OpCost:
    rows = node.spec("input").shape[0]
    return _macs(node, rows * (node.spec("w_ih").numel + node.spec("w_hh").numel))
