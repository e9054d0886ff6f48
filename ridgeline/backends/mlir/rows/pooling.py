"""Pools and resampling, channels last."""

from collections.abc import Sequence
from math import prod

import torch
from torch import Tensor
from torch.nn import functional as F

from ridgeline.backends.mlir.algebra import Algebra
from ridgeline.backends.mlir.call import Call
from ridgeline.backends.mlir.row import Lowering
from ridgeline.backends.mlir.rows.convolution import Window, spread
from ridgeline.backends.mlir.rows.shapes import padded, tiled
from ridgeline.backends.mlir.value import Value, channels_last
from ridgeline.backends.mlir.writer import Writer
from ridgeline.errors import UnsupportedOp

_LAYOUTS = {1: "nwc", 2: "nhwc", 3: "ndhwc"}


def _window(call: Call) -> tuple[Value, Window]:
    """The operand, channels last, and the window over it."""
    rank = len(call.shape) - 2
    kernel = spread(call.ints("kernel_size"), rank)
    if rank != len(kernel):
        raise UnsupportedOp("it has no batch")
    window = Window(
        kernel=kernel,
        stride=spread(call.ints("stride") or kernel, rank),
        padding=spread(call.ints("padding"), rank),
        dilation=spread(call.ints("dilation") if call.has("dilation") else (1,), rank),
    )
    return call.value("self", channels_last(rank + 2)), window


def _max_pool(call: Call) -> Value:
    x, window = _window(call)
    if not x.dtype.is_floating_point:
        raise UnsupportedOp("it pools whole numbers")
    if window.rank == 1 or set(window.dilation) != {1}:
        return _pooled(call.algebra, x, window, call.shape[2:], "max", -torch.inf)
    x, border = window.fitted(call.algebra, x, call.shape[2:])
    if window.rank == 3:
        return _max_over_volumes(call.writer, x, window, border, call.shape[2:])
    return _max_over_planes(call.writer, x, window.kernel, window.stride, border, call.shape[2:])


def _max_over_planes(
    writer: Writer,
    x: Value,
    kernel: Sequence[int],
    stride: Sequence[int],
    border: Sequence[int],
    out: Sequence[int],
) -> Value:
    """border: what the windows reach beyond, before and after, dimension by dimension."""
    listed = {"kernel": kernel, "stride": stride, "pad": border}
    given = {name: f"array<i64: {', '.join(map(str, v))}>" for name, v in listed.items()}
    shape = (x.shape[0], *out, x.shape[-1])
    return writer.op("tosa.max_pool2d", [x], shape, x.dtype, x.order, **given)


def _max_over_volumes(
    writer: Writer, x: Value, window: Window, border: Sequence[int], out: Sequence[int]
) -> Value:
    """Plane by plane, then over the depth: the same maxima from fewer comparisons."""
    batch, depth, *plane, channels = x.shape
    (k, *kernel), (s, *stride), (deep, *wide) = window.kernel, window.stride, out
    order = channels_last(4)
    planes = writer.reshape(x, (batch * depth, *plane, channels), order)
    planes = _max_over_planes(writer, planes, kernel, stride, border[2:], wide)
    lines = writer.reshape(planes, (batch, depth, prod(wide), channels), order)
    ends = (*border[:2], 0, 0)
    lines = _max_over_planes(writer, lines, (k, 1), (s, 1), ends, (deep, prod(wide)))
    return writer.reshape(lines, (batch, deep, *wide, channels), x.order)


def _pooled(
    a: Algebra, x: Value, window: Window, out: Sequence[int], name: str, start: float
) -> Value:
    """Every window reduced, from a start that is also the border."""
    x, border = window.fitted(a, x, out)
    x = padded(a.writer, x, (0, 0, *border[::2]), (0, 0, *border[1::2]), start)
    sum_of = a.writer.filled((x.shape[0], *out, x.shape[-1]), x.dtype, start)
    frame = a.writer.blank(window.kernel, torch.float32)
    op = f"linalg.pooling_{_LAYOUTS[window.rank]}_{name}"
    steps = ", ".join(
        f"{word} = dense<[{', '.join(map(str, values))}]> : tensor<{window.rank}xi64>"
        for word, values in (("dilations", window.dilation), ("strides", window.stride))
    )
    text = (
        f"{op} {{{steps}}} ins({x.name}, {frame.name} : {x.type}, {frame.type}) "
        f"outs({sum_of.name} : {sum_of.type}) -> {sum_of.type}"
    )
    return a.writer.value(text, sum_of.shape, x.dtype, x.order)


def _average_pool(call: Call) -> Value:
    x, window = _window(call)
    total = _pooled(call.algebra, x, window, call.shape[2:], "sum", 0.0)
    return call.algebra.mul(total, _shares(call, x, window).to(x.dtype))


def _shares(call: Call, x: Value, window: Window) -> Tensor:
    """One over what each window's sum is divided by, which torch itself says of ones."""
    ones = torch.ones(1, 1, *x.logical[2:])
    pool = (F.avg_pool1d, F.avg_pool2d, F.avg_pool3d)[window.rank - 1]
    if call.has("divisor_override"):
        return torch.ones(()) / call.number("divisor_override")
    mean: Tensor = pool(
        ones,
        window.kernel,
        window.stride,
        window.padding,
        call.flag("ceil_mode"),
        call.flag("count_include_pad"),
    )
    return mean / _counts(ones, window, mean.shape[2:])


def _counts(ones: Tensor, window: Window, out: Sequence[int]) -> Tensor:
    """How many elements of the input each window sees."""
    found = torch.ones(1, 1, *out)
    for i, count in enumerate(out):
        size = ones.shape[i + 2]
        starts = torch.arange(count) * window.stride[i] - window.padding[i]
        seen = (starts + window.kernel[i]).clamp(max=size) - starts.clamp(min=0)
        found = found * seen.reshape([-1 if j == i + 2 else 1 for j in range(found.dim())])
    return found


def _adaptive_average(call: Call) -> Value:
    """Equal windows; one window over everything is a mean."""
    rank = len(call.ints("output_size"))
    if len(call.shape) != rank + 2:
        raise UnsupportedOp("it has no batch")
    x = call.value("self", channels_last(rank + 2))
    out, sizes = call.shape[2:], x.shape[1:-1]
    if set(out) == {1}:
        flat = call.writer.reshape(x, (x.shape[0], prod(sizes), x.shape[-1]))
        mean = call.algebra.mean(flat, (1,))
        return call.writer.reshape(mean, (x.shape[0], *out, x.shape[-1]), x.order)
    if any(size % count for size, count in zip(sizes, out, strict=True)):
        raise UnsupportedOp("its windows are of unequal size")
    kernel = tuple(size // count for size, count in zip(sizes, out, strict=True))
    window = Window(kernel=kernel, stride=kernel, padding=(0,) * rank, dilation=(1,) * rank)
    total = _pooled(call.algebra, x, window, out, "sum", 0.0)
    return call.algebra.mul(total, 1.0 / prod(kernel))


def _nearest(call: Call) -> Value:
    """Each element repeated a whole number of times."""
    name = "input" if call.has("input") else "self"
    x = call.value(name, channels_last(len(call.shape)))
    out, sizes = call.shape[2:], x.shape[1:-1]
    if any(count % size for size, count in zip(sizes, out, strict=True)):
        raise UnsupportedOp("it scales by a fraction")
    apart = [n for size in sizes for n in (size, 1)]
    times = [n for size, count in zip(sizes, out, strict=True) for n in (1, count // size)]
    wide = call.writer.reshape(x, (x.shape[0], *apart, x.shape[-1]))
    wide = tiled(call.writer, wide, [1, *times, 1])
    return call.writer.reshape(wide, (x.shape[0], *out, x.shape[-1]), x.order)


ROWS: dict[str, Lowering] = {
    **{f"aten.max_pool{rank}d": _max_pool for rank in (1, 2, 3)},
    **{f"aten.avg_pool{rank}d": _average_pool for rank in (1, 2, 3)},
    **{f"aten.adaptive_avg_pool{rank}d": _adaptive_average for rank in (1, 2, 3)},
    **{f"aten.upsample_nearest{rank}d": _nearest for rank in (1, 2, 3)},
}
