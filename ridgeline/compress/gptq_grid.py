"""Integer grids that weights are rounded to: scales and zeros of groups, codes, and back.

O: outputs, I: inputs, G: groups of a row.
"""

from dataclasses import dataclass
from enum import Enum
from typing import Protocol

import torch
from torch import Tensor

from ridgeline.errors import FormatError


class Grid(Protocol):
    """What GPTQ asks of a number format: integers from `low` to `high`, a scale and a zero each
    `group_size` columns. value = (code - zero) * scale.
    """

    @property
    def low(self) -> int:
        """The least code."""

    @property
    def high(self) -> int:
        """The greatest code."""

    @property
    def group_size(self) -> int | None:
        """Columns that share a scale; None for whole rows. The last group may be shorter."""

    def scales_and_zeros(self, weight_OI: Tensor) -> tuple[Tensor, Tensor]:
        """(scales, zeros), fp32, (O, G); scales are positive, zeros whole numbers."""


class Range(Enum):
    """Which values the codes span."""

    SYMMETRIC_FULL = "-amax to amax over all codes"
    SYMMETRIC_RESTRICTED = "-amax to amax, without the least code"
    ASYMMETRIC = "from the least value to the greatest, and zero"


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipSearch:
    """Narrower ranges tried for each group, in equal steps from the whole down to `least` of it;
    the one with the least squared error of rounding to nearest is taken.
    """

    least: float = 0.5
    steps: int = 20

    def __post_init__(self) -> None:
        if not 0 < self.least < 1 or self.steps < 1:
            raise FormatError(f"a clip search goes from 1 to {self.least} in {self.steps} steps.")

    @property
    def ratios(self) -> tuple[float, ...]:
        """What is tried, the whole range first."""
        step = (1 - self.least) / self.steps
        return tuple(1 - step * i for i in range(self.steps + 1))


@dataclass(frozen=True, slots=True, kw_only=True)
class IntegerGrid:
    """2 to 8 bits. Raises FormatError for other bits or groups of no column."""

    bits: int
    group_size: int | None = None
    range: Range = Range.ASYMMETRIC
    clip: ClipSearch | None = None

    def __post_init__(self) -> None:
        if not 2 <= self.bits <= 8:
            raise FormatError(f"an integer grid has 2 to 8 bits, not {self.bits}.")
        if self.group_size is not None and self.group_size < 1:
            raise FormatError(f"groups of {self.group_size} columns; None is for whole rows.")

    @property
    def low(self) -> int:
        """The least code."""
        return -(1 << (self.bits - 1)) + (self.range is Range.SYMMETRIC_RESTRICTED)

    @property
    def high(self) -> int:
        """The greatest code."""
        return (1 << (self.bits - 1)) - 1

    def scales_and_zeros(self, weight_OI: Tensor) -> tuple[Tensor, Tensor]:
        """As Grid says. The scale of a group of zeros is 1."""
        found = [self._of_tile(tile) for tile in tiles(weight_OI, self.group_size)]
        return torch.cat([s for s, _ in found], 1), torch.cat([z for _, z in found], 1)

    def _of_tile(self, groups_OGc: Tensor) -> tuple[Tensor, Tensor]:
        low, high = groups_OGc.aminmax(dim=-1)
        if self.clip is None:
            return self._of_range(low, high)
        return self._searched(groups_OGc, low, high, self.clip)

    def _of_range(self, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
        """Rules of compressed-tensors' calculate_qparams: zero is always a value."""
        if self.range is Range.ASYMMETRIC:
            low, high = low.clamp(max=0), high.clamp(min=0)
            scales = _positive((high / (self.high - self.low)) - (low / (self.high - self.low)))
            return scales, (self.low - low / scales).round_().clamp_(self.low, self.high)
        amax = torch.maximum(low.neg(), high)
        scales = _positive(amax / ((self.high - self.low) / 2))
        return scales, torch.zeros_like(scales)

    def _searched(
        self, groups_OGc: Tensor, low: Tensor, high: Tensor, clip: ClipSearch
    ) -> tuple[Tensor, Tensor]:
        scales, zeros = self._of_range(low, high)
        least = self._squares(groups_OGc, scales, zeros)
        for ratio in clip.ratios[1:]:
            tried = self._of_range(low * ratio, high * ratio)
            squares = self._squares(groups_OGc, *tried)
            is_less = squares < least
            least = torch.where(is_less, squares, least)
            scales, zeros = (
                torch.where(is_less, t, s) for t, s in zip(tried, (scales, zeros), strict=True)
            )
        return scales, zeros

    def _squares(self, groups_OGc: Tensor, scales: Tensor, zeros: Tensor) -> Tensor:
        s, z = scales.unsqueeze(-1), zeros.unsqueeze(-1)
        values = (codes_of(groups_OGc, s, z, self) - z) * s
        return (values - groups_OGc).square_().sum(-1)


def _positive(scales: Tensor) -> Tensor:
    """Scales that can divide: 1 where all is zero, else at least the least normal number."""
    tiny = torch.finfo(torch.float32).tiny
    return torch.where(scales == 0, 1.0, scales.clamp(min=tiny))


def tiles(weight_OI: Tensor, group_size: int | None) -> tuple[Tensor, ...]:
    """(O, G, columns of a group): the whole groups, then the short one, where there are such."""
    outputs, inputs = weight_OI.shape
    size = min(group_size or inputs, inputs)
    whole = inputs - inputs % size
    parts = (
        weight_OI[:, :whole].reshape(outputs, whole // size, size),
        weight_OI[:, whole:].unsqueeze(1),
    )
    return tuple(part for part in parts if part.numel())


def group_of_columns(inputs: int, group_size: int | None) -> Tensor:
    """(I,) int64: the group that each column belongs to."""
    return torch.arange(inputs) // min(group_size or inputs, inputs)


def codes_of(weight: Tensor, scales: Tensor, zeros: Tensor, grid: Grid) -> Tensor:
    """The nearest codes, fp32, ties to even; scales and zeros as broadcast."""
    return (weight / scales + zeros).round_().clamp_(grid.low, grid.high)
