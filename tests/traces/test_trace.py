"""Many recordings: found in folders, put in order of rank, refused where they contradict."""

import json
from pathlib import Path

import pytest
from recordings import training, write

from ridgeline.errors import TraceError
from ridgeline.traces import trace as module
from ridgeline.traces.trace import trace


def folder_of(folder: Path, ranks: int, suffix: str = ".json") -> Path:
    folder.mkdir()
    for rank in range(ranks):
        info = {"rank": rank, "world_size": ranks}
        write(folder / f"w{ranks - rank}{suffix}", training(rank), distributedInfo=info)
    return folder


def test_a_folder_is_one_file_per_rank(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "run", 3, ".json.gz")
    (folder / "notes.txt").write_text("not a recording")
    found = trace([folder])
    assert [rank.rank for rank in found.ranks] == [0, 1, 2]
    assert [rank.split.memcpy_ns for rank in found.ranks] == [90_000, 93_000, 96_000]


def test_processes_give_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = folder_of(tmp_path / "run", 3)
    alone = trace([folder])
    monkeypatch.setattr(module, "_WORTH_A_PROCESS_BYTES", 1)
    monkeypatch.setattr(module, "num_logical_cores", lambda: 2)
    assert trace([folder]) == alone


def test_progress_of_a_long_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_LONG_READ_BYTES", 1)
    told: list[tuple[str, float]] = []
    trace([folder_of(tmp_path / "run", 2)], progress=lambda *stage: told.append(stage))
    assert told[0][0].startswith("reading 2 files, ")
    assert [fraction for _, fraction in told] == pytest.approx([0, 0.5, 1], abs=0.01)


def test_two_recordings_of_one_rank_are_refused(tmp_path: Path) -> None:
    for name in "ab":
        write(tmp_path / f"{name}.json", training(), distributedInfo={"rank": 4})
    with pytest.raises(TraceError, match=r"a\.json and .*b\.json are both of rank 4"):
        trace([tmp_path])


def test_ranks_that_no_file_names_are_counted(tmp_path: Path) -> None:
    for name in "ab":
        write(tmp_path / f"{name}.json", training())
    found = trace([tmp_path])
    assert [rank.rank for rank in found.ranks] == [0, 1]
    assert "counted in the order of their names" in found.ranks[1].notes[-1]


def test_one_recording_needs_no_rank(tmp_path: Path) -> None:
    (rank,) = trace([write(tmp_path / "a.json", training())]).ranks
    assert (rank.rank, rank.notes) == (None, ())


def test_stacks_left_out_are_said(tmp_path: Path) -> None:
    frame = {"ph": "X", "cat": "python_function", "name": "a.py(1): f", "ts": 0, "dur": 1}
    path = write(tmp_path / "a.json", [*training(), frame])
    (rank,) = trace([path], has_stacks=False).ranks
    assert rank.notes == ("1 call of Python functions left out.",)


@pytest.mark.parametrize("content", [b"", b"\x00" * 40, json.dumps({"a": 1}).encode()])
def test_a_bad_file_among_good_ones_is_named(tmp_path: Path, content: bytes) -> None:
    folder = folder_of(tmp_path / "run", 2)
    (folder / "bad.json").write_bytes(content)
    with pytest.raises(TraceError, match=r"bad\.json"):
        trace([folder])


def test_nothing_to_read(tmp_path: Path) -> None:
    with pytest.raises(TraceError, match="holds no recording"):
        trace([tmp_path])
    with pytest.raises(TraceError, match="cannot read"):
        trace([tmp_path / "none.json"])
    with pytest.raises(TraceError, match="name a recording"):
        trace([])
