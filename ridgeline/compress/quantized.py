"""A tensor in few bits, and back."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ridgeline.compress.codes import Overflow, Rounding, code_dtype, decode, encode
from ridgeline.compress.elements import Element, Kind
from ridgeline.compress.granularity import Granularity
from ridgeline.compress.scaling import Scaling, TensorScale, range_scales, symmetric_scales
from ridgeline.compress.scheme import Scheme
from ridgeline.errors import FormatError


@dataclass(frozen=True, slots=True, kw_only=True)
class Extent:
    """The least and the greatest value of every tile, shaped as the scales, fp32."""

    low: Tensor
    high: Tensor

    def __post_init__(self) -> None:
        if self.low.shape != self.high.shape:
            raise FormatError(f"extents of {self.low.shape} and {self.high.shape} differ in shape.")
        if not bool((self.low.isfinite() & self.high.isfinite() & (self.low <= self.high)).all()):
            raise FormatError("an extent must be finite, its low not above its high.")

    @property
    def amax(self) -> Tensor:
        """The largest magnitude."""
        return torch.maximum(self.low.abs(), self.high.abs())


@dataclass(frozen=True, slots=True, kw_only=True)
class Quantized:
    """Codes under scales. shape: of the tensor; codes: of that padded to whole tiles.

    scale_codes: of the scheme's scale element, one per tile; zero_codes: of its element.
    tensor_scale: fp32, of no axes, as the scheme's TensorScale says.
    """

    scheme: Scheme
    shape: tuple[int, ...]
    codes: Tensor
    scale_codes: Tensor
    zero_codes: Tensor | None = None
    tensor_scale: Tensor | None = None

    def __post_init__(self) -> None:
        granularity = self.scheme.granularity
        wanted = {
            "codes": (self.codes, granularity.padded_shape(self.shape), self.scheme.element),
            "scale_codes": (
                self.scale_codes,
                granularity.scale_shape(self.shape),
                self.scheme.scale_element,
            ),
        }
        for name, (tensor, shape, element) in wanted.items():
            if tuple(tensor.shape) != shape or tensor.dtype != code_dtype(element):
                raise FormatError(
                    f"{name} are {tensor.dtype} {tuple(tensor.shape)}; "
                    f"{self.scheme.name} of {self.shape} has {code_dtype(element)} {shape}."
                )
        if (self.zero_codes is not None) != self.scheme.is_asymmetric:
            raise FormatError(f"{self.scheme.name}: zero points are there if it is asymmetric.")
        if (self.tensor_scale is not None) != (self.scheme.tensor_scale is not TensorScale.NONE):
            raise FormatError(f"{self.scheme.name}: tensor_scale is there if the scheme has one.")

    @property
    def scales(self) -> Tensor:
        """What the codes of every tile are multiplied by, fp32; the tensor's scale is in it."""
        return _joined(
            self.scheme, decode(self.scale_codes, self.scheme.scale_element), self.tensor_scale
        )

    @property
    def zeros(self) -> Tensor | None:
        """The code's number that stands for zero, fp32; None if symmetric."""
        return None if self.zero_codes is None else decode(self.zero_codes, self.scheme.element)

    @property
    def storage_bytes(self) -> int:
        """Bytes of everything, packed; the last byte of the whole may be part empty."""
        return -(-self.scheme.storage_bits(self.shape) // 8)


def extent_of(values: Tensor, granularity: Granularity) -> Extent:
    """What `values` span in every tile. Raises FormatError if any is NaN or inf, or none there."""
    if not values.numel():
        raise FormatError(f"a tensor of {tuple(values.shape)} has no values, hence no scale.")
    tiled = granularity.tiled(granularity.padded(values.float()))
    low, high = _ends(tiled, granularity.scale_shape(values.shape))
    if not bool((low.isfinite() & high.isfinite()).all()):
        count = int((~values.isfinite()).sum())
        raise FormatError(
            f"{count} of {values.numel()} values are NaN or inf; no scale holds them.\n"
            "  Replace them first, or leave this tensor as it is."
        )
    return Extent(low=low, high=high)


def quantize(
    values: Tensor,
    scheme: Scheme,
    *,
    extent: Extent | None = None,
    rounding: Rounding = Rounding.NEAREST_EVEN,
    generator: torch.Generator | None = None,
) -> Quantized:
    """`values` as the scheme stores them; what lies beyond the largest saturates.

    extent: of calibration (static scales); without it, of the values themselves (dynamic). A tile
    of zeros has the scale 1, or the least power of two. Raises FormatError for NaN, inf, no values,
    tiles that do not fit, scales that overflow.
    """
    granularity = scheme.granularity
    own = extent_of(values, granularity)  # also proves that the values are finite
    used = own if extent is None else _fitting(extent, own)
    scales, zeros = _scales(used, scheme)
    tensor_scale = _tensor_scale(used, scheme)
    scale_codes = _stored_scales(scales, used.amax, scheme, tensor_scale)
    zero_codes = None if zeros is None else encode(zeros, scheme.element)
    kept = decode(scale_codes, scheme.scale_element)
    tiled = granularity.tiled(granularity.padded(values.float()))
    scaled = _scaled(tiled, granularity.spread(kept), scheme, tensor_scale)
    if zero_codes is not None:
        scaled = scaled + granularity.spread(decode(zero_codes, scheme.element))
    codes = encode(
        scaled, scheme.element, rounding=rounding, overflow=Overflow.SATURATE, generator=generator
    )
    return Quantized(
        scheme=scheme,
        shape=tuple(values.shape),
        codes=codes.reshape(granularity.padded_shape(values.shape)),
        scale_codes=scale_codes,
        zero_codes=zero_codes,
        tensor_scale=tensor_scale,
    )


def dequantize(quantized: Quantized) -> Tensor:
    """The fp32 values that stand for those given, of their shape."""
    granularity = quantized.scheme.granularity
    tiled = granularity.tiled(decode(quantized.codes, quantized.scheme.element))
    if quantized.zeros is not None:
        tiled = tiled - granularity.spread(quantized.zeros)
    values = (tiled * granularity.spread(quantized.scales)).reshape(quantized.codes.shape)
    return values[tuple(slice(side) for side in quantized.shape)]


def _ends(tiled: Tensor, shape: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Minima and maxima over the sides of the tiles, of `shape`; NaN is carried along."""
    dims = [dim for dim in range(1, tiled.ndim, 2) if tiled.shape[dim] > 1]
    if len(dims) == 1:  # one pass does both
        low, high = torch.aminmax(tiled, dim=dims[0])
    elif dims:
        low, high = tiled.amin(dim=dims), tiled.amax(dim=dims)
    else:
        low, high = tiled, tiled
    return low.reshape(shape), high.reshape(shape)


def _fitting(extent: Extent, own: Extent) -> Extent:
    if extent.low.shape != own.low.shape:
        raise FormatError(
            f"the extent given has the shape {tuple(extent.low.shape)}, the scales have "
            f"{tuple(own.low.shape)}."
        )
    return extent


def _scales(extent: Extent, scheme: Scheme) -> tuple[Tensor, Tensor | None]:
    if scheme.scaling is Scaling.RANGE:
        return range_scales(extent.low.clamp(max=0), extent.high.clamp(min=0), scheme.element)
    return symmetric_scales(extent.amax, scheme.element, scheme.scaling), None


def _tensor_scale(extent: Extent, scheme: Scheme) -> Tensor | None:
    """Of no axes, fp32; 1 for a tensor of zeros, and where amax is too small to be inverted."""
    span = torch.tensor(scheme.scale_element.largest * scheme.element.largest)
    amax = extent.amax.amax()
    match scheme.tensor_scale:
        case TensorScale.NONE:
            return None
        case TensorScale.SCALE:
            scale = amax / span
        case TensorScale.INVERSE:
            scale = span / amax
    is_usable = scale.isfinite() & (scale > 0) & (1 / scale).isfinite()
    return torch.where(is_usable, scale, 1.0)


def _stored_scales(
    scales: Tensor, amax: Tensor, scheme: Scheme, tensor_scale: Tensor | None
) -> Tensor:
    """The codes of the scales: never zero, never beyond the largest."""
    element = scheme.scale_element
    if tensor_scale is not None:
        is_scale = scheme.tensor_scale is TensorScale.SCALE
        scales = scales / tensor_scale if is_scale else tensor_scale * scales
    if element.kind is not Kind.EXPONENT:
        least = scheme.least_scale or element.smallest
        scales = torch.where(amax == 0, 1.0, scales.clamp(min=least))
    # a tensor's scale brings the greatest onto the largest, give or take a rounding
    bound = element.largest * (1 + 1e-5 * (tensor_scale is not None))
    if bool((scales > bound).any()):
        raise FormatError(
            f"{scheme.name}: a scale of {float(scales.max()):.4g} is beyond {element.name}, "
            f"{element.largest:.4g}.\n  Take a scale_element of more range: bf16 or fp32."
        )
    return encode(scales, element, overflow=_scale_overflow(element))


def _scale_overflow(element: Element) -> Overflow:
    return Overflow.INF if element.has_inf else Overflow.SATURATE


def _joined(scheme: Scheme, scales: Tensor, tensor_scale: Tensor | None) -> Tensor:
    """Scales of the tiles with the tensor's."""
    if tensor_scale is None:
        return scales
    is_scale = scheme.tensor_scale is TensorScale.SCALE
    return scales * tensor_scale if is_scale else scales / tensor_scale


def _scaled(tiled: Tensor, scales: Tensor, scheme: Scheme, tensor_scale: Tensor | None) -> Tensor:
    """Values in units of their scales, divided as the scheme's peers do, bit for bit."""
    if scheme.tensor_scale is TensorScale.SCALE and tensor_scale is not None:
        return tiled * ((1 / tensor_scale) / scales)
    return tiled / _joined(scheme, scales, tensor_scale)
