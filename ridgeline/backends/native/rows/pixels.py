"""Channels-last tensors as kernels name them: where windows lie, and where results go."""

from collections.abc import Sequence

from torch import Tensor

from ridgeline.backends.native.tree import Fields
from ridgeline.backends.native.value import Value, as_matrix, channels_last

_AXES = ("depth", "height", "width")


def pixel_axes(rank: int) -> tuple[tuple[int, ...], ...]:
    """Positions, and channels."""
    return (0, *range(2, rank)), (1,)


def into_pixels(target: Value) -> Fields:
    """Fields of a result with dense channels."""
    order = channels_last(target.spec.dim())
    distance = as_matrix(target.spec.permute(order))
    assert distance is not None
    return {"y_ref": target.place, "y_type": target.type, "ldy": distance}


def each(given: Sequence[int], spatial: int) -> tuple[int, ...]:
    """One number per spatial dimension, of a list that may hold one for all."""
    return tuple(given) * spatial if len(given) == 1 else tuple(given)


def window_fields(
    x: Value,
    out: Tensor,
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
) -> dict[str, int]:
    """The fields that say where windows lie."""
    spatial = out.dim() - 2
    return {
        "batch": x.shape[0],
        "channels": x.shape[1],
        **_named("", x.shape[2:]),
        **_named("out_", out.shape[2:]),
        **_named("kernel_", each(kernel, spatial)),
        **_named("stride_", each(stride, spatial)),
        **_named("pad_", each(padding, spatial), fill=0),
        **_named("dilation_", each(dilation, spatial)),
    }


def three(window: dict[str, int], prefix: str) -> tuple[int, int, int]:
    """Depth, height and width of a field."""
    depth, height, width = (window[prefix + axis] for axis in _AXES)
    return depth, height, width


def _named(prefix: str, sizes: Sequence[int], fill: int = 1) -> dict[str, int]:
    full = [fill] * (3 - len(sizes)) + [int(n) for n in sizes]
    return {f"{prefix}{axis}": size for axis, size in zip(_AXES, full, strict=True)}
