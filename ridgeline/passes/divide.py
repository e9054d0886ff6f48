"""Divided projections: a linear of which only slices are read becomes a linear for each."""

from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor, fx

from ridgeline.graph import Graph
from ridgeline.graph.edit import Edit
from ridgeline.passes.index_map import Digits, IndexMap, merged, split_at
from ridgeline.passes.match import argument
from ridgeline.passes.views import Views

_aten = torch.ops.aten


@dataclass(frozen=True, slots=True)
class Share:
    """What one reader takes of a linear's result. rows: of the weight; map: of a linear on those
    rows alone, what the reader reads.
    """

    rows: tuple[int, ...]
    map: IndexMap


def divide_linears(graph: Graph) -> Graph:
    """The graph with every linear that is read in slices of its features (query, key and value in
    one; gate and up in one) as one linear for each slice: what `join_linears` undoes.
    """
    if not graph.is_runnable:
        return graph
    edit = Edit(graph)
    views = Views(edit)
    for node in edit.nodes:
        if node.target is _aten.linear.default and node.users:
            _divide(edit, views, node)
    edit.refresh()
    return edit.finish()


def _divide(edit: Edit, views: Views, linear: fx.Node) -> None:
    weights, value = edit.weights(), linear.meta["val"]
    operands = argument(linear, "weight"), argument(linear, "bias")
    if any(o is not None and o not in weights for o in operands) or not value.dim():
        return
    readers = _readers(views, linear)
    shares = {reader: _share(views.origin(reader)[1], value) for reader in readers}
    if not shares or any(s is None or len(s.rows) == value.shape[-1] for s in shares.values()):
        return
    made: dict[tuple[int, ...], fx.Node] = {}
    for reader, share in shares.items():
        assert share is not None
        if share.rows not in made:
            made[share.rows] = _linear_of_rows(edit, linear, share.rows)
        new = views.spell(made[share.rows], share.map, reader)
        edit.replace_uses(reader, new)
        edit.sweep(reader)


def _readers(views: Views, linear: fx.Node) -> list[fx.Node]:
    """The views of a linear's result that something other than a view reads, or itself."""
    found, pending = [], [linear]
    while pending:
        node = pending.pop(0)
        onwards = [user for user in node.users if views.origin(user)[0] is linear]
        if len(onwards) < len(node.users):
            found.append(node)
        pending += [user for user in onwards if user not in pending and user not in found]
    return list(dict.fromkeys(found))


def _share(map_: IndexMap, value: Tensor) -> Share | None:
    """What a map takes of [..., width]; None where that is not the same features of every row."""
    width, lead = int(value.shape[-1]), prod(int(d) for d in value.shape[:-1])
    parts = split_at(tuple(d for d in map_.digits if d[1]), width)
    first = map_.offset
    if parts is None or first >= width or len(map_.digits) != sum(d[1] > 0 for d in map_.digits):
        return None
    outer, inner = parts
    if first + sum((size - 1) * stride for size, stride in inner) >= width:
        return None
    if merged(sorted(outer, key=lambda d: -d[1])) != merged([(lead, width)]):
        return None
    rows, packed = _packed(inner)
    digits = _renumbered(map_, width, len(rows), packed)
    new = IndexMap(0, merged(digits), map_.shape)
    return Share(tuple(first + r for r in rows), new) if new.numel == lead * len(rows) else None


def _packed(inner: Digits) -> tuple[list[int], dict[int, int]]:
    """The features that digits name, in order, and each digit's stride among them alone."""
    rows, strides, step = [0], {}, 1
    for size, stride in sorted(inner, key=lambda d: d[1]):
        strides[stride] = step
        step *= size
        rows = [k * stride + row for k in range(size) for row in rows]
    return rows, strides


def _renumbered(
    map_: IndexMap, width: int, count: int, packed: dict[int, int]
) -> list[tuple[int, int]]:
    """The map's digits once each row holds `count` features, not `width`."""
    digits = []
    for digit in map_.digits:
        parts = split_at((digit,), width)
        assert parts is not None
        outer, inner = parts
        digits += [(size, stride // width * count) for size, stride in outer]
        digits += [(size, packed[stride]) for size, stride in inner]
    return digits


def _linear_of_rows(edit: Edit, linear: fx.Node, rows: tuple[int, ...]) -> fx.Node:
    places, operands = torch.tensor(rows), [linear.args[0]]
    for name in ("weight", "bias"):
        weight = argument(linear, name)
        if isinstance(weight, fx.Node):
            part = edit.weights()[weight].detach()[places]
            operands.append(edit.add_weight(f"{edit.path_of(weight)}_part", part))
    return edit.call(_aten.linear.default, operands, linear)
