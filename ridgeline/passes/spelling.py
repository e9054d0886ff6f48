"""Spelling: of the calls that do one thing, one, and its numbers in one form."""

import operator
from collections.abc import Callable, Sequence
from math import frexp, isfinite

import torch
from torch import Tensor, fx
from torch.fx.node import Argument

from ridgeline.graph import Category, Graph, row_of
from ridgeline.graph.edit import Edit
from ridgeline.graph.read import packet_of
from ridgeline.passes.match import Matcher, argument, arguments, is_plain, set_arguments

_aten = torch.ops.aten
_SINGLE = (torch.float32, torch.float16, torch.bfloat16)
_PAIRS = ("add", "sub", "mul", "div", "maximum", "minimum", "pow")
# Calls under another name with the same arguments in the same order.
_RENAMED = {
    _aten.mm.default: _aten.matmul.default,
    _aten.bmm.default: _aten.matmul.default,
    _aten.mv.default: _aten.matmul.default,
    _aten.linalg_matmul.default: _aten.matmul.default,
    _aten.special_expit.default: _aten.sigmoid.default,
    _aten.negative.default: _aten.neg.default,
    _aten.split_with_sizes_copy.default: _aten.split_with_sizes.default,
    _aten._unsafe_index.Tensor: _aten.index.Tensor,
}
_CONVOLUTIONS = (_aten.conv1d.default, _aten.conv2d.default, _aten.conv3d.default)
_TRANSPOSED = {
    _aten.conv_transpose1d.default: 1,
    _aten.conv_transpose2d.input: 2,
    _aten.conv_transpose3d.input: 3,
}
_MEANS = {
    _aten.adaptive_avg_pool1d.default: 1,
    _aten.adaptive_avg_pool2d.default: 2,
    _aten.adaptive_avg_pool3d.default: 3,
    _aten._adaptive_avg_pool2d.default: 2,
    _aten._adaptive_avg_pool3d.default: 3,
}
_MAX_POOLS = {
    _aten.max_pool1d.default: 1,
    _aten.max_pool2d.default: 2,
    _aten.max_pool3d.default: 3,
}
_POOLS_WITH_PLACES = {
    _aten.max_pool2d_with_indices.default: _aten.max_pool2d.default,
    _aten.max_pool3d_with_indices.default: _aten.max_pool3d.default,
}
_AVERAGE_POOLS = {
    _aten.avg_pool1d.default: 1,
    _aten.avg_pool2d.default: 2,
    _aten.avg_pool3d.default: 3,
}
_SOFTMAXES = {
    _aten._softmax.default: _aten.softmax.int,
    _aten._log_softmax.default: _aten.log_softmax.int,
}
_REDUCTIONS = ("aten.mean.dim", "aten.sum.dim_IntList", "aten.amax.default", "aten.amin.default")
_WITH_DIM = (_aten.softmax.int, _aten.log_softmax.int, _aten.cat.default)
_NORMS = ("aten.layer_norm", "aten.group_norm", "aten.batch_norm", "aten.instance_norm")
# Fills that say their shape or type another way -> what they fill with.
_FILLS = {
    "aten.zeros": 0,
    "aten.zeros_like": 0,
    "aten.new_zeros": 0,
    "aten.ones": 1,
    "aten.ones_like": 1,
    "aten.new_ones": 1,
    "aten.full_like": 0,
    "aten.new_full": 0,
}
_SPLITS = ("aten.split", "aten.split_with_sizes", "aten.chunk", "aten.unbind", "aten.tensor_split")
Speller = Callable[[Edit, Matcher, fx.Node], fx.Node | None]


def spell_alike(graph: Graph) -> Graph:
    """The graph with one spelling of what ATen has several for: conv2d is `convolution`, a global
    average pool is a mean, a split is slices, a constant of one element is a number, and so on.

    Numbers beside fp32 values and narrower are those that fp32 holds.
    """
    edit = Edit(graph)
    matcher = Matcher(edit)
    for node in edit.nodes:
        if node.op != "call_function" or not node.users:
            continue
        if node.target is operator.getitem or isinstance(node.target, torch._ops.OpOverload):
            _spell(edit, matcher, node)
    edit.refresh()
    return edit.finish()


def _spell(edit: Edit, matcher: Matcher, node: fx.Node) -> None:
    """Rewrites one node until no rule applies; a rule that would give another type or shape does
    not.
    """
    for speller in _SPELLERS:
        new = speller(edit, matcher, node)
        if new is None or new is node:
            continue
        if not _is_alike(new, node):
            edit.sweep(new)
            continue
        edit.replace_uses(node, new)
        edit.sweep(node)
        if new.op != "call_function":
            return
        node = new
    _round_numbers(node)


# ---- one call for several -----------------------------------------------------------------------


def _rename(edit: Edit, matcher: Matcher, node: fx.Node) -> fx.Node | None:
    target = _RENAMED.get(node.target)  # type: ignore[call-overload]
    return None if target is None else edit.call(target, node.args, node, node.kwargs)


def _convolution(edit: Edit, matcher: Matcher, node: fx.Node) -> fx.Node | None:
    """convolution(x, weight, bias, stride, padding, dilation, transposed, output_padding,
    groups).
    """
    is_transposed = node.target in _TRANSPOSED
    if node.target not in _CONVOLUTIONS and not is_transposed:
        return None
    given = arguments(node)
    taps = _value(_node(given["weight"])).dim() - 2
    if _value(node).dim() != taps + 2:
        return None
    numbers = [_spread(given.get(n, 0), taps) for n in ("stride", "padding", "dilation")]
    extra = _spread(given.get("output_padding", 0), taps)
    operands = [given["input"], given["weight"], given["bias"]]
    args = (*operands, *numbers, is_transposed, extra, given["groups"])
    return edit.call(_aten.convolution.default, args, node)


def _pool(edit: Edit, matcher: Matcher, node: fx.Node) -> fx.Node | None:
    """A pool with every argument said, one number for each dimension."""
    rank = _MAX_POOLS.get(node.target) or _AVERAGE_POOLS.get(node.target)  # type: ignore[call-overload]
    if rank is None:
        return None
    given = arguments(node)
    for name in ("kernel_size", "stride", "padding", "dilation"):
        if name in given:
            given[name] = _spread(given[name] or given["kernel_size"], rank)
    return edit.call(node.target, tuple(given.values()), node)  # type: ignore[arg-type]


def _pool_without_places(edit: Edit, matcher: Matcher, node: fx.Node) -> fx.Node | None:
    source = node.args[0] if node.target is operator.getitem and node.args[1] == 0 else None
    if not isinstance(source, fx.Node) or source.target not in _POOLS_WITH_PLACES:
        return None
    target = _POOLS_WITH_PLACES[source.target]
    return edit.call(target, tuple(arguments(source).values()), node)


def _global_mean(edit: Edit, matcher: Matcher, node: fx.Node) -> fx.Node | None:
    """An average pool down to one place per channel is a mean."""
    rank = _MEANS.get(node.target)  # type: ignore[call-overload]
    if rank is None or set(_spread(node.args[1], rank)) != {1}:
        return None
    dims = list(range(_value(node).dim() - rank, _value(node).dim()))
    return edit.call(_aten.mean.dim, (node.args[0], dims, True), node)


def _softmax(edit: Edit, matcher: Matcher, node: fx.Node) -> fx.Node | None:
    target = _SOFTMAXES.get(node.target)  # type: ignore[call-overload]
    if target is None or node.args[2]:
        return None
    return edit.call(target, node.args[:2], node)


def _dims_from_front(edit: Edit, matcher: Matcher, node: fx.Node) -> fx.Node | None:
    if node.target not in _WITH_DIM:
        return None
    dim, rank = argument(node, "dim"), _value(node).dim()
    if not isinstance(dim, int) or rank == 0 or (len(node.args) > 1 and dim >= 0):
        return None
    return edit.call(node.target, (node.args[0], dim % rank, *node.args[2:]), node, node.kwargs)


def _reduction(edit: Edit, matcher: Matcher, node: fx.Node) -> fx.Node | None:
    """A reduction that keeps its dimensions, over dimensions in order; then a reshape."""
    name = str(node.target)
    if name in ("aten.mean.default", "aten.sum.default"):
        target = _aten.mean.dim if "mean" in name else _aten.sum.dim_IntList
        dims: list[int] = []
    elif name in _REDUCTIONS:
        target = node.target  # type: ignore[assignment]
        given = argument(node, "dim")
        dims = [int(d) for d in given] if isinstance(given, list | tuple) else []
    else:
        return None
    source = _node(node.args[0])
    rank = _value(source).dim()
    if rank == 0 or not _is_static(source):
        return None
    over = sorted(d % rank for d in dims) or list(range(rank))
    keeps = name in _REDUCTIONS and bool(argument(node, "keepdim"))
    if keeps and over == dims and len(node.args) == 3:
        return None
    kept = edit.call(target, (source, over, True), node, node.kwargs)
    return kept if keeps else _reshaped(edit, kept, node)


def _split(edit: Edit, matcher: Matcher, node: fx.Node) -> fx.Node | None:
    """A part of a split is a slice."""
    source = node.args[0] if node.target is operator.getitem else None
    if not isinstance(source, fx.Node) or packet_of(source.target) not in _SPLITS:
        return None
    whole, index = _node(source.args[0]), node.args[1]
    assert isinstance(index, int)
    if not _is_static(whole):
        return None
    rank = _value(whole).dim()
    dim = int(argument(source, "dim")) % rank  # type: ignore[arg-type]
    if packet_of(source.target) == "aten.unbind":
        return edit.call(_aten.select.int, (whole, dim, index), node)
    parts = source.meta["val"]
    start = sum(int(part.shape[dim]) for part in parts[:index])
    end = start + int(parts[index].shape[dim])
    return edit.call(_aten.slice.Tensor, (whole, dim, start, end, 1), node)


def _fill(edit: Edit, matcher: Matcher, node: fx.Node) -> fx.Node | None:
    """A fill, whatever it takes its shape or type from."""
    packet = packet_of(node.target)
    if packet not in _FILLS or not _is_static(node):
        return None
    given = arguments(node)
    number = given.get("fill_value", _FILLS[packet])
    if not isinstance(number, int | float):
        return None
    value = _value(node)
    how: dict[str, Argument] = {"dtype": value.dtype, "device": value.device, "pin_memory": False}
    return edit.call(_aten.full.default, (list(value.shape), number), node, how)


def _norm(edit: Edit, matcher: Matcher, node: fx.Node) -> fx.Node | None:
    """Which library a norm may call is not part of it."""
    if packet_of(node.target) not in _NORMS:
        return None
    for name in {"cudnn_enable", "cudnn_enabled"} & set(arguments(node)):
        set_arguments(node, **{name: False})
    return None


def _embedding(edit: Edit, matcher: Matcher, node: fx.Node) -> fx.Node | None:
    """Rows of a table, whatever looks them up; what is said for training is left out."""
    if node.target is _aten.embedding.default:
        table, places = node.args[:2]
        if len(node.args) == 2:
            return None
        return edit.call(_aten.embedding.default, (table, places), node)
    table = node.args[0] if node.args else None
    if not isinstance(table, fx.Node) or not isinstance(table.meta.get("val"), Tensor):
        return None
    if table not in edit.weights() or _value(table).dim() != 2:
        return None
    if node.target is _aten.index_select.default and node.args[1] == 0:
        return edit.call(_aten.embedding.default, (table, node.args[2]), node)
    return None


# ---- arithmetic ---------------------------------------------------------------------------------


def _clamp(edit: Edit, matcher: Matcher, node: fx.Node) -> fx.Node | None:
    """relu where it is one, else clamp(x, low, high)."""
    name, given = str(node.target), list(node.args[1:])
    bounds: Sequence[object]
    if name == "aten.relu6.default":
        bounds = [0.0, 6.0]
    elif name in ("aten.hardtanh.default", "aten.clamp.default"):
        bounds = list(arguments(node).values())[1:]
    elif name == "aten.clamp_min.default":
        bounds = [given[0], None]
    elif name == "aten.clamp_max.default":
        bounds = [None, given[0]]
    elif name == "aten.threshold.default" and list(given) == [0, 0]:
        bounds = [0.0, None]
    elif name == "aten.maximum.default" and matcher.number(node.args[1]) == 0.0:
        bounds = [0.0, None]
    else:
        return None
    if _value(node).dtype is torch.bool:  # neither relu nor clamp takes truth values
        return None
    low, high = bounds
    is_float = _value(node).is_floating_point()
    if low == 0 and high is None and _is_alike(_node(node.args[0]), node):
        return edit.call(_aten.relu.default, (node.args[0],), node)
    args = (node.args[0], *(float(b) if is_float and b is not None else b for b in bounds))  # type: ignore[arg-type]
    if name == "aten.clamp.default" and node.args == args:
        return None
    return edit.call(_aten.clamp.default, args, node)  # type: ignore[arg-type]


def _power(edit: Edit, matcher: Matcher, node: fx.Node) -> fx.Node | None:
    """Squares are products, roots are roots."""
    packet = packet_of(node.target)
    if packet == "aten.square":
        return edit.call(_aten.mul.Tensor, (node.args[0], node.args[0]), node)
    if node.target is not _aten.pow.Tensor_Scalar:
        return None
    if node.args[1] == 2:
        return edit.call(_aten.mul.Tensor, (node.args[0], node.args[0]), node)
    if node.args[1] != 0.5 or not _value(_node(node.args[0])).is_floating_point():
        return None
    return edit.call(_aten.sqrt.default, (node.args[0],), node)


def _arithmetic(edit: Edit, matcher: Matcher, node: fx.Node) -> fx.Node | None:
    """Numbers as numbers and second; x - c as x + -c, c - x as -x + c, x / 2 as x * 0.5."""
    kind = _kind(node)
    if kind not in (*_PAIRS, "rsub") or not is_plain(node) or len(node.args) != 2:
        return None
    first, second = node.args
    if kind == "rsub":
        kind, first, second = "sub", second, first
    numbers = [_number(matcher, node, a) for a in (first, second)]
    if numbers.count(None) != 1:
        is_turned = packet_of(node.target) == "aten.rsub"
        return _difference(edit, node, first, second) if is_turned else None
    is_first = numbers[0] is not None
    value, number = (second, numbers[0]) if is_first else (first, numbers[1])
    assert isinstance(value, fx.Node)
    assert number is not None
    if kind == "sub":
        if is_first:
            value = edit.call(_aten.neg.default, (value,), node)
        kind, number = "add", number if is_first else -number
    elif kind == "div" and not is_first and abs(frexp(number)[0]) == 0.5:
        kind, number = "mul", 1 / number
    elif is_first and kind in ("div", "pow"):
        return None
    if kind in ("maximum", "minimum"):
        return None
    target = _aten.pow.Tensor_Scalar if kind == "pow" else getattr(_aten, kind).Tensor
    if node.target is target and node.args == (value, number):
        return None
    return edit.call(target, (value, number), node)


def _difference(edit: Edit, node: fx.Node, first: object, second: object) -> fx.Node | None:
    if not isinstance(first, fx.Node) or not isinstance(second, fx.Node):
        return None
    return edit.call(_aten.sub.Tensor, (first, second), node)


def _number(matcher: Matcher, node: fx.Node, value: object) -> float | int | None:
    """The number that an operand of arithmetic on floats is; None for a tensor, and where the
    result's type hangs on it.
    """
    if not _value(node).is_floating_point():
        return None
    number = matcher.number(value)
    if number is None or not isfinite(number):
        return None
    if isinstance(value, fx.Node) and _value(value).dim() > _value(node).dim():
        return None
    return _as_held(number, _value(node).dtype)


def _round_numbers(node: fx.Node) -> None:
    """The numbers in a call on floats as fp32 holds them."""
    value = node.meta.get("val")
    if node.op != "call_function" or not isinstance(value, Tensor):
        return
    row = row_of(packet_of(node.target))
    if row.category in (Category.CREATE, Category.VIEW, Category.RANDOM):
        return
    node.args = tuple(_held(a, value.dtype) for a in node.args)
    node.kwargs = {name: _held(a, value.dtype) for name, a in node.kwargs.items()}


def _held(value: Argument, dtype: torch.dtype) -> Argument:
    return _as_held(value, dtype) if isinstance(value, float) else value


def _as_held(number: float, dtype: torch.dtype) -> float:
    """The number as values of that type meet it."""
    if dtype not in _SINGLE or not isfinite(number):
        return float(number)
    held = torch.tensor(number, dtype=torch.float32).item()
    return held if isfinite(held) else float(number)


# ---- helpers ------------------------------------------------------------------------------------


def _reshaped(edit: Edit, value: fx.Node, node: fx.Node) -> fx.Node:
    return edit.call(_aten.reshape.default, (value, list(_value(node).shape)), node)


def _kind(node: fx.Node) -> str:
    return row_of(packet_of(node.target)).kind


def _is_alike(one: fx.Node, other: fx.Node) -> bool:
    """Whether two calls give values of the same types and shapes."""
    pairs = zip(_values(one), _values(other), strict=True)
    return all(a.dtype == b.dtype and a.shape == b.shape for a, b in pairs)


def _is_static(node: fx.Node) -> bool:
    return all(isinstance(d, int) for d in _value(node).shape)


def _value(node: fx.Node) -> Tensor:
    value = node.meta["val"]
    assert isinstance(value, Tensor)
    return value


def _values(node: fx.Node) -> Sequence[Tensor]:
    """What a call gives: one tensor, or the parts of a split."""
    value = node.meta["val"]
    return [value] if isinstance(value, Tensor) else value


def _node(value: object) -> fx.Node:
    assert isinstance(value, fx.Node)
    return value


def _spread(value: object, count: int) -> list[int]:
    """One number per dimension, from a list of all or of one, or from one number."""
    listed = value if isinstance(value, list | tuple) else [value]
    sizes = [v for v in listed if isinstance(v, int)]
    return sizes * count if len(sizes) == 1 else sizes


_SPELLERS: tuple[Speller, ...] = (
    _split,
    _pool_without_places,
    _rename,
    _convolution,
    _global_mean,
    _pool,
    _softmax,
    _dims_from_front,
    _reduction,
    _fill,
    _norm,
    _embedding,
    _clamp,
    _power,
    _arithmetic,
)
