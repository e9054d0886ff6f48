"""Published recordings, and numbers of them that two independent tools agree on.

HolisticTraceAnalysis (with its last step included) and TraceLens print them to these digits. Both
floor times: what they print of recordings with fractions of microseconds is compared as exact.
"""

from collections.abc import Callable
from pathlib import Path

import pytest

from ridgeline.traces.kineto import read_kineto
from ridgeline.traces.rank import RankTrace, analyse
from ridgeline.traces.trace import trace

RECORDINGS = {  # file -> events in it, events on a device
    "alexnet": (1_408, 98),
    "amd_mi250_training": (220, 16),
    "b200_moe_inference": (24_656, 929),
    "h100_bert_small": (2_551, 61),
    "h100_qwen_0.5b": (18_221, 1_707),
    "mi300_resnet_training": (56_451, 3_653),
    "mtia_single_rank": (455_739, 25_814),
    "nccl_collectives": (40_573, 3_774),
    "sampled_rank_0": (4_855, 1_204),
    "training_step_a": (109_123, 9_450),
    "training_step_b": (105_167, 15_632),
    "triton_kernels": (71, 1),
    "vllm_cuda_graph_execution": (19_289, 423),
}
Analysed = Callable[[str], RankTrace]


@pytest.fixture(scope="module")
def analysed(shared_data: Path) -> Analysed:
    known: dict[str, RankTrace] = {}

    def get(name: str) -> RankTrace:
        path = shared_data / "kineto" / f"{name}.json.gz"
        if name not in known:
            known[name] = analyse(read_kineto(path, keeps_python=True))
        return known[name]

    return get


def test_no_recording_is_left_out(shared_data: Path) -> None:
    names = {p.name.partition(".json")[0] for p in (shared_data / "kineto").glob("*.json.gz")}
    assert names == set(RECORDINGS)


@pytest.mark.parametrize("name", RECORDINGS)
def test_every_recording_is_whole_and_adds_up(analysed: Analysed, name: str) -> None:
    found = analysed(name)
    num_events, num_on_device = RECORDINGS[name]
    assert found.num_recorded == num_events
    assert found.notes == ()
    assert sum(use.count for use in found.kernels) == num_on_device
    assert sum(use.share for use in found.kernels) == pytest.approx(1)
    assert sum(cause.idle_ns for cause in found.idle_causes) == found.split.idle_ns


def test_training_step_a(analysed: Analysed) -> None:
    found = analysed("training_step_a")
    split = found.split
    assert (found.rank, found.world_size) == (3, 8)
    assert split.span_ns == 464_594_000
    assert round(100 * split.idle_ns / split.span_ns, 2) == 16.36
    assert round(100 * split.compute_ns / split.span_ns, 2) == 60.56
    assert split.overlap_share is not None
    assert round(100 * split.overlap_share, 2) == 46.24
    assert [step.name for step in found.steps] == [f"ProfilerStep#{n}" for n in range(1009, 1015)]


def test_nccl_collectives(analysed: Analysed) -> None:
    found = analysed("nccl_collectives")
    split = found.split
    in_ms = {
        "span_ns": 660.551,
        "busy_ns": 157.500,
        "exposed_communication_ns": 39.529,
        "exposed_memcpy_ns": 1.924,
        "communication_ns": 46.876,
        "memcpy_ns": 2.263,
    }
    assert {name: round(getattr(split, name) / 1e6, 3) for name in in_ms} == in_ms
    assert round(100 * split.idle_ns / split.span_ns, 2) == 76.16
    assert round(100 * split.compute_ns / split.span_ns, 2) == 17.51
    assert split.overlap_share is not None
    assert round(100 * split.overlap_share, 2) == 15.61


def test_steps_follow_each_other_to_the_end(analysed: Analysed) -> None:
    found = analysed("nccl_collectives")
    ends = [step.split.start_ns + step.split.span_ns for step in found.steps]
    starts = [step.split.start_ns for step in found.steps]
    assert starts[1:] == ends[:-1]
    assert ends[-1] == found.split.start_ns + found.split.span_ns


def test_kernels_are_joined_with_operator_shapes_and_module(analysed: Analysed) -> None:
    (product,) = (use for use in analysed("h100_bert_small").kernels if use.count == 17)
    assert product.op == "aten::addmm"
    assert product.shapes == "[512] [141, 512] [512, 512]"
    assert product.module.startswith("Linear_")
    lines = [gap.line for gap in analysed("b200_moe_inference").gaps]
    assert any(line.startswith("vllm/") for line in lines)


def test_kernels_of_one_graph_launch_belong_to_it(analysed: Analysed) -> None:
    found = analysed("vllm_cuda_graph_execution")
    assert found.launches is not None
    assert found.launches.num_unknown == 0
    assert {cause.cause.name for cause in found.idle_causes} >= {"GRAPH", "LATENCY"}


def test_allocation_is_found_as_the_cause(analysed: Analysed) -> None:
    (first, *_) = analysed("alexnet").gaps
    assert (first.cause.name, first.call) == ("ALLOCATOR", "cudaFree")


def test_files_become_ranks(shared_data: Path) -> None:
    folder = shared_data / "kineto"
    found = trace([folder / "training_step_a.json.gz", folder / "training_step_b.json.gz"])
    assert [rank.rank for rank in found.ranks] == [1, 3]
