"""Which of the ranges on one thread is the innermost at a time: the operator that launches, the
function that runs. Ranges may overlap without nesting, as rounded times make them."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ridgeline.traces.columns import ABSENT, Columns
from ridgeline.traces.intervals import Times

Rows = NDArray[np.intp]


@dataclass(frozen=True, slots=True)
class Nesting:
    """Ranges of one thread by start, the longer first. enclosing: of each, the nearest one before
    it that ends later, an index; ABSENT where there is none. rows: which events they are.
    """

    rows: Rows
    start: Times
    end: Times
    enclosing: Rows

    def innermost(self, at: Times) -> Rows:
        """The row of the range that runs at each time and started last; ABSENT where none does."""
        found = np.searchsorted(self.start, at, side="right") - 1
        found = _climb(found, at, self.end, self.enclosing)
        return np.where(found >= 0, self.rows[found], ABSENT) if len(self.rows) else found

    def stack(self, at_ns: int) -> list[int]:
        """The rows of all ranges that run at a time, the innermost first."""
        (found,) = _climb(
            np.array([np.searchsorted(self.start, at_ns, side="right") - 1]),
            np.array([at_ns]),
            self.end,
            self.enclosing,
        ).tolist()
        rows = []
        while found >= 0:
            rows.append(int(self.rows[found]))
            found = int(self.enclosing[found])
        return rows


def nesting(events: Columns, rows: Rows) -> Nesting:
    """The events in these rows, all of one thread."""
    start = events.start_ns[rows]
    end = start + events.duration_ns[rows]
    order = np.lexsort((-end, start))
    end = np.maximum(end, start + 1)[order]  # what takes no time still encloses that time
    return Nesting(
        rows=rows[order], start=start[order], end=end, enclosing=_nearest_that_ends_later(end)
    )


def _nearest_that_ends_later(end: Times) -> Rows:
    """For each, the nearest before it with a later end. Between a candidate and its own nothing
    ends later than it, so that one may jump to what it has found so far: log(n) rounds.
    """
    found = np.arange(-1, len(end) - 1)
    active = np.flatnonzero(found >= 0)
    while len(active):
        candidate = found[active]
        ends_sooner = end[candidate] <= end[active]
        active, candidate = active[ends_sooner], candidate[ends_sooner]
        found[active] = found[candidate]
        active = active[found[active] >= 0]
    return found


def parents(nested: Nesting) -> Rows:
    """Of each range, the nearest before it that does not end sooner, an index; ABSENT where there
    is none. Unlike `enclosing` it may end at the same time: whole microseconds make many do so.
    """
    count = len(nested.end)
    order = np.lexsort((-np.arange(count), nested.end))
    rank = np.empty(count, np.int64)
    rank[order] = np.arange(count)
    return _nearest_that_ends_later(rank)


def _climb(found: Rows, at: Times, end: Times, enclosing: Rows) -> Rows:
    """From each range outwards to the first that has not ended."""
    active = np.flatnonzero(found >= 0)
    while len(active):
        has_ended = end[found[active]] <= at[active]
        active = active[has_ended]
        found[active] = enclosing[found[active]]
        active = active[found[active] >= 0]
    return found


def innermost(events: Columns, ranges: Rows, of: Rows) -> Rows:
    """For each event in the rows `of`, the row of the innermost of `ranges` on its thread when it
    starts; ABSENT where there is none.
    """
    found = np.full(len(of), ABSENT, np.intp)
    threads = events.thread[of]
    for thread in np.unique(threads).tolist():
        mine = threads == thread
        on_thread = ranges[events.thread[ranges] == thread]
        if len(on_thread):
            found[mine] = nesting(events, on_thread).innermost(events.start_ns[of[mine]])
    return found
