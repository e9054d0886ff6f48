"""Common sub-expressions: what is computed twice is computed once."""

import torch
from torch import Tensor, fx

from ridgeline.graph import Category, Graph, InputKind, row_of
from ridgeline.graph.edit import Edit
from ridgeline.graph.read import packet_of
from ridgeline.passes.fold import UNINITIALISED

# Two calls of these give two results, or stand for a sub-graph.
_DISTINCT = (Category.RANDOM, Category.NOISE, Category.CONTROL, Category.UNKNOWN)
# Constants up to this size are compared by value.
_MOST_CONSTANTS = 4096


def share_common(graph: Graph) -> Graph:
    """The graph with one node for all calls of one op on the same values, and one buffer for all
    small constants alike.

    Valid because the graph is functional: no value changes once it is computed. Random draws,
    uninitialised memory and branches stay apart; so do parameters, which training tells apart.
    """
    edit = Edit(graph)
    _share_constants(edit, graph)
    known: dict[object, fx.Node] = {}
    for node in edit.nodes:
        if node.op != "call_function" or not _is_shareable(node):
            continue
        first = known.setdefault((node.target, _key(node.args), _key(node.kwargs)), node)
        if first is not node:
            edit.replace_uses(node, first)
    return edit.finish()


def _share_constants(edit: Edit, graph: Graph) -> None:
    if not graph.is_runnable:
        return
    fixed = {i.name for i in graph.inputs if i.kind in (InputKind.BUFFER, InputKind.CONSTANT)}
    known: dict[object, fx.Node] = {}
    for node, tensor in edit.weights().items():
        if node.name in fixed and 0 < tensor.numel() <= _MOST_CONSTANTS:
            first = known.setdefault(_content(tensor), node)
            if first is not node:
                node.replace_all_uses_with(first, lambda user: user.op != "output")


def _content(tensor: Tensor) -> object:
    content = tensor.detach().cpu().contiguous()
    raw = content.view(-1).view(dtype=torch.uint8) if content.dtype.itemsize else content
    return (tensor.dtype, tuple(tensor.shape), tensor.stride(), raw.numpy().tobytes())


def _is_shareable(node: fx.Node) -> bool:
    packet = packet_of(node.target)
    if packet in UNINITIALISED or "dropout" in packet or "rrelu" in packet:
        return False
    return row_of(packet).category not in _DISTINCT or packet == "getitem"


def _key(argument: object) -> object:
    """An argument as something hashable, in which 1, 1.0 and True differ, and 0.0 and -0.0."""
    if isinstance(argument, dict):
        return tuple((name, _key(value)) for name, value in sorted(argument.items()))
    if isinstance(argument, list | tuple):
        return tuple(_key(a) for a in argument)
    return argument if isinstance(argument, fx.Node) else (type(argument), repr(argument))
