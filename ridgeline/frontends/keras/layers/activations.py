"""Activations: by name in other layers, as layers, and as operations."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor
from torch.nn import functional as F

from ridgeline.errors import TargetError, UnsupportedOp
from ridgeline.frontends.keras.arguments import LAMBDA
from ridgeline.frontends.keras.call import Call
from ridgeline.frontends.keras.records import Json
from ridgeline.frontends.keras.table import Result, Row, Run, rows
from ridgeline.frontends.keras.value import Value

Elementwise = Callable[[Tensor], Tensor]


def _sparse_sigmoid(x: Tensor) -> Tensor:
    return (0.5 * (x + 1)).clamp(0, 1)


def _sparse_plus(x: Tensor) -> Tensor:
    middle = torch.where(x < 1, (x + 1) ** 2 / 4, x)
    return torch.where(x <= -1, torch.zeros_like(x), middle)


# Element by element, with Keras's own constants where a name says no more.
_PLAIN: Mapping[str, Elementwise] = {
    "linear": lambda x: x,
    "relu": torch.relu,
    "relu6": F.relu6,
    "sigmoid": torch.sigmoid,
    "sparse_sigmoid": _sparse_sigmoid,
    "tanh": torch.tanh,
    "tanh_shrink": F.tanhshrink,
    "silu": F.silu,
    "swish": F.silu,
    "gelu": F.gelu,
    "elu": F.elu,
    "selu": F.selu,
    "celu": F.celu,
    "leaky_relu": lambda x: F.leaky_relu(x, 0.2),
    "exponential": torch.exp,
    "softplus": F.softplus,
    "softsign": F.softsign,
    "soft_shrink": F.softshrink,
    "sparse_plus": _sparse_plus,
    "squareplus": lambda x: (x + torch.sqrt(x**2 + 4)) / 2,
    "hard_sigmoid": F.hardsigmoid,
    "hard_silu": F.hardswish,
    "hard_swish": F.hardswish,
    "hard_tanh": F.hardtanh,
    "hard_shrink": F.hardshrink,
    "log_sigmoid": F.logsigmoid,
    "mish": F.mish,
}
# Along one dimension, the last.
_DIRECTED: Mapping[str, Callable[[Tensor, int], Tensor]] = {
    "softmax": F.softmax,
    "log_softmax": F.log_softmax,
    "glu": F.glu,
}


def name_of(value: Json, where: str) -> tuple[str, Mapping[str, Json]]:
    """(the name of an activation, its own config). Raises UnsupportedOp where it is none of
    Keras's.
    """
    match value:
        case None:
            return "linear", {}
        case str(name):
            return name, {}
        case {"class_name": "__lambda__"}:
            raise UnsupportedOp(f"{where} {LAMBDA}")
        case {"class_name": "function", "config": str(name), "module": "builtins"}:
            return name, {}
        case {"class_name": "function", "config": str(name)}:
            raise UnsupportedOp(
                f"{where} has the activation {name[:60]}, a function of its own whose code is not "
                "in the file; use one of Keras's."
            )
        case {"class_name": str(kind), "config": dict(config), "module": "keras.layers"}:
            return kind, config
    raise TargetError(f"{where} has an activation that is none: {str(value)[:60]}.")


def activated(call: Call, value: Value, key: str = "activation") -> Value:
    """A value after the activation that the config names."""
    name, config = name_of(call.layer.config.get(key), call.layer.title)
    if name == "linear":
        return value
    if name in _DIRECTED:
        return value.like(_DIRECTED[name](value.tensor, value.dim(-1)))
    if name in _PLAIN:
        return value.like(_PLAIN[name](value.tensor))
    if name in ("ReLU", "LeakyReLU", "ELU"):
        return value.like(_parametric(name, config, value.tensor))
    raise UnsupportedOp(
        f"{call.layer.title} has the activation {name[:60]!r}, which has no row yet."
    )


def function_of(call: Call, key: str) -> tuple[str, Elementwise]:
    """(name, function) of an activation that works element by element."""
    name, _ = name_of(call.layer.config.get(key), call.layer.title)
    if name not in _PLAIN:
        raise UnsupportedOp(
            f"{call.layer.title} has the {key} {name[:60]!r}, which has no row yet."
        )
    return name, _PLAIN[name]


def _number(config: Mapping[str, Json], key: str, default: float) -> float:
    value = config.get(key)
    return float(value) if isinstance(value, int | float) else default


def _parametric(kind: str, config: Mapping[str, Json], x: Tensor) -> Tensor:
    if kind == "LeakyReLU":
        return F.leaky_relu(x, _number(config, "negative_slope", _number(config, "alpha", 0.3)))
    if kind == "ELU":
        return F.elu(x, _number(config, "alpha", 1.0))
    ceiling = config.get("max_value")
    slope, start = _number(config, "negative_slope", 0.0), _number(config, "threshold", 0.0)
    return relu(x, slope, _number(config, "max_value", 0.0) if ceiling is not None else None, start)


def relu(x: Tensor, slope: float, ceiling: float | None, start: float) -> Tensor:
    """Keras's relu: 0 up to `start`, or falling from it with `slope`; `ceiling` at most."""
    if slope and ceiling is None and not start:
        return F.leaky_relu(x, slope)
    if not start:
        y = F.relu6(x) if ceiling == 6 else torch.relu(x)
    else:
        y = torch.where(x > start, x, torch.zeros_like(x))
    y = y.clamp(0, ceiling) if ceiling is not None and (ceiling != 6 or start) else y
    return y - slope * torch.relu(start - x) if slope else y


def _by_config(call: Call) -> Result:
    value = call.value
    return value.like(
        _parametric(call.layer.kind.removeprefix("ops."), call.layer.config, value.tensor)
    )


def _prelu(call: Call) -> Result:
    """One slope per element but along the shared dimensions; torch's own where it is per
    channel.
    """
    value = call.value
    shape = list(value.shape[1:])
    for axis in call.integers("shared_axes", []):
        if not 1 <= axis <= len(shape):
            raise call.error(f"it shares dimension {axis} of {len(shape) + 1}")
        shape[axis - 1] = 1
    if set(shape[1:]) <= {1}:
        return F.prelu(value.plain(), call.weight(0, shape, "weight", torch.flatten))
    if set(shape[:-1]) <= {1}:
        slope = call.weight(0, shape, "weight", torch.flatten)
        return Value(tensor=F.prelu(value.moved(), slope), is_moved=True)
    slope, x = call.weight(0, shape, "weight"), value.plain()
    return torch.relu(x) - slope * torch.relu(-x)


def _softmax(call: Call) -> Result:
    """Along one dimension or over several; what a mask hides is 0 after."""
    value, mask = call.value, call.optional(1, "mask")
    dims = [value.dim(a) for a in call.integers("axis", [-1])]
    x = value.tensor
    if mask is not None:
        shown = mask.plain().to(torch.bool)
        x, dims = value.plain(), [a % value.rank for a in call.integers("axis", [-1])]
        y = _softmax_over(x.masked_fill(~shown, torch.finfo(x.dtype).min), dims)
        return y.masked_fill(~shown, 0.0)
    return value.like(_softmax_over(x, dims))


def _softmax_over(x: Tensor, dims: list[int]) -> Tensor:
    if len(dims) == 1:
        return F.softmax(x, dims[0])
    return torch.exp(x - torch.logsumexp(x, dims, keepdim=True))


def _along_axis(name: str) -> Run:
    def run(call: Call) -> Result:
        value = call.value
        return value.like(_DIRECTED[name](value.tensor, value.dim(call.integer("axis", -1))))

    return run


def _elementwise(function: Callable[[Call, Tensor], Tensor]) -> Run:
    def run(call: Call) -> Result:
        value = call.value
        return value.like(function(call, value.tensor))

    return run


def _named(name: str) -> Run:
    return _elementwise(lambda call, x: _PLAIN[name](x))


def _activation(call: Call) -> Result:
    return activated(call, call.value)


_LAYERS: dict[str, Run] = {
    "Activation": _activation,
    "ReLU": _by_config,
    "LeakyReLU": _by_config,
    "ELU": _by_config,
    "PReLU": _prelu,
    "Softmax": _softmax,
}
_OPERATIONS: dict[str, Run] = {
    "Relu": _named("relu"),
    "ReLU": _by_config,
    "Relu6": _named("relu6"),
    "Sigmoid": _named("sigmoid"),
    "SparseSigmoid": _named("sparse_sigmoid"),
    "Softplus": _named("softplus"),
    "Softsign": _named("softsign"),
    "SoftShrink": _elementwise(lambda call, x: F.softshrink(x, call.number("threshold", 0.5))),
    "SparsePlus": _named("sparse_plus"),
    "Silu": _named("silu"),
    "Squareplus": _elementwise(lambda call, x: (x + torch.sqrt(x**2 + call.number("b", 4))) / 2),
    "LogSigmoid": _named("log_sigmoid"),
    "LeakyRelu": _elementwise(lambda call, x: F.leaky_relu(x, call.number("negative_slope", 0.2))),
    "HardSigmoid": _named("hard_sigmoid"),
    "HardSilu": _named("hard_silu"),
    "Elu": _elementwise(lambda call, x: F.elu(x, call.number("alpha", 1.0))),
    "Selu": _named("selu"),
    "Celu": _elementwise(lambda call, x: F.celu(x, call.number("alpha", 1.0))),
    "Gelu": _elementwise(
        lambda call, x: F.gelu(x, approximate="tanh" if call.flag("approximate", True) else "none")
    ),
    "Glu": _along_axis("glu"),
    "TanhShrink": _named("tanh_shrink"),
    "HardTanh": _named("hard_tanh"),
    "HardShrink": _elementwise(lambda call, x: F.hardshrink(x, call.number("threshold", 0.5))),
    "Threshold": _elementwise(
        lambda call, x: F.threshold(x, call.number("threshold"), call.number("default_value"))
    ),
    "Softmax": _softmax,
    "LogSoftmax": _along_axis("log_softmax"),
}
ROWS: tuple[Row, ...] = (
    *rows(_LAYERS, keeps_mask=True),
    *rows({f"ops.{name}": run for name, run in _OPERATIONS.items()}),
)
