"""A rank that was made slow is named, by how much, and with what made it so."""

import io
from pathlib import Path

import pytest
from recordings import Event, call, kernel, step, write

from ridgeline.report.ranks_record import ranks_record
from ridgeline.report.trace_ranks import print_ranks
from ridgeline.report.trace_words import verdict
from ridgeline.traces.skew import match_collectives
from ridgeline.traces.stragglers import Reason, stragglers
from ridgeline.traces.trace import Trace, trace

NUM_STEPS, WORK_US, TRANSFER_US, LATE_US = 3, 100, 20, 70


def reduce(at_us: float, dur_us: float, number: int, size: int) -> Event:
    found = kernel("ncclDevKernel_AllReduce_Sum_f32_RING_LL", at_us, dur_us, number, stream=20)
    args = found["args"]
    assert isinstance(args, dict)
    args |= {
        "Collective name": "allreduce", "In msg nelems": 8, "Out msg nelems": 8,
        "Group size": size, "dtype": "Float", "Process Group Name": "0",
        "Process Group Ranks": str([*range(size)]),
    }  # fmt: skip
    return found


def run(folder: Path, slow: int | None, reason: Reason, size: int = 4) -> Trace:
    """Every step computes, then reduces; one rank computes for longer, or launches later."""
    files = []
    for rank in range(size):
        late_us = LATE_US if rank == slow else 0
        events: list[Event] = []
        for number in range(NUM_STEPS):
            at = 10 + number * (WORK_US + LATE_US + TRANSFER_US)
            begin = at + (late_us if reason is Reason.IDLE else 0)
            came = at + WORK_US + late_us
            left = at + WORK_US + LATE_US * (slow is not None) + TRANSFER_US
            events += [
                step(number, at - 6, 150),
                call("cudaLaunchKernel", begin - 5, 1, 2 * number + 1),
                kernel("gemm", begin, came - begin, 2 * number + 1),
                call("cudaLaunchKernel", begin - 3, 1, 2 * number + 2),
                reduce(came, left - came, 2 * number + 2, size),
            ]
        path = folder / f"rank-{rank}.json"
        files.append(write(path, events, distributedInfo={"rank": rank}))
    return trace(files)


@pytest.mark.parametrize("slow", [0, 2])
@pytest.mark.parametrize("reason", [Reason.COMPUTE, Reason.IDLE])
def test_the_slow_rank_is_named(tmp_path: Path, slow: int, reason: Reason) -> None:
    found = run(tmp_path, slow, reason)
    (one,) = stragglers(found.ranks, match_collectives(found.ranks))
    assert (one.rank, one.num_last, one.num_collectives) == (slow, NUM_STEPS, NUM_STEPS)
    assert (one.late_ns, one.late_per_step_ns) == (NUM_STEPS * LATE_US * 1000, LATE_US * 1000)
    assert one.reason is reason
    # before the first kernel of a recording nobody is idle
    num_seen = NUM_STEPS if reason is Reason.COMPUTE else NUM_STEPS - 1
    assert one.excess_ns == num_seen * LATE_US * 1000


def test_the_verdict_table_and_record_say_it(tmp_path: Path) -> None:
    found = run(tmp_path, 1, Reason.COMPUTE)
    assert verdict(found).endswith(
        "Rank 1 comes last to 3 of 3 collectives: others wait 210 µs for it, 70.0 µs a step; "
        "it computes longer (210 µs)."
    )
    text = io.StringIO()
    print_ranks(text, found, top=5)
    assert "Who came last, and what kept it" in text.getvalue()
    listed = ranks_record(found)["stragglers"]
    assert isinstance(listed, list)
    assert listed[0]["reason"] == "computes longer"


def test_a_rank_is_compared_with_those_that_waited_for_it(tmp_path: Path) -> None:
    """Not with ranks of other groups, whose work is another."""
    files = [Path(rank.source) for rank in run(tmp_path, 1, Reason.COMPUTE).ranks]
    events = [call("cudaLaunchKernel", 1, 1, 1), kernel("gemm", 5, 100_000, 1)]
    other = write(tmp_path / "rank-9.json", events, distributedInfo={"rank": 9})
    found = trace([*files, other])
    (one,) = stragglers(found.ranks, match_collectives(found.ranks))
    assert (one.rank, one.reason) == (1, Reason.COMPUTE)
    assert one.excess_ns == NUM_STEPS * LATE_US * 1000


def test_where_all_come_together_nobody_is_named(tmp_path: Path) -> None:
    found = run(tmp_path, None, Reason.COMPUTE)
    assert stragglers(found.ranks, match_collectives(found.ranks)) == ()
    assert "comes last" not in verdict(found)
