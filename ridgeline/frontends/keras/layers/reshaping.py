"""What moves elements about: reshapes, permutations, padding, cropping, repetition, resizing."""

import math
from collections.abc import Sequence

from torch import Tensor
from torch.nn import functional as F

from ridgeline.frontends.keras.call import Call
from ridgeline.frontends.keras.layers.convolution import padded
from ridgeline.frontends.keras.table import Result, Row, Run, rows
from ridgeline.frontends.keras.value import Value

# What all backends of Keras agree on; TensorFlow's cubic is another than torch's.
MODES = ("nearest", "bilinear")


def _flatten(call: Call) -> Result:
    """All but the samples as one dimension, in the order that Keras has them with channels last."""
    value = call.value
    x = value.plain()
    if call.is_channels_first and value.rank > 2:
        x = x.movedim(1, -1)
    return x.flatten(1) if value.rank > 1 else x.unsqueeze(1)


def reshaped(value: Value, shape: Sequence[int]) -> Value:
    """A value in another shape. Channels alone, given ones around them, are where torch wants
    them.
    """
    sizes = list(shape)
    is_pixel = len(sizes) > 2 and value.rank == 2 and set(sizes[1:-1]) == {1}
    if is_pixel and sizes[-1] in (-1, value.shape[1]):
        new = (sizes[0], value.shape[1], *sizes[1:-1])
        return Value(tensor=value.tensor.reshape(new), is_moved=True)
    return Value(tensor=value.plain().reshape(sizes))


def _reshape(call: Call) -> Result:
    value = call.value
    return reshaped(value, [value.shape[0], *call.integers("target_shape")])


def _permute(call: Call) -> Result:
    dims = call.integers("dims")
    return call.tensor.permute(0, *dims)


def _repeat_vector(call: Call) -> Result:
    return call.tensor.unsqueeze(1).repeat(1, call.count("n"), 1)


def _zero_padding(call: Call) -> Result:
    rank = _rank(call)
    x = call.channels_first(call.value) if rank > 1 else call.value.moved()
    y = padded(x, call.pairs("padding", rank))
    return call.from_channels_first(y) if rank > 1 else Value(tensor=y, is_moved=True)


def _cropping(call: Call) -> Result:
    rank = _rank(call)
    x = call.channels_first(call.value) if rank > 1 else call.value.moved()
    for dim, (before, after) in enumerate(call.pairs("cropping", rank), start=2):
        if before + after >= x.shape[dim]:
            raise call.error(f"it crops {before + after} of {x.shape[dim]}: nothing is left")
        if before + after:
            x = x.narrow(dim, before, x.shape[dim] - before - after)
    return call.from_channels_first(x) if rank > 1 else Value(tensor=x, is_moved=True)


def _rank(call: Call) -> int:
    """The spatial dimensions that the class names."""
    rank = int(call.layer.kind[-2])
    if call.value.rank != rank + 2:
        raise call.error(f"its input has {call.value.rank} dimensions, not {rank + 2}")
    return rank


def _up_sampling(call: Call) -> Result:
    rank = _rank(call)
    factors = call.sizes("size", rank)
    x = call.channels_first(call.value) if rank > 1 else call.value.moved()
    mode = call.text("interpolation", "nearest").lower()
    require_mode(call, mode if rank == 2 or mode == "nearest" else f"{mode} of {rank}")
    y = resized(x, [n * f for n, f in zip(x.shape[2:], factors, strict=True)], mode)
    return call.from_channels_first(y) if rank > 1 else Value(tensor=y, is_moved=True)


def require_mode(call: Call, mode: str) -> None:
    """Raises UnsupportedOp for an interpolation that is not the same everywhere."""
    if mode not in MODES:
        raise call.refuse(f"the interpolation {mode}", f"use {' or '.join(MODES)}")


def resized(x: Tensor, size: Sequence[int], mode: str) -> Tensor:
    """Images, channels first, at another size; corners as TensorFlow aligns them."""
    if math.prod(size) * x.shape[0] * x.shape[1] < 1:
        raise ValueError(f"there is no image of the size {list(size)}")
    if mode == "nearest":
        is_multiple = all(n % m == 0 for n, m in zip(size, x.shape[2:], strict=True))
        return F.interpolate(x, list(size), mode="nearest" if is_multiple else "nearest-exact")
    return F.interpolate(x, list(size), mode=mode, align_corners=False)


def _rescale(name: str, low: int, high: int) -> dict[str, Run]:
    runs = {"ZeroPadding": _zero_padding, "Cropping": _cropping, "UpSampling": _up_sampling}
    return {f"{name}{rank}D": runs[name] for rank in range(low, high + 1)}


ROWS: tuple[Row, ...] = rows(
    {
        "Flatten": _flatten,
        "Reshape": _reshape,
        "Permute": _permute,
        "RepeatVector": _repeat_vector,
        **_rescale("ZeroPadding", 1, 3),
        **_rescale("Cropping", 1, 3),
        **_rescale("UpSampling", 1, 3),
    }
)
