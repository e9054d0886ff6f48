"""`ridgeline trace`: what it prints, as text and as JSON; bad files as one sentence."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from recordings import training, write

from ridgeline.cli.main import run

Captured = pytest.CaptureFixture[str]


@pytest.fixture
def recording(tmp_path: Path) -> str:
    info = {"rank": 0, "world_size": 1}
    return str(write(tmp_path / "run.json.gz", training(num_steps=3), distributedInfo=info))


def test_the_report_leads_with_the_verdict(recording: str, capsys: Captured) -> None:
    assert run(["trace", recording, "--top", "2"]) == 0
    text = capsys.readouterr().out
    assert text.splitlines()[0] == (
        "540 µs: device busy 67%, compute 39%, exposed communication 11%; "
        "idle 33% (host-bound launch 100%)."
    )
    for part in ("NVIDIA H100 80GB HBM3", "ProfilerStep#2", "sgemm_128x64_nn", "aten::mm"):
        assert part in text
    for title in ("By step", "Kernels, copies and fills", "Launches", "Idle, by cause"):
        assert title in text
    assert "2 more" in text


def test_json_has_the_keys_that_scripts_use(recording: str, capsys: Captured) -> None:
    assert run(["trace", recording, "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    (rank,) = answer["ranks"]
    expected = {
        "rank": 0,
        "span_ns": 540_000,
        "idle_ns": 180_000,
        "compute_ns": 210_000,
        "exposed_communication_ns": 60_000,
        "memory_ns": 90_000,
        "communication_ns": 120_000,
        "overlap_ns": 60_000,
    }
    assert {key: rank[key] for key in expected} == expected
    assert [cause["idle_ns"] for cause in answer["idle_causes"]] == [180_000]
    assert answer["kernels"][0]["name"] == "sgemm_128x64_nn"
    assert [gap["duration_ns"] for gap in answer["gaps"]] == [60_000, 60_000, 20_000] + [20_000] * 2


def test_several_ranks_are_told_apart(recording: str, tmp_path: Path, capsys: Captured) -> None:
    other = write(tmp_path / "b.json", training(rank=9), distributedInfo={"rank": 1})
    assert run(["trace", recording, str(other)]) == 0
    text = capsys.readouterr().out
    assert text.startswith("2 ranks, the longest 549 µs: ")
    assert "Rank 1: by step" in text


@pytest.mark.parametrize(
    ("content", "sentence"),
    [(b"", "is empty."), (b"\x00\x01", "is no trace"), (b'{"a":1}', "has no traceEvents")],
)
def test_a_bad_file_is_one_sentence(
    tmp_path: Path, capsys: Captured, content: bytes, sentence: str
) -> None:
    path = tmp_path / "bad.json"
    path.write_bytes(content)
    assert run(["trace", str(path)]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("ridgeline: ")
    assert sentence in captured.err
    assert len(captured.err.splitlines()) == 1


def test_a_partial_answer_is_stated(recording: str, tmp_path: Path, capsys: Captured) -> None:
    import gzip

    whole = gzip.decompress(Path(recording).read_bytes())
    path = tmp_path / "cut.json"
    path.write_bytes(whole[: len(whole) * 3 // 4])
    assert run(["trace", str(path)]) == 0
    assert "the file is cut off at byte" in capsys.readouterr().out


def test_it_does_not_load_torch(recording: str) -> None:
    code = (
        "import sys; from ridgeline.cli.main import run; "
        f"assert run(['trace', {recording!r}]) == 0; assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_the_page_and_the_file_for_perfetto_are_written(
    recording: str, tmp_path: Path, capsys: Captured
) -> None:
    import gzip

    page, gaps = tmp_path / "report.html", tmp_path / "gaps.json.gz"
    assert run(["trace", recording, "--html", str(page), "--perfetto", str(gaps)]) == 0
    assert page.read_text().startswith("<!doctype html>")
    events = json.loads(gzip.decompress(gaps.read_bytes()))["traceEvents"]
    assert sum(event.get("cat") == "idle" for event in events) == 5
    assert f"report: {page}" in capsys.readouterr().err


def test_a_folder_that_is_missing_is_told_before_reading(
    recording: str, tmp_path: Path, capsys: Captured
) -> None:
    assert run(["trace", recording, "--html", str(tmp_path / "no" / "a.html")]) == 2
    assert "there is no folder" in capsys.readouterr().err


@pytest.fixture
def slower(tmp_path: Path) -> str:
    return str(write(tmp_path / "slow.json", training(rank=20), distributedInfo={"rank": 0}))


def test_diff_says_what_became_slower(recording: str, slower: str, capsys: Captured) -> None:
    assert run(["trace", "diff", recording, slower, "--fail-if", "slower=5%"]) == 0
    text = capsys.readouterr().out
    assert text.splitlines()[0] == ("3.7% slower: 540 µs before, 560 µs after; memory +60.0 µs.")
    for part in ("From before to after", "idle: host-bound launch", "aten::mm"):
        assert part in text


def test_diff_writes_a_page(recording: str, slower: str, tmp_path: Path, capsys: Captured) -> None:
    page = tmp_path / "change.html"
    assert run(["trace", "diff", recording, slower, "--html", str(page)]) == 0
    assert "3.7% slower: 540 µs before, 560 µs after" in page.read_text(encoding="utf-8")
    assert f"report: {page}" in capsys.readouterr().err
    assert run(["trace", "diff", recording, slower, "--html", str(tmp_path / "no" / "a.html")]) == 2


def test_diff_fails_where_it_is_slower_than_allowed(
    recording: str, slower: str, capsys: Captured
) -> None:
    assert run(["trace", "diff", recording, slower, "--fail-if", "slower=3%", "--json"]) == 1
    captured = capsys.readouterr()
    answer = json.loads(captured.out)
    assert (answer["before_ns"], answer["after_ns"]) == (540_000, 560_000)
    assert sum(part["change_ns"] for part in answer["categories"]) == 20_000
    assert captured.err == "ridgeline: 3.7% slower, more than slower=3% allows.\n"
    assert run(["trace", "diff", slower, recording, "--fail-if", "slower=0%"]) == 0


def test_a_limit_that_is_none_is_one_sentence(recording: str, capsys: Captured) -> None:
    assert run(["trace", "diff", recording, recording, "--fail-if", "3%"]) == 2
    assert "write it as slower=3%" in capsys.readouterr().err
