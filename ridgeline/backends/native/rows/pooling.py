"""Pools and resampling, channels last."""

from collections.abc import Callable
from math import prod

from ridgeline.backends.native.call import Call, Result, floating
from ridgeline.backends.native.rows.pixels import into_pixels, window_fields
from ridgeline.backends.native.rows.reductions import reduced
from ridgeline.backends.native.value import Value, as_matrix, channels_last
from ridgeline.errors import UnsupportedOp

Row = Callable[[Call], Result]
_MOST_TAPS = 4096
_LARGEST, _MEAN, _SUM = range(3)
_NEAREST, _BILINEAR = range(2)


def _target(call: Call) -> Value:
    order = channels_last(call.out.dim())
    home = call.home
    if home is not None and as_matrix(home.spec.permute(order)) is not None:
        return home
    found: Value = Call(call.builder, {}, call.outs, None).blank(order)
    return found


def _pool(kind: int) -> Row:
    def row(call: Call) -> Result:
        floating(call.out)
        kernel = call.ints("kernel_size")
        stride = call.ints("stride") or kernel
        padding = call.ints("padding")
        dilation: tuple[int, ...] = (1,)
        own, divisor = kind, 1
        if kind == _LARGEST:
            dilation = call.ints("dilation")
        elif call.has("divisor_override"):
            own, divisor = _SUM, int(call.number("divisor_override"))
        elif call.flag("count_include_pad") and any(padding):
            if call.flag("ceil_mode"):
                raise UnsupportedOp("it counts padding beyond the input")
            own, divisor = _SUM, prod(_wide(kernel, call.out.dim() - 2))
        call.within("taps", prod(_wide(kernel, call.out.dim() - 2)), _MOST_TAPS)
        x, ldx = call.pixels("self")
        target = _target(call)
        call.builder.emit(
            "pool",
            {
                "x_ref": x.place,
                "x_type": x.type,
                "kind": own,
                "divisor_bits": float(divisor),
                "ldx": ldx,
                **window_fields(x, call.out, kernel, stride, padding, dilation),
                **into_pixels(target),
            },
        )
        return target

    return row


def _wide(sizes: tuple[int, ...], spatial: int) -> tuple[int, ...]:
    return sizes * spatial if len(sizes) == 1 else sizes


def _adaptive(call: Call) -> Result:
    """To one position: a mean; else a pool where the sizes divide."""
    floating(call.out)
    spatial = range(2, call.out.dim())
    if prod(call.out.shape[2:]) == 1:
        return reduced(call, call.value("self"), list(spatial), "mean")
    x, ldx = call.pixels("self")
    kernel = [x.shape[d] // call.out.shape[d] for d in spatial]
    if any(x.shape[d] % call.out.shape[d] for d in spatial):
        raise UnsupportedOp("its windows differ in size")
    call.within("taps", prod(kernel), _MOST_TAPS)
    target = _target(call)
    none = [0] * len(kernel)
    call.builder.emit(
        "pool",
        {
            "x_ref": x.place,
            "x_type": x.type,
            "kind": _MEAN,
            "divisor_bits": 1.0,
            "ldx": ldx,
            **window_fields(x, call.out, kernel, kernel, none, [1]),
            **into_pixels(target),
        },
    )
    return target


def _upsample(kind: int) -> Row:
    def row(call: Call) -> Result:
        floating(call.out)
        x, ldx = call.pixels("input" if call.has("input") else "self")
        target = _target(call)
        heights, widths = (x.shape[2], call.out.shape[2]), (x.shape[3], call.out.shape[3])
        is_aligned = call.flag("align_corners")
        call.builder.emit(
            "upsample",
            {
                "x_ref": x.place,
                "x_type": x.type,
                "kind": kind,
                "batch": x.shape[0],
                "height": heights[0],
                "width": widths[0],
                "channels": x.shape[1],
                "out_height": heights[1],
                "out_width": widths[1],
                "ldx": ldx,
                "scale_height_bits": _scale(call, 0, *heights, is_aligned=is_aligned),
                "scale_width_bits": _scale(call, 1, *widths, is_aligned=is_aligned),
                "is_corners_aligned": is_aligned,
                **into_pixels(target),
            },
        )
        return target

    return row


def _scale(call: Call, axis: int, size: int, out: int, *, is_aligned: bool) -> float:
    """Input positions per output position, as torch computes it."""
    if is_aligned:
        return (size - 1) / (out - 1) if out > 1 else 0.0
    given = call.arguments.get("scale_factors")
    if isinstance(given, list | tuple) and given:
        return 1.0 / float(given[axis])
    return size / out


ROWS: dict[str, Row] = {
    "aten.max_pool1d": _pool(_LARGEST),
    "aten.max_pool2d": _pool(_LARGEST),
    "aten.max_pool3d": _pool(_LARGEST),
    "aten.avg_pool1d": _pool(_MEAN),
    "aten.avg_pool2d": _pool(_MEAN),
    "aten.avg_pool3d": _pool(_MEAN),
    "aten.adaptive_avg_pool1d": _adaptive,
    "aten.adaptive_avg_pool2d": _adaptive,
    "aten.adaptive_avg_pool3d": _adaptive,
    "aten.upsample_nearest2d": _upsample(_NEAREST),
    "aten.upsample_bilinear2d": _upsample(_BILINEAR),
}
