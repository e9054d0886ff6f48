"""Folds what never changes: sub-graphs of weights alone, and batch norm into what stands before
it.
"""

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
_UNINITIALISED = "aten.empty", "aten.new_empty", "aten.empty_like", "aten.empty_strided"


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
    constant = _constant_nodes(edit, weights)
    values: dict[fx.Node, Tensor | tuple[Tensor, ...]] = dict(weights)
    for node in _worth_folding(edit, constant, weights):
        tensor = _dense(_evaluate(node, values), node.meta["val"])
        edit.replace_uses(node, edit.add_weight(f"folded.{node.name}", tensor))
    return edit.finish()


def _constant_nodes(edit: Edit, weights: dict[fx.Node, Tensor]) -> set[fx.Node]:
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
        if row_of(packet).category in _IMPURE or packet in _UNINITIALISED:
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


def _evaluate(
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


def fold_batch_norm(graph: Graph) -> Graph:
    """The graph with inference-time batch norms merged into the convolution or linear before them.

    With s = gamma / sqrt(var + eps), W' = s W and b' = s (b - mean) + beta, computed in fp64 and
    rounded once. Valid where nothing else reads the convolution's result. Source: Jacob et al.,
    2018, section 3.2.
    """
    if not graph.is_runnable:
        return graph
    edit = Edit(graph)
    for node in edit.nodes:
        if node.op == "call_function" and _is_inference_norm(node):
            _fold_one(edit, node)
    return edit.finish()


_NO_TRAINING = "aten._native_batch_norm_legit_no_training"
_NORMS = (_NO_TRAINING, "aten.batch_norm", "aten.native_batch_norm")
_CONVOLUTIONS = ("aten.conv1d", "aten.conv2d", "aten.conv3d", "aten.convolution")
_TRANSPOSED = ("aten.conv_transpose1d", "aten.conv_transpose2d", "aten.conv_transpose3d")


def _is_inference_norm(node: fx.Node) -> bool:
    packet = packet_of(node.target)
    if packet not in _NORMS:
        return False
    return packet == _NO_TRAINING or not _argument(node, "training")


def _argument(node: fx.Node, name: str) -> object:
    """Argument `name` of a call, default included."""
    target = node.target
    assert isinstance(target, torch._ops.OpOverload)
    for index, argument in enumerate(target._schema.arguments):
        if argument.name == name:
            default = argument.default_value if argument.has_default_value() else None
            given = node.args[index] if index < len(node.args) else default
            return node.kwargs.get(name, given)
    raise KeyError(name)


def _fold_one(edit: Edit, norm: fx.Node) -> None:
    result = _normalised(norm)
    source = _argument(norm, "input")
    weights = edit.weights()
    if result is None or not isinstance(source, fx.Node) or not _takes_norm(source):
        return
    scale_shift = _scale_and_shift(norm, weights)
    weight, bias = _argument(source, "weight"), _argument(source, "bias")
    if scale_shift is None or weight not in weights or (bias is not None and bias not in weights):
        return
    assert isinstance(weight, fx.Node)
    scale, shift = scale_shift
    old_weight = weights[weight]
    old_bias = weights[bias].double() if isinstance(bias, fx.Node) else torch.zeros_like(scale)
    new_weight = _scaled(source, old_weight.detach().double(), scale).to(old_weight.dtype)
    new_bias = (old_bias.detach() * scale + shift).to(old_weight.dtype)
    stem = edit.path_of(weight).removesuffix("weight")
    new_nodes = (
        _store(edit, weight, new_weight, edit.path_of(weight)),
        _store(edit, bias if isinstance(bias, fx.Node) else None, new_bias, f"{stem}bias"),
    )
    arguments = list(source.args)
    arguments[1:3] = new_nodes
    source.args = tuple(arguments)
    source.kwargs = {k: v for k, v in source.kwargs.items() if k not in ("weight", "bias")}
    edit.replace_uses(result, source)


def _normalised(norm: fx.Node) -> fx.Node | None:
    """The node that holds the normalised tensor; None if the statistics are read too."""
    if isinstance(norm.meta["val"], Tensor):
        return norm
    readers = [u for u in norm.users if u.users]
    if len(readers) != 1 or readers[0].args[1:] != (0,):
        return None
    return readers[0]


def _takes_norm(source: fx.Node) -> bool:
    if source.op != "call_function" or len(source.users) != 1 or len(source.args) < 2:
        return False
    packet = packet_of(source.target)
    if packet == "aten.linear":
        value = source.meta["val"]
        return isinstance(value, Tensor) and value.dim() == 2
    return packet in _CONVOLUTIONS or packet in _TRANSPOSED


def _scale_and_shift(norm: fx.Node, weights: dict[fx.Node, Tensor]) -> tuple[Tensor, Tensor] | None:
    """(s, t) in fp64, so that the norm is s x + t per channel; None where they are no constants."""
    names = ("running_mean", "running_var", "weight", "bias")
    nodes = [_argument(norm, name) for name in names]
    if nodes[0] is None or nodes[1] is None:
        return None
    if any(n is not None and n not in weights for n in nodes):
        return None
    mean, variance, gamma, beta = (
        weights[n].detach().double() if isinstance(n, fx.Node) else None for n in nodes
    )
    eps = _argument(norm, "eps")
    assert mean is not None
    assert variance is not None
    assert isinstance(eps, float)
    scale = torch.rsqrt(variance + eps) * (1.0 if gamma is None else gamma)
    return scale, (0.0 if beta is None else beta) - mean * scale


def _scaled(source: fx.Node, weight: Tensor, scale: Tensor) -> Tensor:
    """The weight with each output channel multiplied by its scale."""
    packet = packet_of(source.target)
    is_transposed = packet in _TRANSPOSED or (
        packet == "aten.convolution" and bool(_argument(source, "transposed"))
    )
    if not is_transposed:
        return weight * scale.view(-1, *[1] * (weight.dim() - 1))
    groups = _argument(source, "groups")  # weight: (C, K / groups, *R), scale: (K,)
    assert isinstance(groups, int)
    grouped = weight.view(groups, -1, *weight.shape[1:])
    scaled = grouped * scale.view(groups, 1, -1, *[1] * (weight.dim() - 2))
    return scaled.view(weight.shape)


def _store(edit: Edit, old: fx.Node | None, value: Tensor, path: str) -> fx.Node:
    """Puts a value in the weight it replaces when nothing else reads that, else in a new one."""
    if old is not None and len(old.users) == 1:
        edit.set_weight(old, value)
        return old
    return edit.add_weight(path, value)
