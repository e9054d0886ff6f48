"""DCGM joined to a recording: what was sampled in a step comes out beside that step."""

import json
from pathlib import Path

import pytest
from dcgm_logs import Log, dmon
from recordings import BASE_NS, Event, call, kernel, step, write

from ridgeline.cli.main import run

Captured = pytest.CaptureFixture[str]
GEMM = "nvjet_tst_128x128_64x6_2x1_v_bz_TNT"
FIRST = [(0.25, 0.5), (0.75, 0.5), (0.5, 1.0), (0.25, 0.0)]  # tensor_active, dram_active


@pytest.fixture
def recording(tmp_path: Path) -> str:
    """Two steps of two seconds, each with a product that takes one second of it."""
    events: list[Event] = []
    for number in range(2):
        at_us = 2e6 * number
        events += [
            step(number, at_us, 1.9e6),
            call("cudaLaunchKernel", at_us + 1, 5, 2 * number + 1),
            kernel(GEMM, at_us + 10, 1e6, 2 * number + 1),
            call("cudaLaunchKernel", at_us + 20, 5, 2 * number + 2),
            kernel("at::native::vectorized_elementwise_kernel", at_us + 1_999_990, 10,
                   2 * number + 2),
        ]  # fmt: skip
    return str(write(tmp_path / "rank-0.json", events, distributedInfo={"rank": 0}))


@pytest.fixture
def log(tmp_path: Path) -> str:
    sweeps = tuple(
        {
            ("GPU 0", "TENSO"): tensor,
            ("GPU 0", "DRAMA"): dram,
            ("GPU 1", "TENSO"): 0.9,
            ("GPU 1", "DRAMA"): 0.9,
        }
        for tensor, dram in FIRST
    )
    path = tmp_path / "dmon.txt"
    path.write_text(dmon(Log(entities=("GPU 0", "GPU 1"), heads=("TENSO", "DRAMA"), sweeps=sweeps)))
    return str(path)


def test_every_step_gets_its_averages(recording: str, log: str, capsys: Captured) -> None:
    start = str(BASE_NS * 1e-9 + 1)  # each sample is of the second that ends then
    assert run(["trace", recording, "--dcgm", log, "--dcgm-start", start, "--json"]) == 0
    (rank,) = json.loads(capsys.readouterr().out)["dcgm"]
    means = [found["means"] for found in rank["steps"]]
    assert [m["tensor_active"] for m in means] == pytest.approx([0.5, 0.375], abs=1e-4)
    assert [m["dram_active"] for m in means] == pytest.approx([0.5, 0.5], abs=1e-4)
    assert {found["device"] for found in rank["steps"]} == {"GPU 0"}
    assert rank["tensor_core_share"] == pytest.approx(0.5, abs=1e-4)


def test_the_table_has_every_step(recording: str, log: str, capsys: Captured) -> None:
    start = str(BASE_NS * 1e-9 + 1)
    assert run(["trace", recording, "--dcgm", log, "--dcgm-start", start]) == 0
    text = capsys.readouterr().out
    assert "Sampled by DCGM" in text
    assert "ProfilerStep#1" in text[text.index("Sampled by DCGM") :]
    assert "by their names of rank 0: 50% of the span." in text


@pytest.mark.parametrize(
    ("options", "sentence"),
    [([], "say when its first sample was taken"), (["--dcgm-start", "5"], "has no sample of the")],
)
def test_what_cannot_be_joined_is_said(
    recording: str, log: str, options: list[str], sentence: str, capsys: Captured
) -> None:
    assert run(["trace", recording, "--dcgm", log, *options]) == 2
    assert sentence in capsys.readouterr().err
