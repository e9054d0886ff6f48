"""What values span, from batches that are seen once and not kept."""

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from ridgeline.compress.granularity import Granularity
from ridgeline.compress.quantized import Extent, extent_of
from ridgeline.errors import FormatError


@dataclass(frozen=True, slots=True, kw_only=True)
class MinMax:
    """The least and the greatest value of every tile of all batches; merges in any order."""

    granularity: Granularity
    seen: Extent | None = None

    def observed(self, batch: Tensor) -> Self:
        """With one more batch. Raises FormatError for NaN, inf, an empty batch, other tiles."""
        return self._with(extent_of(batch, self.granularity))

    def merged(self, other: Self) -> Self:
        """With what another observer of the same tiles saw."""
        if other.granularity != self.granularity:
            raise FormatError(f"tiles of {other.granularity} do not merge with {self.granularity}.")
        return self if other.seen is None else self._with(other.seen)

    def _with(self, extent: Extent) -> Self:
        if self.seen is not None:
            _match(self.seen, extent)
            extent = Extent(
                low=torch.minimum(self.seen.low, extent.low),
                high=torch.maximum(self.seen.high, extent.high),
            )
        return type(self)(granularity=self.granularity, seen=extent)

    @property
    def extent(self) -> Extent:
        """For `quantize`. Raises FormatError before the first batch."""
        return _known(self.seen)


@dataclass(frozen=True, slots=True, kw_only=True)
class MovingAverage:
    """Ends that move toward each batch's by `rate`; the order of the batches counts, so two of
    these do not merge.
    """

    granularity: Granularity
    rate: float = 0.01
    seen: Extent | None = None

    def __post_init__(self) -> None:
        if not 0 < self.rate <= 1:
            raise FormatError(f"a rate of {self.rate} is not above 0 and at most 1.")

    def observed(self, batch: Tensor) -> Self:
        """With one more batch; the first sets the ends."""
        extent = extent_of(batch, self.granularity)
        if self.seen is not None:
            _match(self.seen, extent)
            extent = Extent(
                low=torch.lerp(self.seen.low, extent.low, self.rate),
                high=torch.lerp(self.seen.high, extent.high, self.rate),
            )
        return type(self)(granularity=self.granularity, rate=self.rate, seen=extent)

    @property
    def extent(self) -> Extent:
        """For `quantize`. Raises FormatError before the first batch."""
        return _known(self.seen)


def _match(seen: Extent, extent: Extent) -> None:
    if seen.low.shape != extent.low.shape:
        raise FormatError(
            f"a batch has scales of {tuple(extent.low.shape)}, the ones before "
            f"{tuple(seen.low.shape)}."
        )


def _known(seen: Extent | None) -> Extent:
    if seen is None:
        raise FormatError("no batch was observed; calibration needs at least one.")
    return seen
