"""Normalisations and softmaxes."""

from collections.abc import Sequence
from math import prod

import torch

from ridgeline.backends.mlir.algebra import Algebra
from ridgeline.backends.mlir.call import Call
from ridgeline.backends.mlir.row import Lowering
from ridgeline.backends.mlir.rows.shapes import viewed
from ridgeline.backends.mlir.value import Operand, Value, channels_last, plain
from ridgeline.backends.mlir.writer import Writer


def normalised(a: Algebra, x: Value, dims: Sequence[int], eps: float) -> Value:
    """x without mean and with variance one over dimensions."""
    centred = a.sub(x, a.mean(x, dims))
    return a.mul(centred, _inverse_root(a, centred, dims, eps))


def _inverse_root(a: Algebra, x: Value, dims: Sequence[int], eps: float) -> Value:
    return a.unary("tosa.rsqrt", a.add(a.mean(a.mul(x, x), dims), eps))


def _scaled(call: Call, x: Value, shape: tuple[int, ...] | None = None) -> Value:
    """x times the weight, plus the bias, where there are any."""
    for name, op in (("weight", call.algebra.mul), ("bias", call.algebra.add)):
        if call.has(name):
            factor: Operand = call.operand(name)
            x = op(x, factor if shape is None else _shaped(call.writer, factor, shape))
    return x


def _shaped(writer: Writer, operand: Operand, shape: tuple[int, ...]) -> Operand:
    return viewed(writer, operand, shape) if isinstance(operand, Value) else operand.reshape(shape)


def _layer_norm(call: Call) -> Value:
    x = call.value("input")
    dims = plain(x.rank)[x.rank - len(call.ints("normalized_shape")) :]
    return _scaled(call, normalised(call.algebra, x, dims, call.number("eps")))


def _rms_norm(call: Call) -> Value:
    a, x = call.algebra, call.value("input")
    dims = plain(x.rank)[x.rank - len(call.ints("normalized_shape")) :]
    eps = call.number("eps") if call.has("eps") else torch.finfo(x.dtype).eps
    return _scaled(call, a.mul(x, _inverse_root(a, x, dims, eps)))


def _group_norm(call: Call) -> Value:
    """Per group of channels, which stay last: (N, spatial, groups, C / groups)."""
    x, groups = call.value("input"), call.integer("num_groups")
    x = call.writer.move(x, channels_last(x.rank))
    batch, *spatial, channels = x.shape
    apart = call.writer.reshape(x, (batch, prod(spatial), groups, channels // groups))
    normal = normalised(call.algebra, apart, (1, 3), call.number("eps"))
    back = call.writer.reshape(normal, x.shape, x.order)
    return _scaled(call, back, (channels, *(1 for _ in spatial)))


def _batch_norm(call: Call) -> Value:
    """By the statistics of training: what no convolution before it took in."""
    x = call.value("input")
    shape = (-1, *(1 for _ in x.shape[2:]))
    mean, variance = (call.known(f"running_{name}") for name in ("mean", "var"))
    scale = (variance.double() + call.number("eps")).rsqrt()
    weight = call.known("weight").double() * scale if call.has("weight") else scale
    shift = -mean.double() * weight
    shift = shift + call.known("bias").double() if call.has("bias") else shift
    factors = [t.to(x.dtype).reshape(shape) for t in (weight, shift)]
    return call.algebra.add(call.algebra.mul(x, factors[0]), factors[1])


def _batch_norm_and_statistics(call: Call) -> tuple[Operand, ...]:
    """The statistics of the batch are not computed: they are empty."""
    nothing = tuple(torch.empty(tuple(spec.shape), dtype=spec.dtype) for spec in call.outs[1:])
    return (_batch_norm(call), *nothing)


def softmax(writer: Writer, x: Value, dim: int) -> Value:
    """e^x over its sum along one dimension of the graph's tensor."""
    blank = writer.blank(x.shape, x.dtype)
    axis = x.order.index(dim)
    text = (
        f"linalg.softmax dimension({axis}) ins({x.name} : {x.type}) outs({blank.name} : {x.type})"
    )
    return writer.value(f"{text} -> {x.type}", x.shape, x.dtype, x.order)


def _softmax(call: Call) -> Value:
    x = call.algebra.cast(call.value("self"), call.out.dtype)
    return softmax(call.writer, x, call.dim("dim", x.rank))


def _log_softmax(call: Call) -> Value:
    a = call.algebra
    x = a.cast(call.value("self"), call.out.dtype)
    dims = [call.dim("dim", x.rank)]
    moved = a.sub(x, a.reduce("tosa.reduce_max", x, dims))
    total = a.reduce("tosa.reduce_sum", a.unary("tosa.exp", moved), dims)
    return a.sub(moved, a.unary("tosa.log", total))


ROWS: dict[str, Lowering] = {
    "aten.layer_norm": _layer_norm,
    "aten.rms_norm": _rms_norm,
    "aten.group_norm": _group_norm,
    "aten._native_batch_norm_legit_no_training": _batch_norm_and_statistics,
    "aten.softmax": _softmax,
    "aten._softmax": _softmax,
    "aten.log_softmax": _log_softmax,
    "aten._log_softmax": _log_softmax,
}
