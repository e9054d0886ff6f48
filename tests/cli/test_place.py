"""`ridgeline place`: what it prints, as text, JSON and a page; bad fleets as one sentence."""

import json
from pathlib import Path

import pytest

from ridgeline.cli.main import run

FLEET = """
[[devices]]
name = "cpu"
machine = "cpu-epyc-9654"
[[devices]]
name = "<b>gpu"
machine = "l4"
[[links]]
between = ["cpu", "<b>gpu"]
bandwidth_bytes_per_s = 25e9
latency_s = 1e-5
source = "PCIe 4.0 x16"
"""
Captured = pytest.CaptureFixture[str]


@pytest.fixture
def fleet(tmp_path: Path) -> str:
    path = tmp_path / "fleet.toml"
    path.write_text(FLEET)
    return str(path)


def test_two_paths_run_on_two_devices(fleet: str, capsys: Captured) -> None:
    assert run(["place", "zoo:bcnn", "--fleet", fleet, "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert set(answer["nodes"].values()) == {"cpu", "<b>gpu"}
    assert answer["makespan_s"] < min(answer["single_s"].values())
    assert answer["makespan_s"] <= answer["heft_s"]
    last = max(stage["end_s"] for stage in answer["stages"])
    assert last <= answer["makespan_s"]
    assert sum(len(s["nodes"]) for s in answer["stages"]) == len(answer["nodes"])


def test_terminal_and_page_lead_with_the_verdict(
    fleet: str, tmp_path: Path, capsys: Captured
) -> None:
    page = tmp_path / "place.html"
    assert run(["place", "zoo:deepadipose", "--fleet", fleet, "--html", str(page)]) == 0
    first = capsys.readouterr().out.splitlines()[0]
    assert first.startswith("deepadipose takes ")
    text = page.read_text()
    assert "Timeline" in text
    assert "<b>gpu" not in text
    assert "&lt;b&gt;gpu" in text
    assert len(text) < 1_000_000


def test_a_missing_fleet_is_one_sentence(tmp_path: Path, capsys: Captured) -> None:
    assert run(["place", "zoo:bcnn", "--fleet", str(tmp_path / "none.toml")]) == 2
    assert capsys.readouterr().err.startswith("ridgeline: cannot read ")
