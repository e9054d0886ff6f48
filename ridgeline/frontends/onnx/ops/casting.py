"""Conversions between element types."""

import torch
from torch import Tensor

from ridgeline.frontends.onnx.call import Call, Value, dtype_of
from ridgeline.frontends.onnx.dtypes import (
    FLOAT4,
    INT2,
    INT4,
    NARROW_INTEGERS,
    UINT2,
    UINT4,
    ElementType,
    decoded,
    element_type,
    encoded,
)
from ridgeline.frontends.onnx.table import Row, rows
from ridgeline.frontends.onnx.weights import Known, known

_BITS = {INT4: (-8, 7), UINT4: (0, 15), INT2: (-2, 1), UINT2: (0, 3)}
_NAMES = {"FLOAT": 1, "UINT8": 2, "INT8": 3, "INT32": 6, "INT64": 7, "BOOL": 9, "DOUBLE": 11}


def converted(
    x: Tensor, target: ElementType, *, saturates: bool = True, rounds: str = "up"
) -> Tensor:
    """`x`, decoded, in another element type, as Cast says; rounds: for float8e8m0."""
    carrier = dtype_of(target)
    if carrier is FLOAT4:
        return encoded(x.float(), carrier)
    if carrier in NARROW_INTEGERS:
        return encoded(_wrapped(x, *_BITS[carrier]), carrier)
    if target.name == "float8e8m0":
        return _power_of_two(x.float(), rounds, saturates=saturates)
    if target.largest is not None:
        return _float8(x, target, carrier, saturates=saturates)
    return x.to(carrier)


def _wrapped(x: Tensor, low: int, high: int) -> Tensor:
    """An integer's low bits as the narrow type reads them; floats are cut towards zero first."""
    whole = x.to(torch.int32)
    return torch.remainder(whole - low, high - low + 1) + low


def _float8(x: Tensor, target: ElementType, carrier: torch.dtype, *, saturates: bool) -> Tensor:
    """A float of 8 bits: what is too large becomes the largest, or infinity or NaN."""
    assert target.largest is not None
    wide = x.float()
    if saturates:
        return wide.clamp(-target.largest, target.largest).to(carrier)
    has_infinity = target.name == "float8e5m2"
    beyond = torch.where(wide > 0, torch.inf, -torch.inf) if has_infinity else torch.nan
    # halfway to the next step that the format would have rounds to even, which is beyond
    limit = target.largest * (1 + 1 / (30.0 if "e4m3" in target.name else 14.0))
    limit = 464.0 if target.name == "float8e4m3fn" else limit
    is_beyond = wide.abs() > limit if target.name == "float8e4m3fn" else wide.abs() >= limit
    kept = wide.clamp(-target.largest, target.largest)
    return torch.where(is_beyond, beyond, kept).to(carrier)


def _power_of_two(x: Tensor, rounds: str, *, saturates: bool) -> Tensor:
    """The exponent alone: up, down or to the nearest power of two."""
    mantissa, exponent = torch.frexp(x.abs())  # mantissa in [0.5, 1)
    down = exponent - 1
    up = torch.where(mantissa > 0.5, exponent, down)
    nearest = torch.where(mantissa >= 0.75, exponent, down)
    power = {"up": up, "down": down, "nearest": nearest}[rounds]
    codes = (power + 127).clamp(0, 254)
    if not saturates:
        codes = torch.where(power > 127, 255, codes)
    codes = torch.where(torch.isfinite(x), codes, torch.where(torch.isnan(x), 255, 254))
    codes = torch.where(x == 0, 0, codes)
    return codes.to(torch.uint8).view(torch.float8_e8m0fnu)


def _cast_to(call: Call, target: ElementType) -> Value:
    value = call.value(0)
    if isinstance(value, Known) and "string" in (value.element.name, target.name):
        return _strings(value, target)
    x = call.tensor(0)
    if call.element(0).name == target.name:
        return call.value(0)
    if call.element(0).name == "float8e8m0":
        x = x.float()
    saturates = bool(call.integer("saturate", 1))
    return converted(x, target, saturates=saturates, rounds=call.text("round_mode", "up"))


def _strings(value: Known, target: ElementType) -> Value:
    """To and from texts, which are known wherever they are."""
    array = value.read()
    if target.name == "string":
        return known(array.astype("str").astype(object))
    return known(array.astype("str").astype("float64").astype(target.numpy))


def _cast(call: Call) -> Value:
    target = _NAMES[call.text("to")] if call.version < 6 else call.integer("to")
    return _cast_to(call, element_type(target))


def _bit_cast(call: Call) -> Value:
    """The same bytes under another type; those of less than a byte count as their carrier."""
    target = dtype_of(element_type(call.integer("to")))
    return (
        decoded(call.raw(0)).view(target) if target in NARROW_INTEGERS else call.raw(0).view(target)
    )


ROWS: tuple[Row, ...] = rows(
    {
        "Cast": _cast,
        "CastLike": lambda call: _cast_to(call, call.element(1)),
        "BitCast": _bit_cast,
    }
)
