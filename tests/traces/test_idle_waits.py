"""Idle time after collectives is laid at the door of the rank that came last to them."""

import io
from pathlib import Path

from recordings import Event, call, kernel, write

from ridgeline.report.ranks_record import ranks_record
from ridgeline.report.trace_ranks import print_ranks
from ridgeline.traces.idle import Cause
from ridgeline.traces.idle_waits import IdleWait, idle_waits
from ridgeline.traces.skew import match_collectives
from ridgeline.traces.trace import Trace, trace

NUM_STEPS, STEP_US = 3, 200


def reduce(at_us: float, dur_us: float, number: int) -> Event:
    found = kernel("ncclDevKernel_AllReduce_Sum_f32_RING_LL", at_us, dur_us, number, stream=20)
    args = found["args"]
    assert isinstance(args, dict)
    args |= {
        "Collective name": "allreduce", "In msg nelems": 8, "Out msg nelems": 8,
        "Group size": 2, "dtype": "Float", "Process Group Name": "0",
        "Process Group Ranks": "[0, 1]",
    }  # fmt: skip
    return found


def run(folder: Path, gap_us: tuple[float, float]) -> Trace:
    """Two ranks reduce; rank 1 comes 30 µs later. What comes next was queued before and starts
    gap_us after the end of the collective.
    """
    files = []
    for rank, gap in enumerate(gap_us):
        events: list[Event] = []
        for number in range(NUM_STEPS):
            at, first = 10 + number * STEP_US, 3 * number
            came = at + 40 + 30 * rank
            events += [
                *(call("cudaLaunchKernel", at - 8 + i, 0.5, first + i + 1) for i in range(3)),
                kernel("gemm", at, came - at, first + 1),
                reduce(came, at + 90 - came, first + 2),
                kernel("gemm", at + 90 + gap, STEP_US - 90 - gap, first + 3),
            ]
        path = folder / f"rank-{rank}.json"
        files.append(write(path, events, distributedInfo={"rank": rank}))
    return trace(files)


def test_the_last_rank_is_named_for_the_idle_time_after_it(tmp_path: Path) -> None:
    found = run(tmp_path, (12, 9))
    for rank, gap in zip(found.ranks, (12, 9), strict=True):
        (cause,) = rank.idle_causes
        assert (cause.cause, cause.idle_ns) == (Cause.COMMUNICATION, NUM_STEPS * gap * 1000)
    expected = [  # rank 1 itself waited for nobody
        IdleWait(rank=rank, on=on, idle_ns=NUM_STEPS * gap * 1000, num_gaps=NUM_STEPS)
        for rank, on, gap in ((0, 1, 12), (1, None, 9))
    ]
    assert [*idle_waits(found.ranks, match_collectives(found.ranks))] == expected
    text = io.StringIO()
    print_ranks(text, found, top=5)
    assert "Idle after collectives, by who came last to them" in text.getvalue()
    listed = ranks_record(found)["idle_waits"]
    assert isinstance(listed, list)
    assert listed[0] == {"rank": 0, "on": 1, "idle_ns": 36_000, "num_gaps": 3}


def test_of_one_rank_alone_nobody_is_named(tmp_path: Path) -> None:
    found = trace([Path(run(tmp_path, (12, 9)).ranks[0].source)])
    (wait,) = idle_waits(found.ranks, match_collectives(found.ranks))
    assert (wait.on, wait.idle_ns) == (None, 36_000)
