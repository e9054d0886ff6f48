"""A replay gives back what was recorded; without a cause, what can be worked out by hand."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from recordings import Event, call, kernel, op, training, write

from ridgeline.errors import TraceError
from ridgeline.native.replay import earliest, earliest_in_python, has_replay
from ridgeline.traces.columns import Recording
from ridgeline.traces.fixes import Fix, fixes
from ridgeline.traces.kineto import read_kineto
from ridgeline.traces.launches import launches
from ridgeline.traces.replay import Edge, dependencies
from ridgeline.traces.split import activity

_NCCL = "ncclDevKernel_AllReduce_Sum_f32"
_launched = st.lists(
    st.tuples(
        st.integers(0, 300),  # when the call starts
        st.integers(0, 40),  # how long it takes
        st.integers(-5, 200),  # from the call to the kernel: clocks may disagree
        st.integers(0, 90),  # how long the kernel takes
        st.sampled_from([7, 7, 20]),
        st.sampled_from([1, 1, 2]),
    ),
    min_size=1,
    max_size=12,
)
_syncs = st.lists(st.tuples(st.integers(0, 500), st.integers(0, 80)), max_size=4)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("replay")


def read(folder: Path, events: list[Event]) -> Recording:
    return read_kineto(write(folder / "a.json", events))


@pytest.mark.parametrize("is_strict", [True, False])
@given(launched=_launched, syncs=_syncs)
def test_unchanged_it_gives_back_what_was_recorded(
    folder: Path, is_strict: bool, launched: list[tuple[int, ...]], syncs: list[tuple[int, int]]
) -> None:
    events: list[Event] = []
    for number, (start, takes, latency, runs, stream, tid) in enumerate(launched, 1):
        events.append(call("cudaLaunchKernel", start, takes, number, tid=tid))
        events.append(kernel("k", max(0, start + latency), runs, number, stream=stream))
    events += [call("cudaStreamSynchronize", s, d, 900 + i) for i, (s, d) in enumerate(syncs)]
    recording = read(folder, events)
    found = dependencies(recording, launches(recording), is_strict=is_strict)
    assert found.replay().tolist() == found.time.tolist()
    assert (found.time[found.source] + found.lag <= found.time[found.target]).all()


def test_published_recordings_come_back_as_recorded(shared_data: Path) -> None:
    paths = sorted((shared_data / "kineto").glob("*.json.gz"))
    assert len(paths) == 13
    for path in paths:
        recording = read_kineto(path)
        span_ns = activity(recording).end_ns - activity(recording).start_ns
        for is_strict in (True, False):
            found = dependencies(recording, launches(recording), is_strict=is_strict)
            assert found.span_ns(found.replay()) == span_ns, path.name


@given(st.integers(2, 12), st.data())
def test_both_find_the_earliest_times(num_points: int, data: st.DataObject) -> None:
    points = st.integers(0, num_points - 1)
    pairs = data.draw(st.lists(st.tuples(points, points, st.integers(-50, 50)), max_size=30))
    pairs.sort(key=lambda pair: pair[0])
    source, target, lag = np.array(pairs, np.int64).reshape(-1, 3).T
    first = np.searchsorted(source, np.arange(num_points + 1))
    time = np.array(data.draw(st.lists(st.integers(0, 9), min_size=num_points)), np.int64)
    time = time[:num_points]
    come = earliest_in_python(first, target, lag, time)
    assert has_replay() is False or earliest(first, target, lag, time).tolist() == come.tolist()
    if (source < target).all():  # no circle: every edge holds
        assert (come[target] >= come[source] + lag).all()
        assert (come >= time).all()


def gains(folder: Path, events: list[Event]) -> dict[str, tuple[int, int]]:
    recording = read(folder, events)
    return {f.what: (f.low_ns, f.high_ns) for f in fixes(recording, launches(recording))}


def test_without_synchronisation_the_host_runs_ahead(tmp_path: Path) -> None:
    events: list[Event] = []
    for i in range(4):  # launch, run 100 µs, wait for it, think for 50 µs
        at = 170 * i
        events += [
            call("cudaLaunchKernel", at, 5, 10 + i),
            kernel("k", at + 10, 100, 10 + i),
            call("cudaStreamSynchronize", at + 6, 114, 90 + i),
        ]
    # launched at 0, 58, 116, 174 instead: calls of 5 and 2 µs, 1 µs between, 50 of thought
    assert gains(tmp_path, events)["remove the 4 host synchronisations"] == (210_000, 210_000)


def test_the_host_is_removed_not_the_idle_time(tmp_path: Path) -> None:
    """Two streams that take turns: with the order kept the second stream still waits."""
    events = [
        call("cudaLaunchKernel", 0, 0, 1), kernel("a", 5, 100, 1, stream=7),
        call("cudaLaunchKernel", 195, 0, 2), kernel("b", 200, 100, 2, stream=20),
    ]  # fmt: skip
    (gain,) = gains(tmp_path, events).values()
    assert gain == (95_000, 195_000)


def test_a_faster_link_gains_what_is_exposed(tmp_path: Path) -> None:
    events = [
        call("cudaLaunchKernel", 0, 1, 1), kernel(_NCCL, 10, 100, 1, stream=20),
        call("cudaLaunchKernel", 2, 1, 2), kernel("a", 111, 50, 2, stream=7),
    ]  # fmt: skip
    assert gains(tmp_path, events)["communication twice as fast"] == (50_000, 50_000)


def test_input_and_allocation_are_told_apart(tmp_path: Path) -> None:
    events = [
        call("cudaLaunchKernel", 0, 0, 1), kernel("a", 5, 10, 1),
        op("enumerate(DataLoader)#_Iter.__next__", 10, 60),
        call("cudaMalloc", 80, 100, 3),
        call("cudaLaunchKernel", 195, 0, 2), kernel("b", 200, 10, 2),
    ]  # fmt: skip
    found = gains(tmp_path, events)
    assert found["load the next batch ahead of time"] == (60_000, 60_000)
    assert found["allocate nothing on the device while it runs"] == (100_000, 100_000)
    assert found["launch without waiting for the host (CUDA graph, torch.compile)"] == (35_000,) * 2


def test_kinds_of_edges(tmp_path: Path) -> None:
    recording = read(tmp_path, training(num_steps=2))
    found = dependencies(recording, launches(recording), is_strict=True)
    counts = {kind: int((found.kind == kind).sum()) for kind in Edge}
    assert counts[Edge.CALL] == counts[Edge.RUN] == counts[Edge.LAUNCH] == 8
    assert counts[Edge.HOST] == 7
    assert counts[Edge.BLOCK] == 0
    assert found.is_root.sum() == 1


def test_without_any_call_nothing_can_be_gained(tmp_path: Path) -> None:
    assert gains(tmp_path, [kernel("a", 0, 10), kernel("b", 50, 10)]) == {}


def test_a_gain_has_two_ends_in_order() -> None:
    with pytest.raises(TraceError, match="gains 5 to 3 ns"):
        Fix(what="it", low_ns=5, high_ns=3)
