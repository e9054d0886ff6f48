"""What is written for Perfetto is JSON, reads back as the same recording, and has every gap."""

import json
from pathlib import Path

from recordings import BASE_NS, training, write

from ridgeline.traces.kineto import read_kineto
from ridgeline.traces.perfetto import perfetto_document
from ridgeline.traces.rank import analyse


def events_of(paths: list[Path]) -> list[dict[str, object]]:
    recordings = (read_kineto(path, keeps_python=True) for path in paths)
    document = json.loads("".join(perfetto_document(recordings)))
    events: list[dict[str, object]] = document["traceEvents"]
    return events


def test_every_gap_is_there_with_its_cause(tmp_path: Path) -> None:
    path = write(tmp_path / "a.json", training(num_steps=3))
    gaps = [e for e in events_of([path]) if e.get("cat") == "idle"]
    rank = analyse(read_kineto(path))
    assert [(g["name"], g["dur"]) for g in gaps] == [("host-bound launch", d) for d in
        (20, 60, 20, 60, 20)]  # fmt: skip
    assert sum(g["dur"] for g in gaps) * 1000 == rank.split.idle_ns  # type: ignore[misc]
    assert gaps[0]["args"]["until"] == "Memcpy HtoD (Pinned -> Device)"  # type: ignore[index]
    assert gaps[0]["args"]["call"] == "cudaMemcpyAsync"  # type: ignore[index]


def test_it_reads_back_as_the_same(tmp_path: Path) -> None:
    path = write(tmp_path / "a.json", training(num_steps=3))
    again = tmp_path / "b.json"
    again.write_text("".join(perfetto_document(iter([read_kineto(path)]))))
    first, second = (analyse(read_kineto(p)) for p in (path, again))
    assert first.split == second.split
    assert first.idle_causes == second.idle_causes
    assert [(u.name, u.total_ns) for u in first.kernels] == [
        (u.name, u.total_ns) for u in second.kernels
    ]


def test_ranks_stand_apart_on_one_clock(tmp_path: Path) -> None:
    late = {"baseTimeNanoseconds": BASE_NS + 5_000}
    first = write(tmp_path / "a.json", training(), distributedInfo={"rank": 0})
    second = write(tmp_path / "b.json", training(), distributedInfo={"rank": 1}, **late)
    events = events_of([first, second])
    names = {e["pid"]: e["args"]["name"] for e in events if e["name"] == "process_name"}  # type: ignore[index]
    assert names == {1: "rank 0 host", 2: "rank 0 device", 3: "rank 1 host", 4: "rank 1 device"}
    starts = [
        min(e["ts"] for e in events if e["pid"] == pid and e["ph"] == "X")  # type: ignore[type-var]
        for pid in (2, 4)
    ]
    assert starts == [10, 15]


def test_arrows_join_calls_and_kernels(tmp_path: Path) -> None:
    events = events_of([write(tmp_path / "a.json", training(num_steps=2))])
    begins, ends = ([e for e in events if e["ph"] == phase] for phase in "sf")
    assert len(begins) == len(ends) == 8
    assert {e["id"] for e in begins} == {e["id"] for e in ends}
