"""Pooling, as TensorFlow pads it: what is padded counts for nothing.

Shapes: N samples, C channels, S spatial dimensions.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from ridgeline.frontends.keras.call import Call
from ridgeline.frontends.keras.layers.convolution import Pads, padded, same_pads
from ridgeline.frontends.keras.table import Result, Row, Run, rows
from ridgeline.frontends.keras.value import Value

Pools = dict[int, Callable[..., Tensor]]
_MAX: Pools = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}
_AVERAGE: Pools = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}
_ADAPTIVE_MAX: Pools = {
    1: F.adaptive_max_pool1d,
    2: F.adaptive_max_pool2d,
    3: F.adaptive_max_pool3d,
}
_ADAPTIVE_AVERAGE: Pools = {
    1: F.adaptive_avg_pool1d,
    2: F.adaptive_avg_pool2d,
    3: F.adaptive_avg_pool3d,
}


def _plan(call: Call, x: Tensor) -> tuple[list[int], list[int], Pads]:
    """(window, strides, pads)."""
    rank = x.dim() - 2
    window = call.sizes("pool_size", rank)
    strides = call.sizes("strides", rank) if call.has("strides") else window
    if call.text("padding", "valid") == "valid":
        return window, strides, [(0, 0)] * rank
    return window, strides, same_pads(x.shape[2:], window, strides)


def _is_ceil(pads: Pads, strides: Sequence[int]) -> bool:
    """Whether torch's own padding, with windows that may hang over the end, does it."""
    return all(after - before < s for (before, after), s in zip(pads, strides, strict=True))


def _max_pool(call: Call) -> Result:
    x = call.channels_first(call.value)
    window, strides, pads = _plan(call, x)
    before = [b for b, _ in pads]
    hangs = any(a != b for b, a in pads)
    if hangs and not _is_ceil(pads, strides):
        x, before, hangs = padded(x, pads, -torch.inf), [0] * len(pads), False
    y = _MAX[x.dim() - 2](x, window, strides, before, 1, hangs)
    return call.from_channels_first(y)


def _average_pool(call: Call) -> Result:
    x = call.channels_first(call.value)
    window, strides, pads = _plan(call, x)
    before = [b for b, _ in pads]
    hangs = any(a != b for b, a in pads)
    pool = _AVERAGE[x.dim() - 2]
    if hangs and not _is_ceil(pads, strides):
        whole = pool(padded(x, pads), window, strides)
        share = pool(padded(torch.ones_like(x[:1, :1]), pads), window, strides)
        return call.from_channels_first(whole / share)
    has_pads = hangs or any(before)
    y = pool(x, window, strides, before, hangs, not has_pads)
    return call.from_channels_first(y)


def _adaptive(table: Pools) -> Run:
    def run(call: Call) -> Result:
        x = call.channels_first(call.value)
        rank = x.dim() - 2
        return call.from_channels_first(table[rank](x, call.sizes("output_size", rank)))

    return run


def _global(call: Call, pooled: Tensor) -> Result:
    """A value of every channel, with the other dimensions kept as ones or dropped."""
    if not call.flag("keepdims"):
        return pooled.flatten(1)
    return call.from_channels_first(pooled)


def _global_average(call: Call) -> Result:
    value = call.value
    if value.rank == 3:
        given = call.optional(1, "mask")
        mask = value.mask if given is None else given.plain()
        if mask is not None:
            return _masked_average(call, value, mask)
    if value.rank == 3 and not call.is_channels_first:
        keeps = call.flag("keepdims")
        y = value.tensor.mean(value.dim(1), keepdim=keeps)
        return value.like(y) if keeps else y
    x = call.channels_first(value)
    return _global(call, _ADAPTIVE_AVERAGE[x.dim() - 2](x, [1] * (x.dim() - 2)))


def _masked_average(call: Call, value: Value, mask: Tensor) -> Result:
    """The mean over the steps that the mask shows."""
    steps, channels = (2, 1) if call.is_channels_first else (1, 2)
    x, shown = value.plain(), mask.to(torch.bool).to(value.tensor.dtype).unsqueeze(channels)
    keeps = call.flag("keepdims")
    return (x * shown).sum(steps, keepdim=keeps) / shown.sum(steps, keepdim=keeps)


def _global_max(call: Call) -> Result:
    x = call.channels_first(call.value)
    return _global(call, x.amax(tuple(range(2, x.dim())), keepdim=True))


ROWS: tuple[Row, ...] = (
    *rows({f"MaxPooling{rank}D": _max_pool for rank in (1, 2, 3)}),
    *rows({f"AveragePooling{rank}D": _average_pool for rank in (1, 2, 3)}),
    *rows({f"GlobalAveragePooling{rank}D": _global_average for rank in (1, 2, 3)}),
    *rows({f"GlobalMaxPooling{rank}D": _global_max for rank in (1, 2, 3)}),
    *rows({f"AdaptiveAveragePooling{r}D": _adaptive(_ADAPTIVE_AVERAGE) for r in (1, 2, 3)}),
    *rows({f"AdaptiveMaxPooling{r}D": _adaptive(_ADAPTIVE_MAX) for r in (1, 2, 3)}),
)
