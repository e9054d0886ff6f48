"""Casts: a type gone to and come back from is never gone to."""

import torch
from torch import Tensor, fx

from ridgeline.graph import Graph
from ridgeline.graph.edit import Edit
from ridgeline.graph.read import packet_of
from ridgeline.passes.layout import is_restriding

# dtype -> (bits of an exact integer, bits of the exponent): a type holds another where neither is
# smaller.
_FLOATS = {
    torch.float16: (11, 5),
    torch.bfloat16: (8, 8),
    torch.float32: (24, 8),
    torch.float64: (53, 11),
}
# dtype -> (bits without the sign, whether it has one).
_INTEGERS = {
    torch.bool: (1, False),
    torch.uint8: (8, False),
    torch.int8: (7, True),
    torch.int16: (15, True),
    torch.int32: (31, True),
    torch.int64: (63, True),
}
_SELECTING = ("aten.select", "aten.slice", "aten.index_select")


def cancel_casts(graph: Graph) -> Graph:
    """The graph with casts behind views and selections, and chains of casts shortened: to(to(x, a),
    b) is to(x, b) where a holds every value of x's type, and x itself where b is that type.
    """
    edit = Edit(graph)
    is_changed = False
    for node in edit.nodes:
        if node.op == "call_function" and node.users:
            is_changed |= _sink(edit, node) if _is_widening_below(node) else _shorten(edit, node)
    if is_changed:
        edit.refresh()
    return edit.finish()


def holds(wide: torch.dtype, narrow: torch.dtype) -> bool:
    """Whether every value of `narrow` is one of `wide`."""
    if wide == narrow:
        return True
    if narrow in _FLOATS:
        return wide in _FLOATS and all(
            w >= n for w, n in zip(_FLOATS[wide], _FLOATS[narrow], strict=True)
        )
    if narrow not in _INTEGERS:
        return False
    bits, is_signed = _INTEGERS[narrow]
    if wide in _FLOATS:
        return _FLOATS[wide][0] >= bits
    if wide not in _INTEGERS or wide == torch.bool:
        return False
    return _INTEGERS[wide][0] >= bits and (_INTEGERS[wide][1] or not is_signed)


def _shorten(edit: Edit, node: fx.Node) -> bool:
    middle = node.args[0] if _is_cast(node) else None
    if not isinstance(middle, fx.Node) or not _is_cast(middle):
        return False
    source = middle.args[0]
    if not isinstance(source, fx.Node) or not holds(_dtype(middle), _dtype(source)):
        return False
    if _dtype(node) == _dtype(source):
        if source.op == "placeholder" and any(user.op == "output" for user in node.users):
            return False
        edit.replace_uses(node, source)
    else:
        node.replace_input_with(middle, source)
    edit.sweep(node)
    edit.sweep(middle)
    return True


def _sink(edit: Edit, node: fx.Node) -> bool:
    """select(to(x)) becomes to(select(x)): casts meet, and fewer elements are cast."""
    cast = node.args[0]
    assert isinstance(cast, fx.Node)
    source = cast.args[0]
    assert isinstance(source, fx.Node)
    assert isinstance(node.target, torch._ops.OpOverload)
    moved = edit.call(node.target, (source, *node.args[1:]), node, node.kwargs)
    kwargs = {"dtype": _dtype(node)}
    new = edit.call(torch.ops.aten._to_copy.default, (moved,), node, kwargs)
    edit.replace_uses(node, new)
    edit.sweep(node)
    return True


def _is_widening_below(node: fx.Node) -> bool:
    """Whether a node views or selects from a cast that only it reads."""
    packet = packet_of(node.target)
    if not is_restriding(node) and packet not in _SELECTING:
        return False
    cast = node.args[0] if node.args else None
    if not isinstance(cast, fx.Node) or not _is_cast(cast) or len(cast.users) != 1:
        return False
    source = cast.args[0]
    return isinstance(source, fx.Node) and holds(_dtype(cast), _dtype(source))


def _is_cast(node: fx.Node) -> bool:
    """Whether a node changes the type and nothing else."""
    if node.op != "call_function" or packet_of(node.target) not in ("aten._to_copy", "aten.to"):
        return False
    source = node.args[0]
    if not isinstance(source, fx.Node) or not isinstance(node.meta.get("val"), Tensor):
        return False
    given = {k for k, v in node.kwargs.items() if v is not None and k != "non_blocking"}
    is_bare = given <= {"dtype"} and len(node.args) == 1
    return is_bare and node.meta["val"].device == source.meta["val"].device


def _dtype(node: fx.Node) -> torch.dtype:
    dtype: torch.dtype = node.meta["val"].dtype
    return dtype
