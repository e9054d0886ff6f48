"""Quantised tensors and arithmetic: each integer sum is exact."""

import torch
from torch import Tensor

from ridgeline.frontends.onnx.call import Call, Result, Value, dtype_of
from ridgeline.frontends.onnx.dtypes import NARROW_INTEGERS, ElementType, element_type, encoded
from ridgeline.frontends.onnx.ops.casting import converted
from ridgeline.frontends.onnx.ops.convolution import conv
from ridgeline.frontends.onnx.table import Row, rows

_RANGES = {
    "uint8": (0, 255),
    "int8": (-128, 127),
    "uint16": (0, 65535),
    "int16": (-32768, 32767),
    "uint4": (0, 15),
    "int4": (-8, 7),
    "uint2": (0, 3),
    "int2": (-2, 1),
}
_UINT8 = element_type(2)
# Whole numbers below this are exact in float32.
_EXACT = 2**24


def spread(t: Tensor, shape: torch.Size, axis: int, block: int) -> Tensor:
    """A scale or zero point, one per tensor, per slice of `axis` or per block of it, lined up with
    a tensor of `shape`.
    """
    if t.dim() == 0 or (t.numel() == 1 and t.dim() <= 1):
        return t.reshape(())
    if block:
        wide = t.repeat_interleave(block, axis)
        return wide.narrow(axis, 0, shape[axis])
    if t.dim() > 1:
        return t
    line = [1] * len(shape)
    line[axis] = -1
    return t.reshape(line)


def quantised(
    x: Tensor, scale: Tensor, zero: Tensor | None, target: ElementType, *, saturates: bool
) -> Tensor:
    """`x / scale + zero`, rounded half to even, kept inside the range of the type."""
    y = x / scale
    if target.name not in _RANGES:
        return converted(y if zero is None else y + zero.to(y.dtype), target, saturates=saturates)
    y = y.round()
    y = y if zero is None else y + zero
    low, high = _RANGES[target.name]
    carrier = dtype_of(target)
    y = y.clamp(low, high)
    return encoded(y, carrier) if carrier in NARROW_INTEGERS else y.to(carrier)


def _quantize(call: Call) -> Value:
    x, block = call.tensor(0), call.integer("block_size", 0)
    x = x if x.is_floating_point() else x.float()
    axis = call.dim(call.integer("axis", 1), x.dim()) if call.rank(1) else 0
    number = call.integer("output_dtype", 0)
    target = call.element(2) if call.has(2) else element_type(number) if number else _UINT8
    scale = spread(call.tensor(1), x.shape, axis, block)
    if call.integer("precision", 0):
        x = x.to(dtype_of(element_type(call.integer("precision"))))
    scale = _wide(scale).to(x.dtype)
    zero = _wide(spread(call.tensor(2), x.shape, axis, block)) if call.has(2) else None
    return quantised(x, scale, zero, target, saturates=bool(call.integer("saturate", 1)))


def _wide(x: Tensor) -> Tensor:
    """An integer or a float of 8 bits as a float that computes."""
    return x.float() if not x.is_floating_point() or x.dtype.itemsize == 1 else x


def dequantised(x: Tensor, scale: Tensor, zero: Tensor | None) -> Tensor:
    """`(x - zero) * scale` in the scale's type."""
    wide = _wide(x).float()
    wide = wide if zero is None else wide - _wide(zero).float()
    return (wide * scale.float()).to(scale.dtype)


def _dequantize(call: Call) -> Value:
    x, block = call.tensor(0), call.integer("block_size", 0)
    axis = call.dim(call.integer("axis", 1), x.dim()) if call.rank(1) else 0
    scale = spread(_wide(call.tensor(1)), x.shape, axis, block)
    zero = spread(call.tensor(2), x.shape, axis, block) if call.has(2) else None
    y = dequantised(x, scale, zero)
    number = call.integer("output_dtype", 0)
    return converted(y, element_type(number) if number else _scale_type(call))


def _scale_type(call: Call) -> ElementType:
    """The type of the scale; of a bare exponent, float."""
    element = call.element(1)
    return element_type(1) if element.name == "float8e8m0" else element


def _dynamic_quantize(call: Call) -> Result:
    x = call.tensor(0)
    low, high = x.amin().clamp(max=0.0), x.amax().clamp(min=0.0)
    scale = (high - low) / 255
    zero = (-low / scale).round().clamp(0, 255)
    y = (x / scale).round().add(zero).clamp(0, 255).to(torch.uint8)
    return [y, scale, zero.to(torch.uint8)]


def _shifted(call: Call, index: int, zero: int, axis: int, terms: int) -> Tensor:
    """Input `index` less its zero point, in a float type in which sums of `terms` are exact."""
    dtype = torch.float32 if terms * 255 * 255 < _EXACT else torch.float64
    x = call.tensor(index).to(dtype)
    if not call.has(zero):
        return x
    return x - spread(call.tensor(zero), x.shape, axis, 0).to(dtype)


def _matmul_terms(call: Call, index: int) -> int:
    return call.shape(index)[-1]


def _matmul_integer(call: Call) -> Value:
    terms = _matmul_terms(call, 0)
    x = _shifted(call, 0, 2, max(call.rank(0) - 2, 0), terms)
    y = _shifted(call, 1, 3, call.rank(1) - 1, terms)
    return torch.matmul(x, y).to(torch.int32)


def _qlinear_matmul(call: Call) -> Value:
    terms = _matmul_terms(call, 0)
    x = _shifted(call, 0, 2, max(call.rank(0) - 2, 0), terms)
    y = _shifted(call, 3, 5, call.rank(3) - 1, terms)
    product = torch.matmul(x, y)
    scale_x = spread(call.tensor(1), product.shape, product.dim() - 2, 0)
    scale_y = spread(call.tensor(4), product.shape, product.dim() - 1, 0)
    scale = call.tensor(6)
    return _requantised(call, product, scale_x, scale_y, scale, 7)


def _requantised(
    call: Call, total: Tensor, scale_x: Tensor, scale_y: Tensor, scale: Tensor, zero: int
) -> Value:
    factor = scale_x.float() * scale_y.float() / scale.float()
    y = (total.float() * factor).round() + call.tensor(zero).float()
    low, high = _RANGES[call.element(zero).name]
    return y.clamp(low, high).to(dtype_of(call.element(zero)))


def _conv_terms(call: Call, index: int) -> int:
    return torch.Size(call.shape(index)[1:]).numel()


def _conv_integer(call: Call) -> Value:
    terms = _conv_terms(call, 1)
    x, w = _shifted(call, 0, 2, 1, terms), _shifted(call, 1, 3, 0, terms)
    return conv(call, x, w, None).to(torch.int32)


def _qlinear_conv(call: Call) -> Value:
    terms = _conv_terms(call, 3)
    x, w = _shifted(call, 0, 2, 1, terms), _shifted(call, 3, 5, 0, terms)
    bias = call.optional(8)
    total = conv(call, x, w, None if bias is None else bias.to(x.dtype))
    scale_w = spread(call.tensor(4), total.shape, 1, 0)
    return _requantised(call, total, call.tensor(1).reshape(()), scale_w, call.tensor(6), 7)


ROWS: tuple[Row, ...] = rows(
    {
        "QuantizeLinear": _quantize,
        "DequantizeLinear": _dequantize,
        "DynamicQuantizeLinear": _dynamic_quantize,
        "MatMulInteger": _matmul_integer,
        "QLinearMatMul": _qlinear_matmul,
        "ConvInteger": _conv_integer,
        "QLinearConv": _qlinear_conv,
    }
)
