"""Compiles every candidate, checks it against the reference, measures them in turn, keeps the
fastest.
"""

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from math import isfinite
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from ridgeline import graph as graphs
from ridgeline.backends.agreement import compare
from ridgeline.backends.aoti import PACKAGE, Aoti
from ridgeline.backends.backend import Backend, Dtype
from ridgeline.backends.child import children
from ridgeline.backends.eager import Eager
from ridgeline.backends.inductor import Inductor
from ridgeline.backends.measure import Limits, Timing, compile_all, measure_in_turn
from ridgeline.backends.protocol import Job
from ridgeline.backends.reference import Reference
from ridgeline.backends.result import Candidate, Optimized, Step
from ridgeline.errors import BackendError
from ridgeline.graph import Graph
from ridgeline.graph.flat import check_inputs
from ridgeline.machines.cpu import num_logical_cores
from ridgeline.machines.threads import require_threads
from ridgeline.passes.manager import run_passes

Execution = Literal["eager", "compiled", "roofline"]
# The predicted time of a graph in a dtype and a way to run it; None where there is no prediction.
Predict = Callable[[Graph, Dtype, Execution], float | None]
Progress = Callable[[str, float], None]

BACKENDS: Mapping[str, type[Backend]] = {b.name: b for b in (Eager, Inductor, Aoti)}
# Largest |error| / largest |reference| accepted. fp32: reordered sums differ by 1e-6 or so, and
# 1e-4 is an error; bf16 has 8 bits, and whole networks were seen to lose up to 3e-2.
TOLERANCES: Mapping[Dtype, float] = {"fp32": 1e-4, "bf16": 5e-2}
_BASELINE = "eager as captured"


def optimize(
    graph: Graph,
    inputs: Sequence[Tensor],
    *,
    machine: str | None = None,
    tolerance: float | None = None,
    dtypes: Sequence[Dtype] = ("fp32", "bf16"),
    backends: Sequence[str | type[Backend]] | None = None,
    skip: Sequence[str] = (),
    repeats: int = 10,
    threads: int | None = None,
    limits: Limits | None = None,
    progress: Progress | None = None,
    predict: Predict | None = None,
) -> Optimized:
    """The fastest way to run `graph` on this machine whose outputs on `inputs` stay within
    tolerance of the reference's.

    tolerance: the accepted error for every dtype, instead of `TOLERANCES`. skip: passes to leave
    out. machine: a name to file the result under. Every candidate lives in a child process of its
    own; one that fails, crashes or overruns its limits is skipped with its reason. Raises
    BackendError when none is left, GraphError for inputs that do not fit the graph, MachineError
    for a number of threads that makes no sense here.
    """
    check_inputs(graph, inputs)
    require_threads(threads)
    tell = progress or _say_nothing
    chosen = [_resolve(b) for b in (backends if backends is not None else tuple(BACKENDS))]
    tell("passes", 0.0)
    steps = run_passes(graph, skip=skip)
    folded = steps[-1].graph if steps else graph
    tell("reference", 0.0)
    expected = Reference().compile(graph)(*inputs)
    num_threads = threads or num_logical_cores()
    with tempfile.TemporaryDirectory(prefix="ridgeline-") as name:
        folder = Path(name)
        jobs = _write_jobs(folder, graph, folded, inputs, chosen, dtypes, num_threads, limits)
        timings = _run_jobs(folder, jobs, expected, tolerance, repeats, limits, tell)
        labels = [Candidate(backend=b.name, dtype=d) for b in chosen for d in dtypes]
        baseline, *tried = (
            _candidate(label, timing)
            for label, timing in zip(
                [Candidate(backend=_BASELINE, dtype="fp32"), *labels], timings, strict=True
            )
        )
        best = _fastest(tried, graph)
        package = Path(jobs[1 + tried.index(best)].folder) / PACKAGE
        content = package.read_bytes() if package.is_file() else None
    waterfall = _waterfall(graph, folded, baseline, tried, best, predict)
    return Optimized(
        graph=folded,
        passes=steps,
        candidates=tuple(tried),
        baseline=baseline,
        best=best,
        waterfall=waterfall,
        roofline_s=next((s.predicted_s for s in waterfall if s.step == "roofline"), None),
        threads=num_threads,
        machine=machine,
        package=content,
    )


def _say_nothing(stage: str, fraction: float) -> None:
    del stage, fraction


def _resolve(backend: str | type[Backend]) -> type[Backend]:
    if not isinstance(backend, str):
        return backend
    if backend not in BACKENDS:
        raise BackendError(f"no backend {backend!r}; there are {', '.join(BACKENDS)}.")
    return BACKENDS[backend]


def _write_jobs(
    folder: Path,
    graph: Graph,
    folded: Graph,
    inputs: Sequence[Tensor],
    backends: Sequence[type[Backend]],
    dtypes: Sequence[Dtype],
    threads: int,
    limits: Limits | None,
) -> list[Job]:
    """One job for the baseline, then one per backend and dtype."""
    captured_path, folded_path = folder / "captured.pt2", folder / "folded.pt2"
    graphs.save(graph, captured_path)
    graphs.save(folded, folded_path)
    torch.save([i.detach() for i in inputs], folder / "inputs.pt")
    plans: list[tuple[type[Backend], Dtype, Path]] = [(Eager, "fp32", captured_path)]
    plans += [(backend, dtype, folded_path) for backend in backends for dtype in dtypes]
    jobs = []
    for number, (backend, dtype, path) in enumerate(plans):
        own = folder / str(number)
        own.mkdir()
        jobs.append(
            Job(
                backend=f"{backend.__module__}:{backend.__qualname__}",
                dtype=dtype,
                graph=str(path),
                inputs=str(folder / "inputs.pt"),
                folder=str(own),
                threads=threads,
                memory_limit_bytes=(limits or Limits()).memory_bytes,
            )
        )
    return jobs


def _run_jobs(
    folder: Path,
    jobs: Sequence[Job],
    expected: Sequence[Tensor],
    tolerance: float | None,
    repeats: int,
    limits: Limits | None,
    tell: Progress,
) -> list[Timing]:
    """What became of each job: compiled, compared, then timed in turn with the others."""
    bounds = limits or Limits()
    with children(jobs, folder) as nursery:
        timings = compile_all(nursery, bounds, lambda f: tell("compile", f))
        for number, job in enumerate(jobs):
            if timings[number].skipped is None:
                outputs = torch.load(Path(job.folder) / "outputs.pt", weights_only=True)
                limit = TOLERANCES[job.dtype] if tolerance is None else tolerance
                timings[number] = _judged(timings[number], expected, outputs, limit)
        return measure_in_turn(nursery, timings, repeats, bounds, lambda f: tell("measure", f))


def _judged(
    timing: Timing, expected: Sequence[Tensor], outputs: Sequence[Tensor], limit: float
) -> Timing:
    agreement = compare(expected, outputs)
    error = agreement.max_error
    reason = None
    if not error <= limit:
        size = f"error {error:.2g}" if isfinite(error) else "other shapes, infinities or NaNs"
        reason = f"outputs differ from the reference: {size}, tolerance {limit:g}"
    return replace(timing, agreement=agreement, skipped=reason)


def _candidate(label: Candidate, timing: Timing) -> Candidate:
    agreement = timing.agreement
    return replace(
        label,
        time_s=timing.time_s,
        spread_s=timing.spread_s,
        samples=len(timing.times_s),
        clean_samples=sum(timing.is_clean),
        max_error=agreement.max_error if agreement else None,
        cosine=agreement.cosine if agreement else None,
        top1=agreement.top1 if agreement else None,
        skipped=timing.skipped,
    )


def _fastest(candidates: Sequence[Candidate], graph: Graph) -> Candidate:
    best = _best_of(candidates)
    if best is None:
        reasons = "; ".join(f"{c.backend} {c.dtype}: {c.skipped}" for c in candidates)
        raise BackendError(f"no backend can run {graph.name} within tolerance ({reasons}).")
    return best


def _best_of(candidates: Sequence[Candidate]) -> Candidate | None:
    ran = [(c.time_s, c) for c in candidates if c.skipped is None and c.time_s is not None]
    return min(ran, key=lambda pair: pair[0])[1] if ran else None


def _waterfall(
    graph: Graph,
    folded: Graph,
    baseline: Candidate,
    candidates: Sequence[Candidate],
    best: Candidate,
    predict: Predict | None,
) -> tuple[Step, ...]:
    """The graph as captured, its folded form, the best compiled one per dtype, the bound."""
    fp32 = [c for c in candidates if c.dtype == "fp32"]
    stages: list[tuple[str, Candidate | None, Graph, Dtype, Execution]] = [
        ("eager", baseline, graph, "fp32", "eager"),
        ("folded", _best_of([c for c in fp32 if c.backend == "eager"]), folded, "fp32", "eager"),
        (
            "compiled fp32",
            _best_of([c for c in fp32 if c.backend != "eager"]),
            folded,
            "fp32",
            "compiled",
        ),
        (
            "bf16",
            _best_of([c for c in candidates if c.dtype == "bf16"]),
            folded,
            "bf16",
            "compiled",
        ),
    ]
    steps = [
        Step(
            step=name,
            measured_s=candidate.time_s,
            predicted_s=predict(of, dtype, execution) if predict else None,
        )
        for name, candidate, of, dtype, execution in stages
        if candidate is not None
    ]
    bound = predict(folded, best.dtype, "roofline") if predict else None
    return (*steps, Step(step="roofline", measured_s=None, predicted_s=bound))


__all__ = ["BACKENDS", "TOLERANCES", "Execution", "Limits", "Predict", "Progress", "optimize"]
