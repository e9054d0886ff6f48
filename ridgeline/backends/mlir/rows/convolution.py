"""Convolutions, channels last. A 1x1 convolution is a product, which data tiling packs."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor

from ridgeline.backends.mlir.algebra import Algebra
from ridgeline.backends.mlir.call import Call
from ridgeline.backends.mlir.row import Lowering
from ridgeline.backends.mlir.rows.products import linear
from ridgeline.backends.mlir.rows.shapes import cut, joined
from ridgeline.backends.mlir.value import Value, channels_last
from ridgeline.errors import UnsupportedOp

_OPS = {2: "tosa.conv2d", 3: "tosa.conv3d"}
# Channels that a processor's vectors want; narrower groups are joined, zeros between them.
_LEAST_CHANNELS = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """How a window moves over each spatial dimension."""

    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]

    @property
    def rank(self) -> int:
        """Number of spatial dimensions."""
        return len(self.kernel)

    @property
    def is_point(self) -> bool:
        """Whether it sees one position at a time."""
        return set(self.kernel) == {1} and not any(self.padding)

    def fitted(self, a: Algebra, x: Value, out: Sequence[int]) -> tuple[Value, list[int]]:
        """x, and the border before and after each spatial dimension with which the window moves
        over it exactly `out` times: TOSA rounds nothing. What the window never sees is cut off.
        """
        border = []
        for i in range(self.rank):
            dim, size = i + 2, x.logical[i + 2]
            needed = (out[i] - 1) * self.stride[i] + (self.kernel[i] - 1) * self.dilation[i] + 1
            after = needed - size - self.padding[i]
            if after < 0:
                x = cut(a.writer, x, dim, 0, size + after)
            border += [self.padding[i], max(after, 0)]
        return x, border


def spread(sizes: Sequence[int], rank: int) -> tuple[int, ...]:
    """One size per dimension; a single one is everyone's."""
    return tuple(sizes) * rank if len(sizes) == 1 else tuple(sizes)


def _convolution(call: Call) -> Value:
    weight = call.known("weight")
    rank = weight.dim() - 2
    if call.flag("transposed"):
        return _transposed(call)
    window = Window(
        kernel=tuple(weight.shape[2:]),
        stride=spread(call.ints("stride"), rank),
        padding=_padding(call, weight),
        dilation=spread(call.ints("dilation"), rank),
    )
    bias = call.known("bias") if call.has("bias") else None
    x = call.value("input", channels_last(rank + 2))
    if len(call.shape) != rank + 2:
        raise UnsupportedOp("it has no batch")
    return _dispatched(
        call.algebra, x, weight, bias, window, call.integer("groups"), call.shape[2:]
    )


def _padding(call: Call, weight: Tensor) -> tuple[int, ...]:
    """In numbers: "same" is as much before as after, which needs odd windows."""
    rank = weight.dim() - 2
    word = call.text("padding")
    if word not in ("same", "valid"):
        return spread(call.ints("padding"), rank)
    dilation = spread(call.ints("dilation"), rank)
    reach = [(k - 1) * d for k, d in zip(weight.shape[2:], dilation, strict=True)]
    if word == "valid":
        return (0,) * rank
    return tuple(r // 2 for r in reach)


def _dispatched(
    a: Algebra,
    x: Value,
    weight: Tensor,
    bias: Tensor | None,
    window: Window,
    groups: int,
    out: Sequence[int],
) -> Value:
    """The convolution in the form that suits it. x: channels last."""
    outputs, inputs = weight.shape[:2]
    if window.is_point and groups == 1:
        return _pointwise(a, x, weight, bias, window, out)
    if inputs == 1 and groups > 1 and window.rank == 2:
        return _depthwise(a, x, weight, bias, window, out)
    if groups > 1:
        return _grouped(a, x, weight, bias, window, groups, out)
    if window.rank == 1:
        return _flat(a, x, weight, bias, window, out)
    x, border = window.fitted(a, x, out)
    taps = weight.permute(0, *range(2, weight.dim()), 1)
    return _written(a, _OPS[window.rank], x, taps, bias, window, border, out, outputs)


def _written(
    a: Algebra,
    op: str,
    x: Value,
    taps: Tensor,
    bias: Tensor | None,
    window: Window,
    border: Sequence[int],
    out: Sequence[int],
    outputs: int,
) -> Value:
    writer = a.writer
    zero = writer.splat(0, [1], x.dtype)
    added = torch.zeros(outputs, dtype=x.dtype) if bias is None else bias
    shape = (x.shape[0], *out, outputs)
    operands = [x, writer.constant(taps), writer.constant(added), zero, zero]
    return writer.op(
        op,
        operands,
        shape,
        x.dtype,
        x.order,
        acc_type="f32",
        pad=_numbers(border),
        stride=_numbers(window.stride),
        dilation=_numbers(window.dilation),
    )


def _numbers(values: Sequence[int]) -> str:
    return f"array<i64: {', '.join(map(str, values))}>"


def _pointwise(
    a: Algebra, x: Value, weight: Tensor, bias: Tensor | None, window: Window, out: Sequence[int]
) -> Value:
    """A product over the channels, at the positions that the stride leaves."""
    for i, step in enumerate(window.stride):
        x = cut(a.writer, x, i + 2, 0, out[i], step)
    *places, channels = x.shape
    flat = a.writer.reshape(x, (prod(places), channels))
    found = linear(a, flat, weight.flatten(1), bias)
    return a.writer.reshape(found, (*places, found.shape[-1]), x.order)


def _depthwise(
    a: Algebra, x: Value, weight: Tensor, bias: Tensor | None, window: Window, out: Sequence[int]
) -> Value:
    """Each channel by itself; the weight as (height, width, channels, outputs of each)."""
    x, border = window.fitted(a, x, out)
    channels = x.shape[-1]
    taps = weight.reshape(channels, -1, *window.kernel).permute(2, 3, 0, 1)
    op = "tosa.depthwise_conv2d"
    return _written(a, op, x, taps, bias, window, border, out, len(weight))


def _flat(
    a: Algebra, x: Value, weight: Tensor, bias: Tensor | None, window: Window, out: Sequence[int]
) -> Value:
    """One spatial dimension as two, the first of size one."""
    batch, size, channels = x.shape
    image = a.writer.reshape(x, (batch, 1, size, channels), channels_last(4))
    wide = Window(
        kernel=(1, *window.kernel),
        stride=(1, *window.stride),
        padding=(0, *window.padding),
        dilation=(1, *window.dilation),
    )
    found = _dispatched(a, image, weight.unsqueeze(2), bias, wide, 1, (1, *out))
    return a.writer.reshape(found, (batch, *out, len(weight)), x.order)


def _grouped(
    a: Algebra,
    x: Value,
    weight: Tensor,
    bias: Tensor | None,
    window: Window,
    groups: int,
    out: Sequence[int],
) -> Value:
    """A convolution per group, or per few groups side by side with zeros between them."""
    inputs = weight.shape[1]
    joint = next(
        n
        for n in range(1, groups + 1)
        if groups % n == 0 and (n * inputs >= _LEAST_CHANNELS or n == groups)
    )
    blocks = _block_diagonal(weight, groups, joint)
    biases = [None] * len(blocks) if bias is None else list(bias.chunk(len(blocks)))
    width = inputs * joint
    parts = [
        _dispatched(a, cut(a.writer, x, 1, i * width, width), block, biases[i], window, 1, out)
        for i, block in enumerate(blocks)
    ]
    return parts[0] if len(parts) == 1 else joined(a.writer, parts, 1)


def _block_diagonal(weight: Tensor, groups: int, joint: int) -> list[Tensor]:
    """The weights of each `joint` groups as one, zero where a group does not see the other."""
    outputs, inputs = weight.shape[0] // groups, weight.shape[1]
    found = []
    for part in weight.chunk(groups // joint):
        block = part.new_zeros(joint * outputs, joint * inputs, *weight.shape[2:])
        for i, own in enumerate(part.chunk(joint)):
            block[i * outputs : (i + 1) * outputs, i * inputs : (i + 1) * inputs] = own
        found.append(block)
    return found


def _transposed(call: Call) -> Value:
    """Every input scatters a window; TOSA has it in two dimensions, without groups."""
    weight, groups = call.known("weight"), call.integer("groups")
    if weight.dim() != 4 or set(call.ints("dilation")) != {1}:
        raise UnsupportedOp("it is transposed and not in two dimensions, or dilated")
    bias = (
        call.known("bias") if call.has("bias") else torch.zeros(call.shape[1], dtype=weight.dtype)
    )
    x = call.value("input", channels_last(4))
    width = x.shape[-1] // groups
    parts = [
        _scattered(call, cut(call.writer, x, 1, i * width, width), own, added)
        for i, (own, added) in enumerate(zip(weight.chunk(groups), bias.chunk(groups), strict=True))
    ]
    return parts[0] if groups == 1 else joined(call.writer, parts, 1)


def _scattered(call: Call, x: Value, weight: Tensor, bias: Tensor) -> Value:
    """weight: (inputs, outputs, height, width)."""
    writer, outputs = call.writer, weight.shape[1]
    padding, extra = (spread(call.ints(n), 2) for n in ("padding", "output_padding"))
    border = [n for p, e in zip(padding, extra, strict=True) for n in (-p, e - p)]
    zero = writer.splat(0, [1], x.dtype)
    taps = writer.constant(weight.permute(1, 2, 3, 0))
    return writer.op(
        "tosa.transpose_conv2d",
        [x, taps, writer.constant(bias), zero, zero],
        (x.shape[0], *call.shape[2:], outputs),
        x.dtype,
        x.order,
        acc_type="f32",
        out_pad=_numbers(border),
        stride=_numbers(spread(call.ints("stride"), 2)),
    )


ROWS: dict[str, Lowering] = {
    **{f"aten.conv{rank}d": _convolution for rank in (1, 2, 3)},
    "aten.conv_transpose2d": _transposed,
    "aten.conv_transpose3d": _transposed,
    "aten.convolution": _convolution,
}
