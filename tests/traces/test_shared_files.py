"""Every shared recording opens, and answers in the terminal, as JSON and as a page."""

import io
import json
from pathlib import Path

import pytest

from ridgeline.report.trace import print_trace
from ridgeline.report.trace_html import trace_page
from ridgeline.report.trace_operands import print_operands
from ridgeline.report.trace_ranks import print_ranks
from ridgeline.report.trace_record import trace_json
from ridgeline.traces.trace import trace

FILES = {
    "kineto": (
        "alexnet.json.gz", "amd_mi250_training.json.gz", "b200_moe_inference.json.gz",
        "h100_bert_small.json.gz", "h100_qwen_0.5b.json.gz", "mi300_resnet_training.json.gz",
        "mtia_single_rank.json.gz", "nccl_collectives.json.gz", "sampled_rank_0.json.gz",
        "training_step_a.json.gz", "training_step_b.json.gz", "triton_kernels.json.gz",
        "vllm_cuda_graph_execution.json.gz",
    ),
    "nsys": (
        "h100_2gpu_1s.sqlite.gz", "mfu_2gpu_after.sqlite.gz", "mfu_2gpu_before.sqlite.gz",
    ),
    "xplane": ("jax_conv_mi300.xplane.pb",),
}  # fmt: skip
NAMES = [f"{folder}/{name}" for folder, names in FILES.items() for name in names]
_MEGABYTE = 1_000_000


def test_none_is_left_out(shared_data: Path) -> None:
    there = {
        f"{folder}/{path.name}" for folder in FILES for path in (shared_data / folder).iterdir()
    }
    assert there == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_it_answers_in_every_form(name: str, shared_data: Path) -> None:
    found = trace([shared_data / name])
    text = io.StringIO()
    print_trace(text, found, top=5)
    print_ranks(text, found, top=5)
    print_operands(text, found, top=5)
    assert "idle" in text.getvalue()
    assert "\x1b" not in text.getvalue()
    record = json.loads(trace_json(found))
    assert len(record["ranks"]) == len(found.ranks)
    for rank in record["ranks"]:
        parts = ("idle_ns", "compute_ns", "exposed_communication_ns", "memory_ns")
        assert sum(rank[part] for part in parts) == rank["span_ns"] > 0
        assert sum(cause["idle_ns"] for cause in rank["idle_causes"]) == rank["idle_ns"]
    page = trace_page(found)
    assert len(page.encode()) < _MEGABYTE
    assert "http://" not in page.replace("http://www.w3.org/", "")
    assert "https://" not in page
