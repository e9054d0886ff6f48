"""Random draws, from torch's generator: a seed in the file fixes the kind of numbers, not these."""

import torch
from torch import Tensor

from ridgeline.frontends.onnx.call import Call, Value, dtype_of
from ridgeline.frontends.onnx.dtypes import element_type
from ridgeline.frontends.onnx.table import Row, rows


def _kind(call: Call) -> torch.dtype:
    if call.given("dtype"):
        return dtype_of(element_type(call.integer("dtype")))
    return call.dtype(0) if call.inputs else torch.float32


def _shape(call: Call) -> list[int]:
    return list(call.shape(0)) if call.inputs else call.integers("shape")


def _uniform(call: Call) -> Value:
    low, high = call.number("low"), call.number("high")
    drawn = torch.rand(_shape(call), device=call.device)
    return (drawn * (high - low) + low).to(_kind(call))


def _normal(call: Call) -> Value:
    drawn = torch.randn(_shape(call), device=call.device)
    return (drawn * call.number("scale") + call.number("mean")).to(_kind(call))


def _bernoulli(call: Call) -> Value:
    x: Tensor = call.tensor(0)
    return torch.bernoulli(x).to(_kind(call))


def _multinomial(call: Call) -> Value:
    kind = dtype_of(element_type(call.integer("dtype", 6)))
    count = call.integer("sample_size")
    return torch.multinomial(call.tensor(0).softmax(1), count, replacement=True).to(kind)


ROWS: tuple[Row, ...] = rows(
    {
        "RandomUniform": _uniform,
        "RandomUniformLike": _uniform,
        "RandomNormal": _normal,
        "RandomNormalLike": _normal,
        "Bernoulli": _bernoulli,
        "Multinomial": _multinomial,
    },
    is_pure=False,
)
