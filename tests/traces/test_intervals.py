"""Sets of time against the same sets one nanosecond at a time."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from ridgeline.traces.intervals import Intervals, union

_pairs = st.lists(st.tuples(st.integers(0, 40), st.integers(0, 12)), max_size=12)


def made(pairs: list[tuple[int, int]]) -> Intervals:
    start = np.array([s for s, _ in pairs], np.int64)
    return union(start, start + np.array([d for _, d in pairs], np.int64))


def instants(found: Intervals) -> set[int]:
    return {t for s, e in zip(found.start, found.end, strict=True) for t in range(s, e)}


def of(pairs: list[tuple[int, int]]) -> set[int]:
    return {t for s, d in pairs for t in range(s, s + d)}


def is_tidy(found: Intervals) -> bool:
    """Whether they are in order, apart, and none is empty."""
    edges = np.stack([found.start, found.end], axis=1).ravel()
    return bool((np.diff(edges) > 0).all())


@given(_pairs, _pairs)
def test_they_combine_as_sets_do(a: list[tuple[int, int]], b: list[tuple[int, int]]) -> None:
    for combined, expected in (
        (made(a), of(a)),
        (made(a) & made(b), of(a) & of(b)),
        (made(a) | made(b), of(a) | of(b)),
        (made(a) - made(b), of(a) - of(b)),
        (made(a).clip(10, 30), {t for t in of(a) if 10 <= t < 30}),
        (made(a).gaps(5, 35), set(range(5, 35)) - of(a)),
    ):
        assert instants(combined) == expected
        assert combined.total_ns == len(expected)
        assert is_tidy(combined)


@given(_pairs, _pairs)
def test_overlap_with_each_interval(a: list[tuple[int, int]], b: list[tuple[int, int]]) -> None:
    start = np.array([s for s, _ in b], np.int64)
    end = start + np.array([d for _, d in b], np.int64)
    expected = [len(of(a) & set(range(s, e))) for s, e in zip(start, end, strict=True)]
    assert made(a).overlap_ns(start, end).tolist() == expected
