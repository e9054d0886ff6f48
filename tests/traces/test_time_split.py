"""Where the time went: against a search one nanosecond at a time, and by hand."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from recordings import call, copy, fill, kernel, op, step, training, write

from ridgeline.errors import TraceError
from ridgeline.traces.columns import Recording
from ridgeline.traces.kineto import read_kineto
from ridgeline.traces.rank import analyse
from ridgeline.traces.split import Split, activity, split

_NCCL = "ncclDevKernel_AllReduce_Sum_f32"
_events = st.lists(
    st.tuples(st.sampled_from("kcmf"), st.integers(0, 60), st.integers(0, 25)), min_size=1
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("split")


def recording(folder: Path, events: list[tuple[str, int, int]]) -> Recording:
    makers = {
        "k": lambda s, d: kernel("gemm", s, d),
        "c": lambda s, d: kernel(_NCCL, s, d, stream=20),
        "m": lambda s, d: copy(s, d),
        "f": lambda s, d: fill(s, d),
    }
    made = [makers[kind](start / 1000, dur / 1000) for kind, start, dur in events]
    return read_kineto(write(folder / "a.json", made))


@given(events=_events)
def test_every_nanosecond_is_in_one_part(folder: Path, events: list[tuple[str, int, int]]) -> None:
    during: dict[str, set[int]] = {kind: set() for kind in "kcmf"}
    for kind, start, dur in events:
        during[kind] |= set(range(start, start + dur))
    busy = set().union(*during.values())
    if not busy:
        return
    found = split(activity(recording(folder, events)))
    exposed = during["c"] - during["k"] - during["f"]
    assert found == Split(
        start_ns=min(busy),
        span_ns=max(busy) + 1 - min(busy),
        compute_ns=len(during["k"]),
        exposed_communication_ns=len(exposed),
        memory_ns=len(busy - during["k"] - exposed),
        idle_ns=max(busy) + 1 - min(busy) - len(busy),
        communication_ns=len(during["c"]),
        overlap_ns=len(during["c"] & during["k"]),
        memcpy_ns=len(during["m"]),
        exposed_memcpy_ns=len(during["m"] - during["k"] - during["f"] - during["c"]),
    )


def test_steps_by_hand(tmp_path: Path) -> None:
    found = analyse(read_kineto(write(tmp_path / "a.json", training(num_steps=3))))
    assert [s.name for s in found.steps] == [f"ProfilerStep#{n}" for n in range(3)]
    spans = [s.split.span_ns for s in found.steps]
    assert spans == [200_000, 200_000, 140_000]  # the last one ends with its last event
    for one in found.steps:
        assert one.split.compute_ns == 70_000
        assert one.split.exposed_communication_ns == 20_000
        assert one.split.overlap_ns == 20_000
        assert one.split.memory_ns == 30_000


def test_work_belongs_to_the_step_that_launched_it(tmp_path: Path) -> None:
    events = [
        step(1, 0, 100), call("cudaLaunchKernel", 90, 5, 1), kernel("a", 150, 10, 1),
        step(2, 100, 100), call("cudaLaunchKernel", 110, 5, 2), kernel("b", 170, 30, 2),
    ]  # fmt: skip
    first, second = analyse(read_kineto(write(tmp_path / "a.json", events))).steps
    assert (first.split.compute_ns, first.split.span_ns) == (10_000, 20_000)
    assert (second.split.compute_ns, second.split.span_ns) == (30_000, 30_000)


def test_nothing_on_a_device_is_said_not_zero(tmp_path: Path) -> None:
    only_host = read_kineto(write(tmp_path / "a.json", [op("aten::mm", 0, 5)]))
    with pytest.raises(TraceError, match="records nothing that ran on a device, only 1 event"):
        analyse(only_host)


def test_kernels_of_no_duration_are_said(tmp_path: Path) -> None:
    recording = read_kineto(write(tmp_path / "a.json", [kernel("k", 5, 0), kernel("k", 9, 0)]))
    with pytest.raises(TraceError, match="records 2 events on the device, of no duration at all"):
        analyse(recording)


def test_parts_that_do_not_add_up_are_refused() -> None:
    parts = dict.fromkeys(Split.__slots__, 0)
    with pytest.raises(TraceError, match="do not make up a span"):
        Split(**parts | {"span_ns": 5})
