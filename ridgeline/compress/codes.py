"""Numbers to codes and back, exact to the bit.

A code is a bit pattern: uint8 for elements of up to eight bits (high bits zero), int16 and int32
for sixteen and thirty-two. Everything works on whole tensors, a chunk that fits a cache at a time.

A float's magnitude code is `n + (binade << mantissa_bits)`, with n the value in quanta of its
binade, rounded: subnormals are the binade 0, and a mantissa that rounds up carries by itself.
"""

from collections.abc import Callable, Iterator
from enum import Enum

import torch
from torch import Tensor

from ridgeline.compress.elements import Element, Kind, largest_code
from ridgeline.errors import FormatError

# Values in a chunk: its temporaries, four bytes a value, stay in a cache.
_CHUNK = 1 << 15


class Rounding(Enum):
    """How a value between two neighbours is decided."""

    NEAREST_EVEN = "nearest, ties to even"
    TOWARD_ZERO = "toward zero"
    STOCHASTIC = "up with the probability of the fraction"


class Overflow(Enum):
    """What becomes of a value that rounds beyond the largest; of inf too."""

    SATURATE = "saturate"
    NAN = "nan"
    INF = "inf"


# What torch casts to, rounding to nearest even, equal to the general way (tests/compress).
_CASTS = {
    ("e4m3fn", Overflow.SATURATE): torch.float8_e4m3fn,
    ("e5m2", Overflow.INF): torch.float8_e5m2,
    ("fp16", Overflow.INF): torch.float16,
    ("bf16", Overflow.INF): torch.bfloat16,
    ("fp32", Overflow.INF): torch.float32,
}
_VIEWS = {element: dtype for (element, _), dtype in _CASTS.items()}


def code_dtype(element: Element) -> torch.dtype:
    """What holds the codes of an element."""
    if element.bits <= 8:
        return torch.uint8
    return torch.int16 if element.bits <= 16 else torch.int32


def encode(
    values: Tensor,
    element: Element,
    *,
    rounding: Rounding = Rounding.NEAREST_EVEN,
    overflow: Overflow = Overflow.SATURATE,
    generator: torch.Generator | None = None,
) -> Tensor:
    """The codes of `values` (any shape, any float dtype), of the same shape.

    generator: for stochastic rounding, which needs one. Raises FormatError for a NaN where the
    element has none, for an overflow or a rounding that it cannot express.
    """
    _refuse(values, element, rounding, overflow, generator)
    cast = _CASTS.get((element.name, overflow))
    if cast is not None and rounding is Rounding.NEAREST_EVEN and values.dtype != torch.float64:
        return values.float().to(cast).view(code_dtype(element))
    if element.name == "fp32":
        raise FormatError("fp32 is kept, not rounded: nearest, overflow to inf, from float32 down.")
    if values.dtype != torch.float64:
        values = values.float()
    flat = values.reshape(-1)
    codes = torch.empty(flat.shape, dtype=code_dtype(element), device=values.device)
    encoder = _encoder(element, rounding, values.dtype)
    for source, target in _chunks(flat, codes):
        target.copy_(encoder(source, element, rounding, overflow, generator))
    return codes.reshape(values.shape)


def decode(codes: Tensor, element: Element) -> Tensor:
    """What the codes stand for, float32, of the same shape; NaN and inf as they are."""
    view = _VIEWS.get(element.name)
    if view is not None:
        return codes.contiguous().view(view).float()
    if element.kind is Kind.INTEGER:
        return _decoded_integers(codes, element)
    table = _table(element, codes.device)
    flat = codes.reshape(-1)
    values = torch.empty(flat.shape, dtype=torch.float32, device=codes.device)
    for source, target in _chunks(flat, values):
        torch.index_select(table, 0, source.int(), out=target)
    return values.reshape(codes.shape)


def _chunks(source: Tensor, target: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Views of two flat tensors, a chunk of each at a time."""
    return zip(torch.split(source, _CHUNK), torch.split(target, _CHUNK), strict=True)


def is_nan_code(codes: Tensor, element: Element) -> Tensor:
    """Where a code is no number."""
    if element.first_nan is None:
        return torch.zeros_like(codes, dtype=torch.bool)
    magnitudes = codes.long() & (2**element.magnitude_bits - 1)
    is_nan: Tensor = magnitudes >= element.first_nan
    return is_nan


_OVERFLOWS: dict[Overflow, Callable[[Element], bool]] = {
    Overflow.SATURATE: lambda element: True,
    Overflow.NAN: lambda element: element.has_nan,
    Overflow.INF: lambda element: element.has_inf,
}


def _refuse(
    values: Tensor,
    element: Element,
    rounding: Rounding,
    overflow: Overflow,
    generator: torch.Generator | None,
) -> None:
    if not values.is_floating_point():
        raise FormatError(f"{element.name} encodes floats, not {values.dtype}; call .float().")
    if not _OVERFLOWS[overflow](element):
        raise FormatError(
            f"{element.name} has no {overflow.value} to overflow to; take Overflow.SATURATE."
        )
    if (rounding is Rounding.STOCHASTIC) != (generator is not None):
        raise FormatError("stochastic rounding needs a generator, and nothing else takes one.")
    is_fixed = element.kind in (Kind.CODEBOOK, Kind.EXPONENT)
    if is_fixed and rounding is not Rounding.NEAREST_EVEN:
        raise FormatError(f"{element.name} rounds to nearest only, not {rounding.value}.")
    # amax carries a NaN along, and makes no temporary
    if not element.has_nan and values.numel() and bool(values.amax().isnan()):
        raise FormatError(f"{element.name} has no NaN, and the values have; replace them first.")


_Encoder = Callable[[Tensor, Element, Rounding, Overflow, torch.Generator | None], Tensor]


def _encoder(element: Element, rounding: Rounding, dtype: torch.dtype) -> _Encoder:
    is_near = rounding is Rounding.NEAREST_EVEN and dtype == torch.float32
    if element.kind is Kind.FLOAT and is_near and not element.has_nan:
        return _encoded_small_floats
    return _ENCODERS[element.kind]


def _rounded(quanta: Tensor, rounding: Rounding, generator: torch.Generator | None) -> Tensor:
    """Whole numbers of quanta, in place. Stochastic: the draw has the bits of the dtype."""
    match rounding:
        case Rounding.NEAREST_EVEN:
            return quanta.round_()
        case Rounding.TOWARD_ZERO:
            return quanta.trunc_()
        case Rounding.STOCHASTIC:
            draw = torch.rand(
                quanta.shape, generator=generator, dtype=quanta.dtype, device=quanta.device
            )
            whole = quanta.floor()
            return whole.add_((quanta - whole) > draw)


def _encoded_integers(
    values: Tensor,
    element: Element,
    rounding: Rounding,
    overflow: Overflow,
    generator: torch.Generator | None,
) -> Tensor:
    low, high = element.lowest / element.unit, element.largest / element.unit
    quanta = (values / element.unit).clamp_(low, high)
    whole = _rounded(quanta, rounding, generator).to(torch.int16)
    return whole.bitwise_and_(2**element.bits - 1)


def _decoded_integers(codes: Tensor, element: Element) -> Tensor:
    if not element.is_signed:
        return codes.float()
    half = 2 ** (element.bits - 1)
    # eight bits are int8 already; fewer have their sign bit spread: (c ^ half) - half
    whole = codes.view(torch.int8) if element.bits == 8 else (codes ^ half).view(torch.int8) - half
    values = whole.float()
    return values if element.unit == 1 else values.mul_(element.unit)


def _encoded_floats(
    values: Tensor,
    element: Element,
    rounding: Rounding,
    overflow: Overflow,
    generator: torch.Generator | None,
) -> Tensor:
    """The general way, in float64: every fp32 scaled by a power of two is exact there."""
    wide = values.double()
    is_nan = wide.isnan()
    size = wide.abs().nan_to_num_(nan=0.0, posinf=torch.finfo(torch.float64).max)
    _, exponent = torch.frexp(size)  # size = [0.5, 1) * 2**exponent
    least = element.least_exponent
    # one binade above the last is enough to tell an overflow
    binade = (exponent - 1 - least).clamp_(0, element.greatest_exponent + 1 - least)
    binade.masked_fill_(size == 0, 0)  # frexp gives zero the exponent 0
    quanta = torch.ldexp(size, element.mantissa_bits - least - binade)
    quanta.clamp_(max=2.0 ** (element.mantissa_bits + 2))
    codes = _rounded(quanta, rounding, generator).to(torch.int32)
    codes += binade.to(torch.int32) << element.mantissa_bits
    codes = _overflowed(codes, values, element, rounding, overflow)
    if element.has_nan:
        codes.masked_fill_(is_nan, 2**element.magnitude_bits - 1)
    codes |= values.signbit().to(torch.int32) << (element.bits - 1)
    return codes


def _overflowed(
    codes: Tensor, values: Tensor, element: Element, rounding: Rounding, overflow: Overflow
) -> Tensor:
    """Magnitudes with those beyond the largest replaced. Toward zero, only inf overflows."""
    most = largest_code(element)
    if overflow is Overflow.SATURATE:
        return codes.clamp_(max=most)
    special = most + 1 if overflow is Overflow.INF else 2**element.magnitude_bits - 1
    beyond = values.isinf() if rounding is Rounding.TOWARD_ZERO else codes > most
    return codes.clamp_(max=most).masked_fill_(beyond, special)


def _encoded_small_floats(
    values: Tensor,
    element: Element,
    rounding: Rounding,
    overflow: Overflow,
    generator: torch.Generator | None,
) -> Tensor:
    """Six and four bits, to nearest: adding 2**(23 - mantissa_bits) binades makes fp32 round."""
    mantissa = element.mantissa_bits
    least = (element.least_exponent + 127) << 23
    lift = (23 - mantissa) << 23
    size = values.abs().clamp_(max=element.largest)
    anchor = size.view(torch.int32).bitwise_and(0x7F800000).clamp_(min=least)
    binade = (anchor - least).bitwise_right_shift_(23 - mantissa)
    anchor += lift
    size += anchor.view(torch.float32)
    codes = size.view(torch.int32).sub_(anchor).add_(binade)
    sign = values.view(torch.int32).bitwise_right_shift(31).bitwise_and_(1 << (element.bits - 1))
    return codes.bitwise_or_(sign)


def _encoded_exponents(
    values: Tensor,
    element: Element,
    rounding: Rounding,
    overflow: Overflow,
    generator: torch.Generator | None,
) -> Tensor:
    """Powers of two; 1.5 goes up. Zero is the least power, what is negative is NaN."""
    size = values.double()
    fraction, exponent = torch.frexp(size)
    codes = exponent - 1 + (fraction >= 0.75).int() + element.bias
    most = largest_code(element)
    beyond = (codes > most) | size.isinf()
    codes = codes.clamp_(0, most)
    if overflow is Overflow.NAN:
        codes = codes.masked_fill(beyond, most + 1)
    codes = codes.masked_fill(size.isinf() & (overflow is Overflow.SATURATE), most)
    codes = codes.masked_fill(size == 0, 0)
    return codes.masked_fill(size.isnan() | (size < 0), most + 1)


def _encoded_levels(
    values: Tensor,
    element: Element,
    rounding: Rounding,
    overflow: Overflow,
    generator: torch.Generator | None,
) -> Tensor:
    """The nearest level; halfway, the lower."""
    return torch.bucketize(values, _middles(element, values.dtype, values.device))


_ENCODERS: dict[Kind, _Encoder] = {
    Kind.INTEGER: _encoded_integers,
    Kind.FLOAT: _encoded_floats,
    Kind.EXPONENT: _encoded_exponents,
    Kind.CODEBOOK: _encoded_levels,
}


def _middles(element: Element, dtype: torch.dtype, device: torch.device) -> Tensor:
    """The middles between levels, rounded down in `dtype`: x > middle is then decided exactly."""
    levels = torch.tensor(element.levels, dtype=torch.float64)
    exact = (levels[:-1] + levels[1:]) / 2
    near = exact.to(dtype)
    below = torch.nextafter(near, torch.full_like(near, -torch.inf))
    return torch.where(near.double() > exact, below, near).to(device)


def _table(element: Element, device: torch.device) -> Tensor:
    """What each of the 2**bits codes stands for."""
    if element.kind is Kind.CODEBOOK:
        return torch.tensor(element.levels, device=device)
    codes = torch.arange(2**element.bits, dtype=torch.int64)
    if element.kind is Kind.EXPONENT:
        powers = torch.ldexp(torch.ones(len(codes), dtype=torch.float64), codes - element.bias)
        return (
            powers.masked_fill(codes == largest_code(element) + 1, float("nan")).float().to(device)
        )
    magnitude = codes & (2**element.magnitude_bits - 1)
    field = magnitude >> element.mantissa_bits
    fraction = magnitude & (2**element.mantissa_bits - 1)
    quanta = fraction + ((field > 0).long() << element.mantissa_bits)
    exponent = field.clamp(min=1) - element.bias - element.mantissa_bits
    size = torch.ldexp(quanta.double(), exponent)
    return torch.where(codes > magnitude, -size, size).float().to(device)
