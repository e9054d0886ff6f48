"""Element-wise operators: steps of an expression, which whoever comes before or after takes in."""

from collections.abc import Callable
from math import inf

import torch
from torch import Tensor

from ridgeline.backends.native.builder import applied
from ridgeline.backends.native.call import Call, Result
from ridgeline.backends.native.tree import Tree
from ridgeline.backends.native.value import FLOATS
from ridgeline.errors import UnsupportedOp

Row = Callable[[Call], Result]

_UNARY = {
    "relu": "RELU", "hardswish": "HARDSWISH", "hardsigmoid": "HARDSIGMOID", "sigmoid": "SIGMOID",
    "tanh": "TANH", "silu": "SILU", "exp": "EXP", "log": "LOG", "sqrt": "SQRT", "rsqrt": "RSQRT",
    "neg": "NEG", "abs": "ABS", "reciprocal": "RECIPROCAL", "floor": "FLOOR", "ceil": "CEIL",
    "round": "ROUND", "sin": "SIN", "cos": "COS", "erf": "ERF", "square": "SQUARE", "mish": "MISH",
    "logical_not": "NOT",
}  # fmt: skip
_BINARY = {
    "mul": "MUL", "maximum": "MAX", "minimum": "MIN", "lt": "LT", "le": "LE", "eq": "EQ",
    "ne": "NE", "logical_and": "AND", "logical_or": "OR",
}  # fmt: skip
_FLIPPED = {"gt": "LT", "ge": "LE"}


def _unary(step: str) -> Row:
    return lambda call: call.pending(applied(step, _self(call)))


def _binary(step: str, first: str = "self", second: str = "other") -> Row:
    def row(call: Call) -> Result:
        trees = [call.tree(call.arguments[n]) for n in (first, second)]
        return call.pending(applied(step, *trees))

    return row


def _self(call: Call) -> Tree:
    return call.tree(call.operand("self" if call.has("self") else "input"))


def _sum(step: str) -> Row:
    def row(call: Call) -> Result:
        first, second = call.tree(call.arguments["self"]), call.tree(call.arguments["other"])
        alpha = float(call.arguments.get("alpha", 1) or 0)  # type: ignore[arg-type]
        if alpha != 1:
            second = applied("AFFINE", second, p=alpha)
        return call.pending(applied(step, first, second))

    return row


def _quotient(call: Call) -> Result:
    if call.has("rounding_mode"):
        raise UnsupportedOp("it rounds its quotient")
    trees = [call.tree(call.arguments[n]) for n in ("self", "other")]
    return call.pending(applied("DIV", *trees))


def _power(call: Call) -> Result:
    exponent = call.number("exponent")
    steps = {1: "COPY", 2: "SQUARE", 0.5: "SQRT", -0.5: "RSQRT", -1: "RECIPROCAL"}
    return call.pending(applied(steps.get(exponent, "POW"), _self(call), p=exponent))


def _gelu(call: Call) -> Result:
    is_exact = call.arguments.get("approximate", "none") == "none"
    return call.pending(applied("GELU" if is_exact else "GELU_TANH", _self(call)))


def _clamp(low: str, high: str) -> Row:
    def bound(call: Call, name: str, otherwise: float) -> float:
        return float(call.number(name)) if name and call.has(name) else otherwise

    def row(call: Call) -> Result:
        low_, high_ = bound(call, low, -inf), bound(call, high, inf)
        return call.pending(applied("CLAMP", _self(call), p=low_, q=high_))

    return row


def _relu6(call: Call) -> Result:
    return call.pending(applied("CLAMP", _self(call), p=0.0, q=6.0))


def _leaky(call: Call) -> Result:
    return call.pending(applied("LEAKY_RELU", _self(call), p=call.number("negative_slope")))


def _elu(call: Call) -> Result:
    if (call.number("scale"), call.number("input_scale")) != (1, 1):
        raise UnsupportedOp("it is scaled")
    return call.pending(applied("ELU", _self(call), p=call.number("alpha")))


def _softplus(call: Call) -> Result:
    if (call.number("beta"), call.number("threshold")) != (1, 20):
        raise UnsupportedOp("its threshold is not the usual one")
    return call.pending(applied("SOFTPLUS", _self(call)))


def _where(call: Call) -> Result:
    names = ("condition", "self", "other")
    return call.pending(applied("SELECT", *(call.tree(call.arguments[n]) for n in names)))


def _masked_fill(call: Call) -> Result:
    mask, value, x = (call.tree(call.arguments[n]) for n in ("mask", "value", "self"))
    return call.pending(applied("SELECT", mask, value, x))


def _cast(call: Call) -> Result:
    """Between floats nothing is done until the value is stored."""
    return _same(call)


def _same(call: Call) -> Result:
    if call.out.dtype not in (*FLOATS, torch.bool):
        raise UnsupportedOp(f"no expression gives {call.out.dtype}")
    tree = _self(call)
    if call.out.dtype is torch.bool:
        tree = applied("NE", tree, 0.0)
    return call.pending(tree)


def _batch_norm(call: Call) -> Result:
    """With its statistics known: a scale and a shift per channel."""
    if call.flag("training"):
        raise UnsupportedOp("it takes statistics of its input")
    mean, variance = (call.known(n).float() for n in ("running_mean", "running_var"))
    scale = torch.rsqrt(variance + call.number("eps"))
    if call.has("weight"):
        scale = scale * call.known("weight").float()
    shift = -mean * scale
    if call.has("bias"):
        shift = shift + call.known("bias").float()
    x = call.tree(call.operand("input"))
    wide = [_per_channel(call, v) for v in (scale, shift)]
    found = call.pending(applied("ADD", applied("MUL", x, wide[0]), wide[1]))
    return found if len(call.outs) == 1 else (found,)


def _per_channel(call: Call, vector: Tensor) -> Tree:
    call.builder.vector(vector)  # kept alive
    shape = (-1, *[1] * (call.out.dim() - 2))
    return call.builder.constant(vector.contiguous().reshape(shape))


def _guarded(row: Row) -> Row:
    """The row, for results that an expression can give."""

    def checked(call: Call) -> Result:
        if call.out.dtype not in (*FLOATS, torch.bool):
            raise UnsupportedOp(f"no expression gives {call.out.dtype}")
        return row(call)

    return checked


_ROWS: dict[str, Row] = {
    **{name: _unary(step) for name, step in _UNARY.items()},
    **{name: _binary(step) for name, step in _BINARY.items()},
    **{name: _binary(step, "other", "self") for name, step in _FLIPPED.items()},
    "add": _sum("ADD"),
    "sub": _sum("SUB"),
    "div": _quotient,
    "pow": _power,
    "gelu": _gelu,
    "clamp": _clamp("min", "max"),
    "clamp_min": _clamp("min", ""),
    "clamp_max": _clamp("", "max"),
    "hardtanh": _clamp("min_val", "max_val"),
    "relu6": _relu6,
    "leaky_relu": _leaky,
    "elu": _elu,
    "softplus": _softplus,
    "where": _where,
    "masked_fill": _masked_fill,
    "_to_copy": _cast,
    "to": _cast,
    "clone": _same,
    "batch_norm": _batch_norm,
    "_native_batch_norm_legit_no_training": _batch_norm,
}
ROWS: dict[str, Row] = {f"aten.{name}": _guarded(row) for name, row in _ROWS.items()}
