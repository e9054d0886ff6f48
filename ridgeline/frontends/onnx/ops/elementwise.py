"""Element by element: arithmetic, comparisons, logic, activations."""

import operator
from collections.abc import Callable
from functools import reduce

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ridgeline.frontends.onnx.call import Call, Result, Value, several
from ridgeline.frontends.onnx.dtypes import WIDE_ENOUGH
from ridgeline.frontends.onnx.table import Row, Run, rows
from ridgeline.frontends.onnx.weights import known

Unary = Callable[[Tensor], Tensor]
# A tensor, or the number that one of two operands is known to be.
Operand = Tensor | float
Binary = Callable[[Tensor, Tensor], Tensor]
Arithmetic = Callable[[Operand, Operand], Operand]
_FLOAT8 = (
    torch.float8_e4m3fn,
    torch.float8_e4m3fnuz,
    torch.float8_e5m2,
    torch.float8_e5m2fnuz,
    torch.float8_e8m0fnu,
)


def widened(x: Tensor) -> Tensor:
    """`x` in a type that torch computes, where it only stores its own."""
    if x.dtype in WIDE_ENOUGH:
        return x.to(WIDE_ENOUGH[x.dtype])
    return x.float() if x.dtype in _FLOAT8 else x


def unary(function: Unary) -> Run:
    """A row's function that maps one tensor."""

    def run(call: Call) -> Value:
        x = call.tensor(0)
        result = function(widened(x))
        return result if result.dtype is torch.bool else result.to(x.dtype)

    return run


def binary(function: Arithmetic) -> Run:
    """A row's function that maps two tensors of one type to a third of that type."""

    def run(call: Call) -> Value:
        x, y = operands(call)
        result = function(x, y)
        assert isinstance(result, Tensor)
        return result if result.dtype is call.dtype(0) else result.to(call.dtype(0))

    return run


def comparison(function: Arithmetic) -> Run:
    """A row's function that maps two tensors of one type to booleans."""

    def run(call: Call) -> Value:
        result = function(*operands(call))
        assert isinstance(result, Tensor)
        return result

    return run


def _both_tensors(function: Binary) -> Run:
    """A row's function where torch takes no number for either side."""

    def run(call: Call) -> Value:
        x, y = widened(call.tensor(0)), _aligned(call, widened(call.tensor(1)))
        result = function(x, y)
        return result if result.dtype is torch.bool else result.to(call.dtype(0))

    return run


def operands(call: Call) -> tuple[Operand, Operand]:
    """Both inputs, ready to compute; a single number stays one, so that it costs no tensor."""
    x, y = call.shape(0), call.shape(1)
    left = None if call.is_ahead or len(x) > len(y) else call.scalar(0)
    right = None if call.is_ahead or len(y) > len(x) else call.scalar(1)
    if right is not None:
        return widened(call.tensor(0)), right
    if left is not None:
        return left, widened(call.tensor(1))
    return widened(call.tensor(0)), _aligned(call, widened(call.tensor(1)))


def _aligned(call: Call, y: Tensor) -> Tensor:
    """The second operand as versions before 7 line it up: its first dimension with `axis`."""
    if not call.given("axis"):
        return y
    trailing = call.rank(0) - call.integer("axis") - y.dim()
    return y.reshape(*y.shape, *(1,) * trailing)


def _equal(call: Call) -> Result:
    if call.element(0).name == "string":
        return known(np.asarray(call.array(0) == call.array(1), np.bool_))
    return comparison(operator.eq)(call)


def _divide(call: Call) -> Value:
    """Division, of integers towards zero; one over x is its reciprocal, exactly."""
    x, y = operands(call)
    if isinstance(x, Tensor):
        result = x / y if x.is_floating_point() else torch.div(x, y, rounding_mode="trunc")
    elif x == 1.0 and isinstance(y, Tensor) and y.is_floating_point():
        result = y.reciprocal()
    else:
        top, bottom = widened(call.tensor(0)), widened(call.tensor(1))
        rounding = None if top.is_floating_point() else "trunc"
        result = torch.div(top, bottom, rounding_mode=rounding)
    return result.to(call.dtype(0))


def _pow(call: Call) -> Value:
    x, power = call.tensor(0), None if call.is_ahead else call.scalar(1)
    if power is not None and call.rank(1) <= call.rank(0) and x.is_floating_point():
        whole = int(power) if float(power).is_integer() else power
        return x.pow(whole)
    exponent = call.tensor(1)
    if not x.is_floating_point() and exponent.is_floating_point():
        return torch.pow(x.to(torch.float64), exponent.to(torch.float64)).to(x.dtype)
    return torch.pow(widened(x), widened(exponent)).to(x.dtype)


def _mod(call: Call) -> Value:
    x, y = widened(call.tensor(0)), widened(call.tensor(1))
    result = torch.fmod(x, y) if call.flag("fmod") else torch.remainder(x, y)
    return result.to(call.dtype(0))


def _bit_shift(call: Call) -> Value:
    x, y = call.tensor(0), call.tensor(1)
    shift = torch.bitwise_left_shift if call.text("direction") == "LEFT" else _shift_right
    if x.dtype in WIDE_ENOUGH:
        return shift(widened(x), widened(y)).to(x.dtype)
    return shift(x, y)


def _shift_right(x: Tensor, y: Tensor) -> Tensor:
    """x // 2**y of unsigned numbers, also where 64 bits were reinterpreted as signed ones."""
    shifted = torch.bitwise_right_shift(x, y)
    if x.dtype is not torch.int64:
        return shifted
    ones = torch.bitwise_left_shift(torch.full_like(x, -1), 63 - y)
    return torch.where(y == 0, x, torch.bitwise_and(shifted, torch.bitwise_not(ones << 1)))


def variadic(function: Binary) -> Run:
    """A row's function that folds any number of tensors into one."""

    def run(call: Call) -> Value:
        parts = [widened(t) for t in call.tensors()]
        return reduce(function, parts).to(call.dtype(0))

    return run


def _mean(call: Call) -> Value:
    parts = call.tensors()
    return reduce(torch.add, parts) / len(parts)


def _is_inf(call: Call) -> Value:
    x = widened(call.tensor(0))
    both = call.integer("detect_positive", 1), call.integer("detect_negative", 1)
    match both:
        case (0, 0):
            return torch.zeros_like(x, dtype=torch.bool)
        case (0, _):
            return torch.isneginf(x)
        case (_, 0):
            return torch.isposinf(x)
        case _:
            return torch.isinf(x)


def _clip(call: Call) -> Value:
    """Limits are attributes before version 11; where they cross, the upper one wins."""
    x = call.tensor(0)
    if call.given("min") or call.given("max"):
        low = call.number("min") if call.given("min") else None
        high = call.number("max") if call.given("max") else None
        return x.clamp(low, high)
    bounds = [call.has(i) and _limit(call, i) for i in (1, 2)]
    low, high = (None if b is False else b for b in bounds)  # type: ignore[assignment]
    if low is None and high is None:
        return call.value(0)
    if isinstance(low, Tensor) or isinstance(high, Tensor):
        wide = widened(x)
        wide = wide if low is None else torch.maximum(wide, torch.as_tensor(low).to(wide))
        wide = wide if high is None else torch.minimum(wide, torch.as_tensor(high).to(wide))
        return wide.to(x.dtype)
    if (low, high) == (0.0, None) and x.is_floating_point():
        return torch.relu(x)
    return F.relu6(x) if (low, high) == (0.0, 6.0) else widened(x).clamp(low, high).to(x.dtype)


def _limit(call: Call, index: int) -> float | Tensor:
    number = call.scalar(index)
    return call.tensor(index).reshape(()) if number is None else number


def _gelu(call: Call) -> Value:
    return F.gelu(call.tensor(0), approximate=call.text("approximate"))


def _hard_sigmoid(call: Call) -> Value:
    alpha, beta, x = call.number("alpha"), call.number("beta"), call.tensor(0)
    if beta == 0.5 and abs(alpha - 1 / 6) < 1e-6:
        return F.hardsigmoid(x)
    return (x * alpha + beta).clamp(0.0, 1.0)


def _selu(call: Call) -> Value:
    alpha, gamma, x = call.number("alpha"), call.number("gamma"), call.tensor(0)
    return gamma * F.elu(x, alpha)


def _swish(call: Call) -> Value:
    alpha, x = call.number("alpha"), call.tensor(0)
    return F.silu(x) if alpha == 1.0 else x * torch.sigmoid(alpha * x)


def _shrink(call: Call) -> Value:
    x, bias, limit = call.tensor(0), call.number("bias"), call.number("lambd")
    zero = torch.zeros_like(x)
    return torch.where(x < -limit, x + bias, torch.where(x > limit, x - bias, zero))


def _prelu(call: Call) -> Value:
    """One slope, one per channel (F.prelu), or any that broadcasts."""
    x, slope = widened(call.tensor(0)), widened(call.tensor(1))
    rank, shape = x.dim(), tuple(slope.shape)
    is_per_channel = rank > 1 and shape[1:] == (1,) * (rank - 2) and shape[:1] == x.shape[1:2]
    if x.is_floating_point() and (
        slope.numel() == 1 or (is_per_channel and len(shape) == rank - 1)
    ):
        return F.prelu(x, slope.reshape(-1))
    if call.version < 7 and len(shape) == 1:
        slope = slope.reshape(-1, *(1,) * (rank - 2))
    return torch.where(x < 0, x * slope, x).to(call.dtype(0))


def _where(call: Call) -> Value:
    condition = call.tensor(0)
    x, y = (None if call.is_ahead else call.scalar(i) for i in (1, 2))
    is_plain = call.rank(0) >= max(call.rank(1), call.rank(2))
    dtype = call.dtype(1)
    if not is_plain or dtype not in (torch.float32, torch.int64) or (x is None) == (y is None):
        return torch.where(condition, call.tensor(1), call.tensor(2))
    if x is not None:
        return torch.where(condition, x, call.tensor(2))
    assert y is not None
    return torch.where(condition, call.tensor(1), y)


def _dropout(call: Call) -> Result:
    """The identity, unless its third input says that it trains."""
    mask = torch.ones(call.shape(0), dtype=torch.bool, device=call.tensor(0).device)
    is_training = call.has(2) and bool(call.int_at(2))
    ratio = call.float_at(1) if call.has(1) else 0.5
    if is_training and ratio > 0:
        mask = torch.rand(call.shape(0), device=mask.device) >= ratio
        kept = call.tensor(0) * mask / (1 - ratio)
        return several(kept.to(call.dtype(0)), mask)
    return several(call.value(0), mask)[: max(call.num_outputs, 1)]


def _swiglu(call: Call) -> Value:
    gate, value = call.tensor(0).chunk(2, dim=call.axis())
    return F.silu(gate) * value


_FLOATING: dict[str, Unary] = {
    "Exp": torch.exp,
    "Log": torch.log,
    "Sqrt": torch.sqrt,
    "Reciprocal": torch.reciprocal,
    "Floor": torch.floor,
    "Ceil": torch.ceil,
    "Round": torch.round,
    "Sin": torch.sin,
    "Cos": torch.cos,
    "Tan": torch.tan,
    "Asin": torch.asin,
    "Acos": torch.acos,
    "Atan": torch.atan,
    "Sinh": torch.sinh,
    "Cosh": torch.cosh,
    "Tanh": torch.tanh,
    "Asinh": torch.asinh,
    "Acosh": torch.acosh,
    "Atanh": torch.atanh,
    "Erf": torch.erf,
    "Sigmoid": torch.sigmoid,
    "Softplus": F.softplus,
    "Softsign": F.softsign,
    "HardSwish": F.hardswish,
    "Mish": F.mish,
}
_ANY: dict[str, Unary] = {
    "Abs": torch.abs,
    "Neg": torch.neg,
    "Sign": torch.sign,
    "Relu": torch.relu,
    "Not": torch.logical_not,
    "BitwiseNot": torch.bitwise_not,
    "IsNaN": torch.isnan,
}
_ARITHMETIC: dict[str, Arithmetic] = {
    "Add": operator.add,
    "Sub": operator.sub,
    "Mul": operator.mul,
}
_COMPARISONS: dict[str, Arithmetic] = {
    "Less": operator.lt,
    "LessOrEqual": operator.le,
    "Greater": operator.gt,
    "GreaterOrEqual": operator.ge,
}
_BITS: dict[str, Binary] = {
    "BitwiseAnd": torch.bitwise_and,
    "BitwiseOr": torch.bitwise_or,
    "BitwiseXor": torch.bitwise_xor,
    "And": torch.logical_and,
    "Or": torch.logical_or,
    "Xor": torch.logical_xor,
}
_VARIADIC: dict[str, Binary] = {"Max": torch.maximum, "Min": torch.minimum, "Sum": torch.add}

ROWS: tuple[Row, ...] = (
    *rows({op: unary(f) for op, f in {**_FLOATING, **_ANY}.items()}),
    *rows({op: binary(f) for op, f in _ARITHMETIC.items()}),
    *rows({op: comparison(f) for op, f in _COMPARISONS.items()}),
    *rows({op: _both_tensors(f) for op, f in _BITS.items()}),
    *rows({op: variadic(f) for op, f in _VARIADIC.items()}),
    *rows(
        {
            "Identity": lambda call: call.value(0),
            "Equal": _equal,
            "Div": _divide,
            "Pow": _pow,
            "Mod": _mod,
            "BitShift": _bit_shift,
            "Mean": _mean,
            "IsInf": _is_inf,
            "Clip": _clip,
            "Gelu": _gelu,
            "HardSigmoid": _hard_sigmoid,
            "Elu": lambda call: F.elu(call.tensor(0), call.number("alpha")),
            "Celu": lambda call: F.celu(call.tensor(0), call.number("alpha")),
            "Selu": _selu,
            "LeakyRelu": lambda call: F.leaky_relu(call.tensor(0), call.number("alpha")),
            "ThresholdedRelu": lambda call: F.threshold(call.tensor(0), call.number("alpha"), 0.0),
            "Swish": _swish,
            "Shrink": _shrink,
            "PRelu": _prelu,
            "Where": _where,
        }
    ),
    Row(op="Dropout", run=_dropout, is_pure=False),
)
