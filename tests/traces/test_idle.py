"""Gaps that were put in are found, each with the cause that was put in."""

from pathlib import Path

import pytest
from recordings import Event, call, copy, frame, kernel, op, training, write

from ridgeline.traces.columns import Recording
from ridgeline.traces.idle import Cause
from ridgeline.traces.kineto import read_kineto
from ridgeline.traces.launches import launch_statistics, launches
from ridgeline.traces.rank import RankTrace, analyse
from ridgeline.traces.usage import kernel_uses, modules_of, operator_uses

# One kernel until 50 µs, then nothing until the next at 150 µs.
FIRST = [call("cudaLaunchKernel", 0, 5, 1), kernel("first", 10, 40, 1)]
SECOND = kernel("second", 150, 10, 2)


def read(folder: Path, events: list[Event]) -> Recording:
    return read_kineto(write(folder / "a.json", events), keeps_python=True)


def found(folder: Path, events: list[Event]) -> RankTrace:
    return analyse(read(folder, events))


LATE = call("cudaLaunchKernel", 140, 5, 2)
CASES = {
    Cause.HOST: [op("aten::relu", 60, 90), LATE],
    Cause.SYNC: [call("cudaStreamSynchronize", 20, 31, 9), LATE],
    Cause.ALLOCATOR: [call("cudaMalloc", 55, 80, 9), LATE],
    Cause.INPUT: [op("enumerate(DataLoader)#_SingleProcessDataLoaderIter.__next__", 52, 80), LATE],
    Cause.DEVICE: [call("cudaLaunchKernel", 6, 5, 2)],
    Cause.UNKNOWN: [],
}


@pytest.mark.parametrize("cause", CASES)
def test_a_gap_has_the_cause_that_was_put_in(tmp_path: Path, cause: Cause) -> None:
    trace = found(tmp_path, [*FIRST, *CASES[cause], SECOND])
    (gap,) = trace.gaps
    assert (gap.start_ns, gap.duration_ns, gap.cause) == (40_000, 100_000, cause)
    assert (gap.previous, gap.next) == ("first", "second")
    (share,) = trace.idle_causes
    assert (share.cause, share.idle_ns, share.num_gaps, share.share) == (cause, 100_000, 1, 1.0)


def test_a_short_gap_before_queued_work_is_latency(tmp_path: Path) -> None:
    queued = call("cudaLaunchKernel", 6, 5, 2)
    (gap,) = found(tmp_path, [*FIRST, queued, kernel("second", 52.5, 10, 2)]).gaps
    assert (gap.duration_ns, gap.cause) == (2_500, Cause.LATENCY)


TALK = "ncclDevKernel_AllReduce_Sum_f32_RING_LL(ncclDevKernelArgsStorage<4096ul>)"


@pytest.mark.parametrize(
    ("stream", "start", "cause"),
    [
        (7, 60, Cause.COMMUNICATION),
        (20, 60, Cause.DEVICE),
        (7, 42.5, Cause.LATENCY),
    ],
)
def test_queued_work_waits_on_communication(
    tmp_path: Path, stream: int, start: float, cause: Cause
) -> None:
    """Of another stream, and for longer than any start takes."""
    events = [
        call("cudaLaunchKernel", 0, 2, 1), kernel(TALK, 10, 30, 1, stream=20),
        call("cudaLaunchKernel", 3, 2, 2), kernel("next", start, 10, 2, stream=stream),
    ]  # fmt: skip
    (gap,) = found(tmp_path, events).gaps
    assert (gap.cause, gap.previous) == (cause, TALK)


def test_work_launched_late_after_communication_is_the_hosts(tmp_path: Path) -> None:
    events = [call("cudaLaunchKernel", 0, 2, 1), kernel(TALK, 10, 30, 1, stream=20), LATE, SECOND]
    (gap,) = found(tmp_path, events).gaps
    assert gap.cause is Cause.HOST


def test_a_gap_within_one_graph_launch_is_its_own(tmp_path: Path) -> None:
    events = [call("cudaGraphLaunch", 0, 5, 1), kernel("a", 10, 5, 1), kernel("b", 40, 5, 1)]
    (gap,) = found(tmp_path, events).gaps
    assert gap.cause is Cause.GRAPH


def test_what_ran_before_a_gap_is_what_ended_last(tmp_path: Path) -> None:
    short = [call("cudaLaunchKernel", 1, 5, 3), kernel("short", 20, 5, 3, stream=20)]
    (gap,) = found(tmp_path, [*FIRST, *short, LATE, SECOND]).gaps
    assert (gap.previous, gap.next) == ("first", "second")


def test_waiting_on_another_thread_is_no_cause(tmp_path: Path) -> None:
    other = call("cudaStreamSynchronize", 20, 100, 9, tid=99)
    (gap,) = found(tmp_path, [*FIRST, other, LATE, SECOND]).gaps
    assert gap.cause is Cause.HOST


def test_a_gap_names_the_line_of_the_program(tmp_path: Path) -> None:
    stack = [
        frame("train.py(12): main", 0, 300),
        frame("train.py(40): step", 30, 200),
        frame("torch/_tensor.py(99): item", 35, 100),
        frame("<built-in method item>", 36, 90),
    ]
    sync = call("cudaStreamSynchronize", 40, 20, 9)
    (gap,) = found(tmp_path, [*FIRST, *stack, sync, LATE, SECOND]).gaps
    assert (gap.line, gap.call) == ("train.py(40): step", "cudaStreamSynchronize")


def test_launches_are_joined_by_correlation_and_time(tmp_path: Path) -> None:
    recording = read(tmp_path, training(num_steps=2))
    joined = launches(recording)
    calls = [recording.name_of(r) for r in joined.calls]
    assert calls == [*["cudaLaunchKernel"] * 3, "cudaMemcpyAsync"] * 2
    (use,) = (
        u
        for u in kernel_uses(recording, joined, modules_of(recording, joined))
        if u.name == "sgemm_128x64_nn"
    )
    assert (use.op, use.shapes, use.count) == ("aten::mm", "[64, 32] [32, 16]", 2)
    assert (use.total_ns, use.min_ns, use.max_ns) == (100_000, 50_000, 50_000)
    (row,) = (u for u in operator_uses(recording, joined) if u.name == "aten::mm")
    assert (row.count, row.num_kernels, row.total_ns) == (2, 2, 100_000)
    assert [one.shape for one in row.inputs] == [(64, 32), (32, 16)]
    assert [one.type for one in row.inputs] == ["float", "float"]


def test_an_operator_is_found_by_its_id_where_no_call_was_recorded(tmp_path: Path) -> None:
    late = kernel("k", 50, 5) | {"args": {"device": 0, "stream": 7, "External id": 31}}
    recording = read(tmp_path, [op("aten::mm", 0, 5, External_id=31), late])
    joined = launches(recording)
    assert [recording.name_of(r) for r in joined.ops] == ["aten::mm"]


def test_latency_and_queue_by_hand(tmp_path: Path) -> None:
    events = [
        *(call("cudaLaunchKernel", 10 * i, 5, i + 1) for i in range(4)),
        *(kernel("k", 20 + 100 * i, 100, i + 1) for i in range(4)),
        copy(500, 1),
    ]
    recording = read(tmp_path, events)
    found = launch_statistics(recording.events, launches(recording))
    assert found is not None
    assert (found.num_launches, found.num_unknown) == (4, 1)
    assert (found.max_latency_ns, found.median_latency_ns) == (290_000, 200_000)
    assert (found.max_queue, found.mean_queue, found.num_immediate) == (3, 1.5, 0)
