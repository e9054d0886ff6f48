"""Preprocessing that is arithmetic, and what only training does."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from ridgeline.frontends.keras.call import Call
from ridgeline.frontends.keras.layers.reshaping import require_mode, resized
from ridgeline.frontends.keras.table import Result, Row, rows
from ridgeline.frontends.keras.value import Value

_EPSILON = 1e-7  # keras.config.epsilon()
# Layers that change an image in training alone.
_AUGMENTATIONS = (
    "RandomBrightness",
    "RandomColorDegeneration",
    "RandomColorJitter",
    "RandomContrast",
    "RandomElasticTransform",
    "RandomErasing",
    "RandomFlip",
    "RandomGaussianBlur",
    "RandomGrayscale",
    "RandomHue",
    "RandomInvert",
    "RandomPerspective",
    "RandomPosterization",
    "RandomRotation",
    "RandomSaturation",
    "RandomSharpness",
    "RandomShear",
    "RandomTranslation",
    "RandomZoom",
)


def _rescaling(call: Call) -> Result:
    value = call.value
    scale, offset = (_number_or_array(call, key, value) for key in ("scale", "offset"))
    x = value.tensor.to(call.dtype)
    y = x if isinstance(scale, float) and scale == 1 else x * scale
    return value.like(y if isinstance(offset, float) and offset == 0 else y + offset)


def _number_or_array(call: Call, key: str, value: Value) -> float | Tensor:
    """A number of the config, or one number per channel in the order of the value's channels."""
    config = call.layer.config.get(key)
    if isinstance(config, int | float) and not isinstance(config, bool):
        return float(config)
    found = call.array(key)
    if found is None:
        raise call.error(f"its config has no {key}")
    return call.constant(key, lambda: _spread(found, value, [value.rank - 1]))


def _spread(found: Tensor, value: Value, axes: Sequence[int]) -> Tensor:
    """An array over some of Keras's dimensions, with ones for the others, as the value has them."""
    if found.dim() == 0:
        return found
    shape = [value.shape[a] if a in axes else 1 for a in range(value.rank)]
    spread = found.broadcast_to([value.shape[a] for a in axes]).reshape(shape)
    return Value(tensor=spread).moved() if value.is_moved else spread


def _normalization(call: Call) -> Result:
    """(x - mean) / deviation, of numbers in the config or of weights."""
    value = call.value
    axes = sorted(a % value.rank for a in call.integers("axis", [-1]))
    if call.layer.config.get("axis", -1) is None:
        axes = []
    shape = [value.shape[a] for a in axes]
    if call.has("mean"):
        mean, variance = (_given(call, key, value, axes) for key in ("mean", "variance"))
    else:
        mean = _laid_out(call, 0, "mean", shape, value, axes, fill=0.0)
        variance = _laid_out(call, 1, "variance", shape, value, axes, fill=1.0)
    x, deviation = value.tensor.to(call.dtype), variance.sqrt().clamp(min=_EPSILON)
    if call.flag("invert"):
        return value.like(mean + x * deviation)
    return value.like((x - mean) / deviation)


def _given(call: Call, key: str, value: Value, axes: list[int]) -> Tensor:
    found = call.array(key)
    if found is None:
        raise call.error(f"its config has no {key}")
    shape = [value.shape[a] for a in axes]
    if found.numel() == 1:
        found = found.reshape(())
    elif found.numel() == math.prod(shape):
        found = found.reshape(shape)
    return call.constant(key, lambda: _spread(found, value, axes))


def _laid_out(
    call: Call,
    index: int,
    name: str,
    shape: list[int],
    value: Value,
    axes: list[int],
    *,
    fill: float,
) -> Tensor:
    return call.weight(
        index, shape, name, lambda w: _spread(w, value, axes), fill=fill, is_buffer=True
    )


def _resizing(call: Call) -> Result:
    mode = call.text("interpolation", "bilinear").lower()
    require_mode(call, mode)
    for key in ("crop_to_aspect_ratio", "pad_to_aspect_ratio", "antialias"):
        if call.flag(key):
            raise call.refuse(key, "resize without it")
    x = call.channels_first(call.value)
    x = x if x.is_floating_point() else x.to(call.dtype)
    return call.from_channels_first(resized(x, [call.count("height"), call.count("width")], mode))


def _center_crop(call: Call) -> Result:
    x = call.channels_first(call.value)
    for dim, key in ((2, "height"), (3, "width")):
        size = call.count(key)
        if size > x.shape[dim]:
            raise call.refuse("a crop larger than the image", "resize it first")
        x = x.narrow(dim, (x.shape[dim] - size) // 2, size)
    return call.from_channels_first(x)


def _category_encoding(call: Call) -> Result:
    """One-hot or multi-hot categories."""
    ids, count = call.tensor.to(torch.int64), call.count("num_tokens")
    hot = F.one_hot(ids, count)
    match call.text("output_mode", "multi_hot"):
        case "one_hot":
            return (hot.squeeze(-2) if ids.shape[-1] == 1 and ids.dim() > 1 else hot).to(call.dtype)
        case "multi_hot":
            return hot.amax(-2).to(call.dtype)
        case "count":
            weights = call.optional(1, "count_weights")
            counted = hot if weights is None else hot * weights.plain().unsqueeze(-1)
            return counted.sum(-2).to(call.dtype)
        case mode:
            raise call.error(f"its output_mode is {mode!r}")


def _identity(call: Call) -> Result:
    return call.value


ROWS: tuple[Row, ...] = rows(
    {
        "Rescaling": _rescaling,
        "Normalization": _normalization,
        "Resizing": _resizing,
        "CenterCrop": _center_crop,
        "CategoryEncoding": _category_encoding,
        **dict.fromkeys(_AUGMENTATIONS, _identity),
    }
)
