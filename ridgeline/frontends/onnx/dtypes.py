"""ONNX element types beside NumPy's and torch's.

torch computes nothing in types of less than a byte: `carrier` is the type that torch keeps them in,
one value per byte, and `decoded` turns it into one that computes.
"""

from dataclasses import dataclass

import ml_dtypes
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ridgeline.errors import UnsupportedOp

Array = NDArray[np.generic]


@dataclass(frozen=True, slots=True, kw_only=True)
class ElementType:
    """One element type. number: TensorProto.DataType; bits: of one element as a file packs it;
    largest: of a float that conversions saturate to.
    """

    name: str
    number: int
    bits: int
    numpy: np.dtype[np.generic]
    carrier: torch.dtype | None
    largest: float | None = None


def _type(
    name: str,
    number: int,
    bits: int,
    numpy: type,
    carrier: torch.dtype | None,
    largest: float | None = None,
) -> ElementType:
    return ElementType(
        name=name,
        number=number,
        bits=bits,
        numpy=np.dtype(numpy),
        carrier=carrier,
        largest=largest,
    )


def _narrow(name: str) -> torch.dtype:
    """torch's integer of less than a byte, which its stubs lack."""
    dtype = getattr(torch, name)
    assert isinstance(dtype, torch.dtype)
    return dtype


INT4, UINT4, INT2, UINT2 = (_narrow(name) for name in ("int4", "uint4", "int2", "uint2"))
TYPES = (
    _type("float", 1, 32, np.float32, torch.float32),
    _type("uint8", 2, 8, np.uint8, torch.uint8),
    _type("int8", 3, 8, np.int8, torch.int8),
    _type("uint16", 4, 16, np.uint16, torch.uint16),
    _type("int16", 5, 16, np.int16, torch.int16),
    _type("int32", 6, 32, np.int32, torch.int32),
    _type("int64", 7, 64, np.int64, torch.int64),
    _type("string", 8, 0, object, None),
    _type("bool", 9, 8, np.bool_, torch.bool),
    _type("float16", 10, 16, np.float16, torch.float16),
    _type("double", 11, 64, np.float64, torch.float64),
    _type("uint32", 12, 32, np.uint32, torch.uint32),
    _type("uint64", 13, 64, np.uint64, torch.uint64),
    _type("complex64", 14, 64, np.complex64, torch.complex64),
    _type("complex128", 15, 128, np.complex128, torch.complex128),
    _type("bfloat16", 16, 16, ml_dtypes.bfloat16, torch.bfloat16),
    _type("float8e4m3fn", 17, 8, ml_dtypes.float8_e4m3fn, torch.float8_e4m3fn, 448.0),
    _type("float8e4m3fnuz", 18, 8, ml_dtypes.float8_e4m3fnuz, torch.float8_e4m3fnuz, 240.0),
    _type("float8e5m2", 19, 8, ml_dtypes.float8_e5m2, torch.float8_e5m2, 57344.0),
    _type("float8e5m2fnuz", 20, 8, ml_dtypes.float8_e5m2fnuz, torch.float8_e5m2fnuz, 57344.0),
    _type("uint4", 21, 4, ml_dtypes.uint4, UINT4),
    _type("int4", 22, 4, ml_dtypes.int4, INT4),
    _type("float4e2m1", 23, 4, ml_dtypes.float4_e2m1fn, torch.float4_e2m1fn_x2, 6.0),
    _type("float8e8m0", 24, 8, ml_dtypes.float8_e8m0fnu, torch.float8_e8m0fnu, 2.0**127),
    _type("uint2", 25, 2, ml_dtypes.uint2, UINT2),
    _type("int2", 26, 2, ml_dtypes.int2, INT2),
)
BY_NUMBER = {t.number: t for t in TYPES}
_BY_NUMPY = {t.numpy: t for t in TYPES}
_BY_CARRIER = {t.carrier: t for t in TYPES if t.carrier is not None}

# Integers of less than a byte: carrier -> what computes them.
NARROW_INTEGERS = {
    INT4: torch.int8,
    UINT4: torch.uint8,
    INT2: torch.int8,
    UINT2: torch.uint8,
}
FLOAT4 = torch.float4_e2m1fn_x2
FLOAT4_MAGNITUDES = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
# Unsigned integers that torch stores but hardly computes -> a signed type that holds or wraps them.
WIDE_ENOUGH = {torch.uint16: torch.int32, torch.uint32: torch.int64, torch.uint64: torch.int64}
# NumPy cannot hand these to torch by itself; their bytes can.
_AS_BYTES = {1: (np.uint8, torch.uint8), 2: (np.uint16, torch.uint16)}


def element_type(number: int) -> ElementType:
    """The row of a TensorProto.DataType. Raises UnsupportedOp for one it does not know."""
    if number not in BY_NUMBER:
        raise UnsupportedOp(f"ONNX element type {number} is unknown.")
    return BY_NUMBER[number]


def type_of(value: Tensor | Array) -> ElementType:
    """The ONNX element type of a tensor or array."""
    if isinstance(value, Tensor):
        return _BY_CARRIER[value.dtype]
    return _BY_NUMPY.get(value.dtype, BY_NUMBER[8])


def to_tensor(array: Array) -> Tensor:
    """A torch tensor of the same values, types of less than a byte in their carrier."""
    kind = type_of(array)
    if kind.carrier is None:
        raise UnsupportedOp("strings are no tensors that torch computes.")
    dense = np.ascontiguousarray(array).reshape(array.shape)
    if kind.numpy.isbuiltin == 1:  # NumPy's own, not ml_dtypes'
        return torch.from_numpy(dense.copy())
    if kind.carrier in NARROW_INTEGERS:
        wide = dense.astype(np.int8 if kind.name.startswith("int") else np.uint8)
        return torch.from_numpy(wide).view(kind.carrier)
    raw, carrier = _AS_BYTES[kind.numpy.itemsize]
    return torch.from_numpy(dense.view(raw).copy()).view(carrier).view(kind.carrier)


def to_array(value: Tensor) -> Array:
    """The NumPy array of a real tensor's values; the inverse of `to_tensor`."""
    kind = type_of(value)
    dense = value.detach().resolve_conj().contiguous()
    if kind.numpy.isbuiltin == 1:
        array: Array = dense.numpy()
        return array
    if kind.carrier in NARROW_INTEGERS:
        narrow: Array = decoded(dense).numpy().astype(kind.numpy)
        return narrow
    raw, carrier = _AS_BYTES[kind.numpy.itemsize]
    viewed: Array = dense.view(carrier).numpy().view(raw).view(kind.numpy)
    return viewed


def decoded(x: Tensor) -> Tensor:
    """`x` in a type that torch computes: narrow integers as bytes, 4-bit floats as float."""
    if x.dtype in NARROW_INTEGERS:
        return x.view(NARROW_INTEGERS[x.dtype])
    if x.dtype is not FLOAT4:
        return x
    codes = x.view(torch.uint8).to(torch.int64)
    table = torch.tensor(
        [*FLOAT4_MAGNITUDES, *(-m for m in FLOAT4_MAGNITUDES)], device=x.device, dtype=torch.float32
    )
    return table[codes]


def encoded(x: Tensor, carrier: torch.dtype) -> Tensor:
    """A computed value that `carrier` can hold, in that type: the inverse of `decoded`."""
    if carrier in NARROW_INTEGERS:
        return x.to(NARROW_INTEGERS[carrier]).view(carrier)
    if carrier is not FLOAT4:
        return x.to(carrier)
    middles = torch.tensor([0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0], device=x.device)
    size = x.float().abs().contiguous()
    # ties go to the even code: a middle above an even code belongs to it
    below = torch.bucketize(size, middles)
    above = torch.bucketize(size, middles, right=True)
    codes = torch.where(below % 2 == 0, below, above)
    sign = torch.signbit(x).to(torch.uint8) * 8
    found = codes.to(torch.uint8) + sign
    return torch.where(torch.isnan(x), 8, found).to(torch.uint8).view(FLOAT4)
