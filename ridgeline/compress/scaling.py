"""How the scale of a tile follows from the values in it."""

from collections.abc import Callable, Mapping
from enum import Enum

import torch
from torch import Tensor

from ridgeline.compress.elements import Element


class Scaling(Enum):
    """The rule for a scale from a tile's largest magnitude, or from its least and greatest."""

    LARGEST = "amax / largest"
    HALF_RANGE = "2 amax / (largest - lowest)"
    RANGE = "(max - min) / (largest - lowest)"
    MX_FLOOR = "2^(floor(log2 amax) - emax)"
    MX_CEIL = "2^(ceil(log2 amax) - emax)"
    MX_RCEIL = "2^ceil(log2(amax / largest))"
    MX_EVEN = "2^(floor(log2 rne(amax)) - emax)"
    MX_1_75 = "2^(floor(log2(8/7 amax)) - emax)"


class TensorScale(Enum):
    """Whether one more scale, of the whole tensor, stands above those of the tiles.

    It makes the greatest tile's scale the largest of the scale's element. SCALE keeps
    amax / (largest * largest of the scale) and multiplies by it, and values by reciprocals (torchao
    and NVIDIA's kernels). INVERSE keeps its inverse and divides (compressed-tensors checkpoints).
    """

    NONE = "none"
    SCALE = "scale"
    INVERSE = "inverse"


_FRACTION = 0x7FFFFF


def _power(exponent: Tensor) -> Tensor:
    """2**exponent, fp32, within what e8m0 holds. exponent: int32, of powers of two."""
    bounded = exponent.clamp(-127, 127).double()
    return torch.exp2(bounded).float()


def _exponent(amax: Tensor) -> Tensor:
    """floor(log2 amax) of fp32, exact; of zero and subnormals -127, as the field says."""
    return (amax.view(torch.int32) >> 23) - 127


def _is_more(amax: Tensor) -> Tensor:
    """1 where amax is more than the power of two below it."""
    return ((amax.view(torch.int32) & _FRACTION) > 0).int()


def _floor(amax: Tensor, element: Element) -> Tensor:
    return _power(_exponent(amax) - element.greatest_exponent)


def _ceil(amax: Tensor, element: Element) -> Tensor:
    return _power(_exponent(amax) + _is_more(amax) - element.greatest_exponent)


def _rceil(amax: Tensor, element: Element) -> Tensor:
    quotient = amax / element.largest
    return _power(_exponent(quotient) + _is_more(quotient))


def _raised(amax: Tensor, mantissa_bits: int) -> Tensor:
    """amax plus half a step of a mantissa: the exponent goes up where rounding would carry."""
    return (amax.view(torch.int32) + (1 << (22 - mantissa_bits))).view(torch.float32)


def _even(amax: Tensor, element: Element) -> Tensor:
    return _floor(_raised(amax, element.mantissa_bits), element)


def _from_1_75(amax: Tensor, element: Element) -> Tensor:
    return _floor(_raised(amax, 1), element)


def _over_largest(amax: Tensor, element: Element) -> Tensor:
    return amax / element.largest


def _over_half_range(amax: Tensor, element: Element) -> Tensor:
    return amax / ((element.largest - element.lowest) / 2)


_RULES: Mapping[Scaling, Callable[[Tensor, Element], Tensor]] = {
    Scaling.LARGEST: _over_largest,
    Scaling.HALF_RANGE: _over_half_range,
    Scaling.MX_FLOOR: _floor,
    Scaling.MX_CEIL: _ceil,
    Scaling.MX_RCEIL: _rceil,
    Scaling.MX_EVEN: _even,
    Scaling.MX_1_75: _from_1_75,
}
MX_RULES = frozenset(scaling for scaling in Scaling if scaling.name.startswith("MX_"))


def symmetric_scales(amax: Tensor, element: Element, scaling: Scaling) -> Tensor:
    """Scales before they are rounded to their own element; zero where amax is, but for powers."""
    return _RULES[scaling](amax, element)


def range_scales(low: Tensor, high: Tensor, element: Element) -> tuple[Tensor, Tensor]:
    """(scales, zero points not yet rounded); low <= 0 <= high, so that zero is exact."""
    scales = (high - low) / (element.largest - element.lowest)
    safe = torch.where(scales == 0, 1.0, scales)
    zeros = (element.lowest - low / safe).clamp(element.lowest, element.largest)
    return scales, zeros
