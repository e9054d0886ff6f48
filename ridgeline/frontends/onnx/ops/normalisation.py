"""Norms and softmaxes, as torch's composites where the shapes allow it."""

from math import prod

import torch
from torch import Tensor
from torch.nn import functional as F

from ridgeline.frontends.onnx.call import Call, Result, Value
from ridgeline.frontends.onnx.table import Row, rows


def _batch_norm(call: Call) -> Result:
    x, scale, bias, mean, var = (call.tensor(i) for i in range(5))
    is_training = call.integer("training_mode", 0) or not call.integer("is_test", 1)
    if not is_training:
        dtype = x.dtype
        y = F.batch_norm(
            x,
            mean.to(dtype),
            var.to(dtype),
            scale.to(dtype),
            bias.to(dtype),
            False,
            0.0,
            call.number("epsilon"),
        )
        return y
    dims = [d for d in range(x.dim()) if d != 1]
    batch_var, batch_mean = torch.var_mean(x, dims, correction=0)
    y = F.batch_norm(x, None, None, scale, bias, True, 0.0, call.number("epsilon"))
    keep = call.number("momentum")
    return [y, mean * keep + batch_mean * (1 - keep), var * keep + batch_var * (1 - keep)]


def _layer_norm(call: Call) -> Result:
    x, scale, bias = call.tensor(0), call.tensor(1), call.optional(2)
    axis, epsilon = call.axis(), call.number("epsilon")
    shape = list(x.shape[axis:])
    if (
        call.num_outputs == 1
        and list(scale.shape) == shape
        and (bias is None or list(bias.shape) == shape)
    ):
        return F.layer_norm(x, shape, scale, bias, epsilon)
    dims = list(range(axis, x.dim()))
    wide = x.float() if call.integer("stash_type", 1) == 1 else x
    mean = wide.mean(dims, True)
    centred = wide - mean
    inverse = (centred.square().mean(dims, True) + epsilon).rsqrt()
    y = (centred * inverse).to(x.dtype) * scale
    return [y if bias is None else y + bias, mean, inverse]


def rms_norm(x: Tensor, scale: Tensor, axis: int, epsilon: float) -> Tensor:
    """Root-mean-square norm over the dimensions from `axis` on."""
    shape = list(x.shape[axis:])
    if list(scale.shape) == shape and scale.dtype == x.dtype:
        return F.rms_norm(x, shape, scale, epsilon)
    wide = x.float() if x.dtype.itemsize < 4 else x
    mean = wide.square().mean(list(range(axis, x.dim())), True)
    return (wide * (mean + epsilon).rsqrt()).to(scale.dtype) * scale


def _rms_norm(call: Call) -> Value:
    return rms_norm(call.tensor(0), call.tensor(1), call.axis(), call.number("epsilon", 1e-5))


def _instance_norm(call: Call) -> Value:
    x, scale, bias = (call.tensor(i) for i in range(3))
    return F.instance_norm(x, weight=scale, bias=bias, eps=call.number("epsilon"))


def _group_norm(call: Call) -> Value:
    """Scale and bias were one per group before version 21."""
    x, scale, bias = (call.tensor(i) for i in range(3))
    groups, channels = call.integer("num_groups"), x.shape[1]
    if call.version < 21:
        scale, bias = (t.repeat_interleave(channels // groups) for t in (scale, bias))
    return F.group_norm(x, groups, scale, bias, call.number("epsilon"))


def _lp_norm(call: Call) -> Value:
    x, axis, p = call.tensor(0), call.axis(), call.integer("p")
    size = x.abs().sum(axis, True) if p == 1 else x.square().sum(axis, True).sqrt()
    return torch.where(size == 0, 0, x / size).to(x.dtype)


def _mean_variance(call: Call) -> Value:
    x, axes = call.tensor(0), call.integers("axes", (0, 2, 3))
    centred = x - x.mean(axes, True)
    deviation = (x.square().mean(axes, True) - x.mean(axes, True).square()).sqrt()
    return centred / (deviation + 1e-9)


def _local_response(call: Call) -> Value:
    x, size = call.tensor(0), call.integer("size")
    alpha, beta, bias = call.number("alpha"), call.number("beta"), call.number("bias")
    if size % 2:
        return F.local_response_norm(x, size, alpha, beta, bias)
    before = (size - 1) // 2
    squares = F.pad(x.square().flatten(2), (0, 0, before, size - 1 - before))
    sums = squares.unfold(1, size, 1).sum(-1).reshape(x.shape)
    return x / (bias + alpha / size * sums).pow(beta)


def _flat(x: Tensor, axis: int) -> Tensor:
    """`x` as versions before 13 take it: everything from `axis` on is one dimension."""
    return x.reshape(prod(x.shape[:axis]), -1)


def _softmax(call: Call) -> Value:
    return F.softmax(call.tensor(0), call.axis())


def _log_softmax(call: Call) -> Value:
    return F.log_softmax(call.tensor(0), call.axis())


def hardmax(x: Tensor, axis: int) -> Tensor:
    """1 at the first largest element along `axis`, else 0."""
    places = torch.arange(x.shape[axis], device=x.device)
    shape = [-1 if d == axis else 1 for d in range(x.dim())]
    return (places.reshape(shape) == x.argmax(axis, True)).to(x.dtype)


def _hardmax(call: Call) -> Value:
    return hardmax(call.tensor(0), call.axis())


def _old_softmax(call: Call) -> Value:
    x, axis = call.tensor(0), call.axis()
    if axis == x.dim() - 1:
        return F.softmax(x, axis)
    return F.softmax(_flat(x, axis), 1).reshape(x.shape)


def _old_log_softmax(call: Call) -> Value:
    x, axis = call.tensor(0), call.axis()
    if axis == x.dim() - 1:
        return F.log_softmax(x, axis)
    return F.log_softmax(_flat(x, axis), 1).reshape(x.shape)


def _old_hardmax(call: Call) -> Value:
    x = call.tensor(0)
    return hardmax(_flat(x, call.axis()), 1).reshape(x.shape)


ROWS: tuple[Row, ...] = (
    *rows(
        {
            "BatchNormalization": _batch_norm,
            "LayerNormalization": _layer_norm,
            "RMSNormalization": _rms_norm,
            "SimplifiedLayerNormalization": _rms_norm,
            "InstanceNormalization": _instance_norm,
            "GroupNormalization": _group_norm,
            "LpNormalization": _lp_norm,
            "MeanVarianceNormalization": _mean_variance,
            "LRN": _local_response,
        }
    ),
    *rows({"Softmax": _old_softmax, "LogSoftmax": _old_log_softmax, "Hardmax": _old_hardmax}),
    *rows({"Softmax": _softmax, "LogSoftmax": _log_softmax, "Hardmax": _hardmax}, since=13),
)
