"""Bins add up to what the split says, however many there are; paths to the device's time."""

from pathlib import Path

import pytest
from recordings import call, frame, kernel, op, training, write

from ridgeline.traces.idle import Cause
from ridgeline.traces.kineto import read_kineto
from ridgeline.traces.rank import RankTrace, analyse


def analysed(folder: Path, events: list[dict[str, object]]) -> RankTrace:
    return analyse(read_kineto(write(folder / "a.json", events), keeps_python=True))


@pytest.mark.parametrize("most", [480, 100, 7, 1])
def test_bins_add_up_to_the_split(tmp_path: Path, most: int) -> None:
    rank = analysed(tmp_path, training(num_steps=3))
    line = rank.timeline.coarser(most)
    assert len(line) <= most
    assert (line.edges_ns[0], line.edges_ns[-1]) == (0, rank.split.span_ns)
    assert sum(line.compute_ns) == rank.split.compute_ns
    assert sum(line.communication_ns) == rank.split.communication_ns
    assert sum(line.memory_ns) == rank.split.memcpy_ns
    assert {cause: sum(lane) for cause, lane in line.idle_ns.items()} == {Cause.HOST: 180_000}
    for i, (low, high) in enumerate(zip(line.edges_ns, line.edges_ns[1:], strict=False)):
        assert 0 <= line.compute_ns[i] <= high - low


def test_a_span_shorter_than_the_bins_has_one_per_nanosecond(tmp_path: Path) -> None:
    rank = analysed(tmp_path, [kernel("k", 10, 0.003)])
    assert rank.timeline.compute_ns == (1, 1, 1)


def test_a_gap_is_in_the_bins_where_it_lies(tmp_path: Path) -> None:
    calls = [call("cudaLaunchKernel", 0, 5, 1), call("cudaLaunchKernel", 140, 5, 2)]
    rank = analysed(tmp_path, [*calls, kernel("a", 10, 48, 1), kernel("b", 106, 144, 2)])
    line = rank.timeline.coarser(5)
    assert line.edges_ns == (0, 48_000, 96_000, 144_000, 192_000, 240_000)
    assert line.idle_ns == {Cause.HOST: (0, 48_000, 0, 0, 0)}
    assert line.compute_ns == (48_000, 0, 48_000, 48_000, 48_000)


def test_paths_name_module_operator_and_kernel(tmp_path: Path) -> None:
    events = [
        frame("nn.Module: Linear_0", 0, 20),
        op("aten::addmm", 1, 10),
        call("cudaLaunchKernel", 2, 3, 1),
        op("aten::relu", 30, 10),
        call("cudaLaunchKernel", 31, 3, 2),
        call("cudaLaunchKernel", 35, 3, 3),
    ]
    runs = [kernel("gemm", 50, 40, 1), kernel("relu", 90, 10, 2), kernel("relu", 100, 10, 3)]
    found = analysed(tmp_path, [*events, *runs]).paths
    assert [(p.module, p.op, p.kernel, p.count, p.total_ns) for p in found] == [
        ("Linear_0", "aten::addmm", "gemm", 1, 40_000),
        ("", "aten::relu", "relu", 2, 20_000),
    ]
