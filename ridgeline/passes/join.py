"""Joined projections: linears that read the same value become one linear, and a split."""

from collections.abc import Sequence
from math import prod

import torch
from torch import Tensor, fx

from ridgeline.graph import Graph, Phase
from ridgeline.graph.edit import VIEWS, Edit
from ridgeline.passes.match import argument

_aten = torch.ops.aten
# Bytes that a machine moves in the time one more kernel takes to start: 1 us at 50 GB/s, our own
# measurement of a dispatch and of main memory on two cores.
_LAUNCH_BYTES = 50_000


def join_linears(graph: Graph) -> Graph:
    """The graph with linears that share their input (query, key and value; gate and up) as one on
    the weights one after the other, then split, where that saves more than it costs.

    Saved: reading the input again, and starting a kernel. Paid: copies of the parts, where a view
    of one needs it in one piece. Left alone: weights that anything else reads.
    """
    if not graph.is_runnable or graph.phase is Phase.TRAIN:
        return graph
    edit = Edit(graph)
    is_changed = False
    for group in _groups(edit):
        if _gain_bytes(edit, group) > 0:
            _join(edit, group)
            is_changed = True
    if is_changed:
        edit.refresh()
    return edit.finish()


def _groups(edit: Edit) -> list[list[fx.Node]]:
    """Linears by input and type, in order, two or more together."""
    weights = edit.weights()
    found: dict[object, list[fx.Node]] = {}
    for node in edit.nodes:
        if node.target is not _aten.linear.default or not node.users:
            continue
        weight, bias = argument(node, "weight"), argument(node, "bias")
        if not _is_own(weight, weights) or (bias is not None and not _is_own(bias, weights)):
            continue
        assert isinstance(weight, fx.Node)
        found.setdefault((node.args[0], weight.meta["val"].dtype), []).append(node)
    return [group for group in found.values() if len(group) > 1]


def _is_own(weight: object, weights: dict[fx.Node, Tensor]) -> bool:
    """Whether a weight is read by one node alone."""
    return isinstance(weight, fx.Node) and weight in weights and len(weight.users) == 1


def _gain_bytes(edit: Edit, group: Sequence[fx.Node]) -> float:
    """Bytes saved less bytes paid, a kernel's start counted as the bytes it takes as long as."""
    source = group[0].args[0]
    assert isinstance(source, fx.Node)
    saved = (len(group) - 1) * (_nbytes(source) + _LAUNCH_BYTES)
    width = sum(node.meta["val"].shape[-1] for node in group)
    copied = sum(2 * _nbytes(node) + _LAUNCH_BYTES for node in group if _needs_copy(node, width))
    return saved - copied


def _needs_copy(node: fx.Node, width: int) -> bool:
    """Whether a reader views the result in a way that a slice of wider rows does not allow."""
    value = node.meta["val"]
    shape = [int(d) for d in value.shape]
    rows = [width * prod(shape[d + 1 : -1]) for d in range(len(shape) - 1)]
    sliced = torch.empty_strided(shape, [*rows, 1], device="meta")
    return any(
        user.target in VIEWS and not _can_view(sliced, user.meta["val"].shape)
        for user in node.users
    )


def _can_view(value: Tensor, shape: Sequence[int]) -> bool:
    try:
        value.view([int(d) for d in shape])
    except (RuntimeError, ValueError):
        return False
    return True


def _nbytes(node: fx.Node) -> int:
    value = node.meta["val"]
    return prod(int(d) for d in value.shape) * int(value.dtype.itemsize)


def _join(edit: Edit, group: Sequence[fx.Node]) -> None:
    first = group[0]
    weights = edit.weights()
    parts = [weights[_node(argument(node, "weight"))].detach() for node in group]
    biases = [argument(node, "bias") for node in group]
    path = edit.path_of(_node(argument(first, "weight"))).removesuffix("weight")
    operands = [first.args[0], edit.add_weight(f"{path}joined_weight", torch.cat(parts))]
    if any(bias is not None for bias in biases):
        values = [
            weights[_node(bias)].detach() if bias is not None else part.new_zeros(part.shape[0])
            for bias, part in zip(biases, parts, strict=True)
        ]
        operands.append(edit.add_weight(f"{path}joined_bias", torch.cat(values)))
    joined = edit.call(_aten.linear.default, operands, first)
    sizes = [int(part.shape[0]) for part in parts]
    pieces = edit.call(_aten.split_with_sizes.default, (joined, sizes, -1), first)
    items = [edit.item(pieces, index, first) for index in range(len(group))]
    for node, item in zip(group, items, strict=True):
        edit.replace_uses(node, item)
        edit.sweep(node)


def _node(argument: object) -> fx.Node:
    assert isinstance(argument, fx.Node)
    return argument
