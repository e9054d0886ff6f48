"""What training adds to a node: its backward cost and what it keeps until then."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod

from ridgeline.cost.einsum import contraction_of
from ridgeline.cost.op_cost import OpCost
from ridgeline.cost.products import Product, recurrence_of, recurrent_products
from ridgeline.graph import Category, Graph, InputKind, Node, Ref
from ridgeline.graph.node import references

MATRIX = (Category.MATMUL, Category.CONVOLUTION, Category.ATTENTION, Category.RECURRENT)
# Flash attention's backward multiplies five times where the forward does twice: it recomputes the
# scores (Dao et al. 2022, alg. 4). Useful work is four of the five.
_ATTENTION_EXECUTED = (5, 2)
# Per element: the chain rule's product, and the derivative at about the forward's own cost.
_VECTOR_FACTOR = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Saved:
    """What autograd keeps of a node: some of its operands, some outputs, and bytes of its own."""

    operands: tuple[Ref, ...] = ()
    outputs: tuple[int, ...] = ()
    extra_bytes: int = 0


Live = frozenset[Ref]
_SaveRule = Callable[[Node, Live], Saved]


def _nothing(node: Node, live: Live) -> Saved:
    return Saved()


def _operands(node: Node, live: Live) -> Saved:
    return Saved(operands=node.operands)


def _first(node: Node, live: Live) -> Saved:
    return Saved(operands=node.operands[:1])


def _indices(node: Node, live: Live) -> Saved:
    """Gather and scatter: indices and masks."""
    others = node.operands[1:]
    return Saved(operands=tuple(ref for ref in others if not node.specs[ref].is_floating))


def _output(node: Node, live: Live) -> Saved:
    return Saved(outputs=(0,))


def _first_and_output(node: Node, live: Live) -> Saved:
    return Saved(operands=node.operands[:1], outputs=(0,))


def _operands_and_output(node: Node, live: Live) -> Saved:
    return Saved(operands=node.operands, outputs=(0,))


def _second_output(node: Node, live: Live) -> Saved:
    """Sorting: the indices; native_dropout: the mask."""
    return Saved(outputs=(1,)) if len(node.outputs) > 1 else Saved()


def _extremum(node: Node, live: Live) -> Saved:
    """Along a dimension the index of the largest; of everything, the input and the largest."""
    is_along = len(node.outputs) > 1
    return _second_output(node, live) if is_along else _first_and_output(node, live)


def _between_tensors(node: Node, live: Live) -> Saved:
    """Ops whose derivative is a constant when their other side is a number."""
    numbers_only = len(node.operands) < (3 if node.op == "lerp" else 2)
    return Saved() if numbers_only else _operands(node, live)


def _power(node: Node, live: Live) -> Saved:
    is_tensor = len(node.tensors) > 1
    return _operands_and_output(node, live) if is_tensor else _operands(node, live)


def _factors(node: Node, live: Live) -> Saved:
    """A product keeps each factor that another factor's gradient is made of: dx = dy w."""
    factors = _factor_refs(node)
    kept = [
        factor
        for i, factor in enumerate(factors)
        if any(other in live for j, other in enumerate(factors) if j != i)
    ]
    return Saved(operands=tuple(dict.fromkeys(kept)))


def _convolution(node: Node, live: Live) -> Saved:
    """Input and weight both, whichever gradient is wanted."""
    return Saved(operands=_factor_refs(node))


def _quotient(node: Node, live: Live) -> Saved:
    """x / y keeps y, and x if y wants a gradient."""
    refs = _factor_refs(node)
    if len(refs) < 2:  # divided by a number
        return Saved()
    return Saved(operands=tuple(dict.fromkeys(refs if refs[1] in live else refs[1:])))


def _attention(node: Node, live: Live) -> Saved:
    """q, k, v, the mask, the output and one fp32 log-sum-exp per query row."""
    rows = node.out.numel // max(1, node.out.shape[-1])
    return Saved(operands=node.operands, outputs=(0,), extra_bytes=4 * rows)


def _mask(node: Node, live: Live) -> Saved:
    return Saved(extra_bytes=node.out.numel)


def _norm(node: Node, live: Live) -> Saved:
    """The input, and in fp32 (mean, 1 / deviation) of every group it normalises over."""
    return Saved(operands=node.operands[:1], extra_bytes=8 * _statistics(node))


def _root_mean_square(node: Node, live: Live) -> Saved:
    return Saved(operands=node.operands[:1], extra_bytes=4 * _statistics(node))


def _statistics(node: Node) -> int:
    """How many groups of elements a norm has."""
    shape = node.tensors[0].shape
    if node.op in ("layer_norm", "rms_norm"):
        axes = node.arg("normalized_shape")
        return prod(shape[: len(shape) - len(axes)]) if isinstance(axes, tuple) else 0
    if node.op == "group_norm":
        groups = node.arg("num_groups" if node.has("num_groups") else "group")
        return shape[0] * groups if isinstance(groups, int) else 0
    return shape[1] if len(shape) > 1 else 0


def _max_pool(node: Node, live: Live) -> Saved:
    """The input and one int64 index per output."""
    return Saved(operands=node.operands[:1], extra_bytes=8 * node.out.numel)


def _average_pool(node: Node, live: Live) -> Saved:
    """The input; a pool down to one pixel is a mean, which keeps nothing."""
    size = node.args.get("output_size")
    is_mean = isinstance(size, tuple) and all(side == 1 for side in size)
    return _nothing(node, live) if is_mean else _first(node, live)


def _probabilities(node: Node, live: Live) -> Saved:
    """Cross entropy: the log-probabilities, as large as the logits, and the targets."""
    return Saved(operands=node.operands[1:], extra_bytes=node.tensors[0].nbytes)


def _gates(node: Node, live: Live) -> Saved:
    """Recurrence: the input, the output and the gate activations of every step."""
    of = recurrence_of(node)
    activations = of.rows * sum(node.specs[ref].shape[0] for ref in of.hidden)
    extra_bytes = activations * node.specs[of.data].itemsize
    return Saved(operands=(of.data,), outputs=(0,), extra_bytes=extra_bytes)


_LINEAR = "add sub rsub neg fill floor ceil round trunc sign sum mean cumsum triu tril trace diff"
_BY_KIND: dict[str, _SaveRule] = {
    **dict.fromkeys(_LINEAR.split(), _nothing),
    **dict.fromkeys(("relu", "sqrt", "rsqrt", "reciprocal", "exp", "sigmoid", "tanh"), _output),
    **dict.fromkeys(
        ("logsumexp", "vector_norm", "amax", "amin", "prod", "cumprod"), _first_and_output
    ),
    **dict.fromkeys(("max", "min", "median", "cummax"), _extremum),
    **dict.fromkeys(("lerp", "fmod", "remainder"), _between_tensors),
    **dict.fromkeys(("mul", "outer", "addcmul"), _factors),
    **dict.fromkeys(("div", "addcdiv"), _quotient),
    "pow": _power,
    "cdist": _operands_and_output,
    "grid_sample": _operands,
    "dropout": _mask,
    "native_dropout": _second_output,
    "max_pool": _max_pool,
    "adaptive_max_pool": _max_pool,
    "adaptive_avg_pool": _average_pool,
    "cross_entropy_loss": _probabilities,
    "where": _first,
    "masked_fill": _indices,
    "gather": _operands,
    "rms_norm": _root_mean_square,
}
_BY_CATEGORY: dict[Category, _SaveRule] = {
    Category.MATMUL: _factors,
    Category.CONVOLUTION: _convolution,
    Category.ATTENTION: _attention,
    Category.RECURRENT: _gates,
    Category.NORM: _norm,
    Category.SOFTMAX: _output,
    Category.ELEMENTWISE: _operands,
    Category.TRANSCENDENTAL: _operands,
    Category.REDUCTION: _operands,
    Category.POOL: _first,
    Category.RESAMPLE: _nothing,
    Category.GATHER: _indices,
    Category.SCATTER: _indices,
    Category.SORT: _second_output,
    Category.COPY: _nothing,
}


def saved_by(node: Node, live: Live) -> Saved:
    """What autograd keeps of `node` when gradients flow through the values in `live`.

    Source: torch's derivatives.yaml, per op; tests compare it with what autograd really keeps.
    """
    rule = _BY_KIND.get(node.op) or _BY_CATEGORY.get(node.row.category, _nothing)
    return rule(node, live)


def differentiable(graph: Graph) -> Live:
    """Every value that a gradient flows through: it depends on a parameter, and a result on it."""
    depends = _depending_on_parameters(graph)
    results = graph.outputs[sum(i.is_mutated for i in graph.inputs) :]
    reached = {ref for ref in results if ref in depends}
    for node in reversed(graph.nodes):
        if not _stops(node) and any(Ref(node.name, k) in reached for k in range(len(node.outputs))):
            reached |= {ref for ref in node.operands if ref in depends}
    return frozenset(reached)


def _depending_on_parameters(graph: Graph) -> set[Ref]:
    depends = {
        Ref(i.name) for i in graph.inputs if i.kind is InputKind.PARAMETER and i.spec.is_floating
    }
    for node in graph.nodes:
        if not _stops(node) and any(ref in depends for ref in node.operands):
            depends |= {Ref(node.name, k) for k, s in enumerate(node.outputs) if s.is_floating}
    return depends


def _stops(node: Node) -> bool:
    """Whether the user stops gradients here."""
    return node.target == "aten.detach.default"


def backward_of(node: Node, cost: OpCost, live: Live) -> OpCost | None:
    """The cost of the node's backward; None when no gradient flows through it."""
    wanted = [ref for ref in node.operands if ref in live]
    if not wanted or Ref(node.name) not in live:
        return None
    return _bytes(node, wanted, live) + _arithmetic(node, cost, wanted)


def _bytes(node: Node, wanted: list[Ref], live: Live) -> OpCost:
    """Reads the output's gradient once and what was saved; writes each operand's gradient."""
    if node.row.is_free:
        return OpCost()
    saved = saved_by(node, live)
    kept = sum(node.specs[r].nbytes for r in saved.operands) + saved.extra_bytes
    own = sum(node.outputs[k].nbytes for k in saved.outputs)
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
    flops = 2 * sum(product.backward_macs(set(wanted)) for product in _products(node, cost))
    return OpCost(
        flops=flops,
        causal_flops=flops,
        executed_flops=flops * cost.executed_flops // max(1, cost.flops),
        vector_ops=_VECTOR_FACTOR * cost.vector_ops,
        special_ops=cost.special_ops,
    )


def _products(node: Node, cost: OpCost) -> tuple[Product, ...]:
    if node.row.category is Category.RECURRENT:
        return recurrent_products(node)
    if node.op == "einsum":
        return contraction_of(node).products
    factors = tuple(frozenset({ref}) for ref in _factor_refs(node))
    return (Product(macs=cost.flops // 2, factors=factors),)


# The operands that a product multiplies, which a bias is not; every other product multiplies its
# first two tensors.
_FACTOR_NAMES: Mapping[str, tuple[str, ...]] = {
    "linear": ("input", "weight"),
    "convolution": ("input", "weight"),
    "bilinear": ("input1", "input2", "weight"),
    "einsum": ("tensors",),
}
# Their first tensor is what the product is added to.
_ADDED_TO = ("addmm", "addcmul", "addcdiv")


def _factor_refs(node: Node) -> tuple[Ref, ...]:
    """The multiplied operands; one that is multiplied with itself stands there twice."""
    if names := _FACTOR_NAMES.get(node.op):
        return tuple(ref for name in names for ref in references(node.arg(name)))
    refs = [ref for argument in node.args.values() for ref in references(argument)]
    return tuple(refs[1:3] if node.op in _ADDED_TO else refs[:2])
