"""Collectives over ranks: what was put in comes out; bandwidths by hand; recordings of others."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from recordings import Event, call, kernel, write

from ridgeline.traces.collectives import bus_bytes
from ridgeline.traces.skew import Skew, match_collectives
from ridgeline.traces.trace import trace

NCCL = "ncclDevKernel_AllReduce_Sum_f32_RING_LL"


def collective(at_us: float, dur_us: float, number: int, *, size: int, nelems: int) -> Event:
    found = kernel(NCCL, at_us, dur_us, number, stream=20)
    found["args"] = {
        "device": 0, "stream": 20, "correlation": number, "Collective name": "allreduce",
        "In msg nelems": nelems, "Out msg nelems": nelems, "Group size": size, "dtype": "Float",
        "Process Group Name": "0", "Process Group Ranks": str([*range(size)]),
    }  # fmt: skip
    return found


def skew_of(folder: Path, ranks: list[list[Event]]) -> Skew:
    files = []
    for rank, events in enumerate(ranks):
        first = [call("cudaLaunchKernel", 0, 1, 1), kernel("gemm", 2, 3, 1)]
        path = folder / f"rank-{rank}.json"
        files.append(write(path, [*first, *events], distributedInfo={"rank": rank}))
    return match_collectives(trace(files).ranks)


RUNS = st.integers(2, 4).flatmap(
    lambda size: st.lists(
        st.tuples(
            st.integers(5, 400),  # transfer, µs
            st.permutations(range(size)).map(tuple),  # the order in which ranks come
            st.integers(1, 300),  # from one to the next, µs
            st.integers(1, 2**20),  # elements
        ),
        min_size=1,
        max_size=4,
    ).map(lambda found: (size, found))
)


@settings(max_examples=25, deadline=None)
@given(run=RUNS, clock_us=st.integers(0, 5000))
def test_what_was_put_in_comes_out(
    tmp_path_factory: pytest.TempPathFactory,
    run: tuple[int, list[tuple[int, tuple[int, ...], int, int]]],
    clock_us: int,
) -> None:
    """Whatever the clocks of the ranks say."""
    size, found = run
    ranks: list[list[Event]] = [[] for _ in range(size)]
    at_us = 100
    for number, (transfer_us, order, apart_us, nelems) in enumerate(found):
        end_us = at_us + apart_us * (size - 1) + transfer_us
        for place, rank in enumerate(order):
            start_us = at_us + apart_us * place
            ranks[rank].append(
                collective(
                    start_us + clock_us * rank, end_us - start_us, number, size=size, nelems=nelems
                )
            )
        at_us = end_us + 10
    skew = skew_of(tmp_path_factory.mktemp("ranks"), ranks)
    by_order = sorted(skew.matched, key=lambda one: one.sequence)
    assert len(by_order) == len(found)
    assert skew.num_unmatched == 0
    for one, (transfer_us, order, apart_us, nelems) in zip(by_order, found, strict=True):
        assert one.is_whole
        assert (one.transfer_ns, one.nbytes) == (1000 * transfer_us, 4 * nelems)
        assert (one.skew_ns, one.last) == (1000 * apart_us * (size - 1), order[-1])
        waits = {arrival.rank: arrival.wait_ns for arrival in one.arrivals}
        assert [waits[rank] for rank in order] == [
            1000 * apart_us * (size - 1 - place) for place in range(size)
        ]
    assert sum(wait.wait_ns for wait in skew.waits) == sum(
        arrival.wait_ns for one in skew.matched for arrival in one.arrivals
    )


def test_who_waited_for_whom(tmp_path: Path) -> None:
    late = [collective(400, 100, 5, size=2, nelems=250), collective(600, 50, 6, size=2, nelems=1)]
    early = [collective(100, 400, 5, size=2, nelems=250), collective(600, 50, 6, size=2, nelems=1)]
    skew = skew_of(tmp_path, [early, late])
    (wait,) = skew.waits
    assert (wait.rank, wait.on, wait.wait_ns, wait.num_collectives) == (0, 1, 300_000, 1)
    first = skew.matched[0]
    assert first.bus_bytes_per_s == pytest.approx(1000 * 2 * (1 / 2) / 100e-6)


def test_places_where_ranks_differ_are_left_out(tmp_path: Path) -> None:
    ranks = [[collective(100, 50, 5, size=2, nelems=nelems)] for nelems in (8, 16)]
    skew = skew_of(tmp_path, ranks)
    assert (skew.matched, skew.num_unmatched) == ((), 1)


def test_ranks_may_give_unlike_amounts_to_all_to_all(tmp_path: Path) -> None:
    ranks = [[collective(100, 50, 5, size=2, nelems=nelems)] for nelems in (8, 16)]
    for events in ranks:
        args = events[0]["args"]
        assert isinstance(args, dict)
        args["Collective name"] = "all_to_allv"
    (one,) = skew_of(tmp_path, ranks).matched
    assert (one.name, one.nbytes, one.is_whole) == ("all_to_all", 64, True)


@pytest.mark.parametrize(
    ("name", "per_byte"),
    [
        ("all_reduce", 2 * 7 / 8),
        ("all_gather", 7 / 8),
        ("reduce_scatter", 7 / 8),
        ("all_to_all", 7 / 8),
        ("broadcast", 1.0),
        ("reduce", 1.0),
    ],
)
def test_bus_bytes_are_those_of_nccl_tests(name: str, per_byte: float) -> None:
    assert bus_bytes(name, 1 << 20, 8) == per_byte * (1 << 20)


def test_a_name_without_a_definition_has_no_bandwidth() -> None:
    assert bus_bytes("barrier", 8, 8) is None


def test_a_recording_of_one_rank_of_two(shared_data: Path) -> None:
    """The sizes stand in the recording; what rank 1 did is not there, so nobody waited."""
    skew = match_collectives(trace([shared_data / "kineto" / "nccl_collectives.json.gz"]).ranks)
    assert len(skew.matched) == 21
    assert skew.waits == ()
    largest = max(skew.matched, key=lambda one: one.nbytes or 0)
    assert (largest.name, largest.size, largest.is_whole) == ("all_reduce", 2, False)
    assert {one.group for one in skew.matched} == {"0"}


def test_sizes_are_read_from_the_operator_where_the_kernel_has_none(
    shared_data: Path,
) -> None:
    skew = match_collectives(
        trace([shared_data / "kineto" / "mi300_resnet_training.json.gz"]).ranks
    )
    reduces = [one for one in skew.matched if one.name == "all_reduce"]
    assert {one.size for one in reduces} == {8}
    assert 2 * 2_873_320 in {one.nbytes for one in reduces}
