"""Sets of time: sorted disjoint intervals, their union, intersection and difference, exact."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Times = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Intervals:
    """Disjoint half-open intervals in ascending order, none of them empty. Times in ns."""

    start: Times
    end: Times

    def __len__(self) -> int:
        return len(self.start)

    @property
    def total_ns(self) -> int:
        """How long they are together."""
        return int((self.end - self.start).sum())

    def __and__(self, other: "Intervals") -> "Intervals":
        """The time in both."""
        return _where(self, other, least=2)

    def __or__(self, other: "Intervals") -> "Intervals":
        """The time in either."""
        return union(
            np.concatenate([self.start, other.start]), np.concatenate([self.end, other.end])
        )

    def __sub__(self, other: "Intervals") -> "Intervals":
        """The time in the first but not in the second."""
        if not len(self):
            return self
        return self & other.gaps(int(self.start[0]), int(self.end[-1]))

    def gaps(self, start_ns: int, end_ns: int) -> "Intervals":
        """The time from start_ns to end_ns that is in none of them."""
        edges_start = np.concatenate([[start_ns], np.clip(self.end, start_ns, end_ns)])
        edges_end = np.concatenate([np.clip(self.start, start_ns, end_ns), [end_ns]])
        return _non_empty(edges_start.astype(np.int64), edges_end.astype(np.int64))

    def clip(self, start_ns: int, end_ns: int) -> "Intervals":
        """The time between start_ns and end_ns."""
        return _non_empty(
            np.clip(self.start, start_ns, end_ns), np.clip(self.end, start_ns, end_ns)
        )

    def overlap_ns(self, start: Times, end: Times) -> Times:
        """How much of each interval from `start` to `end` is in the set."""
        return self._before(end) - self._before(np.minimum(start, end))

    def _before(self, time: Times) -> Times:
        """How much of the set lies before each time."""
        sums = np.concatenate([[0], np.cumsum(self.end - self.start)])
        index = np.searchsorted(self.start, time, side="right")
        if not len(self):
            return np.zeros_like(time)
        last = np.maximum(index - 1, 0)
        beyond = np.where(index > 0, np.maximum(self.end[last] - time, 0), 0)
        found: Times = sums[index] - beyond
        return found


def union(start: Times, end: Times) -> Intervals:
    """The time that is in at least one of the intervals, which may come in any order."""
    if not len(start):
        return Intervals(np.zeros(0, np.int64), np.zeros(0, np.int64))
    order = np.argsort(start, kind="stable")
    start, end = start[order], end[order]
    reached = np.maximum.accumulate(end)
    is_first = np.empty(len(start), bool)
    is_first[0] = True
    np.greater(start[1:], reached[:-1], out=is_first[1:])
    firsts = np.flatnonzero(is_first)
    return _non_empty(start[firsts], reached[np.append(firsts[1:], len(start)) - 1])


def _non_empty(start: Times, end: Times) -> Intervals:
    kept = end > start
    return Intervals(start[kept], end[kept])


def _where(a: Intervals, b: Intervals, *, least: int) -> Intervals:
    """The time that is in at least `least` of the two."""
    edges = np.concatenate([a.start, b.start, a.end, b.end])
    steps = np.repeat(np.array([1, -1]), len(a) + len(b))
    order = np.argsort(edges, kind="stable")
    edges, depth = edges[order], np.cumsum(steps[order])
    inside = np.flatnonzero(depth[:-1] >= least) if len(depth) else np.zeros(0, np.intp)
    return union(edges[inside], edges[inside + 1])
