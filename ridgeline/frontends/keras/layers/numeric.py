"""Operations on numbers: element by element, reductions and products (`keras.ops`)."""

import operator
from collections.abc import Callable

import torch
from torch import Tensor

from ridgeline.frontends.keras.arguments import DTYPES
from ridgeline.frontends.keras.call import Call
from ridgeline.frontends.keras.records import Argument
from ridgeline.frontends.keras.table import Result, Row, Run, rows
from ridgeline.frontends.keras.value import Value, aligned

Operand = Tensor | bool | int | float

_UNARY: dict[str, Callable[[Tensor], Tensor]] = {
    "Absolute": torch.abs,
    "Abs": torch.abs,
    "Arccos": torch.acos,
    "Arcsin": torch.asin,
    "Arctan": torch.atan,
    "Ceil": torch.ceil,
    "Copy": lambda x: x,
    "Cos": torch.cos,
    "Cosh": torch.cosh,
    "Erf": torch.erf,
    "Exp": torch.exp,
    "Expm1": torch.expm1,
    "Floor": torch.floor,
    "Identity": lambda x: x,
    "Isfinite": torch.isfinite,
    "Isinf": torch.isinf,
    "Isnan": torch.isnan,
    "Log": torch.log,
    "Log10": torch.log10,
    "Log1p": torch.log1p,
    "Log2": torch.log2,
    "LogicalNot": torch.logical_not,
    "Negative": torch.neg,
    "OnesLike": torch.ones_like,
    "Reciprocal": torch.reciprocal,
    "Rsqrt": torch.rsqrt,
    "Sign": torch.sign,
    "Sin": torch.sin,
    "Sinh": torch.sinh,
    "Sqrt": torch.sqrt,
    "Square": torch.square,
    "StopGradient": lambda x: x,
    "Tan": torch.tan,
    "Tanh": torch.tanh,
    "Trunc": torch.trunc,
    "ZerosLike": torch.zeros_like,
}


def _extreme(pick: Callable[[Tensor, Tensor], Tensor], bound: str) -> Callable[..., Tensor]:
    def run(a: Operand, b: Operand) -> Tensor:
        if isinstance(a, Tensor) and isinstance(b, Tensor):
            return pick(a, b)
        tensor, number = (a, b) if isinstance(a, Tensor) else (b, a)
        assert isinstance(tensor, Tensor)
        assert not isinstance(number, Tensor)
        return tensor.clamp(min=number) if bound == "min" else tensor.clamp(max=number)

    return run


def _as_tensors(function: Callable[[Tensor, Tensor], Tensor]) -> Callable[..., Tensor]:
    def run(a: Operand, b: Operand) -> Tensor:
        other = a if isinstance(a, Tensor) else b
        assert isinstance(other, Tensor)
        return function(*(t if isinstance(t, Tensor) else other.new_full((), t) for t in (a, b)))

    return run


_BINARY: dict[str, Callable[..., Tensor]] = {
    "Add": operator.add,
    "Subtract": operator.sub,
    "Multiply": operator.mul,
    "Divide": operator.truediv,
    "TrueDivide": operator.truediv,
    "FloorDivide": operator.floordiv,
    "Power": operator.pow,
    "Mod": operator.mod,
    "Maximum": _extreme(torch.maximum, "min"),
    "Minimum": _extreme(torch.minimum, "max"),
    "Equal": operator.eq,
    "NotEqual": operator.ne,
    "Greater": operator.gt,
    "GreaterEqual": operator.ge,
    "Less": operator.lt,
    "LessEqual": operator.le,
    "LogicalAnd": _as_tensors(torch.logical_and),
    "LogicalOr": _as_tensors(torch.logical_or),
    "LogicalXor": _as_tensors(torch.logical_xor),
    "Arctan2": _as_tensors(torch.atan2),
    "Logaddexp": _as_tensors(torch.logaddexp),
}


def together(call: Call, operands: list[Argument]) -> tuple[list[Operand], bool]:
    """(operands in one order in which they broadcast, numbers as they are; whether channels were
    moved).
    """
    values = [o for o in operands if isinstance(o, Value)]
    tensors, is_moved = aligned(values)
    found: list[Operand] = []
    for operand in operands:
        if isinstance(operand, Value):
            found.append(tensors[len([f for f in found if isinstance(f, Tensor)])])
        elif isinstance(operand, bool | int | float):
            found.append(operand)
        else:
            raise call.error(f"it is given {str(operand)[:40]!r} in the place of a tensor")
    return found, is_moved


def _unary(function: Callable[[Tensor], Tensor]) -> Run:
    def run(call: Call) -> Result:
        value = call.value
        return value.like(function(value.tensor))

    return run


def _binary(function: Callable[..., Tensor]) -> Run:
    def run(call: Call) -> Result:
        operands = [call.argument(0, "x1"), call.argument(1, "x2")]
        (a, b), is_moved = together(call, operands)
        return Value(tensor=function(a, b), is_moved=is_moved)

    return run


def _where(call: Call) -> Result:
    operands = [call.argument(i, n) for i, n in enumerate(("condition", "x1", "x2"))]
    (condition, a, b), is_moved = together(call, operands)
    assert isinstance(condition, Tensor)
    return Value(tensor=torch.where(condition.to(torch.bool), a, b), is_moved=is_moved)


def _clip(call: Call) -> Result:
    value = call.value
    low, high = call.number("x_min"), call.number("x_max")
    return value.like(value.tensor.clamp(low, high))


def _cast(call: Call) -> Result:
    value, dtype = call.value, call.text("dtype", "float32")
    if dtype not in DTYPES:
        raise call.error(f"it casts to {dtype[:40]!r}, which is no dtype")
    return value.like(value.tensor.to(DTYPES[dtype]))


def _converted(call: Call) -> Result:
    return _cast(call) if call.has("dtype") else call.value


Reduce = Callable[[Tensor, list[int], bool], Tensor]


def _floating(x: Tensor) -> Tensor:
    return x if x.is_floating_point() else x.to(torch.float32)


def _product(x: Tensor, dims: list[int], keeps: bool) -> Tensor:
    for dim in sorted(dims, reverse=True):
        x = x.prod(dim, keepdim=keeps)
    return x


_REDUCTIONS: dict[str, Reduce] = {
    "Mean": lambda x, dims, keeps: _floating(x).mean(dims, keepdim=keeps),
    "Sum": lambda x, dims, keeps: x.sum(dims, keepdim=keeps),
    "Max": lambda x, dims, keeps: x.amax(dims, keepdim=keeps),
    "Amax": lambda x, dims, keeps: x.amax(dims, keepdim=keeps),
    "Min": lambda x, dims, keeps: x.amin(dims, keepdim=keeps),
    "Amin": lambda x, dims, keeps: x.amin(dims, keepdim=keeps),
    "Prod": _product,
    "Var": lambda x, dims, keeps: _floating(x).var(dims, correction=0, keepdim=keeps),
    "Std": lambda x, dims, keeps: _floating(x).std(dims, correction=0, keepdim=keeps),
    "Any": lambda x, dims, keeps: x.to(torch.bool).any(dims, keepdim=keeps),
    "All": lambda x, dims, keeps: x.to(torch.bool).all(dims, keepdim=keeps),
    "Logsumexp": lambda x, dims, keeps: torch.logsumexp(x, dims, keepdim=keeps),
}


def _reduction(function: Reduce) -> Run:
    def run(call: Call) -> Result:
        """Over Keras's axes; channels that stay are where they were."""
        value, keeps = call.value, call.flag("keepdims")
        axes = [a % value.rank for a in call.integers("axis", range(value.rank))]
        if 0 in axes:
            return function(value.plain(), axes, keeps)
        y = function(value.tensor, [value.dim(a) for a in axes], keeps)
        has_channels = keeps or value.rank - 1 not in axes
        return Value(tensor=y, is_moved=value.is_moved and has_channels and y.dim() > 2)

    return run


def _arg(function: Callable[..., Tensor]) -> Run:
    def run(call: Call) -> Result:
        x, keeps = call.tensor, call.flag("keepdims")
        if not call.has("axis"):
            return function(x.flatten(), 0, False).to(torch.int32)
        return function(x, call.integer("axis"), keeps).to(torch.int32)

    return run


def _cumulative(function: Callable[[Tensor, int], Tensor]) -> Run:
    def run(call: Call) -> Result:
        if not call.has("axis"):
            return function(call.tensor.flatten(), 0)
        return function(call.tensor, call.integer("axis"))

    return run


def _matmul(call: Call) -> Result:
    a, b = call.optional(0, "x1"), call.optional(1, "x2")
    if a is None or b is None:
        raise call.error("it is called without two tensors")
    return torch.matmul(a.plain(), b.plain())


def _einsum(call: Call) -> Result:
    operands = [v.plain() for a in call.args for v in call.list_of(a)]
    return torch.einsum(call.text("subscripts"), *operands)


def _normalize(call: Call) -> Result:
    """x over its length along the axis, 1e-7 at least."""
    value = call.value
    if call.number("order", 2.0) != 2:
        raise call.refuse("an order other than 2", "write the norm out")
    x, dims = value.tensor, [value.dim(a) for a in call.integers("axis", [-1])]
    inverse = torch.rsqrt((x * x).sum(dims, keepdim=True))
    return value.like(x * inverse.clamp(max=1 / call.number("epsilon", 1e-7)))


def _operations(runs: dict[str, Run]) -> tuple[Row, ...]:
    return rows({f"ops.{name}": run for name, run in runs.items()})


ROWS: tuple[Row, ...] = (
    *_operations({name: _unary(f) for name, f in _UNARY.items()}),
    *_operations({name: _binary(f) for name, f in _BINARY.items()}),
    *_operations({name: _reduction(f) for name, f in _REDUCTIONS.items()}),
    *_operations(
        {
            "Argmax": _arg(torch.argmax),
            "Argmin": _arg(torch.argmin),
            "Cast": _cast,
            "ConvertToTensor": _converted,
            "Clip": _clip,
            "Cumprod": _cumulative(torch.cumprod),
            "Cumsum": _cumulative(torch.cumsum),
            "Dot": _matmul,
            "Einsum": _einsum,
            "Matmul": _matmul,
            "Normalize": _normalize,
            "Where": _where,
        }
    ),
)
