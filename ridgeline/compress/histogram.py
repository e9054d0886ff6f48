"""Counts of magnitudes in bins that double in width as larger values come.

Bins are `2**exponent` wide and nest: what a wider bin counts is exactly the sum of two narrower
ones. So the counts do not depend on the order of the batches, nor on how they are merged.
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import frexp
from typing import Self

import torch
from torch import Tensor

from ridgeline.compress.quantized import Extent
from ridgeline.errors import FormatError

NUM_BINS = 2048
# Bins narrower than this are not made: fp32 holds no smaller step.
_LEAST_EXPONENT = -149


@dataclass(frozen=True, slots=True, kw_only=True)
class Histogram:
    """Magnitudes of a whole tensor, over all batches. counts: int64 (NUM_BINS,); the bin i counts
    [i, i + 1) * 2**exponent. amax: the largest magnitude, exact.
    """

    counts: Tensor
    exponent: int = _LEAST_EXPONENT
    amax: float = 0.0

    @classmethod
    def empty(cls) -> Self:
        """Before the first batch."""
        return cls(counts=torch.zeros(NUM_BINS, dtype=torch.int64))

    @property
    def total(self) -> int:
        """How many values were seen."""
        return int(self.counts.sum())

    @property
    def bin_width(self) -> float:
        """In units of the values."""
        return float(2.0**self.exponent)

    def observed(self, batch: Tensor) -> Self:
        """With one more batch. Raises FormatError for NaN or inf."""
        size = batch.detach().reshape(-1).abs().double()
        if not bool(size.isfinite().all()):
            raise FormatError("a batch holds NaN or inf; no histogram counts them.")
        amax = max(self.amax, float(size.amax()) if size.numel() else 0.0)
        exponent = max(self.exponent, _exponent_for(amax))
        index = torch.floor(size * 2.0**-exponent).long()
        added = torch.bincount(index, minlength=NUM_BINS)
        counts = _widened(self.counts, exponent - self.exponent) + added
        return type(self)(counts=counts, exponent=exponent, amax=amax)

    def merged(self, other: Self) -> Self:
        """With what another one counted."""
        exponent = max(self.exponent, other.exponent)
        parts = [_widened(each.counts, exponent - each.exponent) for each in (self, other)]
        amax = max(self.amax, other.amax)
        return type(self)(counts=parts[0] + parts[1], exponent=exponent, amax=amax)

    def percentile(self, percent: float) -> float:
        """The upper end of the bin in which the magnitudes reach `percent` of all; at most amax."""
        if not 0 < percent <= 100:
            raise FormatError(f"a percentile of {percent} is not above 0 and at most 100.")
        self._refuse_none()
        needed = percent / 100 * self.total
        index = int(torch.searchsorted(self.counts.cumsum(0).double(), needed))
        return min(self.amax, (min(index, NUM_BINS - 1) + 1) * self.bin_width)

    def least_error(self, fake: Callable[[Tensor, float], Tensor], *, steps: int = 100) -> float:
        """The amax, of `steps` equal parts of the true one, that loses least mean square.

        fake(values, amax): the values as they come back from a format scaled for amax; it is asked
        about the middles of the bins.
        """
        self._refuse_none()
        is_filled = self.counts > 0
        middles = ((torch.arange(NUM_BINS) + 0.5) * self.bin_width)[is_filled].clamp(max=self.amax)
        weight = self.counts[is_filled].double()
        candidates = [self.amax * (step + 1) / steps for step in range(steps)]
        losses = [
            float((weight * (fake(middles, amax).double() - middles).square()).sum())
            for amax in candidates
        ]
        return candidates[min(range(steps), key=losses.__getitem__)]

    def extent(self, amax: float) -> Extent:
        """Both ends at `amax`, for `quantize` per tensor of two axes."""
        high = torch.full((1, 1), amax)
        return Extent(low=-high, high=high)

    def _refuse_none(self) -> None:
        if not self.total:
            raise FormatError("no batch was observed; calibration needs at least one.")


def _exponent_for(amax: float) -> int:
    """The least exponent whose bins hold amax."""
    return max(_LEAST_EXPONENT, frexp(amax)[1] - 11) if amax else _LEAST_EXPONENT


def _widened(counts: Tensor, doublings: int) -> Tensor:
    """The same counts in bins 2**doublings as wide."""
    index = torch.arange(NUM_BINS) >> min(doublings, 62)
    return torch.zeros_like(counts).index_add_(0, index, counts)
