"""What training adds to a node: its backward cost and what it keeps until then."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from ridgeline.cost.op_cost import OpCost
from ridgeline.graph import Category, Graph, InputKind, Node, Ref

MATRIX = (Category.MATMUL, Category.CONVOLUTION, Category.ATTENTION, Category.RECURRENT)
# Flash attention's backward multiplies five times where the forward does twice: it recomputes the
# scores (Dao et al. 2022, alg. 4). Useful work is four of the five.
_ATTENTION_EXECUTED = (5, 2)
# Per element: the chain rule's product, and the derivative at about the forward's own cost.
_VECTOR_FACTOR = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Saved:
    """What autograd keeps of a node: some of its operands, its outputs, and bytes of its own."""

    operands: tuple[Ref, ...] = ()
    outputs: bool = False
    extra_bytes: int = 0


def _nothing(node: Node) -> Saved:
    return Saved()


def _operands(node: Node) -> Saved:
    return Saved(operands=node.operands)


def _first(node: Node) -> Saved:
    return Saved(operands=node.operands[:1])


def _indices(node: Node) -> Saved:
    return Saved(operands=node.operands[1:])


def _output(node: Node) -> Saved:
    return Saved(outputs=True)


def _operands_and_output(node: Node) -> Saved:
    """Attention: q, k, v, the output and one fp32 log-sum-exp per query row."""
    rows = node.out.numel // max(1, node.out.shape[-1])
    return Saved(operands=node.operands, outputs=True, extra_bytes=4 * rows)


def _mask(node: Node) -> Saved:
    return Saved(extra_bytes=node.out.numel)


def _first_and_indices(node: Node) -> Saved:
    """Max pooling: the input and one int64 index per output."""
    return Saved(operands=node.operands[:1], extra_bytes=8 * node.out.numel)


def _probabilities(node: Node) -> Saved:
    """Cross entropy: the log-probabilities, as large as the logits."""
    return Saved(operands=node.operands[1:], extra_bytes=node.tensors[0].nbytes)


def _gates(node: Node) -> Saved:
    """Recurrence: the input, the output and the gate activations of every step."""
    x = node.tensors[0]
    gates = sum(w.shape[0] for w in node.spec_list("params") if len(w.shape) == 2) // 2
    steps = x.numel // x.shape[-1]
    return Saved(operands=node.operands[:1], outputs=True, extra_bytes=steps * gates * x.itemsize)


_BY_KIND: dict[str, Callable[[Node], Saved]] = {
    **dict.fromkeys(("add", "sub", "rsub", "neg", "fill", "floor", "ceil", "round"), _nothing),
    **dict.fromkeys(("relu", "sqrt", "rsqrt", "reciprocal", "exp", "sigmoid", "tanh"), _output),
    **dict.fromkeys(("sum", "mean", "avg_pool", "adaptive_avg_pool"), _nothing),
    **dict.fromkeys(("dropout", "native_dropout"), _mask),
    "max_pool": _first_and_indices,
    "adaptive_max_pool": _first_and_indices,
    "cross_entropy_loss": _probabilities,
    "where": _first,
}
_BY_CATEGORY: dict[Category, Callable[[Node], Saved]] = {
    Category.MATMUL: _operands,
    Category.CONVOLUTION: _operands,
    Category.ATTENTION: _operands_and_output,
    Category.RECURRENT: _gates,
    Category.NORM: _first,
    Category.SOFTMAX: _output,
    Category.ELEMENTWISE: _operands,
    Category.TRANSCENDENTAL: _operands,
    Category.REDUCTION: _operands,
    Category.POOL: _operands,
    Category.RESAMPLE: _nothing,
    Category.GATHER: _indices,
    Category.SCATTER: _indices,
    Category.SORT: _nothing,
    Category.COPY: _nothing,
}


def saved_by(node: Node) -> Saved:
    """What autograd keeps of `node`. Source: torch's derivatives.yaml, per op."""
    rule = _BY_KIND.get(node.op) or _BY_CATEGORY.get(node.row.category, _nothing)
    return rule(node)


def differentiable(graph: Graph) -> frozenset[Ref]:
    """Every value that a gradient flows through: what depends on a parameter, in floating point."""
    live = {
        Ref(i.name) for i in graph.inputs if i.kind is InputKind.PARAMETER and i.spec.is_floating
    }
    for node in graph.nodes:
        if any(ref in live for ref in node.operands):
            live |= {Ref(node.name, k) for k, s in enumerate(node.outputs) if s.is_floating}
    return frozenset(live)


def backward_of(node: Node, cost: OpCost, live: frozenset[Ref]) -> OpCost | None:
    """The cost of the node's backward; None when no gradient flows through it."""
    wanted = [ref for ref in node.operands if ref in live]
    if not wanted or Ref(node.name) not in live:
        return None
    return _bytes(node, wanted) + _arithmetic(node, cost, wanted)


def _bytes(node: Node, wanted: list[Ref]) -> OpCost:
    """Reads the output's gradient once and what was saved; writes each operand's gradient."""
    if node.row.is_free:
        return OpCost()
    saved = saved_by(node)
    kept = sum(node.specs[r].nbytes for r in saved.operands) + saved.extra_bytes
    own = sum(s.nbytes for s in node.outputs) if saved.outputs else 0
    return OpCost(
        read_bytes=node.out.nbytes + kept + own,
        write_bytes=sum(node.specs[r].nbytes for r in wanted),
    )


def _arithmetic(node: Node, cost: OpCost, wanted: list[Ref]) -> OpCost:
    if node.row.category not in MATRIX:
        factor = 0 if node.row.is_free else _VECTOR_FACTOR
        return OpCost(vector_ops=factor * cost.vector_ops, special_ops=cost.special_ops)
    if node.row.category is Category.ATTENTION:
        more, base = _ATTENTION_EXECUTED
        return OpCost(
            flops=2 * cost.flops,
            causal_flops=2 * cost.causal_flops,
            executed_flops=cost.executed_flops * more // base,
            vector_ops=_VECTOR_FACTOR * cost.vector_ops,
            special_ops=cost.special_ops,
        )
    # One product of the forward's size per factor that wants a gradient: dX = dY W', dW = X' dY.
    factors = _factors_wanting(node, wanted)
    return OpCost(
        flops=factors * cost.flops,
        causal_flops=factors * cost.causal_flops,
        executed_flops=factors * cost.executed_flops,
        vector_ops=_VECTOR_FACTOR * cost.vector_ops,
        special_ops=cost.special_ops,
    )


def _factors_wanting(node: Node, wanted: list[Ref]) -> int:
    """How many of the two multiplied operands want a gradient; a bias is no factor."""
    if node.row.category is Category.RECURRENT:
        return 2
    roles = _factor_refs(node)
    return sum(ref in wanted for ref in roles)


_FACTOR_NAMES: Mapping[str, tuple[str, str]] = {
    "linear": ("input", "weight"),
    "convolution": ("input", "weight"),
}


def _factor_refs(node: Node) -> tuple[Ref, ...]:
    names = _FACTOR_NAMES.get(node.op)
    if names:
        return tuple(ref for n in names if isinstance(ref := node.arg(n), Ref))
    refs = [r for a in node.args.values() if isinstance(a, Ref) for r in (a,)]
    if node.op == "einsum":
        return node.operands
    return tuple(refs[1:3] if node.op == "addmm" else refs[:2])
