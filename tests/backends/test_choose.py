"""The choice: right numbers only, every failure a reason, nothing left behind."""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import fakes
import pytest
import torch
from small_models import MODELS
from torch import Tensor, nn

from ridgeline.backends import choose
from ridgeline.backends.agreement import compare
from ridgeline.backends.artifact import load, save
from ridgeline.backends.backend import Dtype
from ridgeline.backends.choose import Execution, Limits, optimize
from ridgeline.backends.eager import Eager
from ridgeline.backends.measure import Timing
from ridgeline.backends.result import Optimized
from ridgeline.errors import BackendError, GraphError, MissingExtra
from ridgeline.frontends.torch_export import capture
from ridgeline.graph import Graph

QUICK = Limits(compile_s=60.0, turn_s=20.0, patience_s=0.5)


def lstm_graph() -> tuple[Graph, tuple[Tensor, ...]]:
    model, inputs = MODELS["lstm"]()
    return capture(model, inputs), inputs


@pytest.fixture
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that temporary files go to."""
    folder = tmp_path / "scratch"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


@pytest.fixture(scope="module")
def with_fakes() -> Optimized:
    """One run with every fake and the real eager backend."""
    torch.manual_seed(0)
    graph, inputs = lstm_graph()
    kinds = [
        fakes.Wrong,
        fakes.Crashing,
        fakes.Raising,
        fakes.Greedy,
        fakes.Late,
        fakes.Chatty,
        Eager,
    ]

    def predict(graph: Graph, dtype: str, execution: Execution) -> float:
        assert isinstance(graph, Graph)
        return {"eager": 3.0, "compiled": 2.0, "roofline": 1.0}[execution]

    return optimize(
        graph,
        inputs,
        backends=kinds,
        dtypes=["fp32"],
        repeats=4,
        threads=1,
        limits=QUICK,
        predict=predict,
    )


@pytest.mark.parametrize(
    ("backend", "reason"),
    [
        ("wrong", r"outputs differ from the reference: error 0\.01, tolerance 0\.0001"),
        ("crashing", "crashed: SIGSEGV"),
        ("raising", "raising fails to compile Lstm in fp32: KeyError: 'a fault"),
        ("greedy", "MemoryError"),
        ("late", "ended with code 3"),
    ],
)
def test_a_failing_candidate_is_skipped_with_its_reason(
    with_fakes: Optimized, backend: str, reason: str
) -> None:
    (candidate,) = (c for c in with_fakes.candidates if c.backend == backend)
    assert candidate.skipped is not None
    assert re.search(reason, candidate.skipped), candidate.skipped


def test_the_best_is_the_fastest_that_is_right(with_fakes: Optimized) -> None:
    ran = [c for c in with_fakes.candidates if c.skipped is None]
    assert {c.backend for c in ran} == {"chatty", "eager"}
    assert with_fakes.best in ran
    assert with_fakes.best.time_s == min(c.time_s for c in ran if c.time_s is not None)
    for candidate in (*ran, with_fakes.baseline):
        assert candidate.samples >= 4
        assert 0 <= candidate.clean_samples <= candidate.samples
        assert candidate.max_error is not None
        assert candidate.max_error <= 1e-5
        assert candidate.top1 == 1.0


def test_the_waterfall_and_its_json(with_fakes: Optimized) -> None:
    found = json.loads(json.dumps(with_fakes.as_dict(), allow_nan=False))
    assert set(found) == {"best", "candidates", "waterfall", "roofline_s"}
    assert set(found["best"]) == {"backend", "dtype", "time_s"}
    assert set(found["candidates"][0]) == {"backend", "dtype", "time_s", "max_error", "skipped"}
    steps = [(s["step"], s["predicted_s"]) for s in found["waterfall"]]
    assert steps == [
        ("eager", 3.0),
        ("folded", 3.0),
        ("compiled fp32", 2.0),
        ("roofline", 1.0),
    ]
    assert found["roofline_s"] == 1.0
    assert found["waterfall"][-1]["measured_s"] is None


def test_a_hanging_candidate_is_ended_and_nothing_is_left(scratch: Path) -> None:
    graph, inputs = lstm_graph()
    stages: list[str] = []
    result = optimize(
        graph,
        inputs,
        backends=[Eager, fakes.Hanging],
        dtypes=["fp32"],
        repeats=2,
        threads=1,
        limits=Limits(compile_s=25.0, patience_s=0.1),
        progress=lambda stage, fraction: stages.append(stage),
    )
    assert [c.skipped for c in result.candidates] == [None, "timed out"]
    assert list(dict.fromkeys(stages)) == ["passes", "reference", "compile", "measure"]
    assert list(scratch.iterdir()) == []


def test_when_nothing_is_right_every_reason_is_told() -> None:
    graph, inputs = lstm_graph()
    with pytest.raises(
        BackendError, match=r"no backend can run Lstm within tolerance \(wrong fp32"
    ):
        optimize(graph, inputs, backends=[fakes.Wrong], dtypes=["fp32"], repeats=2, limits=QUICK)


def test_bad_requests_are_told_at_once() -> None:
    graph, inputs = lstm_graph()
    with pytest.raises(GraphError, match="takes 1 tensors"):
        optimize(graph, ())
    known = "no backend .xla.; there are eager, native, inductor, aoti"
    with pytest.raises(BackendError, match=known):
        optimize(graph, inputs, backends=["xla"])


class Extra(Eager):
    """Needs what is not installed."""

    name = "needy"
    extra = "needy"
    modules = ("no_such_module",)


def test_a_missing_extra_is_a_reason_unless_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    graph, inputs = lstm_graph()
    monkeypatch.setattr(choose, "BACKENDS", {"eager": Eager, "needy": Extra})
    found = optimize(graph, inputs, dtypes=["fp32"], repeats=2, threads=1, limits=QUICK)
    assert found.best.backend == "eager"
    (needy,) = (c for c in found.candidates if c.backend == "needy")
    assert needy.skipped is not None
    assert needy.skipped.endswith("pip install 'ridgeline[needy]'.")
    with pytest.raises(MissingExtra, match="needs the extra needy"):
        optimize(graph, inputs, backends=[Extra], dtypes=["fp32"])


def test_what_cannot_win_by_the_roofline_is_not_compiled() -> None:
    graph, inputs = lstm_graph()

    def predict(graph: Graph, dtype: Dtype, execution: Execution) -> float:
        return {"fp32": 1e-9, "bf16": 30.0}[dtype]

    found = optimize(
        graph, inputs, backends=[Eager], repeats=2, threads=1, limits=QUICK, predict=predict
    )
    fp32, bf16 = found.candidates
    assert fp32.skipped is None
    assert bf16.samples == 0
    assert bf16.skipped is not None
    assert re.fullmatch(
        r"cannot win: the roofline allows 30\.0 s, eager fp32 takes \d.* [mµ]s", bf16.skipped
    )


def test_calibration_reaches_the_candidate_and_files_come_back(tmp_path: Path) -> None:
    graph, inputs = lstm_graph()
    sets = [(inputs[0] + n,) for n in range(3)]
    found = optimize(
        graph, inputs, backends=[fakes.Calibrated], dtypes=["int8"], calibration=sets,
        repeats=2, threads=1, limits=QUICK,
    )  # fmt: skip
    assert found.best.dtype == "int8"
    assert found.files == {"sets.txt": b"3"}
    assert [s.step for s in found.waterfall] == ["eager", "int8", "roofline"]
    with pytest.raises(GraphError, match="takes 1 tensors"):
        optimize(graph, inputs, calibration=[()])


# A shell without job control starts its background jobs, and their children, with SIGINT ignored.
INTERRUPTED = """
import signal, sys, tempfile
signal.signal(signal.SIGINT, signal.default_int_handler)
import torch
import fakes
from small_models import MODELS
from ridgeline.backends.choose import optimize
from ridgeline.frontends.torch_export import capture
tempfile.tempdir = sys.argv[1]
model, inputs = MODELS["lstm"]()
graph = capture(model, inputs, is_trusted=True)
print("started", flush=True)
optimize(graph, inputs, backends=[fakes.Hanging], dtypes=["fp32"])
"""


def test_an_interrupt_leaves_no_child_and_no_file(scratch: Path) -> None:
    marker = str(scratch)
    search = os.pathsep.join(p or "." for p in sys.path)
    environment = {**os.environ, "PYTHONPATH": search, "RIDGELINE_MARKER": marker}
    parent = subprocess.Popen(
        [sys.executable, "-c", INTERRUPTED, str(scratch)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=environment,
    )
    assert parent.stdout is not None
    try:
        parent.stdout.readline()
        assert _until(lambda: list(scratch.glob("*/log-*.txt")))
        # the parent itself, its fork server and a child
        assert _until(lambda: len(_processes_with(marker)) > 2)
        parent.send_signal(signal.SIGINT)
        assert parent.wait(timeout=60) != 0
    finally:
        parent.kill()
        parent.wait()
        parent.stdout.close()
    assert _until(lambda: not _processes_with(marker))
    assert list(scratch.iterdir()) == []


def _until(probe, limit_s: float = 180.0):  # type: ignore[no-untyped-def]
    """What `probe` returns as soon as it is true, or its last answer."""
    end = time.monotonic() + limit_s
    while not (found := probe()) and time.monotonic() < end:
        time.sleep(0.02)
    return found


def _processes_with(text: str) -> list[str]:
    """The processes with `text` in their environment; those that have ended do not count."""
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):
            if text in path.read_bytes().decode(errors="replace"):
                found.append(path.parent.name)
    return found


def test_agreement_sees_every_difference() -> None:
    x = torch.tensor([[1.0, -4.0, 2.0]])
    assert compare([x], [x]).max_error == 0
    assert compare([x], [x + 0.4]).max_error == pytest.approx(0.1)
    assert compare([x], [x[:, [2, 1, 0]]]).top1 == 0.0
    for other in (x[:, :2], torch.full_like(x, torch.nan), x / 0):
        assert compare([x], [other]).max_error == float("inf")
    masked = torch.tensor([0.5, -torch.inf])
    assert compare([masked], [masked.clone()]).max_error == 0
    assert compare([masked], [-masked]).max_error == float("inf")
    assert compare([torch.zeros(2)], [torch.full((2,), 0.25)]).max_error == 0.25


def test_a_timing_counts_clean_samples_where_there_are_enough() -> None:
    clean = Timing(times_s=(1.0, 2.0, 3.0, 4.0, 5.0, 90.0), is_clean=(True,) * 5 + (False,))
    assert clean.time_s == 3.0
    assert clean.spread_s == 2.0
    noisy = Timing(times_s=(1.0, 2.0, 3.0, 90.0), is_clean=(False,) * 4)
    assert noisy.time_s == 1.5
    assert Timing().time_s is None


class Siblings(nn.Module):
    """Three linears of one input."""

    def __init__(self) -> None:
        super().__init__()
        self.parts = nn.ModuleList(nn.Linear(16, 16) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        return sum(part(x).relu() for part in self.parts)


def test_a_backend_gets_no_pass_that_it_declines() -> None:
    model, x = Siblings().eval(), torch.randn(4, 16)
    graph = capture(model, (x,))
    linears = {}
    for backend in (Eager, fakes.Joining):
        found = optimize(graph, (x,), dtypes=("fp32",), backends=(backend,), repeats=2)
        linears[backend.name] = sum(node.op == "linear" for node in found.graph.nodes)
        changed = {step.name for step in found.passes if step.diff}
        assert ("join_linears" in changed) is (backend is fakes.Joining)
    assert linears == {"eager": 3, "joining": 1}
    both = optimize(graph, (x,), dtypes=("fp32",), backends=(Eager, fakes.Joining), repeats=2)
    assert [c.skipped for c in both.candidates] == [None, None]


def test_a_winner_on_a_form_of_its_own_is_saved_as_that_form(tmp_path: Path) -> None:
    model, x = Siblings().eval(), torch.randn(4, 16)
    found = optimize(capture(model, (x,)), (x,), dtypes=("fp32",), backends=("eager",), repeats=2)
    path = tmp_path / "siblings.ridge"
    save(found, path)
    with torch.no_grad():
        torch.testing.assert_close(load(path)(x)[0], model(x))
