"""Layout: permutes meet and cancel, reshapes of reshapes become one."""

from collections.abc import Sequence

import torch
from torch import Tensor, fx

from ridgeline.graph import Category, Graph, row_of
from ridgeline.graph.edit import Edit
from ridgeline.graph.read import packet_of
from ridgeline.passes.match import Matcher, argument

_aten = torch.ops.aten
_PERMUTES = (_aten.permute.default, _aten.transpose.int, _aten.t.default)
_RESHAPES = (
    _aten.view.default,
    _aten._unsafe_view.default,
    _aten.reshape.default,
    _aten.squeeze.dim,
    _aten.squeeze.dims,
    _aten.squeeze.default,
    _aten.unsqueeze.default,
    _aten.flatten.using_ints,
)
_POINTWISE = (Category.ELEMENTWISE, Category.TRANSCENDENTAL)
# Pointwise by category, but with a dimension of their own.
_DIRECTED = ("glu", "outer", "kron", "cross", "triu", "tril", "prelu", "quantize", "dequantize")
_REDUCTIONS = ("aten.mean.dim", "aten.sum.dim_IntList", "aten.amax.default", "aten.amin.default")
_SOFTMAXES = ("aten.softmax.int", "aten._softmax.default", "aten.log_softmax.int")
# A constant met on the way is stored permuted; larger ones stop the permute instead.
_MOST_CONSTANTS = 2**16
_CATS = ("aten.cat", "aten.concat")
Order = tuple[int, ...]


def cancel_permutes(graph: Graph) -> Graph:
    """The graph with permutes moved behind what works on each element or along named dimensions,
    until they meet: two become one or none, and so do reshapes of reshapes.
    """
    edit = Edit(graph)
    while _round(edit):
        edit.refresh()
    return edit.finish()


def is_restriding(node: fx.Node) -> bool:
    """Whether a node permutes or reshapes all of its input, and does nothing else."""
    return node.target in (*_PERMUTES, *_RESHAPES)


def order_of(node: object) -> Order | None:
    """The dimensions of its input in the order in which a permute puts them; None for any other
    node.
    """
    if not isinstance(node, fx.Node) or node.target not in _PERMUTES:
        return None
    rank = node.meta["val"].dim()
    order = list(range(rank))
    if node.target is _aten.permute.default:
        return tuple(int(d) % rank for d in node.args[1])  # type: ignore[union-attr, arg-type]
    pair = node.args[1:3] if node.target is _aten.transpose.int else (0, 1)
    if rank < 2:
        return tuple(order)
    a, b = (int(d) % rank for d in pair)  # type: ignore[arg-type]
    order[a], order[b] = order[b], order[a]
    return tuple(order)


def _round(edit: Edit) -> bool:
    """One walk over the graph; whether it changed anything."""
    matcher = Matcher(edit)
    is_changed = False
    for node in edit.nodes:
        if node.op != "call_function" or not node.users:
            continue
        if order_of(node) is not None:
            is_changed |= _merge_permutes(edit, node)
        elif node.target in _RESHAPES:
            is_changed |= _merge_reshapes(edit, node)
        else:
            is_changed |= _sink(edit, matcher, node)
    return is_changed


def _merge_permutes(edit: Edit, node: fx.Node) -> bool:
    order, source = order_of(node), node.args[0]
    assert order is not None
    assert isinstance(source, fx.Node)
    inner = order_of(source)
    if inner is not None:
        order = tuple(inner[d] for d in order)
        assert isinstance(source.args[0], fx.Node)
        source = source.args[0]
    is_identity = order == tuple(range(len(order)))
    if is_identity and not _would_return_input(node, source):
        edit.replace_uses(node, source)
    elif inner is not None:
        edit.replace_uses(node, _permuted(edit, source, order, node))
    else:
        return False
    edit.sweep(node)
    return True


def _merge_reshapes(edit: Edit, node: fx.Node) -> bool:
    inner = node.args[0]
    assert isinstance(inner, fx.Node)
    source = inner.args[0] if inner.target in _RESHAPES else inner
    assert isinstance(source, fx.Node)
    before, after = source.meta["val"], node.meta["val"]
    if not _is_static(before) or not _is_static(after):
        return False
    if before.shape == after.shape and not _would_return_input(node, source):
        new = source
    elif source is not inner:
        new = edit.view(source, after.shape, node)
        if new.args[0] is not source:  # it would have to be copied first
            edit.sweep(new)
            return False
    else:
        return False
    edit.replace_uses(node, new)
    edit.sweep(node)
    return True


def _sink(edit: Edit, matcher: Matcher, node: fx.Node) -> bool:
    """op(permute(x)) becomes permute(op(x)) where that leaves the first permute unread."""
    order = _common_order(matcher, node)
    if order is None:
        return False
    permuted = [o for o in node.all_input_nodes if order_of(o) is not None]
    readers = {user for operand in permuted for user in operand.users}
    if not all(order_of(r) or _common_order(matcher, r) == order for r in readers):
        return False
    name = str(node.target)
    if name in _REDUCTIONS:
        return _sink_reduction(edit, node)
    if name in _SOFTMAXES:
        return _sink_softmax(edit, node)
    if packet_of(node.target) in _CATS:
        return _sink_cat(edit, node)
    swap = {o: _unpermuted(edit, matcher, o, order) for o in node.all_input_nodes}
    return _rebuild(edit, node, swap, order)


def _common_order(matcher: Matcher, node: fx.Node) -> Order | None:
    """The order in which all operands of an op that could come before their permute were permuted;
    None where there is none, or the op cares.
    """
    value = node.meta.get("val")
    if not isinstance(node.target, torch._ops.OpOverload) or not isinstance(value, Tensor):
        return None
    name, packet = str(node.target), packet_of(node.target)
    row = row_of(packet)
    is_pointwise = row.category in _POINTWISE and row.kind not in _DIRECTED
    is_pointwise |= packet == "aten._to_copy"
    if name in _REDUCTIONS:
        dims = argument(node, "dim")
        return order_of(node.args[0]) if isinstance(dims, list | tuple) and dims else None
    if name not in _SOFTMAXES and packet not in _CATS and not is_pointwise:
        return None
    if "memory_format" in node.kwargs:
        return None
    orders = {
        order_of(o)
        for o in node.all_input_nodes
        if not is_pointwise or _constant(matcher, o, value.dim()) is None
    }
    (order,) = orders if len(orders) == 1 else (None,)
    return order if order is not None and len(order) == value.dim() else None


def _constant(matcher: Matcher, node: fx.Node, rank: int) -> Tensor | None:
    """The value of a small weight that can be stored permuted."""
    if order_of(node) is not None:
        return None
    value = matcher.constant(node)
    is_small = value is not None and value.numel() <= _MOST_CONSTANTS and value.dim() <= rank
    return value if is_small else None


def _unpermuted(edit: Edit, matcher: Matcher, operand: fx.Node, order: Order) -> fx.Node:
    """The operand as the op meets it once the permute comes after: what was permuted, or a constant
    moved the other way.
    """
    if order_of(operand) is not None:
        source = operand.args[0]
        assert isinstance(source, fx.Node)
        return source
    value = matcher.constant(operand)
    if value is None or value.numel() == 1:
        return operand
    full = value.reshape((1,) * (len(order) - value.dim()) + tuple(value.shape))
    moved = full.permute(_inverse(order)).contiguous()
    while moved.dim() > 1 and moved.shape[0] == 1:
        moved = moved[0]
    return edit.add_weight(f"{edit.path_of(operand)}_permuted", moved)


def _rebuild(edit: Edit, node: fx.Node, swap: dict[fx.Node, fx.Node], order: Order) -> bool:
    """Puts permute(op(swapped operands)) in the place of op."""
    assert isinstance(node.target, torch._ops.OpOverload)
    args = fx.map_arg(node.args, lambda n: swap[n])
    kwargs = fx.map_arg(node.kwargs, lambda n: swap[n])
    return _replace(edit, node, edit.call(node.target, args, node, kwargs), order)


def _replace(edit: Edit, node: fx.Node, new: fx.Node, order: Order) -> bool:
    shape = node.meta["val"].shape
    result = _permuted(edit, new, order, node)
    assert result.meta["val"].shape == shape, f"{node.name}: {result.meta['val'].shape} != {shape}"
    edit.replace_uses(node, result)
    edit.sweep(node)
    return True


def _sink_reduction(edit: Edit, node: fx.Node) -> bool:
    source, order = _under_permute(node.args[0])
    dims, keeps = argument(node, "dim"), bool(argument(node, "keepdim"))
    assert isinstance(dims, list | tuple)
    assert isinstance(node.target, torch._ops.OpOverload)
    reduced = [order[int(d) % len(order)] for d in dims]
    new = edit.call(node.target, (source, reduced, keeps), node, node.kwargs)
    if keeps:
        return _replace(edit, node, new, order)
    kept = [d for d in order if d not in reduced]
    return _replace(edit, node, new, tuple(sorted(kept).index(d) for d in kept))


def _sink_softmax(edit: Edit, node: fx.Node) -> bool:
    source, order = _under_permute(node.args[0])
    dim = order[int(node.args[1]) % len(order)]  # type: ignore[arg-type]
    assert isinstance(node.target, torch._ops.OpOverload)
    new = edit.call(node.target, (source, dim, *node.args[2:]), node, node.kwargs)
    return _replace(edit, node, new, order)


def _sink_cat(edit: Edit, node: fx.Node) -> bool:
    parts = node.args[0]
    assert isinstance(parts, list | tuple)
    under = [_under_permute(part) for part in parts]
    order = under[0][1]
    dim = order[int(argument(node, "dim")) % len(order)]  # type: ignore[arg-type]
    new = edit.call(_aten.cat.default, ([source for source, _ in under], dim), node)
    return _replace(edit, node, new, order)


def _under_permute(node: object) -> tuple[fx.Node, Order]:
    """What a permute reads, and its order."""
    order = order_of(node)
    assert isinstance(node, fx.Node)
    assert order is not None
    source = node.args[0]
    assert isinstance(source, fx.Node)
    return source, order


def _permuted(edit: Edit, source: fx.Node, order: Sequence[int], at: fx.Node) -> fx.Node:
    if tuple(order) == tuple(range(len(order))):
        return source
    return edit.call(_aten.permute.default, (source, list(order)), at)


def _inverse(order: Order) -> Order:
    return tuple(order.index(d) for d in range(len(order)))


def _is_static(value: Tensor) -> bool:
    return all(isinstance(d, int) for d in value.shape)


def _would_return_input(node: fx.Node, source: fx.Node) -> bool:
    return source.op == "placeholder" and any(user.op == "output" for user in node.users)
