"""Attention written out, as other frameworks and older models do, becomes one node."""

from dataclasses import dataclass, field
from math import sqrt

import torch
from torch import Tensor, fx

from ridgeline.graph import Graph
from ridgeline.graph.edit import Edit
from ridgeline.passes.layout import is_restriding, order_of
from ridgeline.passes.match import (
    Matcher,
    argument,
    arguments,
    is_call,
    is_plain,
    operand,
    set_arguments,
)
from ridgeline.passes.rewrite import replace

_aten = torch.ops.aten
_SDPA = _aten.scaled_dot_product_attention.default
_PRODUCTS = (_aten.matmul.default, _aten.bmm.default, _aten.mm.default)
_SOFTMAXES = (_aten.softmax.int, _aten._softmax.default, _aten._safe_softmax.default)
# A score this far below the others has no weight left in any floating type.
_MASKED = -1e9
# Adding less than this to a score leaves exactly the fill: the sum rounds to it.
_ABSORBING = -1e30
_SCALE_TOLERANCE = 2.0**-22


@dataclass(slots=True)
class Scores:
    """What a softmax over attention scores was computed from. inner: nodes that go with it."""

    scale: float = 1.0
    masks: list[tuple[str, fx.Node, float]] = field(default_factory=list)
    inner: list[fx.Node] = field(default_factory=list)


def recover_attention(graph: Graph) -> Graph:
    """The graph with softmax(q k^T * scale + mask) v as scaled_dot_product_attention, with a
    causal mask as a flag and repeated key and value heads read once.
    """
    edit = Edit(graph)
    matcher = Matcher(edit)
    is_changed = False
    for node in edit.nodes:
        if node.op == "call_function" and node.users and node.target in _PRODUCTS:
            is_changed |= _recover(edit, matcher, node)
    for node in edit.nodes:
        if node.op == "call_function" and node.users and node.target is _SDPA:
            is_changed |= _tidy(edit, matcher, node)
    if is_changed:
        edit.refresh()
    return edit.finish()


def _recover(edit: Edit, matcher: Matcher, root: fx.Node) -> bool:
    probabilities, v = root.args[:2]
    if not _is_softmax(probabilities) or not isinstance(v, fx.Node):
        return False
    assert isinstance(probabilities, fx.Node)
    scores = Scores(inner=[probabilities])
    product = _unwrap(matcher, probabilities.args[0], scores)
    if product is None or any(len(n.users) != 1 for n in scores.inner):
        return False
    q, k_transposed = product.args[:2]
    if not isinstance(q, fx.Node) or not isinstance(k_transposed, fx.Node):
        return False
    if not _have_right_shapes(q, k_transposed, v, scores):
        return False
    mask = _additive_mask(edit, matcher, scores, product, root)
    scale = (
        scores.scale
        * _take_factor(matcher, q, product)
        * _take_factor(matcher, k_transposed, product)
    )
    q, k = operand(product, 0), _swapped(edit, operand(product, 1), root)
    return replace(edit, root, _attend(edit, q, k, v, mask, scale, root))


def _swapped(edit: Edit, matrices: fx.Node, at: fx.Node) -> fx.Node:
    """The matrices transposed: what they are transposes of, where they are."""
    order = order_of(matrices)
    if order is not None:
        rank = len(order)
        if order == (*range(rank - 2), rank - 1, rank - 2):
            source = matrices.args[0]
            assert isinstance(source, fx.Node)
            return source
    return edit.call(_aten.transpose.int, (matrices, -2, -1), at)


def _is_softmax(node: object) -> bool:
    """Whether a node is a softmax over the last dimension, in its input's own type."""
    if not isinstance(node, fx.Node) or node.target not in _SOFTMAXES:
        return False
    value, source = node.meta["val"], node.args[0]
    assert isinstance(source, fx.Node)
    return node.args[1] in (-1, value.dim() - 1) and source.meta["val"].dtype == value.dtype


def _unwrap(matcher: Matcher, value: object, scores: Scores) -> fx.Node | None:
    """The product q k^T under masks and scales, which it collects; None where there is none."""
    while isinstance(value, fx.Node):
        node = value
        scores.inner.append(node)
        if node.target in _PRODUCTS:
            return node
        value = _unwrap_one(matcher, node, scores)
    return None


def _unwrap_one(matcher: Matcher, node: fx.Node, scores: Scores) -> object:
    """What a mask or a scale is applied to; None for any other node."""
    first, second = (*node.args[:2], None, None)[:2]
    if is_call(node, "mul") or is_call(node, "div"):
        return _unwrap_scale(matcher, node, scores)
    if scores.scale != 1.0:
        return None  # a mask below a scale would be scaled as well
    if is_call(node, "add") and is_plain(node):
        for inner, mask in ((first, second), (second, first)):
            if _leads_to_product(inner) and isinstance(mask, fx.Node):
                scores.masks.append(("add", mask, 0.0))
                return inner
    if is_call(node, "masked_fill") and isinstance(second, fx.Node):
        return _fill(matcher, scores, "fill", second, node.args[2], first)
    if is_call(node, "where") and isinstance(first, fx.Node) and len(node.args) == 3:
        if matcher.number(node.args[2]) is not None:
            return _fill(matcher, scores, "keep", first, node.args[2], second)
        return _fill(matcher, scores, "fill", first, second, node.args[2])
    return None


def _fill(
    matcher: Matcher, scores: Scores, how: str, mask: fx.Node, fill: object, inner: object
) -> object:
    number = matcher.number(fill)
    if number is None or number > _ABSORBING:
        return None
    scores.masks.append((how, mask, number))
    return inner


def _unwrap_scale(matcher: Matcher, node: fx.Node, scores: Scores) -> object:
    first, second = node.args[:2]
    if not is_plain(node):
        return None
    factor = matcher.number(second)
    if factor is None and is_call(node, "mul"):
        first, factor = second, matcher.number(first)
    if not factor:
        return None
    scores.scale *= factor if is_call(node, "mul") else 1 / factor
    return first


def _leads_to_product(value: object) -> bool:
    """Whether scores, not a mask, come from this side."""
    while isinstance(value, fx.Node) and value.op == "call_function":
        if value.target in _PRODUCTS:
            return True
        if not any(is_call(value, kind) for kind in ("mul", "div", "add", "masked_fill", "where")):
            return False
        value = value.args[1] if is_call(value, "where") else value.args[0]
    return False


def _have_right_shapes(q: fx.Node, k_transposed: fx.Node, v: fx.Node, scores: Scores) -> bool:
    values = [n.meta["val"] for n in (q, k_transposed, v)]
    if not all(isinstance(d, int) for value in values for d in value.shape):
        return False
    leading = {value.shape[:-2] for value in values}
    is_even = len(leading) == 1 and 2 <= values[0].dim() <= 4
    rank = values[0].dim()
    masks = [mask.meta["val"] for _, mask, _ in scores.masks]
    is_float = values[0].is_floating_point()
    return is_even and is_float and all(isinstance(m, Tensor) and m.dim() <= rank for m in masks)


def _additive_mask(
    edit: Edit, matcher: Matcher, scores: Scores, product: fx.Node, at: fx.Node
) -> fx.Node | None:
    """The masks as one that is added to the scores."""
    total: fx.Node | None = None
    dtype = product.meta["val"].dtype
    for how, mask, fill in scores.masks:
        one = mask if how == "add" else _filled(edit, matcher, how, mask, fill, at)
        if one.meta["val"].dtype != dtype:
            one = edit.call(_aten._to_copy.default, (one,), at, {"dtype": dtype})
        total = one if total is None else edit.call(_aten.add.Tensor, (total, one), at)
    return total


def _filled(
    edit: Edit, matcher: Matcher, how: str, mask: fx.Node, fill: float, at: fx.Node
) -> fx.Node:
    """0 where scores are kept, the fill elsewhere: the sum with a score is exactly what masking
    makes of it, as the fill absorbs any score.
    """
    masked, kept = (fill, 0.0) if how == "fill" else (0.0, fill)
    constant = matcher.constant(mask)
    if constant is not None:
        value = torch.where(constant, masked, kept)
        return edit.add_weight(f"{edit.path_of(mask)}_added", value)
    return edit.call(_aten.where.Scalar, (mask, masked, kept), at)


def _take_factor(matcher: Matcher, node: fx.Node, reader: fx.Node) -> float:
    """The number that an operand was multiplied by, which is taken out of it; 1 if there is
    none. Views between stay.
    """
    value: object = node
    while isinstance(value, fx.Node) and is_restriding(value) and len(value.users) == 1:
        reader, value = value, value.args[0]
    if not isinstance(value, fx.Node) or not is_plain(value) or len(value.users) != 1:
        return 1.0
    if not is_call(value, "mul") and not is_call(value, "div"):
        return 1.0
    found = Scores()
    source = _unwrap_scale(matcher, value, found)
    if not isinstance(source, fx.Node):
        return 1.0
    if source.meta["val"].shape != value.meta["val"].shape:
        return 1.0
    reader.replace_input_with(value, source)
    return found.scale


def _attend(
    edit: Edit,
    q: fx.Node,
    k: fx.Node,
    v: fx.Node,
    mask: fx.Node | None,
    scale: float,
    at: fx.Node,
) -> fx.Node:
    """One attention node; operands of fewer dimensions get some of size 1, as the fast kernels
    take four.
    """
    missing = 4 - q.meta["val"].dim()
    wide = [_widened(edit, x, missing, at) for x in (q, k, v)]
    if mask is not None:
        mask = _widened(edit, mask, 4 - mask.meta["val"].dim(), at)
    out = edit.call(_SDPA, (*wide, mask), at, {"scale": scale})
    for _ in range(missing):
        out = edit.call(_aten.squeeze.dim, (out, 0), at)
    return out


def _widened(edit: Edit, x: fx.Node, count: int, at: fx.Node) -> fx.Node:
    for _ in range(count):
        x = edit.call(_aten.unsqueeze.default, (x, 0), at)
    return x


def _tidy(edit: Edit, matcher: Matcher, node: fx.Node) -> bool:
    """A causal mask as the flag, repeated heads unrepeated, the default scale unsaid."""
    before = arguments(node)
    _flag_causal(matcher, node)
    _unrepeat(node)
    scale = argument(node, "scale")
    query = node.args[0]
    assert isinstance(query, fx.Node)
    default = 1 / sqrt(query.meta["val"].shape[-1])
    if isinstance(scale, float) and abs(scale - default) < _SCALE_TOLERANCE * default:
        set_arguments(node, scale=None)
    return arguments(node) != before


def _flag_causal(matcher: Matcher, node: fx.Node) -> None:
    mask = argument(node, "attn_mask")
    value = _constant_view(matcher, mask)
    if value is None or value.dim() < 2 or value.shape[-1] != value.shape[-2]:
        return
    flat = value.reshape(-1, *value.shape[-2:])
    query, key = node.args[:2]
    lengths = {n.meta["val"].shape[-2] for n in (query, key)}  # type: ignore[union-attr]
    if flat.shape[0] != 1 or lengths != {flat.shape[-1]} or argument(node, "is_causal"):
        return
    lower = torch.ones_like(flat[0], dtype=torch.bool).tril()
    kept = flat[0] if flat.dtype is torch.bool else flat[0] == 0
    masked = flat[0][~lower]
    is_masked = not masked.any() if flat.dtype is torch.bool else bool((masked <= _MASKED).all())
    if torch.equal(kept, lower) and is_masked:
        set_arguments(node, attn_mask=None, is_causal=True)


def _constant_view(matcher: Matcher, mask: object) -> Tensor | None:
    """The value of a weight under views of it."""
    if not isinstance(mask, fx.Node):
        return None
    value = matcher.constant(mask)
    if value is not None:
        return value if not value.is_meta else None
    if not is_restriding(mask) and mask.target is not _aten.expand.default:
        return None
    source = _constant_view(matcher, mask.args[0])
    if source is None:
        return None
    result: Tensor = mask.target(source, *mask.args[1:])  # type: ignore[operator]
    return result


def _unrepeat(node: fx.Node) -> None:
    """Reads key and value heads that were repeated for groups of queries where they came from."""
    q, k, v = node.args[:3]
    sources = [_repeated_from(x) for x in (k, v)]
    if None in sources or not isinstance(q, fx.Node) or argument(node, "enable_gqa"):
        return
    shapes = [s.meta["val"].shape for s in sources if s is not None]
    if shapes[0][1] != shapes[1][1] or q.meta["val"].shape[1] % shapes[0][1]:
        return
    set_arguments(node, key=sources[0], value=sources[1], enable_gqa=True)


def _repeated_from(node: object) -> fx.Node | None:
    """x of [B,H,S,D] where the node holds each of its heads several times in a row."""
    if not isinstance(node, fx.Node) or node.op != "call_function":
        return None
    if node.target is _aten.repeat_interleave.self_int:
        x = node.args[0]
        assert isinstance(x, fx.Node)
        is_heads = argument(node, "dim") in (1, -3) and x.meta["val"].dim() == 4
        return x if is_heads else None
    value: object = node
    if not is_restriding(node) or node.meta["val"].dim() != 4:
        return None
    value = node.args[0]
    if is_call(value, "clone"):
        value = value.args[0]  # type: ignore[union-attr]
    if not isinstance(value, fx.Node) or value.target is not _aten.expand.default:
        return None
    return _grouped_source(node, value)


def _grouped_source(node: fx.Node, expanded: fx.Node) -> fx.Node | None:
    inner = expanded.args[0]
    assert isinstance(inner, fx.Node)
    wide, narrow = expanded.meta["val"].shape, inner.meta["val"].shape
    if len(wide) != 5 or len(narrow) != 5 or narrow[2] != 1:
        return None
    batch, heads, groups, length, width = wide
    is_heads = tuple(node.meta["val"].shape) == (batch, heads * groups, length, width)
    is_only = tuple(narrow) == (batch, heads, 1, length, width)
    if not is_heads or not is_only or inner.target is not _aten.unsqueeze.default:
        return None
    x = inner.args[0]
    return x if isinstance(x, fx.Node) else None
