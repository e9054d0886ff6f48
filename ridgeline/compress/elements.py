"""What one stored number can be: integers, small floats, powers of two, codebooks."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from math import floor, isfinite, log2

from ridgeline.errors import FormatError


class Kind(Enum):
    """How the bits of a code are read."""

    INTEGER = "integer"
    FLOAT = "float"
    EXPONENT = "exponent"
    CODEBOOK = "codebook"


@dataclass(frozen=True, slots=True, kw_only=True)
class Element:
    """One number format. A code is its bit pattern, an unsigned number of `bits` bits.

    lowest, largest: the finite values that encoding makes; smallest: the least positive one.
    mantissa_bits, exponent_bits, bias: of floats and exponents. unit: what an integer counts.
    first_nan: magnitudes (codes without the sign bit) from here on are no number; encoding writes
    the last, all ones. levels: a codebook's values, rising. Raises FormatError where these
    contradict each other.
    """

    name: str
    bits: int
    kind: Kind
    lowest: float
    largest: float
    smallest: float
    is_signed: bool = True
    exponent_bits: int = 0
    mantissa_bits: int = 0
    bias: int = 0
    unit: float = 1.0
    has_inf: bool = False
    first_nan: int | None = None
    levels: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if not 2 <= self.bits <= 32:
            raise FormatError(f"{self.name}: {self.bits} bits; an element has 2 to 32.")
        if not (self.lowest <= 0 < self.smallest <= self.largest or self.kind is Kind.EXPONENT):
            raise FormatError(
                f"{self.name}: lowest {self.lowest}, smallest {self.smallest}, largest "
                f"{self.largest} do not stand in this order around zero."
            )
        _CHECKS[self.kind](self)

    @property
    def has_nan(self) -> bool:
        """Whether a code stands for "not a number"."""
        return self.first_nan is not None

    @property
    def magnitude_bits(self) -> int:
        """Bits of a code without the sign bit, if it has one apart."""
        return self.bits - (self.kind is Kind.FLOAT)

    @property
    def least_exponent(self) -> int:
        """log2 of the least normal number of a float, of the least value of an exponent."""
        return -self.bias if self.kind is Kind.EXPONENT else 1 - self.bias

    @property
    def greatest_exponent(self) -> int:
        """floor(log2(largest)): `emax` of the OCP microscaling specification."""
        return floor(log2(self.largest))


def _check_integer(element: Element) -> None:
    low = -(2 ** (element.bits - 1)) if element.is_signed else 0
    high = low + 2**element.bits - 1
    span = (element.lowest / element.unit, element.largest / element.unit)
    if not (low <= span[0] and span[1] <= high and all(value.is_integer() for value in span)):
        raise FormatError(f"{element.name}: {span} is no range of {element.bits}-bit integers.")


def _check_float(element: Element) -> None:
    if 1 + element.exponent_bits + element.mantissa_bits != element.bits:
        raise FormatError(
            f"{element.name}: sign, {element.exponent_bits} exponent and "
            f"{element.mantissa_bits} mantissa bits are not {element.bits}."
        )
    if float_value(element, largest_code(element)) != element.largest:
        raise FormatError(f"{element.name}: no code below NaN and inf is {element.largest}.")
    if float_value(element, 1) != element.smallest:
        raise FormatError(f"{element.name}: code 1 is not {element.smallest}.")


def _check_exponent(element: Element) -> None:
    if element.exponent_bits != element.bits or element.mantissa_bits or element.is_signed:
        raise FormatError(f"{element.name}: an exponent has no sign and no mantissa.")


def _check_codebook(element: Element) -> None:
    levels = element.levels
    if len(levels) != 2**element.bits or any(not isfinite(level) for level in levels):
        raise FormatError(f"{element.name}: {len(levels)} levels; give {2**element.bits}, finite.")
    if list(levels) != sorted(set(levels)) or (levels[0], levels[-1]) != (
        element.lowest,
        element.largest,
    ):
        raise FormatError(f"{element.name}: levels must rise from lowest to largest.")


_CHECKS = {
    Kind.INTEGER: _check_integer,
    Kind.FLOAT: _check_float,
    Kind.EXPONENT: _check_exponent,
    Kind.CODEBOOK: _check_codebook,
}


def float_value(element: Element, magnitude: int) -> float:
    """What a magnitude of a float that is neither NaN nor inf stands for."""
    field, fraction = divmod(magnitude, 2**element.mantissa_bits)
    implied = 2**element.mantissa_bits if field else 0
    exponent = max(field, 1) - element.bias - element.mantissa_bits
    return float((implied + fraction) * 2.0**exponent)


def largest_code(element: Element) -> int:
    """The magnitude of the largest finite value of a float or an exponent."""
    end = 2**element.magnitude_bits if element.first_nan is None else element.first_nan
    return int(end) - 1 - element.has_inf


def _integer(
    name: str, bits: int, lowest: int, largest: int, *, is_signed: bool, unit: float = 1.0
) -> Element:
    return Element(
        name=name,
        bits=bits,
        kind=Kind.INTEGER,
        lowest=lowest * unit,
        largest=largest * unit,
        smallest=unit,
        is_signed=is_signed,
        unit=unit,
    )


def _signed(bits: int) -> Element:
    half = 2 ** (bits - 1)
    return _integer(f"int{bits}", bits, -half, half - 1, is_signed=True)


def _restricted(bits: int) -> Element:
    most = 2 ** (bits - 1) - 1
    return _integer(f"int{bits}_restricted", bits, -most, most, is_signed=True)


def _unsigned(bits: int) -> Element:
    return _integer(f"uint{bits}", bits, 0, 2**bits - 1, is_signed=False)


def _float(name: str, exponent_bits: int, mantissa_bits: int, *, special: str = "none") -> Element:
    """A float. special: "none", "nan" (only all ones is NaN) or "ieee" (inf and NaN on top)."""
    bias = 2 ** (exponent_bits - 1) - 1
    end = 2 ** (exponent_bits + mantissa_bits)
    infinity = end - 2**mantissa_bits
    first_nan = {"none": None, "nan": end - 1, "ieee": infinity + 1}[special]
    has_inf = special == "ieee"
    most = (end if first_nan is None else first_nan) - 1 - has_inf
    field, fraction = divmod(most, 2**mantissa_bits)
    largest = (2**mantissa_bits + fraction) * 2.0 ** (field - bias - mantissa_bits)
    return Element(
        name=name,
        bits=1 + exponent_bits + mantissa_bits,
        kind=Kind.FLOAT,
        lowest=-largest,
        largest=largest,
        smallest=2.0 ** (1 - bias - mantissa_bits),
        exponent_bits=exponent_bits,
        mantissa_bits=mantissa_bits,
        bias=bias,
        has_inf=has_inf,
        first_nan=first_nan,
    )


# Dettmers et al., QLoRA (arXiv 2305.14314), appendix E, in single precision.
NF4_LEVELS = (
    *(-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453),
    *(-0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0.0),
    *(0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224),
    *(0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0),
)

_ALL = (
    *(_signed(bits) for bits in range(8, 1, -1)),
    *(_restricted(bits) for bits in range(8, 1, -1)),
    *(_unsigned(bits) for bits in range(8, 1, -1)),
    # OCP MX v1.0, 5.3.4: two's complement, the code of -2 left unused to stay symmetric.
    _integer("mxint8", 8, -127, 127, is_signed=True, unit=2.0**-6),
    # OCP OFP8 v1.0, table 1; OCP MX v1.0, 5.3 (six and four bits have neither inf nor NaN).
    _float("e4m3fn", 4, 3, special="nan"),
    _float("e5m2", 5, 2, special="ieee"),
    _float("e3m2", 3, 2),
    _float("e2m3", 2, 3),
    _float("e2m1", 2, 1),
    # OCP MX v1.0, 5.4.1: no zero, no sign, 0xFF is NaN.
    Element(
        name="e8m0",
        bits=8,
        kind=Kind.EXPONENT,
        lowest=2.0**-127,
        largest=2.0**127,
        smallest=2.0**-127,
        is_signed=False,
        exponent_bits=8,
        bias=127,
        first_nan=255,
    ),
    Element(
        name="nf4",
        bits=4,
        kind=Kind.CODEBOOK,
        lowest=-1.0,
        largest=1.0,
        smallest=NF4_LEVELS[8],
        levels=NF4_LEVELS,
    ),
    _float("fp16", 5, 10, special="ieee"),
    _float("bf16", 8, 7, special="ieee"),
    _float("fp32", 8, 23, special="ieee"),
)

ELEMENTS: Mapping[str, Element] = {element.name: element for element in _ALL}


def element_named(name: str) -> Element:
    """The row of ELEMENTS. Raises FormatError that lists the names."""
    if name not in ELEMENTS:
        raise FormatError(f"no element is called {name!r}; there are {', '.join(ELEMENTS)}.")
    return ELEMENTS[name]
