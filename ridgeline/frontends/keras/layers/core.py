"""Dense layers, embeddings, masks, and what does nothing in inference."""

import torch
from torch import Tensor
from torch.nn import functional as F

from ridgeline.frontends.keras.call import Call
from ridgeline.frontends.keras.layers.activations import activated
from ridgeline.frontends.keras.table import Result, Row, Run, rows
from ridgeline.frontends.keras.value import Value


def transposed(weight: Tensor) -> Tensor:
    """(inputs, outputs), as Keras has a matrix, as (outputs, inputs), as torch has it."""
    return weight.T


def _dense(call: Call) -> Result:
    _require_whole(call)
    x, units = call.tensor, call.count("units")
    weight = call.weight(0, (x.shape[-1], units), "weight", transposed)
    bias = call.weight(1, (units,), "bias") if call.flag("use_bias", True) else None
    return activated(call, Value(tensor=F.linear(x, weight, bias)))


def _require_whole(call: Call) -> None:
    if call.has("quantization_config") or call.has("quantization_mode"):
        raise call.refuse("quantised", "save the model before quantize(), and quantise the graph")


def _einsum_dense(call: Call) -> Result:
    """A product by weights along named dimensions: a linear layer where the last ones meet."""
    _require_whole(call)
    x = call.tensor
    equation = call.text("equation").replace(" ", "")
    operands, _, result = equation.partition("->")
    given, _, kernel = operands.partition(",")
    given, result, is_open = _closed(call, given, result, x.dim())
    sizes = dict(zip(given, x.shape, strict=True))
    sizes |= {
        letter: size
        for letter, size in zip(
            reversed(result), reversed(_output_shape(call, len(result) - 1 - is_open)), strict=False
        )
        if size is not None and letter not in sizes
    }
    shape = [sizes[letter] for letter in kernel]
    bias = _einsum_bias(call, result, sizes)
    inner = [letter for letter in kernel if letter in given]
    outer = [letter for letter in kernel if letter in result and letter not in given]
    if _is_linear(given, kernel, result, inner, outer):
        width = torch.Size(shape[: len(inner)]).numel()
        weight = call.weight(0, shape, "weight", lambda w: w.reshape(width, -1).T)
        flat = bias.flatten() if bias is not None and _is_outer_bias(call, outer) else None
        y = F.linear(x.flatten(-len(inner)), weight, flat)
        y = y.reshape(*y.shape[:-1], *shape[len(inner) :]) if len(outer) > 1 else y
        bias = None if flat is not None else bias
    else:
        y = torch.einsum(f"{given},{kernel}->{result}", x, call.weight(0, shape, "weight"))
    return activated(call, Value(tensor=y if bias is None else y + bias))


def _closed(call: Call, given: str, result: str, rank: int) -> tuple[str, str, int]:
    """The dimensions of input and output with letters in the place of an ellipsis, and how many
    those are.
    """
    if "..." not in given:
        return given, result, 0
    free = [c for c in "zyxwvuts" if c not in call.text("equation")]
    letters = "".join(free[: rank - len(given) + 3])
    return given.replace("...", letters), result.replace("...", letters), len(letters) - 1


def _output_shape(call: Call, rank: int) -> list[int | None]:
    value = call.layer.config.get("output_shape")
    found = value if isinstance(value, list) else [value]
    return [d if isinstance(d, int) else None for d in found]


def _is_linear(given: str, kernel: str, result: str, inner: list[str], outer: list[str]) -> bool:
    """Whether the last dimensions of the input meet the first of the kernel, and its rest follow
    in the output.
    """
    return (
        bool(inner)
        and bool(outer)
        and kernel == "".join(inner + outer)
        and given.endswith("".join(inner))
        and result == given[: len(given) - len(inner)] + "".join(outer)
    )


def _is_outer_bias(call: Call, outer: list[str]) -> bool:
    return call.layer.config.get("bias_axes") == "".join(outer)


def _einsum_bias(call: Call, result: str, sizes: dict[str, int]) -> Tensor | None:
    if not call.has("bias_axes"):
        return None
    axes = call.text("bias_axes")
    first = min(result.index(a) for a in axes)
    shape = [sizes[a] if a in axes else 1 for a in result[first:]]
    return call.weight(1, shape, "bias")


def _embedding(call: Call) -> Result:
    _require_whole(call)
    ids = call.tensor
    shape = (call.count("input_dim"), call.count("output_dim"))
    y = F.embedding(_indices(ids), call.weight(0, shape, "weight"))
    return Value(tensor=y, mask=ids != 0 if call.flag("mask_zero") else None)


def _indices(ids: Tensor) -> Tensor:
    return ids if ids.dtype in (torch.int32, torch.int64) else ids.to(torch.int32)


def _masking(call: Call) -> Result:
    """Steps that hold nothing but the mask value are zeroed and hidden."""
    x = call.tensor
    shown = (x != call.number("mask_value", 0.0)).any(-1)
    return Value(tensor=x * shown.unsqueeze(-1).to(x.dtype), mask=shown)


def _identity(call: Call) -> Result:
    return call.value


_PASSING: dict[str, Run] = {
    "Dense": _dense,
    "EinsumDense": _einsum_dense,
    "Identity": _identity,
    "Dropout": _identity,
    "SpatialDropout1D": _identity,
    "SpatialDropout2D": _identity,
    "SpatialDropout3D": _identity,
    "GaussianDropout": _identity,
    "GaussianNoise": _identity,
    "AlphaDropout": _identity,
    "ActivityRegularization": _identity,
}
ROWS: tuple[Row, ...] = (
    *rows(_PASSING, keeps_mask=True),
    *rows({"Embedding": _embedding, "Masking": _masking, "StochasticDepth": _identity}),
)
