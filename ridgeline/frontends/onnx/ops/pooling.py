"""Pools: by torch's kernels where they fit, else over windows laid out."""

from collections.abc import Callable, Sequence
from math import ceil, prod

import torch
from torch import Tensor
from torch.nn import functional as F

from ridgeline.frontends.onnx.call import Call, Result, Value
from ridgeline.frontends.onnx.ops.convolution import Window, window
from ridgeline.frontends.onnx.ops.shape import padded
from ridgeline.frontends.onnx.table import Row, rows

_AVERAGE = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}
_MAX = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}
_MAX_PLACES = {
    1: F.max_pool1d_with_indices,
    2: F.max_pool2d_with_indices,
    3: F.max_pool3d_with_indices,
}
_GLOBAL_AVERAGE = {1: F.adaptive_avg_pool1d, 2: F.adaptive_avg_pool2d, 3: F.adaptive_avg_pool3d}


def _window(call: Call) -> Window:
    return window(call, call.integers("kernel_shape"), call.shape(0)[2:])


def _fits_torch(w: Window) -> bool:
    """Whether torch's kernels take these borders: alike, and at most half of the kernel."""
    is_small = all(2 * b <= k for b, k in zip(w.befores, w.kernel, strict=True))
    return w.is_even and is_small and len(w.kernel) in _MAX


def _ends(call: Call, w: Window) -> list[int]:
    """How far beyond the borders the last windows reach where sizes are rounded up."""
    beyond = []
    sizes = call.shape(0)[2:]
    for n, k, s, d, b, a in zip(
        sizes, w.kernel, w.strides, w.dilations, w.befores, w.afters, strict=True
    ):
        span, whole = (k - 1) * d + 1, n + b + a
        count = (whole - span) // s + 1
        if call.flag("ceil_mode"):
            count = ceil((whole - span) / s) + 1
            count -= (count - 1) * s >= n + b  # a window that would begin beyond the input
        beyond.append(max(0, (count - 1) * s + span - whole))
    return beyond


def _windows(x: Tensor, w: Window) -> Tensor:
    """(N, C, *output, *kernel): every window of a bordered input."""
    for axis, (k, s, d) in enumerate(zip(w.kernel, w.strides, w.dilations, strict=True)):
        x = x.unfold(2 + axis, (k - 1) * d + 1, s)[..., ::d]
    return x


def _laid_out(call: Call, x: Tensor, w: Window, value: float) -> Tensor:
    """Every window with its borders and what lies beyond filled with `value`."""
    afters = [a + e for a, e in zip(w.afters, _ends(call, w), strict=True)]
    return _windows(padded(x, [0, 0, *w.befores], [0, 0, *afters], value), w)


def _inner(w: Window) -> list[int]:
    return list(range(-len(w.kernel), 0))


def _average_pool(call: Call) -> Value:
    x, w = call.tensor(0), _window(call)
    includes = call.integer("count_include_pad", 0) == 1
    if _fits_torch(w) and set(w.dilations) == {1}:
        pool = _AVERAGE[len(w.kernel)]
        return pool(x, w.kernel, w.strides, w.befores, call.flag("ceil_mode"), includes)
    total = _laid_out(call, x, w, 0.0).sum(_inner(w))
    ones = torch.ones(1, 1, *x.shape[2:], dtype=x.dtype, device=x.device)
    if includes:
        ones = padded(ones, [0, 0, *w.befores], [0, 0, *w.afters], 1.0)
        bare = Window(
            kernel=w.kernel,
            strides=w.strides,
            dilations=w.dilations,
            befores=(0,) * len(w.kernel),
            afters=tuple(_ends(call, w)),
        )
        counts = _windows(padded(ones, [0, 0, *bare.befores], [0, 0, *bare.afters], 0.0), bare)
    else:
        counts = _laid_out(call, ones, w, 0.0)
    return total / counts.sum(_inner(w))


def _max_pool(call: Call) -> Result:
    x, w = call.tensor(0), _window(call)
    if call.wants(1):
        return _max_pool_with_places(call, x, w)
    if _fits_torch(w) and x.is_floating_point():
        pool = _MAX[len(w.kernel)]
        return pool(x, w.kernel, w.strides, w.befores, w.dilations, call.flag("ceil_mode"))
    return _laid_out(call, x, w, _least(x)).amax(_inner(w))


def _least(x: Tensor) -> float:
    return -torch.inf if x.is_floating_point() else torch.iinfo(x.dtype).min


def _max_pool_with_places(call: Call, x: Tensor, w: Window) -> Result:
    """Places count through the whole input, samples and channels too."""
    size, planes = x.shape[2:], prod(x.shape[:2])
    whole = x if x.is_floating_point() else x.to(torch.float64)
    if _fits_torch(w):
        pool = _MAX_PLACES[len(w.kernel)]
        values, places = pool(
            whole, w.kernel, w.strides, w.befores, w.dilations, call.flag("ceil_mode"), True
        )
    else:
        afters = [a + e for a, e in zip(w.afters, _ends(call, w), strict=True)]
        grown = padded(whole, [0, 0, *w.befores], [0, 0, *afters], -torch.inf)
        pool, none = _MAX_PLACES[len(w.kernel)], (0,) * len(w.kernel)
        values, places = pool(grown, w.kernel, w.strides, none, w.dilations, False, True)
        places = _moved(places, grown.shape[2:], size, w.befores)
    if call.flag("storage_order"):
        places = _column_major(places, size)
    first = torch.arange(planes, device=x.device).reshape(*x.shape[:2], *(1,) * len(size))
    return [values.to(x.dtype), places + first * prod(size)]


def _coordinates(places: Tensor, size: Sequence[int]) -> list[Tensor]:
    parts = []
    for length in reversed(size):
        parts.append(places % length)
        places = places // length
    return parts[::-1]


def _moved(places: Tensor, grown: Sequence[int], size: Sequence[int], by: Sequence[int]) -> Tensor:
    """Places in a bordered plane as places in the plane itself."""
    flat = torch.zeros_like(places)
    for part, length, shift in zip(_coordinates(places, grown), size, by, strict=True):
        flat = flat * length + (part - shift)
    return flat


def _column_major(places: Tensor, size: Sequence[int]) -> Tensor:
    flat, step = torch.zeros_like(places), 1
    for part, length in zip(_coordinates(places, size), size, strict=True):
        flat, step = flat + part * step, step * length
    return flat


def _lp_pool(call: Call) -> Value:
    x, w, p = call.tensor(0), _window(call), call.number("p")
    return _laid_out(call, x.abs().pow(p), w, 0.0).sum(_inner(w)).pow(1 / p)


def _spatial(x: Tensor) -> list[int]:
    return list(range(2, x.dim()))


def _global_average(call: Call) -> Value:
    x = call.tensor(0)
    pool = _GLOBAL_AVERAGE.get(x.dim() - 2)
    return x.mean(_spatial(x), True) if pool is None else pool(x, 1)


def _over_all(function: Callable[[Tensor, list[int]], Tensor]) -> Callable[[Call], Value]:
    def run(call: Call) -> Value:
        x = call.tensor(0)
        return function(x, _spatial(x))

    return run


def _global_lp(call: Call) -> Value:
    x, p = call.tensor(0), call.number("p")
    return x.abs().pow(p).sum(_spatial(x), True).pow(1 / p)


def _max_unpool(call: Call) -> Value:
    """Places count through the whole output that the pool had read."""
    x, places, w = call.tensor(0), call.tensor(1), _window(call)
    natural = [
        (n - 1) * s - b - a + k
        for n, s, b, a, k in zip(x.shape[2:], w.strides, w.befores, w.afters, w.kernel, strict=True)
    ]
    wanted = call.ints(2)[2:] if call.has(2) else natural
    inside = _coordinates(places % prod(natural), natural)
    flat = torch.zeros_like(places)
    for part, length in zip(inside, wanted, strict=True):
        flat = flat * length + part
    result = x.new_zeros(*x.shape[:2], prod(wanted))
    result = result.scatter(2, flat.flatten(2), x.flatten(2))
    return result.reshape(*x.shape[:2], *wanted)


ROWS: tuple[Row, ...] = rows(
    {
        "AveragePool": _average_pool,
        "MaxPool": _max_pool,
        "LpPool": _lp_pool,
        "GlobalAveragePool": _global_average,
        "GlobalMaxPool": _over_all(lambda x, axes: x.amax(axes, True)),
        "GlobalLpPool": _global_lp,
        "MaxUnpool": _max_unpool,
    }
)
