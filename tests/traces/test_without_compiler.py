"""Where there was no compiler: the same answers, to the last number."""

import json
from pathlib import Path

import pytest
from recordings import call, frame, op, training, write

from ridgeline.native import replay, scan
from ridgeline.report.trace_record import trace_json
from ridgeline.traces.trace import trace


@pytest.mark.skipif(not scan.has_scanner(), reason="the scanner was not built")
def test_the_answers_are_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    events = [
        *training(num_steps=4),
        call("cudaStreamSynchronize", 55, 40, 77),
        frame("nn.Module: Linear_0", 0, 30),
        op("aten::relu", 300, 9, Input_Dims=[[3]], Input_type=["float"]),
    ]
    path = write(tmp_path / "a.json.gz", events, distributedInfo={"rank": 0})
    built = json.loads(trace_json(trace([path])))
    monkeypatch.setattr(scan, "_library", lambda: None)
    monkeypatch.setattr(replay, "_library", lambda: None)
    assert not scan.has_scanner()
    assert json.loads(trace_json(trace([path]))) == built
