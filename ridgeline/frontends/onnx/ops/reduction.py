"""Sums and their kin over dimensions, and the places of the largest and smallest."""

from collections.abc import Callable

import torch
from torch import Tensor

from ridgeline.frontends.onnx.call import Call, Value
from ridgeline.frontends.onnx.ops.elementwise import widened
from ridgeline.frontends.onnx.table import Row, rows

Reduce = Callable[[Tensor, list[int], bool], Tensor]


def _reduction(
    function: Reduce, *, alone: Callable[[Tensor], Tensor] | None = None
) -> Callable[[Call], Value]:
    """A row's function; alone: what is left of it where there is no dimension to reduce."""

    def run(call: Call) -> Value:
        x = call.tensor(0)
        keeps = bool(call.integer("keepdims"))
        axes = call.axes(1)
        if not axes:
            if call.integer("noop_with_empty_axes", 0):
                return call.value(0) if alone is None else alone(x)
            axes = list(range(x.dim()))
        axes = sorted({call.dim(a, x.dim()) for a in axes})
        if not x.dim():
            return function(widened(x).reshape(1), [0], False).to(x.dtype)
        return function(widened(x), axes, keeps).to(x.dtype)

    return run


def _one_by_one(function: Callable[[Tensor, int, bool], Tensor]) -> Reduce:
    """A reduction that torch takes one dimension at a time."""

    def run(x: Tensor, axes: list[int], keeps: bool) -> Tensor:
        for axis in reversed(axes):
            x = function(x, axis, keeps)
        return x

    return run


def _sum(x: Tensor, axes: list[int], keeps: bool) -> Tensor:
    return x.sum(axes, keeps)


def _mean(x: Tensor, axes: list[int], keeps: bool) -> Tensor:
    if x.is_floating_point():
        return x.mean(axes, keeps)
    count = 1
    for axis in axes:
        count *= x.shape[axis]
    return torch.div(x.sum(axes, keeps), count, rounding_mode="trunc")


def _extreme(function: Callable[[Tensor, list[int], bool], Tensor], *, is_max: bool) -> Reduce:
    """The largest or smallest; of nothing, the type's own limit."""

    def run(x: Tensor, axes: list[int], keeps: bool) -> Tensor:
        if x.numel():
            return function(x, axes, keeps)
        return x.sum(axes, keeps).to(x.dtype).fill_(_limit(x.dtype, is_max=not is_max))

    return run


def _limit(dtype: torch.dtype, *, is_max: bool) -> float | int | bool:
    if dtype is torch.bool:
        return is_max
    if dtype.is_floating_point:
        return torch.inf if is_max else -torch.inf
    info = torch.iinfo(dtype)
    return info.max if is_max else info.min


def _log_sum_exp(x: Tensor, axes: list[int], keeps: bool) -> Tensor:
    return torch.logsumexp(x, axes, keeps)


def _arg(function: Callable[[Tensor, int, bool], Tensor]) -> Callable[[Call], Value]:
    def run(call: Call) -> Value:
        x, axis = widened(call.tensor(0)), call.axis()
        keeps = bool(call.integer("keepdims"))
        if not call.flag("select_last_index"):
            return function(x, axis, keeps)
        return x.shape[axis] - 1 - function(x.flip(axis), axis, keeps)

    return run


ROWS: tuple[Row, ...] = rows(
    {
        "ReduceSum": _reduction(_sum),
        "ReduceMean": _reduction(_mean),
        "ReduceMax": _reduction(_extreme(torch.amax, is_max=True)),
        "ReduceMin": _reduction(_extreme(torch.amin, is_max=False)),
        "ReduceProd": _reduction(_one_by_one(torch.prod)),
        "ReduceL1": _reduction(lambda x, axes, keeps: x.abs().sum(axes, keeps), alone=torch.abs),
        "ReduceL2": _reduction(
            lambda x, axes, keeps: x.square().sum(axes, keeps).sqrt(), alone=torch.abs
        ),
        "ReduceSumSquare": _reduction(
            lambda x, axes, keeps: x.square().sum(axes, keeps), alone=torch.square
        ),
        "ReduceLogSum": _reduction(
            lambda x, axes, keeps: x.sum(axes, keeps).log(), alone=torch.log
        ),
        "ReduceLogSumExp": _reduction(_log_sum_exp),
        "ArgMax": _arg(torch.argmax),
        "ArgMin": _arg(torch.argmin),
    }
)
