"""Element by element: arithmetic, comparisons, logic, activations, casts."""

from collections.abc import Callable
from math import pi, sqrt

import torch
from torch import Tensor

from ridgeline.backends.mlir.algebra import Algebra
from ridgeline.backends.mlir.call import Call
from ridgeline.backends.mlir.row import Lowering
from ridgeline.backends.mlir.value import Operand, Value
from ridgeline.errors import UnsupportedOp

Formula = Callable[[Algebra, Value], Value]
_ROOT_HALF, _SLOPE, _CUBE = sqrt(0.5), sqrt(2 / pi), 0.044715
# Source: Klambauer et al., "Self-Normalizing Neural Networks", 2017.
_SELU_ALPHA, _SELU_SCALE = 1.6732632423543772, 1.0507009873554805


def _unary(name: str) -> Lowering:
    def lower(call: Call) -> Value:
        return call.algebra.unary(name, _floating(call, "self"))

    return lower


def _formula(formula: Formula, operand: str = "self") -> Lowering:
    def lower(call: Call) -> Value:
        return formula(call.algebra, _floating(call, operand))

    return lower


def _floating(call: Call, name: str) -> Value:
    """The operand in the type of the result: a function of whole numbers is computed in floats."""
    return call.algebra.cast(call.value(name), call.out.dtype)


def _pair(call: Call, dtype: torch.dtype) -> tuple[Operand | float, Operand | float]:
    """Both operands in one type; a number stays one."""
    first, second = (_typed(call, call.scalar_or(name), dtype) for name in ("self", "other"))
    return first, second


def _typed(call: Call, operand: Operand | float, dtype: torch.dtype) -> Operand | float:
    if isinstance(operand, Tensor):
        return operand.to(dtype)
    return call.algebra.cast(operand, dtype) if isinstance(operand, Value) else operand


def _binary(name: str) -> Lowering:
    def lower(call: Call) -> Value:
        return call.algebra.binary(name, *_pair(call, call.out.dtype))

    return lower


def _sum(sign: float) -> Lowering:
    """self + sign * alpha * other."""

    def lower(call: Call) -> Value:
        x, y = _pair(call, call.out.dtype)
        alpha = call.number("alpha")
        if alpha != 1:
            y = y * alpha if isinstance(y, int | float) else call.algebra.mul(y, alpha)
        return call.algebra.add(x, y) if sign > 0 else call.algebra.sub(x, y)

    return lower


def _reversed_difference(call: Call) -> Value:
    """alpha-free other - self."""
    x, y = _pair(call, call.out.dtype)
    if call.number("alpha") != 1:
        raise UnsupportedOp("its alpha is not 1")
    return call.algebra.sub(y, x)


def _product(call: Call) -> Value:
    name = "tosa.mul" if call.out.dtype is not torch.bool else "tosa.logical_and"
    return call.algebra.binary(name, *_pair(call, call.out.dtype))


def _quotient(call: Call) -> Value:
    if call.has("rounding_mode"):
        raise UnsupportedOp("it rounds its quotient")
    return call.algebra.div(*_pair(call, call.out.dtype))


def _comparison(name: str, *, is_negated: bool = False, is_swapped: bool = False) -> Lowering:
    def lower(call: Call) -> Value:
        x, y = _pair(call, _common_type(call))
        first, second = (y, x) if is_swapped else (x, y)
        found = call.algebra.binary(name, first, second, torch.bool)
        return call.algebra.unary("tosa.logical_not", found) if is_negated else found

    return lower


def _common_type(call: Call) -> torch.dtype:
    """The type that torch compares in."""
    first, second = (_like(call.scalar_or(name)) for name in ("self", "other"))
    return torch.result_type(first, second)


def _like(operand: Operand | float) -> Tensor | float:
    if isinstance(operand, Value):
        return torch.empty(operand.logical, dtype=operand.dtype, device="meta")
    return operand


def _logical(name: str) -> Lowering:
    def lower(call: Call) -> Value:
        return call.algebra.binary(name, *_pair(call, torch.bool))

    return lower


def _bitwise(logical: str, bitwise: str) -> Lowering:
    def lower(call: Call) -> Value:
        dtype = call.out.dtype
        return call.algebra.binary(logical if dtype is torch.bool else bitwise, *_pair(call, dtype))

    return lower


def _power(call: Call) -> Value:
    exponent = call.scalar_or("exponent")
    base = call.scalar_or("self")
    if isinstance(exponent, int | float) and not isinstance(base, int | float):
        x = _floating(call, "self")
        for known, formula in _POWERS.items():
            if exponent == known:
                return formula(call.algebra, x)
    if not call.out.dtype.is_floating_point:
        raise UnsupportedOp("it is a power of whole numbers")
    dtype = call.out.dtype
    return call.algebra.binary("tosa.pow", _typed(call, base, dtype), _typed(call, exponent, dtype))


_POWERS: dict[float, Formula] = {
    1: lambda _, x: x,
    2: lambda a, x: a.mul(x, x),
    3: lambda a, x: a.mul(a.mul(x, x), x),
    0.5: lambda a, x: _root(a, x),
    -0.5: lambda a, x: a.unary("tosa.rsqrt", x),
    -1: lambda a, x: a.unary("tosa.reciprocal", x),
}


def _root(a: Algebra, x: Value) -> Value:
    """The square root; as x / sqrt(x) it would be NaN at 0."""
    text = f"math.sqrt {x.name} : {x.type}"
    return a.writer.value(text, x.shape, x.dtype, x.order)


def _sigmoid(a: Algebra, x: Value) -> Value:
    return a.unary("tosa.sigmoid", x)


def _silu(a: Algebra, x: Value) -> Value:
    return a.mul(x, _sigmoid(a, x))


def _softplus(call: Call) -> Value:
    """Linear above the threshold, else log(1 + exp(beta x)) / beta."""
    a, x, beta = call.algebra, call.value("self"), call.number("beta")
    scaled = _times(a, x, beta)
    high = a.binary("tosa.greater", scaled, call.number("threshold"), torch.bool)
    soft = a.unary("tosa.log", a.add(a.unary("tosa.exp", scaled), 1.0))
    soft = _times(a, soft, 1 / beta)
    return a.select(high, x, soft, call.shape)


def _gelu(call: Call) -> Value:
    a, x = call.algebra, call.value("self")
    if call.text("approximate") == "tanh":
        cubic = a.mul(a.mul(a.mul(x, x), x), _CUBE)
        inner = a.unary("tosa.tanh", a.mul(a.add(x, cubic), _SLOPE))
    else:
        inner = a.unary("tosa.erf", a.mul(x, _ROOT_HALF))
    return a.mul(a.mul(x, 0.5), a.add(inner, 1.0))


def _hard_sigmoid(a: Algebra, x: Value) -> Value:
    return a.clamp(a.add(a.mul(x, 1 / 6), 0.5), 0.0, 1.0)


def _leaky(call: Call) -> Value:
    a, x, slope = call.algebra, call.value("self"), call.number("negative_slope")
    if 0 <= slope <= 1:
        return a.binary("tosa.maximum", x, a.mul(x, slope))
    return a.select(_is_positive(a, x), x, a.mul(x, slope), call.shape)


def _prelu(call: Call) -> Value:
    a, x, slope = call.algebra, call.value("self"), call.operand("weight")
    shape = (-1, *(1 for _ in call.shape[2:]))
    wide = slope.reshape(shape) if isinstance(slope, Tensor) else None
    if wide is None:
        raise UnsupportedOp("its slope is computed, not a weight")
    return a.select(_is_positive(a, x), x, a.mul(x, wide), call.shape)


def _elu(call: Call) -> Value:
    return _curved(call, *(call.number(n) for n in ("alpha", "scale", "input_scale")))


def _curved(call: Call, alpha: float, scale: float, inner: float) -> Value:
    """scale * x above zero, below it scale * alpha * (e^(inner x) - 1)."""
    a, x = call.algebra, call.value("self")
    rest = a.mul(a.sub(a.unary("tosa.exp", _times(a, x, inner)), 1.0), alpha)
    return _times(a, a.select(_is_positive(a, x), x, rest, call.shape), scale)


def _times(a: Algebra, x: Value, factor: float) -> Value:
    return x if factor == 1 else a.mul(x, factor)


def _is_positive(a: Algebra, x: Value) -> Value:
    return a.binary("tosa.greater", x, 0.0, torch.bool)


def _mish(a: Algebra, x: Value) -> Value:
    """x tanh(log(1 + e^x)) = x n / (n + 2), n = e^x (e^x + 2); linear where e^x overflows."""
    raised = a.unary("tosa.exp", a.clamp(x, None, 20.0))
    n = a.mul(raised, a.add(raised, 2.0))
    return a.mul(x, a.div(n, a.add(n, 2.0)))


def _clamp(call: Call) -> Value:
    """Bounds may be tensors."""
    a, x = call.algebra, _floating(call, "self")
    for name, word in (("tosa.maximum", "min"), ("tosa.minimum", "max")):
        if call.has(word):
            x = a.binary(name, x, _typed(call, call.scalar_or(word), x.dtype))
    return x


def _hard_tanh(call: Call) -> Value:
    low, high = call.number("min_val"), call.number("max_val")
    return call.algebra.clamp(call.value("self"), low, high)


def _where(call: Call) -> Value:
    chosen = [_typed(call, call.scalar_or(name), call.out.dtype) for name in ("self", "other")]
    return _selected(call, call.operand("condition"), *chosen)


def _masked_fill(call: Call) -> Value:
    fill = _typed(call, call.scalar_or("value"), call.out.dtype)
    return _selected(call, call.operand("mask"), fill, call.value("self"))


def _selected(call: Call, condition: Operand, x: Operand | float, y: Operand | float) -> Value:
    if all(isinstance(v, int | float) for v in (x, y)):
        x = torch.tensor(x, dtype=call.out.dtype)
    return call.algebra.select(condition, x, y, call.shape)


def _cast(call: Call) -> Value:
    return call.algebra.cast(call.value("self"), call.out.dtype)


def _same(call: Call) -> Operand:
    return call.operand("self")


def _is_nan(call: Call) -> Value:
    x = call.value("self")
    same = call.algebra.binary("tosa.equal", x, x, torch.bool)
    return call.algebra.unary("tosa.logical_not", same)


def _glu(call: Call) -> Value:
    a, x = call.algebra, call.value("self")
    axis = x.order.index(call.dim("dim", x.rank))
    half = x.shape[axis] // 2
    shape = [half if i == axis else size for i, size in enumerate(x.shape)]
    halves = []
    for begin in (0, half):
        starts = call.writer.dims([begin if i == axis else 0 for i in range(x.rank)])
        halves.append(
            call.writer.op(
                "tosa.slice", [x, starts, call.writer.dims(shape)], shape, x.dtype, x.order
            )
        )
    return a.mul(halves[0], _sigmoid(a, halves[1]))


_UNARY = {
    "aten.exp": "tosa.exp",
    "aten.log": "tosa.log",
    "aten.tanh": "tosa.tanh",
    "aten.sigmoid": "tosa.sigmoid",
    "aten.erf": "tosa.erf",
    "aten.abs": "tosa.abs",
    "aten.ceil": "tosa.ceil",
    "aten.floor": "tosa.floor",
    "aten.sin": "tosa.sin",
    "aten.cos": "tosa.cos",
    "aten.rsqrt": "tosa.rsqrt",
    "aten.reciprocal": "tosa.reciprocal",
}
_FORMULAS: dict[str, Formula] = {
    "aten.relu": lambda a, x: a.clamp(x, 0.0, None),
    "aten.relu6": lambda a, x: a.clamp(x, 0.0, 6.0),
    "aten.neg": lambda a, x: a.negate(x),
    "aten.sqrt": _root,
    "aten.square": lambda a, x: a.mul(x, x),
    "aten.silu": _silu,
    "aten.mish": _mish,
    "aten.hardsigmoid": _hard_sigmoid,
    "aten.hardswish": lambda a, x: a.mul(x, _hard_sigmoid(a, x)),
    "aten.log1p": lambda a, x: a.unary("tosa.log", a.add(x, 1.0)),
    "aten.expm1": lambda a, x: a.sub(a.unary("tosa.exp", x), 1.0),
}
_BITWISE = {
    f"aten.{name}": _bitwise(f"tosa.logical_{word}", f"tosa.bitwise_{word}")
    for word in ("and", "or", "xor")
    for name in (f"bitwise_{word}", f"__{word}__")
}
_BINARY = {"aten.maximum": "tosa.maximum", "aten.minimum": "tosa.minimum"}
ROWS: dict[str, Lowering] = {
    **{name: _unary(op) for name, op in _UNARY.items()},
    **{name: _formula(formula) for name, formula in _FORMULAS.items()},
    **{name: _binary(op) for name, op in _BINARY.items()},
    **_BITWISE,
    "aten.add": _sum(1),
    "aten.sub": _sum(-1),
    "aten.rsub": _reversed_difference,
    "aten.mul": _product,
    "aten.div": _quotient,
    "aten.pow": _power,
    "aten.eq": _comparison("tosa.equal"),
    "aten.ne": _comparison("tosa.equal", is_negated=True),
    "aten.gt": _comparison("tosa.greater"),
    "aten.ge": _comparison("tosa.greater_equal"),
    "aten.lt": _comparison("tosa.greater", is_swapped=True),
    "aten.le": _comparison("tosa.greater_equal", is_swapped=True),
    "aten.isnan": _is_nan,
    "aten.logical_and": _logical("tosa.logical_and"),
    "aten.logical_or": _logical("tosa.logical_or"),
    "aten.logical_xor": _logical("tosa.logical_xor"),
    "aten.logical_not": lambda c: c.algebra.unary(
        "tosa.logical_not", c.algebra.cast(c.value("self"), torch.bool)
    ),
    "aten.bitwise_not": lambda c: c.algebra.unary(
        "tosa.logical_not" if c.out.dtype is torch.bool else "tosa.bitwise_not", c.value("self")
    ),
    "aten.gelu": _gelu,
    "aten.softplus": _softplus,
    "aten.leaky_relu": _leaky,
    "aten.prelu": _prelu,
    "aten.elu": _elu,
    "aten.celu": lambda c: _curved(c, c.number("alpha"), 1.0, 1 / c.number("alpha")),
    "aten.selu": lambda c: _curved(c, _SELU_ALPHA, _SELU_SCALE, 1.0),
    "aten.glu": _glu,
    "aten.clamp": _clamp,
    "aten.clamp_min": _clamp,
    "aten.clamp_max": _clamp,
    "aten.hardtanh": _hard_tanh,
    "aten.where": _where,
    "aten.masked_fill": _masked_fill,
    "aten._to_copy": _cast,
    "aten.clone": _same,
}
