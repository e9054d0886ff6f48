"""Folds what never changes: sub-graphs of weights alone."""

import operator
from collections.abc import Iterator
from math import prod

import torch
from torch import Tensor, fx

from ridgeline.graph import Category, Graph, row_of
from ridgeline.graph.edit import Edit
from ridgeline.graph.read import packet_of

# A folded value may be as large as the weights that it alone replaces, or this, whichever is more:
# reading a large table from memory costs more than filling it in cache.
_FREE_BYTES = 2**20
# Intermediate values above this are not computed here, whatever their result's size.
_MAX_INTERMEDIATE_BYTES = 2**28
_IMPURE = (Category.RANDOM, Category.NOISE, Category.UNKNOWN, Category.CONTROL)
UNINITIALISED = "aten.empty", "aten.new_empty", "aten.empty_like", "aten.empty_strided"


def fold_constants(graph: Graph) -> Graph:
    """The graph with every value that depends on weights alone computed once, and kept as a
    weight.

    Views stay views (they cost nothing), and so does what would grow by folding. A graph without
    real weights is returned as it is.
    """
    if not graph.is_runnable:
        return graph
    edit = Edit(graph)
    weights = edit.weights()
    constant = constant_nodes(edit, weights)
    values: dict[fx.Node, Tensor | tuple[Tensor, ...]] = dict(weights)
    for node in _worth_folding(edit, constant, weights):
        tensor = _dense(evaluate(node, values), node.meta["val"])
        edit.replace_uses(node, edit.add_weight(f"folded.{node.name}", tensor))
    return edit.finish()


def constant_nodes(edit: Edit, weights: dict[fx.Node, Tensor]) -> set[fx.Node]:
    """Every call whose value depends on weights alone and may be computed ahead."""
    constant: set[fx.Node] = set()
    for node in edit.nodes:
        inputs = node.all_input_nodes
        if _is_pure(node) and all(i in constant or i in weights for i in inputs):
            constant.add(node)
    return constant


def _is_pure(node: fx.Node) -> bool:
    """Whether a node may be computed here: deterministic, of known and moderate size."""
    if node.op != "call_function":
        return False
    if node.target is not operator.getitem:
        if not isinstance(node.target, torch._ops.OpOverload):
            return False
        packet = packet_of(node.target)
        if row_of(packet).category in _IMPURE or packet in UNINITIALISED:
            return False
        if "dropout" in packet:
            return False
    value = node.meta.get("val")
    parts = value if isinstance(value, tuple | list) else (value,)
    return all(isinstance(p, Tensor) and _is_moderate(p) for p in parts)


def _is_moderate(value: Tensor) -> bool:
    if not all(isinstance(d, int) for d in value.shape):
        return False
    return _nbytes(value) <= _MAX_INTERMEDIATE_BYTES


def _nbytes(value: Tensor) -> int:
    return prod(value.shape) * value.dtype.itemsize


def _worth_folding(
    edit: Edit, constant: set[fx.Node], weights: dict[fx.Node, Tensor]
) -> list[fx.Node]:
    """The constant nodes to replace: the last ones before the graph's inputs come in."""
    needed = {
        i for n in edit.nodes if n not in constant for i in n.all_input_nodes if i in constant
    }
    chosen = []
    for node in reversed(edit.nodes):
        if node not in needed:
            continue
        if _may_be_stored(node) and _is_small_enough(node, weights):
            chosen.append(node)
        else:
            needed |= {i for i in node.all_input_nodes if i in constant}
    return chosen[::-1]


def _may_be_stored(node: fx.Node) -> bool:
    """Whether it is work worth saving: one tensor, neither a view nor a plain fill."""
    if not isinstance(node.meta["val"], Tensor):
        return False
    if node.target is operator.getitem:
        return True
    category = row_of(packet_of(node.target)).category
    return category not in (Category.VIEW, Category.CREATE)


def _is_small_enough(node: fx.Node, weights: dict[fx.Node, Tensor]) -> bool:
    replaced = sum(_nbytes(weights[leaf]) for leaf in _leaves(node) if leaf in weights)
    return _nbytes(node.meta["val"]) <= max(_FREE_BYTES, replaced)


def _leaves(node: fx.Node) -> set[fx.Node]:
    seen, pending = set(), [node]
    while pending:
        current = pending.pop()
        if current not in seen:
            seen.add(current)
            pending.extend(current.all_input_nodes)
    return seen


def evaluate(
    node: fx.Node, values: dict[fx.Node, Tensor | tuple[Tensor, ...]]
) -> Tensor | tuple[Tensor, ...]:
    """The value of a constant node; everything computed on the way is kept in `values`."""
    for step in _schedule(node, values):
        args = fx.map_arg(step.args, lambda n: values[n])
        kwargs = fx.map_arg(step.kwargs, lambda n: values[n])
        with torch.no_grad():
            values[step] = step.target(*args, **kwargs)  # type: ignore[operator]
    return values[node]


def _schedule(
    node: fx.Node, values: dict[fx.Node, Tensor | tuple[Tensor, ...]]
) -> Iterator[fx.Node]:
    wanted = {n for n in _leaves(node) if n not in values}
    return (n for n in node.graph.nodes if n in wanted)


def _dense(value: Tensor | tuple[Tensor, ...], spec: Tensor) -> Tensor:
    """A copy of its own with exactly the strides that the graph's other nodes were traced with."""
    assert isinstance(value, Tensor)
    strides = tuple(int(s) for s in spec.stride())
    if 0 in strides and value.numel() > 1:
        return value.detach().contiguous().clone()
    result = torch.empty_strided(tuple(value.shape), strides, dtype=value.dtype)
    return result.copy_(value.detach())
