"""Replays of real recordings: unchanged they come back; without the host, a pair agrees.

The pair is two windows of one program in which the host was slower in the second. What differs is
the host, so that without it both must take the same time for the same work.
"""

from pathlib import Path

import pytest

from ridgeline.traces.diff import diff
from ridgeline.traces.fixes import Fix
from ridgeline.traces.formats import read
from ridgeline.traces.launches import launches
from ridgeline.traces.rank import RankTrace
from ridgeline.traces.replay import dependencies
from ridgeline.traces.split import activity
from ridgeline.traces.trace import trace

HOST = "launch without waiting for the host (CUDA graph, torch.compile)"
RECORDINGS = (
    "nsys/h100_2gpu_1s.sqlite.gz",
    "nsys/mfu_2gpu_before.sqlite.gz",
    "nsys/mfu_2gpu_after.sqlite.gz",
    "xplane/jax_conv_mi300.xplane.pb",
)
Pair = tuple[tuple[RankTrace, ...], tuple[RankTrace, ...]]


@pytest.fixture(scope="module")
def pair(shared_data: Path) -> Pair:
    before, after = (
        trace([shared_data / "nsys" / f"mfu_2gpu_{when}.sqlite.gz"]).ranks
        for when in ("before", "after")
    )
    return before, after


@pytest.mark.parametrize("name", RECORDINGS)
def test_unchanged_they_come_back_as_recorded(shared_data: Path, name: str) -> None:
    for recording in read(shared_data / name, has_stacks=False):
        active, found = activity(recording), launches(recording)
        for is_strict in (True, False):
            made = dependencies(recording, found, is_strict=is_strict)
            assert made.span_ns(made.replay()) == active.end_ns - active.start_ns


def without_host(rank: RankTrace) -> Fix:
    (fix,) = (one for one in rank.fixes if one.what == HOST)
    return fix


@pytest.mark.parametrize(("number", "most_apart"), [(0, 0.025), (1, 0.045)])
def test_without_the_host_both_take_the_same_time(
    pair: Pair, number: int, most_apart: float
) -> None:
    before, after = pair[0][number], pair[1][number]
    found = diff(before, after)
    assert 0.095 < found.slowdown < 0.105
    before_ns, after_ns = (
        rank.split.span_ns - without_host(rank).low_ns for rank in (before, after)
    )
    assert abs(after_ns / found.work_ratio / before_ns - 1) < most_apart
