"""Counters beside names: Nsight's metrics per step, and where the two cannot both be right."""

import json
from pathlib import Path

import pytest
from nsys_exports import Export

from ridgeline.cli.main import run
from ridgeline.traces.sampled import doubt

Captured = pytest.CaptureFixture[str]
GEMM, OTHER = "nvjet_tst_128x128_64x6_2x1_v_bz_TNT", "vectorized_elementwise_kernel"
STEP_NS = 10_000_000


def _export(active: tuple[int, int]) -> Export:
    """Two steps of 10 ms; a product takes 8 ms of the first and 2 ms of the second. active: the
    tensor pipes' percentages in them, sampled every ms.
    """
    export = Export()
    for step, busy_ns in enumerate((8_000_000, 2_000_000)):
        at = 1_000_000 + step * STEP_NS
        export.nvtx(f"ProfilerStep#{step}", at - 1000, at + STEP_NS - 2000, 10)
        for number, (name, length) in enumerate(((GEMM, busy_ns), (OTHER, STEP_NS - busy_ns))):
            correlation = 1 + 2 * step + number
            export.call("cudaLaunchKernel", at - 900 + number, at - 800, 10, correlation)
            start = at + number * busy_ns
            export.kernel(name, start, start + length, 0, 10, correlationId=correlation)
        for sample in range(1, 11):
            time = at + sample * 1_000_000
            export.add("GPU_METRICS", timestamp=time, typeId=0x100, value=active[step])
            export.add("GPU_METRICS", timestamp=time, typeId=0x101, value=99)
    name = {"metricName": "Tensor Active [Throughput %]", "typeName": "GPU"}
    for kind in (0x100, 0x101):
        export.add("TARGET_INFO_GPU_METRICS", typeId=kind, **name)
    return export


def test_metrics_stand_beside_each_step(tmp_path: Path, capsys: Captured) -> None:
    path = str(_export((40, 10)).write(tmp_path / "a.sqlite"))
    assert run(["trace", path, "--json"]) == 0
    (rank,) = json.loads(capsys.readouterr().out)["gpu_metrics"]
    assert [step["means"]["tensor_active"] for step in rank["steps"]] == pytest.approx([0.4, 0.1])
    assert [step["tensor_core_share"] for step in rank["steps"]] == pytest.approx([0.8, 0.2])
    assert [step["covered_share"] for step in rank["steps"]] == pytest.approx([1, 1])
    assert [step["device"] for step in rank["steps"]] == ["GPU 0"] * 2
    assert [step["doubt"] for step in rank["steps"]] == ["", ""]


def test_a_contradiction_is_said(tmp_path: Path, capsys: Captured) -> None:
    path = str(_export((0, 90)).write(tmp_path / "a.sqlite"))
    assert run(["trace", path]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "Sampled by Nsight Systems" in text
    assert "In ProfilerStep#0 of rank 0 kernels that run on tensor cores by their names" in text
    assert "In ProfilerStep#1 of rank 0 tensor pipes were active 90% of the time" in text


def test_a_recording_without_metrics_has_none(tmp_path: Path, capsys: Captured) -> None:
    export = Export()
    export.kernel(GEMM, 0, 10, 0, 10)
    assert run(["trace", str(export.write(tmp_path / "a.sqlite")), "--json"]) == 0
    assert "gpu_metrics" not in json.loads(capsys.readouterr().out)


@pytest.mark.parametrize(
    ("by_name", "counted", "is_doubted"),
    [(0.8, 0.4, False), (0.8, 0.85, False), (0.3, 0.5, True), (0.8, 0.01, True), (0.05, 0, False)],
)
def test_what_is_far_apart(by_name: float, counted: float, is_doubted: bool) -> None:
    assert bool(doubt(by_name, counted)) == is_doubted
