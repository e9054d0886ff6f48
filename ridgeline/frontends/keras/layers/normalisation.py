"""Normalisation: batch, layer, group, RMS and unit norm.

Shapes: N samples, C channels, S what lies between them in Keras's order.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from ridgeline.frontends.keras.call import Call
from ridgeline.frontends.keras.table import Result, Row, rows
from ridgeline.frontends.keras.value import Value


def _batch_norm(call: Call) -> Result:
    """torch's own, on the channels at dimension 1."""
    if call.flag("renorm"):
        raise call.refuse("renorm", "train without it")
    value = call.value
    axis = _axis(call, value)
    x = value.plain() if axis == 1 else value.moved()
    if axis not in (1, value.rank - 1):
        raise call.refuse(f"the axis {axis}", "normalise the first or the last dimension")
    count, index = x.shape[1], 0
    found: dict[str, Tensor | None] = {"weight": None, "bias": None}
    for key, name, fill in (("scale", "weight", 1.0), ("center", "bias", 0.0)):
        if call.flag(key, True):
            found[name] = call.weight(index, (count,), name, fill=fill)
            index += 1
    mean = call.weight(index, (count,), "running_mean", fill=0.0, is_buffer=True)
    variance = call.weight(index + 1, (count,), "running_var", fill=1.0, is_buffer=True)
    y = F.batch_norm(
        x, mean, variance, found["weight"], found["bias"], eps=call.number("epsilon", 1e-3)
    )
    return Value(tensor=y, is_moved=axis != 1 and value.rank > 2)


def _axis(call: Call, value: Value) -> int:
    """The one axis of the config, counted from the front."""
    (axis,) = call.integers("axis", [-1])
    if not -value.rank <= axis < value.rank:
        raise call.error(f"it has no dimension {axis}: the rank is {value.rank}")
    return axis % value.rank


def _axes(call: Call, value: Value) -> list[int]:
    axes = sorted(a % value.rank for a in call.integers("axis", [-1]))
    if len(set(axes)) != len(axes) or not axes:
        raise call.error(f"it normalises the dimensions {axes}")
    return axes


Norm = Callable[[Tensor, list[int]], Tensor]


def _over_last(value: Value, axes: list[int], norm: Norm) -> Result:
    """`norm` with the axes as the last dimensions, moved there and back where they are not."""
    x, rank = value.plain(), value.rank
    if axes == list(range(rank - len(axes), rank)):
        return norm(x, list(x.shape[-len(axes) :]))
    order = [d for d in range(rank) if d not in axes] + axes
    y = norm(x.permute(order), [x.shape[a] for a in axes])
    return y.permute([order.index(d) for d in range(rank)])


def _layer_norm(call: Call) -> Result:
    value = call.value
    axes = _axes(call, value)
    shape, epsilon, index = [value.shape[a] for a in axes], call.number("epsilon", 1e-3), 0
    is_rms = call.flag("rms_scaling")
    weight = bias = None
    if call.flag("scale", True) or is_rms:
        weight, index = call.weight(0, shape, "weight", fill=1.0), 1
    if call.flag("center", True) and not is_rms:
        bias = call.weight(index, shape, "bias", fill=0.0)
    if is_rms:
        return _over_last(value, axes, lambda x, s: _scaled_by_deviation(x, s, weight, epsilon))
    return _over_last(value, axes, lambda x, s: F.layer_norm(x, s, weight, bias, epsilon))


def _scaled_by_deviation(
    x: Tensor, shape: list[int], weight: Tensor | None, epsilon: float
) -> Tensor:
    """What Keras calls RMS scaling of a layer norm: the deviation is of the mean, the mean stays.
    Source: keras, `LayerNorm` in ops/nn.py.
    """
    dims = list(range(-len(shape), 0))
    y = x * torch.rsqrt(x.var(dims, correction=0, keepdim=True) + epsilon)
    return y if weight is None else y * weight


def _rms_norm(call: Call) -> Result:
    value = call.value
    axes = _axes(call, value)
    weight = call.weight(0, [value.shape[a] for a in axes], "weight", fill=1.0)
    epsilon = call.number("epsilon", 1e-6)
    return _over_last(value, axes, lambda x, s: F.rms_norm(x, s, weight, epsilon))


def _group_norm(call: Call) -> Result:
    value = call.value
    axis = _axis(call, value)
    if axis not in (1, value.rank - 1):
        raise call.refuse(f"the axis {axis}", "normalise the first or the last dimension")
    x = value.plain() if axis == 1 else value.moved()
    count, index = x.shape[1], 0
    groups = call.integer("groups", 32)
    groups = count if groups == -1 else groups
    weight = bias = None
    if call.flag("scale", True):
        weight, index = call.weight(0, (count,), "weight", fill=1.0), 1
    if call.flag("center", True):
        bias = call.weight(index, (count,), "bias", fill=0.0)
    y = F.group_norm(x, groups, weight, bias, call.number("epsilon", 1e-3))
    return Value(tensor=y, is_moved=axis != 1 and value.rank > 2)


def _unit_norm(call: Call) -> Result:
    value = call.value
    dims = tuple(value.dim(a) for a in call.integers("axis", [-1]))
    x = value.tensor
    return value.like(x * torch.rsqrt((x * x).sum(dims, keepdim=True).clamp(min=1e-24)))


def _layer_scale(call: Call) -> Result:
    """One factor per channel: keras.applications' own layer."""
    x = call.tensor
    return x * call.weight(0, (call.count("projection_dim"),), "weight", fill=1.0)


ROWS: tuple[Row, ...] = (
    *rows({"BatchNormalization": _batch_norm}, keeps_mask=True, ignores=("mask",)),
    *rows(
        {
            "LayerNormalization": _layer_norm,
            "GroupNormalization": _group_norm,
            "UnitNormalization": _unit_norm,
        },
        keeps_mask=True,
    ),
    *rows({"RMSNormalization": _rms_norm, "LayerScale": _layer_scale}),
)
