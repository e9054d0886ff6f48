"""Operations on the shape of tensors, and on their elements' places (`keras.ops`)."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ridgeline.frontends.keras.arguments import DTYPES
from ridgeline.frontends.keras.call import Call
from ridgeline.frontends.keras.layers.attention import added, attend
from ridgeline.frontends.keras.layers.merging import concatenated
from ridgeline.frontends.keras.layers.reshaping import require_mode, reshaped, resized
from ridgeline.frontends.keras.records import Argument
from ridgeline.frontends.keras.table import Result, Row, Run, rows
from ridgeline.frontends.keras.value import Value


def _reshape(call: Call) -> Result:
    value = call.value
    shape = call.layer.config.get("newshape")
    if isinstance(shape, list) and shape[:1] == [None]:
        return reshaped(value, [value.shape[0], *(s for s in shape[1:] if isinstance(s, int))])
    return reshaped(value, call.integers("newshape"))


def _transpose(call: Call) -> Result:
    x = call.tensor
    return x.permute(call.integers("axes", range(x.dim())[::-1]))


def _swapaxes(call: Call) -> Result:
    return call.tensor.transpose(call.integer("axis1"), call.integer("axis2"))


def _moveaxis(call: Call) -> Result:
    return call.tensor.movedim(call.integers("source"), call.integers("destination"))


def _expand_dims(call: Call) -> Result:
    x = call.tensor
    axes = sorted(a % (x.dim() + 1) for a in call.integers("axis"))
    for axis in axes:
        x = x.unsqueeze(axis)
    return x


def _squeeze(call: Call) -> Result:
    x = call.tensor
    if not call.has("axis"):
        return x.squeeze()
    axes = [a % x.dim() for a in call.integers("axis")]
    if any(x.shape[a] != 1 for a in axes):
        raise call.error(f"it drops the dimensions {axes}, not all of which are 1")
    return x.squeeze(axes)


def _concatenate(call: Call) -> Result:
    return concatenated(call.values, call.integer("axis", 0))


def _stack(call: Call) -> Result:
    return torch.stack([v.plain() for v in call.values], call.integer("axis", 0))


def _split(call: Call) -> Result:
    value = call.value
    axis = call.integer("axis", 0)
    given = call.layer.config.get("indices_or_sections")
    dim, length = value.dim(axis), value.shape[axis]
    if isinstance(given, int) and not isinstance(given, bool):
        if given < 1 or length % given:
            raise call.error(f"it splits {length} in {given} equal parts")
        parts = list(value.tensor.chunk(given, dim))
    else:
        cuts = [0, *call.integers("indices_or_sections"), length]
        parts = [value.tensor.narrow(dim, a, b - a) for a, b in pairwise(cuts)]
    return tuple(value.like(p) for p in parts)


def _unstack(call: Call) -> Result:
    return tuple(call.tensor.unbind(call.integer("axis", 0)))


def _get_item(call: Call) -> Result:
    """Indexed as NumPy does."""
    key = call.argument(1, "key")
    x, parts = call.tensor, key if isinstance(key, tuple) else (key,)
    for place, part in enumerate(parts):
        if isinstance(part, slice) and isinstance(part.step, int) and part.step < 0:
            x = x.flip(_dim_at(call, x, parts, place))
    index = tuple(_index(call, part) for part in parts)
    result: Tensor = x[index]
    return result


def _dim_at(call: Call, x: Tensor, parts: Sequence[Argument], place: int) -> int:
    """Which dimension a slice that runs backwards is of."""
    if parts[place] != slice(None, None, -1):
        raise call.refuse("a slice with a negative step", "flip, then slice")
    before, after = parts[:place], parts[place + 1 :]
    if ... in before:
        return x.dim() - 1 - sum(1 for p in after if p is not None)
    return sum(1 for p in before if p is not None)


def _index(call: Call, part: Argument) -> Any:
    match part:
        case bool():
            raise call.refuse("indexing by a truth value", "use keras.ops.where")
        case slice() if part.step == -1:
            return slice(None)
        case None | int() | slice():
            return part
        case Value():
            return part.plain().to(torch.int64)
    if part is ...:
        return ...
    raise call.error(f"it is indexed with {str(part)[:40]!r}")


def _take(call: Call) -> Result:
    """What lies at the indices along an axis: a look-up where the axis is the first."""
    x, indices = call.tensor, call.argument(1, "indices")
    if not call.has("axis"):
        x = x.flatten()
    axis = call.integer("axis", 0) % x.dim()
    if isinstance(indices, int):
        return x.select(axis, indices)
    if isinstance(indices, tuple):
        numbers = [i for i in indices if isinstance(i, int)]
        constant = call.constant("indices", lambda: torch.tensor(numbers))
        return x.index_select(axis, constant)
    (found,) = call.list_of(indices)
    flat = x.index_select(axis, found.plain().flatten().to(torch.int64))
    return flat.reshape(*x.shape[:axis], *found.shape, *x.shape[axis + 1 :])


def _tile(call: Call) -> Result:
    return torch.tile(call.tensor, call.integers("repeats"))


def _repeat(call: Call) -> Result:
    x = call.tensor
    x = x if call.has("axis") else x.flatten()
    return x.repeat_interleave(call.integer("repeats"), call.integer("axis", 0))


def _flip(call: Call) -> Result:
    value = call.value
    axes = call.integers("axis", range(value.rank))
    return value.like(value.tensor.flip([value.dim(a) for a in axes]))


def _roll(call: Call) -> Result:
    x = call.tensor
    if not call.has("axis"):
        return x.flatten().roll(call.integer("shift")).reshape(x.shape)
    return x.roll(call.integers("shift"), call.integers("axis"))


def _pad(call: Call) -> Result:
    """Padded with a constant, or as NumPy reflects."""
    x, mode = call.tensor, call.text("mode", "constant")
    given = call.argument(1, "constant_values")
    fill = float(given) if isinstance(given, int | float) else 0.0
    pairs = call.pairs("pad_width", x.dim())
    flat = [n for pair in reversed(pairs) for n in pair]
    if mode == "constant":
        return F.pad(x, flat, value=fill)
    names = {"reflect": "reflect", "edge": "replicate"}
    if mode not in names:
        raise call.refuse(f"the padding {mode}", "constant, reflect and edge are")
    while len(flat) > 2 and flat[-2:] == [0, 0]:
        flat = flat[:-2]
    return F.pad(x, flat, mode=names[mode])


def _broadcast_to(call: Call) -> Result:
    return call.tensor.broadcast_to(call.integers("shape"))


def _slice(call: Call) -> Result:
    x = call.tensor
    starts, shape = call.argument(1, "start_indices"), call.layer.config.get("shape")
    if not isinstance(starts, tuple) or not isinstance(shape, list):
        raise call.refuse("a slice that starts where the data say", "use fixed indices")
    for dim, (start, size) in enumerate(zip(starts, shape, strict=True)):
        if isinstance(start, int) and isinstance(size, int):
            x = x.narrow(dim, start, size if size >= 0 else x.shape[dim] - start)
    return x


def _one_hot(call: Call) -> Result:
    dtype = call.text("dtype", "float32")
    hot = F.one_hot(call.tensor.to(torch.int64), call.count("num_classes")).to(DTYPES[dtype])
    axis = call.integer("axis", -1)
    return hot if axis in (-1, hot.dim() - 1) else hot.movedim(-1, axis)


def _triangle(name: str) -> Run:
    functions = {"Tril": torch.tril, "Triu": torch.triu}
    return lambda call: functions[name](call.tensor, call.integer("k", 0))


def _top_k(call: Call) -> Result:
    values, indices = torch.topk(call.tensor, call.count("k"), sorted=call.flag("sorted", True))
    return values, indices.to(torch.int32)


def _resize(call: Call) -> Result:
    mode = call.text("interpolation", "bilinear")
    require_mode(call, mode)
    if call.flag("antialias") or call.flag("crop_to_aspect_ratio"):
        raise call.refuse("resizing with options", "resize plainly")
    x = call.channels_first(call.value)
    return call.from_channels_first(resized(x, call.sizes("size", 2), mode))


def _attention(call: Call) -> Result:
    """(B, T, H, d) queries over (B, S, K, d) keys and values."""
    q, k, v = (call.optional(i, n) for i, n in enumerate(("query", "key", "value")))
    if q is None or k is None or v is None:
        raise call.error("it is called without query, key and value")
    heads = [t.plain().transpose(1, 2) for t in (q, k, v)]
    bias, mask = call.optional(3, "bias"), call.optional(4, "mask")
    is_causal = call.flag("is_causal")
    if call.has("attn_logits_soft_cap"):
        raise call.refuse("a soft cap of the scores", "write the attention out")
    whole = None if bias is None else bias.plain()
    if mask is not None:
        shown = mask.plain().to(torch.bool)
        shown = shown & torch.ones(*_square(heads), dtype=torch.bool).tril() if is_causal else shown
        whole, is_causal = added(shown, heads[0]), False
    given = call.argument(5, "scale")
    scale = given if isinstance(given, float) else None
    y = attend(heads[0], heads[1], heads[2], whole, is_causal=is_causal, scale=scale)
    return y.transpose(1, 2)


def _square(heads: Sequence[Tensor]) -> tuple[int, int]:
    return heads[0].shape[2], heads[1].shape[2]


ROWS: tuple[Row, ...] = rows(
    {
        f"ops.{name}": run
        for name, run in {
            "BroadcastTo": _broadcast_to,
            "Concatenate": _concatenate,
            "DotProductAttention": _attention,
            "ExpandDims": _expand_dims,
            "Flip": _flip,
            "GetItem": _get_item,
            "Moveaxis": _moveaxis,
            "OneHot": _one_hot,
            "Pad": _pad,
            "Ravel": lambda call: call.tensor.flatten(),
            "Repeat": _repeat,
            "Reshape": _reshape,
            "Resize": _resize,
            "Roll": _roll,
            "Slice": _slice,
            "Split": _split,
            "Squeeze": _squeeze,
            "Stack": _stack,
            "Swapaxes": _swapaxes,
            "Take": _take,
            "Tile": _tile,
            "TopK": _top_k,
            "Transpose": _transpose,
            "Tril": _triangle("Tril"),
            "Triu": _triangle("Triu"),
            "Unstack": _unstack,
        }.items()
    }
)
