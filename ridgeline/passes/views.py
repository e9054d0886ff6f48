"""Views: chains of them have one spelling, and stand as late as they can."""

from collections.abc import Sequence
from math import prod

import torch
from torch import Tensor, fx
from torch.fx.node import Argument

from ridgeline.graph import Category, Graph, row_of
from ridgeline.graph.edit import Edit
from ridgeline.graph.read import packet_of
from ridgeline.passes.index_map import IndexMap, grid, identity
from ridgeline.passes.layout import is_restriding, order_of
from ridgeline.passes.match import argument, arguments

_aten = torch.ops.aten
_POINTWISE = (Category.ELEMENTWISE, Category.TRANSCENDENTAL)
# Pointwise by category, but with a dimension or a shape of their own.
_DIRECTED = ("glu", "outer", "kron", "cross", "triu", "tril", "prelu", "quantize", "dequantize")
_ROW_NORMS = ("aten.layer_norm", "aten.rms_norm")
_COPIES = ("aten.clone", "aten.contiguous")
# A target, and its arguments after the first.
Call = tuple[torch._ops.OpOverload, tuple[Argument, ...]]


def compose_views(graph: Graph) -> Graph:
    """The graph with every chain of reshapes, permutes, slices, expands, repeats and plain copies
    as one: a reshape, slices, a permute, an expand, a reshape, as few of them as do it.
    """
    edit = Edit(graph)
    views = Views(edit)
    is_changed = False
    for node in edit.nodes:
        if node.op != "call_function" or not node.users:
            continue
        root, map_ = views.origin(node)
        is_end = root is not node and any(views.origin(user)[0] is user for user in node.users)
        if is_end and not _is_spelt(node, root, _spelling(root, map_, node)):
            edit.replace_uses(node, views.spell(root, map_, node))
            is_changed = True
    if not is_changed:
        return graph
    edit.refresh()
    return edit.finish()


def sink_views(graph: Graph) -> Graph:
    """The graph with reshapes and permutes moved behind what works on each element, or on each
    row, of what they view: op(view(x)) is view(op(x)). Attention has one dimension for samples and
    heads.
    """
    edit = Edit(graph)
    views = Views(edit)
    is_changed = False
    for node in edit.nodes:
        if node.op == "call_function" and node.users:
            new = _sunk(edit, views, node)
            if new is not None:
                edit.replace_uses(node, new)
                is_changed = True
    if not is_changed:
        return graph
    edit.refresh()
    return edit.finish()


class Views:
    """What every view of one Edit is a view of, and how."""

    def __init__(self, edit: Edit) -> None:
        self._edit = edit
        self._known: dict[fx.Node, tuple[fx.Node, IndexMap]] = {}

    def origin(self, node: fx.Node) -> tuple[fx.Node, IndexMap]:
        """(source, map): a value that is no view, and which of its elements the node holds; the
        node itself, as it is, where it is no view.
        """
        pending = [node]
        while pending:
            last = pending[-1]
            source = _viewed(last)
            if source is not None and source not in self._known:
                pending.append(source)
                continue
            pending.pop()
            self._known[last] = self._origin(last, source)
        return self._known[node]

    def spell(self, root: fx.Node, map_: IndexMap, at: fx.Node) -> fx.Node:
        """The elements of `root` that the map names, before node `at`, in the one spelling."""
        value = root
        for target, args in _spelling(root, map_, at):
            value = self._edit.call(target, (value, *args), at)
        return value

    def _origin(self, node: fx.Node, source: fx.Node | None) -> tuple[fx.Node, IndexMap]:
        value = node.meta.get("val")
        itself = node, identity(value.shape if _is_static(value) else ())  # type: ignore[union-attr]
        if source is None:
            return itself
        root, map_ = self._known[source]
        step = _step(node, map_)
        if step is None or not _can_spell(step, root):
            return itself
        return root, step


def _spelling(root: fx.Node, map_: IndexMap, at: fx.Node) -> list[Call]:
    """The calls that make of `root` what the map names, one after the other."""
    shape = tuple(root.meta["val"].shape)
    if map_.is_identity(shape) and not _would_return_input(at, root):
        return []
    if map_.keeps_order(prod(shape)):
        return [(_aten.reshape.default, (list(map_.shape),))]
    moving = tuple(d for d in map_.digits if d[1])
    ranges = grid(moving, map_.offset, prod(shape))
    assert ranges is not None
    by_stride = sorted(moving, key=lambda d: -d[1])
    calls = _reshaping(shape, [extent for extent, _, _ in ranges])
    for dim, (extent, start, size) in enumerate(ranges):
        if size != extent:
            calls.append((_aten.slice.Tensor, (dim, start, start + size, 1)))
    sizes = [size for size, _ in by_stride]
    calls += _reshaping([size for _, _, size in ranges], sizes)
    order = [by_stride.index(digit) for digit in moving]
    if order != sorted(order):
        calls.append((_aten.permute.default, (order,)))
    sizes = [sizes[k] for k in order]
    if len(moving) != len(map_.digits):
        calls += _reshaping(sizes, [size if stride else 1 for size, stride in map_.digits])
        sizes = [size for size, _ in map_.digits]
        calls.append((_aten.expand.default, (sizes,)))
    return [*calls, *_reshaping(sizes, map_.shape)]


def _reshaping(before: Sequence[int], after: Sequence[int]) -> list[Call]:
    return [] if tuple(before) == tuple(after) else [(_aten.reshape.default, (list(after),))]


def _is_spelt(node: fx.Node, root: fx.Node, calls: Sequence[Call]) -> bool:
    """Whether a node is made of `root` by just these calls."""
    for target, args in reversed(calls):
        if node.target is not target or node.args[1:] != args:
            return False
        (node,) = node.all_input_nodes
    return node is root


def _viewed(node: fx.Node) -> fx.Node | None:
    """What a node is a view of; None where it is none."""
    if node.op != "call_function" or not isinstance(node.target, torch._ops.OpOverload):
        return None
    is_view = (
        is_restriding(node)
        or node.target in (_aten.expand.default, _aten.slice.Tensor, _aten.select.int)
        or node.target in (_aten.repeat.default, _aten.repeat_interleave.self_int)
        or packet_of(node.target) in _COPIES
    )
    source = node.args[0] if is_view and node.args else None
    if not isinstance(source, fx.Node):
        return None
    values = node.meta.get("val"), source.meta.get("val")
    return source if all(_is_static(v) and v.numel() for v in values) else None  # type: ignore[union-attr]


def _is_static(value: object) -> bool:
    return isinstance(value, Tensor) and all(isinstance(d, int) for d in value.shape)


def _can_spell(map_: IndexMap, root: fx.Node) -> bool:
    moving = tuple(d for d in map_.digits if d[1])
    strides = [stride for _, stride in moving]
    if len(set(strides)) != len(strides):
        return False
    return grid(moving, map_.offset, root.meta["val"].numel()) is not None


def _step(node: fx.Node, map_: IndexMap) -> IndexMap | None:
    """The map of one more view on what a map gives."""
    shape = tuple(node.meta["val"].shape)
    order = order_of(node)
    if order is not None:
        return map_.permuted(order)
    if node.target is _aten.expand.default:
        return map_.expanded(shape)
    if node.target is _aten.slice.Tensor:
        dim, start, length, step = slice_of(node)
        return map_.sliced(dim, start, length, step)
    if node.target is _aten.select.int:
        dim, index = int(argument(node, "dim")), int(argument(node, "index"))  # type: ignore[arg-type]
        dim %= len(map_.shape)
        found = map_.sliced(dim, index % map_.shape[dim], 1, 1)
        return None if found is None else found.reshaped(shape)
    if node.target is _aten.repeat.default:
        return map_.repeated([int(n) for n in argument(node, "repeats")])  # type: ignore[union-attr, arg-type]
    if node.target is _aten.repeat_interleave.self_int:
        return _interleaved(node, map_)
    return map_.reshaped(shape)


def is_pointwise(node: fx.Node) -> bool:
    """Whether a call works on each element by itself, its operands broadcast."""
    row = row_of(packet_of(node.target))
    return row.category in _POINTWISE and row.kind not in _DIRECTED


def slice_of(node: fx.Node) -> tuple[int, int, int, int]:
    """(dimension, start, length, step) of a slice, all counted from the front."""
    source = node.args[0]
    assert isinstance(source, fx.Node)
    value = source.meta["val"]
    dim = int(argument(node, "dim")) % value.dim()  # type: ignore[arg-type]
    given = [argument(node, name) for name in ("start", "end", "step")]
    bounds = [g if isinstance(g, int) else None for g in given]
    start, _, step = slice(*bounds).indices(int(value.shape[dim]))
    return dim, start, int(node.meta["val"].shape[dim]), step


def _interleaved(node: fx.Node, map_: IndexMap) -> IndexMap | None:
    """Each place of one dimension several times in a row."""
    times, dim = argument(node, "repeats"), argument(node, "dim")
    if not isinstance(times, int) or not isinstance(dim, int):
        return None
    dim %= len(map_.shape)
    thin = (*map_.shape[: dim + 1], 1, *map_.shape[dim + 1 :])
    wide = (*map_.shape[: dim + 1], times, *map_.shape[dim + 1 :])
    found = map_.reshaped(thin).expanded(wide)
    return None if found is None else found.reshaped(tuple(node.meta["val"].shape))


# ---- moving views behind work -------------------------------------------------------------------


def _sunk(edit: Edit, views: Views, node: fx.Node) -> fx.Node | None:
    """The node's value with the work done first and the view last; None where that cannot be."""
    if not isinstance(node.target, torch._ops.OpOverload) or not _is_static(node.meta.get("val")):
        return None
    packet = packet_of(node.target)
    if is_pointwise(node):
        return _sink_pointwise(edit, views, node)
    if packet == "aten.linear":
        return _sink_rows(edit, views, node, 1)
    if packet == "aten.scaled_dot_product_attention":
        return _join_batches(edit, views, node)
    if packet in _ROW_NORMS:
        return _sink_rows(edit, views, node, len(argument(node, "normalized_shape")))  # type: ignore[arg-type]
    if node.target is _aten.softmax.int:
        dim, rank = argument(node, "dim"), node.meta["val"].dim()
        return _sink_rows(edit, views, node, 1) if dim in (-1, rank - 1) else None
    return None


def _sink_pointwise(edit: Edit, views: Views, node: fx.Node) -> fx.Node | None:
    shape = tuple(node.meta["val"].shape)
    wide = [n for n in node.all_input_nodes if n.meta["val"].numel() != 1]
    whole = [n for n in wide if tuple(n.meta["val"].shape) == shape]
    thin = [n for n in wide if n not in whole]
    ones = [n for n in node.all_input_nodes if n not in wide]
    found = {n: views.origin(n) for n in whole}
    maps = {map_ for _, map_ in found.values()}
    shapes = {tuple(root.meta["val"].shape) for root, _ in found.values()}
    if len(maps) != 1 or len(shapes) != 1:
        return None if thin or ones else _reshape_like_one(edit, views, node, found)
    (map_,), (before,) = maps, shapes
    if not map_.is_bijective(prod(before)) or map_.is_identity(before):
        return None
    if any(n.meta["val"].dim() > len(before) for n in ones):
        return None
    if thin and not _leaves_rows(edit, map_, before, thin):
        return None
    swap = {n: root for n, (root, _) in found.items()}
    swap |= {n: edit.call(_aten.reshape.default, (n, [before[-1]]), node) for n in thin}
    return _work_first(edit, views, node, swap, map_)


def _reshape_like_one(
    edit: Edit, views: Views, node: fx.Node, found: dict[fx.Node, tuple[fx.Node, IndexMap]]
) -> fx.Node | None:
    """Work in the shape that one operand had before a reshape: of several, the one of the most
    dimensions.
    """
    shape = tuple(node.meta["val"].shape)
    shapes = [
        tuple(root.meta["val"].shape)
        for root, map_ in found.values()
        if map_.keeps_order(root.meta["val"].numel())
    ]
    best = max(shapes, key=lambda s: (len(s), s), default=shape)
    if best == shape:
        return None
    swap = {n: views.spell(root, map_.reshaped(best), node) for n, (root, map_) in found.items()}
    return _work_first(edit, views, node, swap, identity(best).reshaped(shape))


def _leaves_rows(
    edit: Edit, map_: IndexMap, before: Sequence[int], thin: Sequence[fx.Node]
) -> bool:
    """Whether the source's rows stay whole, and the other operands are weights that vary along a
    row and from row to row not.
    """
    shapes = {tuple(n.meta["val"].shape) for n in thin}
    if len(shapes) != 1 or any(n not in edit.weights() for n in thin):
        return False
    (tail,) = shapes
    lead = len(map_.shape) - len(tail)
    if not before or prod(tail) != before[-1] or map_.shape[lead:] != tail:
        return False
    return map_.reshaped((*map_.shape[:lead], before[-1])).rows(before[-1]) is not None


def _sink_rows(edit: Edit, views: Views, node: fx.Node, count: int) -> fx.Node | None:
    """For work along the last `count` dimensions. Views that take rows apart stay in front, and the
    work is on one dimension of rows.
    """
    source = node.args[0]
    assert isinstance(source, fx.Node)
    root, map_ = views.origin(source)
    before, after = tuple(root.meta["val"].shape), tuple(node.meta["val"].shape)
    lead = len(map_.shape) - count
    tail = map_.shape[lead:]
    width, made = prod(tail), after[lead:]
    if map_.is_identity(before):
        return None
    rows = map_.reshaped((*map_.shape[:lead], width)).rows(width)
    is_kept = rows is not None and before[len(before) - count :] == tail
    if rows is not None and is_kept and map_.is_bijective(prod(before)):
        last = rows.widened(prod(made)).reshaped(after)
        return _work_first(edit, views, node, {source: root}, last)
    if lead <= 1:
        return None
    flat = views.spell(root, map_.reshaped((prod(map_.shape[:lead]), *tail)), node)
    return _work_first(edit, views, node, {source: flat}, identity(after))


def _join_batches(edit: Edit, views: Views, node: fx.Node) -> fx.Node | None:
    """Attention with samples and heads in one dimension, as it is written with `bmm`."""
    given, shape = arguments(node), tuple(node.meta["val"].shape)
    names = ("query", "key", "value")
    operands = [given[name] for name in names]
    values = [o.meta["val"] for o in operands if isinstance(o, fx.Node)]
    if len(shape) != 4 or shape[0] == 1 or {v.dim() for v in values} != {4}:
        return None
    mask = given["attn_mask"]
    if isinstance(mask, fx.Node) and mask.meta["val"].shape[:-2].numel() != 1:
        return None
    if len({v.shape[0] for v in values}) != 1 or not all(_is_static(v) for v in values):
        return None
    swap = {}
    for operand, value in zip(operands, values, strict=True):
        assert isinstance(operand, fx.Node)
        root, map_ = views.origin(operand)
        joined = (1, value.shape[0] * value.shape[1], *value.shape[2:])
        swap[operand] = views.spell(root, map_.reshaped(joined), node)
    return _work_first(edit, views, node, swap, identity(shape))


def _work_first(
    edit: Edit,
    views: Views,
    node: fx.Node,
    swap: dict[fx.Node, fx.Node],
    map_: IndexMap,
) -> fx.Node:
    """The view `map_` of the same work on other operands."""
    assert isinstance(node.target, torch._ops.OpOverload)
    args = fx.map_arg(node.args, lambda n: swap.get(n, n))
    kwargs = fx.map_arg(node.kwargs, lambda n: swap.get(n, n))
    if node.target is _aten.softmax.int:
        args = (args[0], -1, *args[2:])
    new = edit.call(node.target, args, node, kwargs)
    return views.spell(new, map_, node)


def _would_return_input(node: fx.Node, source: fx.Node) -> bool:
    """Whether an input would become an output, which must stay a value of its own."""
    return source.op == "placeholder" and any(user.op == "output" for user in node.users)
