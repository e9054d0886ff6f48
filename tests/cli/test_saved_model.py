"""`ridgeline run` and `ridgeline bench` on a saved model, and the options of `optimize` before."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from ridgeline.backends.artifact import save
from ridgeline.backends.result import Candidate, Optimized
from ridgeline.cli.main import run
from ridgeline.frontends.torch_export import capture

Captured = pytest.CaptureFixture[str]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A saved model that doubles its input, to be run eagerly."""
    linear = nn.Linear(3, 3, bias=False).eval()
    nn.init.eye_(linear.weight)
    linear.weight.data.mul_(2)
    graph = capture(linear, (torch.randn(2, 3),), name="double")
    best = Candidate(backend="eager", dtype="fp32", time_s=1.0)
    path = tmp_path / "double.ridge"
    result = Optimized(
        graph=graph, passes=(), candidates=(best,), baseline=best, best=best, waterfall=(),
        roofline_s=None, threads=1, machine="this", files={},
    )  # fmt: skip
    save(result, path)
    return path


def test_run_says_what_comes_out(model: Path, tmp_path: Path, capsys: Captured) -> None:
    given, out = tmp_path / "given.npz", tmp_path / "out.npz"
    values = np.arange(6, dtype=np.float32).reshape(2, 3)
    np.savez(given, input=values)
    line = ["run", str(model), "--input", str(given), "--out", str(out), "--threads", "1"]
    assert run(line) == 0
    assert capsys.readouterr().out == "output 0: fp32[2,3] from 0 to 10, mean 5\n"
    with np.load(out) as found:
        assert np.array_equal(found["arr_0"], 2 * values)
    assert run([*line, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["backend"] == "eager"
    assert found["outputs"][0] == {
        "dtype": "fp32", "shape": [2, 3], "smallest": 0.0, "largest": 10.0, "mean": 5.0,
    }  # fmt: skip


def test_run_draws_inputs_where_none_are_given(model: Path, capsys: Captured) -> None:
    assert run(["run", str(model), "--threads", "1"]) == 0
    assert capsys.readouterr().out.startswith("output 0: fp32[2,3] from -")


def test_bench_measures_beside_eager(model: Path, capsys: Captured) -> None:
    line = ["bench", str(model), "--threads", "1", "--repeats", "4"]
    assert run([*line, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert set(found) == {
        "model", "backend", "dtype", "note", "time_s", "spread_s", "samples", "clean_samples",
        "eager_s",
    }  # fmt: skip
    assert found["samples"] == 4
    assert 0 < found["time_s"] < 1
    assert 0 < found["eager_s"] < 1
    assert run(line) == 0
    assert "double runs in " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("run none.ridge", "no file none.ridge"),
        ("bench none.ridge", "no file none.ridge"),
        ("run MODEL --input none.npz", "no file none.npz"),
        ("run MODEL --out nowhere/out.npz", "there is no folder"),
        ("optimize zoo:deepadipose --dtypes fp32,int4", "--dtypes has 'int4'; it takes fp32, "),
        ("optimize zoo:deepadipose --calibrate nowhere", "no folder nowhere; --calibrate takes"),
    ],
)
def test_bad_requests_are_one_sentence(
    line: str, message: str, model: Path, capsys: Captured
) -> None:
    assert run(line.replace("MODEL", str(model)).split()) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("ridgeline: ")
    assert message in error
