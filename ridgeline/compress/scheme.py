"""How a tensor is stored in few bits: element, granularity, scales."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

from ridgeline.compress.elements import ELEMENTS, Element, Kind
from ridgeline.compress.granularity import Granularity
from ridgeline.compress.scaling import MX_RULES, Scaling, TensorScale
from ridgeline.errors import FormatError


@dataclass(frozen=True, slots=True, kw_only=True)
class Scheme:
    """A way to store a tensor. Where it is applied, and on which statistics, is not its matter.

    Scaling.RANGE is asymmetric: every tile has a zero point too, of the same element.
    least_scale: scales below become it (in units of the tensor's scale, where there is one); 0 for
    the least positive number of the scale's element. Raises FormatError for parts that do not go
    together.
    """

    name: str
    element: Element
    granularity: Granularity
    scaling: Scaling
    scale_element: Element = ELEMENTS["fp32"]
    tensor_scale: TensorScale = TensorScale.NONE
    least_scale: float = 0.0

    def __post_init__(self) -> None:
        if self.is_asymmetric and (self.element.kind is not Kind.INTEGER or self.element.unit != 1):
            raise FormatError(
                f"{self.name}: zero points are for integers, not {self.element.name}."
            )
        if self.element.kind is Kind.EXPONENT:
            raise FormatError(f"{self.name}: {self.element.name} holds scales, not values.")
        if not self.element.is_signed and not self.is_asymmetric:
            raise FormatError(
                f"{self.name}: {self.element.name} has no negative numbers; take Scaling.RANGE."
            )
        if (self.scaling in MX_RULES) != (self.scale_element.kind is Kind.EXPONENT):
            raise FormatError(
                f"{self.name}: {self.scaling.name} does not go with {self.scale_element.name}; "
                "powers of two are kept as e8m0, and nothing else is."
            )
        if self.tensor_scale is not TensorScale.NONE and self.scaling is not Scaling.LARGEST:
            raise FormatError(f"{self.name}: a tensor's scale needs Scaling.LARGEST.")

    @property
    def is_asymmetric(self) -> bool:
        """Whether every tile has a zero point."""
        return self.scaling is Scaling.RANGE

    def storage_bits(self, shape: Sequence[int]) -> int:
        """Bits of a tensor of `shape`, packed: codes, scales and zero points."""
        tiles = prod(self.granularity.scale_shape(shape))
        per_tile = self.scale_element.bits + self.element.bits * self.is_asymmetric
        codes = prod(self.granularity.padded_shape(shape)) * self.element.bits
        return codes + tiles * per_tile + 32 * (self.tensor_scale is not TensorScale.NONE)

    def bits_per_weight(self, shape: Sequence[int]) -> float:
        """`storage_bits` per value of `shape`. Raises FormatError for an empty one."""
        if not prod(shape):
            raise FormatError(f"an empty tensor, {tuple(shape)}, has no bits per weight.")
        return self.storage_bits(shape) / prod(shape)
