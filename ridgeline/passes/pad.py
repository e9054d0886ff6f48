"""Pads: zeros around an image become the padding of the convolution that reads it."""

import torch
from torch import fx

from ridgeline.graph import Graph
from ridgeline.graph.edit import Edit
from ridgeline.graph.read import packet_of
from ridgeline.passes.match import argument, set_arguments

_aten = torch.ops.aten
# Calls with a `padding` of numbers, the same on both sides.
_CONVOLUTIONS = (_aten.conv1d.default, _aten.conv2d.default, _aten.conv3d.default)
_SPELLED = {
    _aten.conv1d.padding: _aten.conv1d.default,
    _aten.conv2d.padding: _aten.conv2d.default,
    _aten.conv3d.padding: _aten.conv3d.default,
}


def absorb_pads(graph: Graph) -> Graph:
    """The graph with every constant pad of zeros, alike on both sides of each dimension, in the
    padding of the convolutions behind it; paddings named "same" and "valid" become numbers where
    they are alike on both sides.
    """
    edit = Edit(graph)
    for node in edit.nodes:
        if node.op != "call_function":
            continue
        if node.target in _SPELLED:
            _spell_out(node)
        if node.target in _CONVOLUTIONS or _is_plain_convolution(node):
            _absorb(edit, node)
    return edit.finish()


def _spell_out(node: fx.Node) -> None:
    named, weight = argument(node, "padding"), argument(node, "weight")
    assert isinstance(weight, fx.Node)
    taps = weight.meta["val"].shape[2:]
    dilation = _spread(argument(node, "dilation"), len(taps))
    around = [d * (t - 1) for d, t in zip(dilation, taps, strict=True)]
    if named == "same" and any(total % 2 for total in around):
        return
    padding = [total // 2 if named == "same" else 0 for total in around]
    rest = [argument(node, name) for name in ("input", "weight", "bias", "stride")]
    node.args = (*rest, padding, dilation, argument(node, "groups"))
    node.kwargs = {}
    node.target = _SPELLED[node.target]  # type: ignore[index]


def _is_plain_convolution(node: fx.Node) -> bool:
    return node.target is _aten.convolution.default and not argument(node, "transposed")


def _absorb(edit: Edit, node: fx.Node) -> None:
    source, weight = node.args[0], argument(node, "weight")
    assert isinstance(weight, fx.Node)
    around = _zeros_around(source, weight.meta["val"].dim() - 2)
    if around is None:
        return
    assert isinstance(source, fx.Node)
    mine = _spread(argument(node, "padding"), len(around))
    padding = [a + b for a, b in zip(mine, around, strict=True)]
    set_arguments(node, input=source.args[0], padding=padding)
    edit.sweep(source)


def _zeros_around(node: object, spatial: int) -> list[int] | None:
    """Zeros on both sides of each spatial dimension, outermost first; None where a node is no such
    pad.
    """
    if not isinstance(node, fx.Node) or node.op != "call_function":
        return None
    packet = packet_of(node.target)
    if packet not in ("aten.constant_pad_nd", "aten.pad"):
        return None
    if packet == "aten.pad" and argument(node, "mode") != "constant":
        return None
    pairs, value = argument(node, "pad"), argument(node, "value")
    if value not in (None, 0) or not isinstance(pairs, list | tuple):
        return None
    sides = [p for p in pairs if isinstance(p, int)]
    before, after = sides[::2], sides[1::2]
    is_even = len(sides) == len(pairs) and before == after and min(before, default=0) >= 0
    if not is_even or any(before[spatial:]):
        return None
    around = [*before[:spatial], *[0] * (spatial - len(before))]
    return around[::-1]


def _spread(value: object, count: int) -> list[int]:
    """One number per dimension, from a list of all or of one, or from one number."""
    listed = value if isinstance(value, list | tuple) else [value]
    sizes = [v for v in listed if isinstance(v, int)]
    return sizes * count if len(sizes) == 1 else sizes
