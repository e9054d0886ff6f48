"""The innermost range against a search through all of them; ranges may overlap without nesting."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from ridgeline.traces.columns import ABSENT, Columns, columns
from ridgeline.traces.nesting import innermost, nesting

_ranges = st.lists(
    st.tuples(st.integers(0, 30), st.integers(0, 20), st.integers(0, 2)), min_size=1, max_size=14
)


def events(ranges: list[tuple[int, int, int]]) -> Columns:
    start, duration, thread = np.array(ranges).T
    return columns(len(ranges), start_ns=start, duration_ns=duration, thread=thread)


def running(found: Columns, rows: list[int], at_ns: int) -> list[int]:
    """Of these rows, those that run at a time, the last to start first, of those the shortest."""
    order = sorted(rows, key=lambda r: (found.start_ns[r], -found.duration_ns[r]))
    ends = {r: max(found.end_ns[r], found.start_ns[r] + 1) for r in rows}
    return [r for r in reversed(order) if found.start_ns[r] <= at_ns < ends[r]]


@given(_ranges, st.integers(0, 55))
def test_the_innermost_is_the_last_to_start(ranges: list[tuple[int, int, int]], at_ns: int) -> None:
    found = events(ranges)
    rows = [r for r in range(len(found)) if found.thread[r] == found.thread[0]]
    expected = running(found, rows, at_ns)
    tree = nesting(found, np.array(rows))
    key = [(found.start_ns[r], found.duration_ns[r]) for r in expected[:1]]
    (row,) = tree.innermost(np.array([at_ns])).tolist()
    assert [(found.start_ns[r], found.duration_ns[r]) for r in [row] if r != ABSENT] == key


@given(_ranges)
def test_ranges_of_another_thread_do_not_count(ranges: list[tuple[int, int, int]]) -> None:
    found = events(ranges)
    half = len(ranges) // 2
    rows, of = np.arange(half), np.arange(half, len(ranges))
    for event, row in zip(of, innermost(found, rows, of), strict=True):
        mine = [r for r in rows.tolist() if found.thread[r] == found.thread[event]]
        expected = running(found, mine, int(found.start_ns[event]))
        assert (row == ABSENT) == (not expected)
        if expected:
            assert found.start_ns[row] == found.start_ns[expected[0]]
            assert found.duration_ns[row] == found.duration_ns[expected[0]]


def test_a_stack_goes_outwards() -> None:
    found = events([(0, 100, 0), (10, 20, 0), (40, 50, 0), (45, 5, 0)])
    assert nesting(found, np.arange(4)).stack(47) == [3, 2, 0]
    assert nesting(found, np.arange(4)).stack(35) == [0]
    assert nesting(found, np.arange(4)).stack(100) == []


def test_a_long_row_of_siblings_takes_few_rounds() -> None:
    count = 200_000
    start = np.concatenate([[0], np.arange(count) * 10 + 1])
    duration = np.concatenate([[10 * count + 10], np.full(count, 5)])
    found = columns(count + 1, start_ns=start, duration_ns=duration)
    tree = nesting(found, np.arange(count + 1))
    assert (tree.enclosing[1:] == 0).all()
    assert (tree.innermost(start[1:] + 7) == 0).all()
