"""Compiles every candidate, checks it against the reference, measures them in turn, keeps the
fastest.
"""

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import isfinite
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from ridgeline import graph as graphs
from ridgeline.backends.agreement import compare
from ridgeline.backends.backend import Backend, Dtype
from ridgeline.backends.child import Nursery, children
from ridgeline.backends.eager import Eager
from ridgeline.backends.measure import (
    Limits,
    Timing,
    compile_all,
    measure_in_turn,
    measure_the_close,
)
from ridgeline.backends.protocol import Job
from ridgeline.backends.reference import Reference
from ridgeline.backends.registry import BACKENDS, TOLERANCES, find
from ridgeline.backends.result import Candidate, Optimized, Step
from ridgeline.errors import BackendError, GraphError, MissingExtra
from ridgeline.graph import Graph
from ridgeline.graph.flat import check_inputs
from ridgeline.machines.cpu import num_logical_cores
from ridgeline.machines.threads import require_threads
from ridgeline.passes.manager import run_passes
from ridgeline.units import format_time

Execution = Literal["eager", "compiled", "roofline"]
# The predicted time of a graph in a dtype and a way to run it; None where there is no prediction.
Predict = Callable[[Graph, Dtype, Execution], float | None]
Progress = Callable[[str, float], None]

_LOWER: tuple[Dtype, ...] = ("bf16", "int8")
_BASELINE = "eager as captured"
# Samples that decide, before the next dtype is compiled, what that has to beat.
_FIRST_LOOK = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class _Plan:
    """One candidate to be. refusal: why it is not even tried."""

    backend: type[Backend]
    dtype: Dtype
    graph: Path
    refusal: str | None


def optimize(
    graph: Graph,
    inputs: Sequence[Tensor],
    *,
    machine: str | None = None,
    tolerance: float | None = None,
    dtypes: Sequence[Dtype] = ("fp32", "bf16"),
    backends: Sequence[str | type[Backend]] | None = None,
    calibration: Sequence[Sequence[Tensor]] = (),
    skip: Sequence[str] = (),
    repeats: int = 10,
    threads: int | None = None,
    limits: Limits | None = None,
    progress: Progress | None = None,
    predict: Predict | None = None,
) -> Optimized:
    """The fastest way to run `graph` on this machine whose outputs on `inputs` stay within
    tolerance of the reference's.

    tolerance: the accepted error for every dtype, instead of `TOLERANCES`. backends: those to try;
    all that are installed unless told. calibration: sets of inputs that int8 takes its ranges from,
    `inputs` alone unless told. skip: passes to leave out. machine: a name to file the result under.

    Every candidate lives in a child process of its own; one that fails, crashes or overruns its
    limits is skipped with its reason, and so is a dtype whose predicted bound cannot beat what was
    measured in those before it. Raises BackendError when none is left, MissingExtra for a backend
    asked for by name that is not installed, GraphError for inputs that do not fit the graph,
    MachineError for a number of threads that makes no sense here.
    """
    if not graph.outputs:
        raise GraphError(f"{graph.name} returns nothing: there is no result to compare.")
    sets = tuple(tuple(s) for s in (calibration or (inputs,)))
    for given in (inputs, *sets):
        check_inputs(graph, given)
    require_threads(threads)
    tell = progress or _say_nothing
    pairs = _pairs(backends, dtypes)
    refusals = [_refusal(b, d, is_named=backends is not None) for b, d in pairs]
    tell("passes", 0.0)
    steps = run_passes(graph, skip=skip)
    folded = steps[-1].graph if steps else graph
    tell("reference", 0.0)
    expected = Reference().compile(graph)(*inputs)
    num_threads = threads or num_logical_cores()
    with tempfile.TemporaryDirectory(prefix="ridgeline-") as name:
        folder = Path(name)
        plans = _plans(folder, pairs, refusals)
        jobs = _write_jobs(folder, graph, folded, inputs, sets, plans, num_threads, limits)
        race = _Race(
            plans=plans,
            jobs=jobs,
            expected=expected,
            tolerance=tolerance,
            limits=limits or Limits(),
            tell=tell,
        )
        with children(jobs, folder) as nursery:
            timings = race.run(nursery, repeats, lambda d: _bound_s(predict, folded, d))
        baseline, *tried = (_candidate(p, t) for p, t in zip(plans, timings, strict=True))
        baseline = replace(baseline, backend=_BASELINE)
        best = _fastest(tried, graph)
        files = _files_of(plans[1 + tried.index(best)], jobs[1 + tried.index(best)])
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
        files=files,
    )


def _say_nothing(stage: str, fraction: float) -> None:
    del stage, fraction


def _pairs(
    backends: Sequence[str | type[Backend]] | None, dtypes: Sequence[Dtype]
) -> list[tuple[type[Backend], Dtype]]:
    """What to try: those named in every dtype, or all, each in the dtypes that it computes in."""
    if backends is not None:
        return [(find(b), dtype) for b in backends for dtype in dtypes]
    return [(b, dtype) for b in BACKENDS.values() for dtype in dtypes if dtype in b.dtypes]


def _refusal(backend: type[Backend], dtype: Dtype, *, is_named: bool) -> str | None:
    """Why a candidate is not tried. Raises MissingExtra for one that was asked for by name."""
    try:
        backend.require(dtype)
    except MissingExtra as error:
        if is_named:
            raise
        return str(error)
    except BackendError as error:
        return str(error)
    return None


def _bound_s(predict: Predict | None, graph: Graph, dtype: Dtype) -> float | None:
    return predict(graph, dtype, "roofline") if predict else None


def _plans(
    folder: Path,
    pairs: Sequence[tuple[type[Backend], Dtype]],
    refusals: Sequence[str | None],
) -> list[_Plan]:
    """The baseline, then one per backend and dtype."""
    captured, folded = folder / "captured.pt2", folder / "folded.pt2"
    return [
        _Plan(backend=Eager, dtype="fp32", graph=captured, refusal=None),
        *(
            _Plan(backend=backend, dtype=dtype, graph=folded, refusal=refusal)
            for (backend, dtype), refusal in zip(pairs, refusals, strict=True)
        ),
    ]


def _write_jobs(
    folder: Path,
    graph: Graph,
    folded: Graph,
    inputs: Sequence[Tensor],
    sets: Sequence[Sequence[Tensor]],
    plans: Sequence[_Plan],
    threads: int,
    limits: Limits | None,
) -> list[Job]:
    """The files that the children read, and one job per plan."""
    graphs.save(graph, plans[0].graph)
    graphs.save(folded, folder / "folded.pt2")
    inputs_path, sets_path = folder / "inputs.pt", folder / "calibration.pt"
    torch.save([i.detach() for i in inputs], inputs_path)
    torch.save([[i.detach() for i in given] for given in sets], sets_path)
    jobs = []
    for number, plan in enumerate(plans):
        own = folder / str(number)
        own.mkdir()
        jobs.append(
            Job(
                backend=f"{plan.backend.__module__}:{plan.backend.__qualname__}",
                dtype=plan.dtype,
                graph=str(plan.graph),
                inputs=str(inputs_path),
                calibration=str(sets_path),
                folder=str(own),
                threads=threads,
                memory_limit_bytes=(limits or Limits()).memory_bytes,
            )
        )
    return jobs


@dataclass(frozen=True, slots=True, kw_only=True)
class _Race:
    """The candidates of one run, dtype by dtype."""

    plans: Sequence[_Plan]
    jobs: Sequence[Job]
    expected: Sequence[Tensor]
    tolerance: float | None
    limits: Limits
    tell: Progress

    def run(
        self, nursery: Nursery, repeats: int, bound_s: Callable[[Dtype], float | None]
    ) -> list[Timing]:
        """What became of each: compiled and compared, the dtypes in their order, then timed in turn
        with the others; those that come close to the fastest of their dtype, longer.
        """
        timings = [Timing(skipped=plan.refusal) for plan in self.plans]
        dtypes = list(dict.fromkeys(plan.dtype for plan in self.plans[1:]))
        waves = [[n for n, p in enumerate(self.plans) if n and p.dtype == d] for d in dtypes]
        for place, (dtype, wave) in enumerate(zip(dtypes, waves, strict=True)):
            bound = bound_s(dtype)
            if place and bound is not None:
                timings = self._pruned(nursery, timings, wave, bound)
            self._compile(nursery, timings, [0, *wave] if not place else wave, place, len(dtypes))

        def told(done: float) -> Callable[[float], None]:
            return lambda fraction: self.tell("measure", done + fraction / 2)

        timings = measure_in_turn(nursery, timings, repeats, self.limits, told(0.0))
        return measure_the_close(nursery, timings, waves, repeats, self.limits, told(0.5))

    def _compile(
        self, nursery: Nursery, timings: list[Timing], wave: Sequence[int], place: int, of: int
    ) -> None:
        """Compiles the candidates of one dtype that are still in, and compares their outputs."""
        numbers = [n for n in wave if timings[n].skipped is None]
        ready = compile_all(
            nursery, numbers, self.limits, lambda f: self.tell("compile", (place + f) / of)
        )
        for number, timing in ready.items():
            job = self.jobs[number]
            limit = TOLERANCES[job.dtype] if self.tolerance is None else self.tolerance
            if timing.skipped is None:
                outputs = torch.load(Path(job.folder) / "outputs.pt", weights_only=True)
                timing = _judged(timing, self.expected, outputs, limit)
            timings[number] = timing
        self.tell("compile", (place + 1) / of)

    def _pruned(
        self, nursery: Nursery, timings: Sequence[Timing], wave: Sequence[int], bound_s: float
    ) -> list[Timing]:
        """The timings, those of `wave` skipped if their bound cannot beat the best so far."""
        hasty = replace(self.limits, patience_s=0.0)
        looked = measure_in_turn(nursery, timings, _FIRST_LOOK, hasty, lambda f: None)
        ran = [(t.time_s, n) for n, t in enumerate(looked) if n and not t.skipped and t.time_s]
        if not ran or bound_s <= min(ran)[0]:
            return looked
        best_s, number = min(ran)
        plan = self.plans[number]
        reason = (
            f"cannot win: the roofline allows {format_time(bound_s)}, "
            f"{plan.backend.name} {plan.dtype} takes {format_time(best_s)}"
        )
        for n in wave:
            if looked[n].skipped is None:
                looked[n] = replace(looked[n], skipped=reason)
        return looked


def _files_of(plan: _Plan, job: Job) -> dict[str, bytes]:
    """What the child of a candidate left to be saved."""
    paths = [Path(job.folder) / name for name in plan.backend.files]
    return {path.name: path.read_bytes() for path in paths if path.is_file()}


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


def _candidate(plan: _Plan, timing: Timing) -> Candidate:
    agreement = timing.agreement
    return Candidate(
        backend=plan.backend.name,
        dtype=plan.dtype,
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
    ]
    for dtype in _LOWER:
        lower = _best_of([c for c in candidates if c.dtype == dtype])
        stages.append((dtype, lower, folded, dtype, "compiled"))
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
