"""Between measured samples: the speed of a kernel at a size nobody measured.

Everything is a function of the logarithms of the features, for a product of 128 rows differs from
one of 256 as one of 1024 does from 2048. No result lies outside what was measured.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import exp, log

Sample = tuple[float, ...]

POWER = 6
"""How fast a sample's say falls with its distance: chosen among 2, 3, 4, 6 and 8 by leaving out
each calibration sample in turn and predicting it from the others (docs/accuracy.md)."""


def rate_at(samples: Sequence[Sample], features: Sequence[float]) -> float:
    """The rate at `features`; a sample is its features, then its rate.

    One feature: straight lines between neighbours, in logarithms, flat beyond the ends. Several:
    the logarithms of all rates, weighted by 1 / distance**POWER (Shepard 1968). Both return a
    sample's own rate at its features, and never less than the lowest or more than the highest rate.
    Raises ValueError without samples.
    """
    if not samples:
        raise ValueError("there is no sample to take a rate from")
    point = tuple(log(max(f, 1.0)) for f in features)
    if len(point) == 1:
        return _between(_points(samples), point[0])
    return _weighted(samples, point)


def best_from(samples: Sequence[Sample]) -> tuple[Sample, ...]:
    """The samples of a bandwidth curve made non-increasing: a small working set lies in caches at
    least as near as a larger one's, and what its samples show besides is the start of the call.
    """
    falling: list[Sample] = []
    best = 0.0
    for size, rate in sorted(((s[0], s[-1]) for s in samples), reverse=True):
        best = max(best, rate)
        falling.append((size, best))
    return tuple(reversed(falling))


@dataclass(frozen=True, slots=True)
class Speed:
    """A kernel's measured speed as the time to start it and the rates once it runs."""

    start_s: float
    samples: tuple[Sample, ...]

    def run_s(self, work: float, features: Sequence[float]) -> float:
        """Seconds that `work` takes at the rate of `features`, without the start."""
        return work / rate_at(self.samples, features)


def speed_of(samples: Sequence[Sample], works: Sequence[float]) -> Speed:
    """Splits each sample's time into a start that all share and a rate for the rest.

    The start is what the sample of least work takes beyond its work at the best rate seen. It is
    kept below every sample's time, so that `start_s + run_s` is the measured time at each sample.
    """
    times_s = [work / sample[-1] for work, sample in zip(works, samples, strict=True)]
    least = min(range(len(works)), key=lambda i: works[i])
    best = max(sample[-1] for sample in samples)
    beyond_s = times_s[least] - works[least] / best
    start_s = max(0.0, min(beyond_s, 0.95 * min(times_s)))
    net = (
        (*sample[:-1], work / (time_s - start_s))
        for sample, work, time_s in zip(samples, works, times_s, strict=True)
    )
    return Speed(start_s, tuple(net))


def _points(samples: Sequence[Sample]) -> list[tuple[float, float]]:
    return sorted((log(max(s[0], 1.0)), log(s[1])) for s in samples)


def _between(points: Sequence[tuple[float, float]], x: float) -> float:
    if x <= points[0][0]:
        return exp(points[0][1])
    for (x0, y0), (x1, y1) in pairwise(points):
        if x <= x1:
            share = (x - x0) / (x1 - x0) if x1 > x0 else 1.0
            return exp(y0 + share * (y1 - y0))
    return exp(points[-1][1])


def mean_at(samples: Sequence[Sample], features: Sequence[float]) -> float:
    """What ends each sample, at `features`: the values themselves weighted as `rate_at` weights the
    logarithms of rates, for values that may be zero. Raises ValueError without samples.
    """
    if not samples:
        raise ValueError("there is no sample to take a value from")
    weights = _weights(samples, tuple(log(max(f, 1.0)) for f in features))
    return sum(w * s[-1] for w, s in zip(weights, samples, strict=True))


def _weighted(samples: Sequence[Sample], point: Sequence[float]) -> float:
    weights = _weights(samples, point)
    return exp(sum(w * log(s[-1]) for w, s in zip(weights, samples, strict=True) if w))


def _weights(samples: Sequence[Sample], point: Sequence[float]) -> list[float]:
    """What share each sample has in a value at `point`; a sample there has all of it."""
    squares = [_square(sample, point) for sample in samples]
    least = min(squares)
    if least == 0.0:
        first = squares.index(0.0)
        return [float(i == first) for i in range(len(squares))]
    weights = [(least / square) ** (POWER / 2) for square in squares]
    total = sum(weights)
    return [weight / total for weight in weights]


def _square(sample: Sample, point: Sequence[float]) -> float:
    """The squared distance of a sample's features from a point, in logarithms."""
    return sum((log(max(f, 1.0)) - x) ** 2 for f, x in zip(sample[:-1], point, strict=True))
