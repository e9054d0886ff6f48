"""Divided projections: a linear of which only slices are read becomes a linear for each."""

from collections.abc import Sequence
from math import prod

import torch
from torch import Tensor, fx

from ridgeline.graph import Graph
from ridgeline.graph.edit import Edit
from ridgeline.passes.index_map import Digits, IndexMap, merged, split_at
from ridgeline.passes.match import argument
from ridgeline.passes.views import Views

_aten = torch.ops.aten


def divide_linears(graph: Graph) -> Graph:
    """The graph with every linear that is read in slices of its features (query, key and value in
    one; gate and up in one) as one linear for each slice: what `join_linears` undoes.
    """
    if not graph.is_runnable:
        return graph
    edit = Edit(graph)
    views = Views(edit)
    is_changed = False
    for node in edit.nodes:
        if node.target is _aten.linear.default and node.users:
            is_changed |= _divide(edit, views, node)
    if not is_changed:
        return graph
    edit.refresh()
    return edit.finish()


def _divide(edit: Edit, views: Views, linear: fx.Node) -> bool:
    weights, value = edit.weights(), linear.meta["val"]
    operands = argument(linear, "weight"), argument(linear, "bias")
    if any(o is not None and o not in weights for o in operands) or not value.dim():
        return False
    maps = {reader: views.origin(reader)[1] for reader in _readers(views, linear)}
    taken = {reader: _rows(map_, value) for reader, map_ in maps.items()}
    groups = _groups([rows for rows in taken.values() if rows is not None])
    if None in taken.values() or any(len(rows) == value.shape[-1] for rows in groups):
        return False
    home = {row: group for group in groups for row in group}
    width = int(value.shape[-1])
    new = {r: _within(m, width, home[m.offset]) for r, m in maps.items()}
    if None in new.values():
        return False
    made = {group: _linear_of_rows(edit, linear, group) for group in groups}
    for reader, map_ in new.items():
        assert map_ is not None
        view = views.spell(made[home[maps[reader].offset]], map_, reader)
        edit.replace_uses(reader, view)
        edit.sweep(reader)
    return True


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


def _rows(map_: IndexMap, value: Tensor) -> tuple[int, ...] | None:
    """The features that a map takes of [..., width]; None where they are not the same features of
    every row, each row's once.
    """
    width, lead = int(value.shape[-1]), prod(int(d) for d in value.shape[:-1])
    if map_.offset >= width or any(stride == 0 for _, stride in map_.digits):
        return None
    parts = split_at(map_.digits, width)
    if parts is None:
        return None
    outer, inner = parts
    is_every_row = merged(sorted(outer, key=lambda d: -d[1])) == merged([(lead, width)])
    rows = [map_.offset + row for row in _sums(inner)]
    is_once = len(set(rows)) == len(rows) and max(rows) < width
    return tuple(rows) if is_every_row and is_once else None


def _sums(digits: Digits) -> list[int]:
    """What every combination of digits is worth."""
    sums = [0]
    for size, stride in digits:
        sums = [s + k * stride for s in sums for k in range(size)]
    return sums


def _groups(taken: Sequence[tuple[int, ...]]) -> list[tuple[int, ...]]:
    """Features that one reader takes together are in one group, in order; groups share none."""
    groups: list[set[int]] = []
    for rows in taken:
        apart = [g for g in groups if not g & set(rows)]
        groups = [*apart, set(rows).union(*(g for g in groups if g & set(rows)))]
    return [tuple(sorted(group)) for group in groups]


def _within(map_: IndexMap, width: int, group: tuple[int, ...]) -> IndexMap | None:
    """The map, of a linear that makes only the features of a group; None if it is no IndexMap."""
    place = {row: k for k, row in enumerate(group)}
    first, digits, before, after = place[map_.offset], [], [], []
    for digit in map_.digits:
        parts = split_at((digit,), width)
        assert parts is not None
        outer, inner = parts
        digits += [(size, stride // width * len(group)) for size, stride in outer]
        for size, stride in inner:
            step = place[map_.offset + stride] - first
            digits.append((size, step))
            before.append((size, stride))
            after.append((size, step))
    rows = zip(_sums(tuple(before)), _sums(tuple(after)), strict=True)
    if any(place[map_.offset + old] != first + new for old, new in rows):
        return None
    return IndexMap(first, merged(digits), map_.shape)


def _linear_of_rows(edit: Edit, linear: fx.Node, rows: tuple[int, ...]) -> fx.Node:
    places, operands = torch.tensor(rows), [linear.args[0]]
    for name in ("weight", "bias"):
        weight = argument(linear, name)
        if isinstance(weight, fx.Node):
            part = edit.weights()[weight].detach()[places]
            operands.append(edit.add_weight(f"{edit.path_of(weight)}_part", part))
    return edit.call(_aten.linear.default, operands, linear)
