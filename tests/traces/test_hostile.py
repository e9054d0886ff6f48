"""Whatever a file holds: an answer, a partial answer that says so, or one sentence."""

import gzip
import io
import json
import random
from pathlib import Path

import pytest
from recordings import (
    Event,
    call,
    document,
    fill,
    frame,
    kernel,
    mutations,
    op,
    step,
    training,
    write,
)

from ridgeline.errors import TraceError
from ridgeline.report.trace import print_trace
from ridgeline.report.trace_record import trace_json
from ridgeline.traces import files
from ridgeline.traces.trace import Trace, trace

EVENTS = [
    *training(num_steps=2),
    call("cudaStreamSynchronize", 55, 40, 77),
    call("cudaMalloc", 170, 10, 78),
    frame("train.py(3): f", 0, 600),
    frame("nn.Module: Linear_0", 0, 30),
    op("enumerate(DataLoader)#x", 150, 20),
    fill(300, 4),
]


def answer(path: Path) -> Trace | None:
    """The whole way to both reports; None where it ended in a sentence."""
    try:
        found = trace([path])
    except TraceError:
        return None
    print_trace(io.StringIO(), found, top=5)
    json.loads(trace_json(found))
    return found


def test_damaged_files_get_an_answer_or_a_sentence(tmp_path: Path) -> None:
    text = json.dumps(document(EVENTS, distributedInfo={"rank": 0})).encode()
    path = tmp_path / "a.json"
    ends = {"whole": 0, "partial": 0, "sentence": 0}
    for damaged in mutations(text, 120):
        path.write_bytes(damaged)
        found = answer(path)
        kind = "sentence" if found is None else "partial" if found.ranks[0].notes else "whole"
        ends[kind] += 1
    assert all(ends.values()), ends


def test_numbers_that_mean_nothing_get_an_answer_or_a_sentence(tmp_path: Path) -> None:
    rng = random.Random(3)
    values: list[object] = [-1, 0, 2**31, 2**53, 2**63, 1e300, -0.5, None, "x", [], {}, True]
    for _ in range(80):
        events: list[Event] = [dict(event) for event in EVENTS]
        for _ in range(6):
            event = rng.choice(events)
            args = dict(event["args"]) if isinstance(event.get("args"), dict) else {}
            key = rng.choice(["ts", "dur", "pid", "tid", "name", "cat", "correlation", "stream"])
            (event if key in event else args)[key] = rng.choice(values)
            event["args"] = args
        answer(write(tmp_path / "a.json", events, distributedInfo={"rank": rng.choice(values)}))


def test_steps_in_which_nothing_was_launched(tmp_path: Path) -> None:
    events = [step(1, 500, 10), call("cudaLaunchKernel", 0, 1, 1), kernel("k", 5, 10, 1)]
    found = answer(write(tmp_path / "a.json", events))
    assert found is not None
    assert found.ranks[0].steps == ()


def test_what_inflates_beyond_memory_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "bomb.json.gz"
    path.write_bytes(gzip.compress(b"[" + b" " * 50_000_000))
    monkeypatch.setattr(files, "free_memory_bytes", lambda: 10_000_000)
    with pytest.raises(TraceError, match=r"inflates to more than half of the 9\.54 MiB of memory"):
        trace([path])


def test_names_of_others_cannot_drive_the_terminal(tmp_path: Path) -> None:
    found = answer(write(tmp_path / "a.json", [kernel("evil\x1b[2J[bold]", 5, 10)]))
    assert found is not None
    stream = io.StringIO()
    print_trace(stream, found, top=5)
    assert "\x1b" not in stream.getvalue()
    assert "evil\\x1b[2J[bold]" in stream.getvalue()
