"""Races every way to run a graph here and keeps the fastest whose outputs are right."""

import contextlib
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from math import isfinite
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from ridgeline import graph as graphs
from ridgeline.backends.backend import Backend, Dtype
from ridgeline.backends.child import children
from ridgeline.backends.choices import Choices, Outcome, key_of
from ridgeline.backends.eager import AsCaptured
from ridgeline.backends.forkserver import ForkServer, fork_server
from ridgeline.backends.measure import Limits, Timing
from ridgeline.backends.protocol import Job
from ridgeline.backends.race import Plan, Progress, Race
from ridgeline.backends.reference import Reference
from ridgeline.backends.registry import BACKENDS, SPLITS, TOLERANCES, find, split_of
from ridgeline.backends.result import Candidate, Optimized, Step
from ridgeline.errors import BackendError, GraphError, MissingExtra
from ridgeline.graph import Graph
from ridgeline.graph.flat import check_inputs
from ridgeline.machines.cpu import num_logical_cores
from ridgeline.machines.threads import require_threads
from ridgeline.passes.manager import PassStep, run_passes

Execution = Literal["eager", "compiled", "roofline"]
# The predicted time of a graph in a dtype and a way to run it; None where there is no prediction.
Predict = Callable[[Graph, Dtype, Execution], float | None]

_LOWER: tuple[Dtype, ...] = ("bf16", "int8")
_BASELINE = "eager as captured"
_INPUTS, _SETS = "inputs.pt", "calibration.pt"
# Two backends that differ by more have no part on which the slower wins that much back, and what
# takes less is over before another's threads are awake.
_CLOSE_ENOUGH, _LEAST_SPLIT_S = 1.5, 1e-3
# Timing the mixtures takes some two hundred runs: minutes, for one that takes longer.
_MOST_SPLIT_S = 0.5


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
    choices: Choices | None = None,
    is_fresh: bool = False,
    may_split: bool = True,
) -> Optimized:
    """The fastest way to run `graph` on this machine whose outputs on `inputs` stay within
    tolerance of the reference's.

    tolerance: the accepted error for every dtype, instead of `TOLERANCES`. backends: those to try;
    all that are installed unless told. calibration: sets of inputs that int8 takes its ranges from,
    `inputs` alone unless told. skip: passes to leave out. machine: a name to file the result under.
    choices: where outcomes are kept; what was clearly slower in an earlier run of the same task is
    not tried again unless is_fresh. may_split: whether, where two backends that can share a graph
    come close, the graph is also tried in parts that run on either.

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
    with fork_server() as server:  # it imports while this process rewrites
        tell("passes", 0.0)
        steps = run_passes(graph, skip=skip)
        forms = {b.declines: _form(graph, steps, skip, b.declines) for b, _ in pairs}
        tell("reference", 0.0)
        task = _Task(
            graph=graph,
            steps=steps,
            forms=forms,
            inputs=tuple(inputs),
            sets=sets,
            expected=Reference().compile(graph)(*inputs),
            pairs=pairs,
            tolerance=tolerance,
            repeats=repeats,
            threads=threads or num_logical_cores(),
            limits=limits or Limits(),
            tell=tell,
            predict=predict,
            machine=machine,
            server=server,
            may_split=may_split and not {*skip} & {n for s in SPLITS.values() for n in s.declines},
        )
        return task.raced(refusals) if choices is None else task.kept(refusals, choices, is_fresh)


def _form(
    graph: Graph, steps: tuple[PassStep, ...], skip: Sequence[str], declined: Sequence[str]
) -> tuple[PassStep, ...]:
    """The passes without those that were declined, where these did anything."""
    if not any(step.diff for step in steps if step.name in declined):
        return steps
    return run_passes(graph, skip=(*skip, *declined))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Task:
    """What was asked for, and what is the same however often it is raced.

    steps: every pass. forms: those for the backends that decline these passes.
    """

    graph: Graph
    steps: tuple[PassStep, ...]
    forms: Mapping[tuple[str, ...], tuple[PassStep, ...]]
    inputs: tuple[Tensor, ...]
    sets: tuple[tuple[Tensor, ...], ...]
    expected: Sequence[Tensor]
    pairs: Sequence[tuple[type[Backend], Dtype]]
    tolerance: float | None
    repeats: int
    threads: int
    limits: Limits
    tell: Progress
    predict: Predict | None
    machine: str | None
    server: ForkServer | None
    may_split: bool

    @property
    def folded(self) -> Graph:
        """The graph after every pass."""
        return self.steps[-1].graph if self.steps else self.graph

    def steps_of(self, candidate: Candidate) -> tuple[PassStep, ...]:
        """The passes that a candidate's graph went through."""
        return self.forms[self._declines[candidate.backend]]

    @property
    def _declines(self) -> dict[str, tuple[str, ...]]:
        known = [*SPLITS.values(), *(backend for backend, _ in self.pairs)]
        return {backend.name: backend.declines for backend in known}

    def form_of(self, candidate: Candidate) -> Graph:
        """The graph that a candidate got: as captured, for the baseline."""
        if candidate.backend == _BASELINE:
            return self.graph
        steps = self.steps_of(candidate)
        return steps[-1].graph if steps else self.graph

    def kept(self, refusals: Sequence[str | None], choices: Choices, is_fresh: bool) -> Optimized:
        """The outcome, of the candidates that `choices` leaves, and kept there."""
        key = key_of(self.folded, self.pairs, self.threads, self._settings)
        before = None if is_fresh else choices.recall(key)
        found = self.remembered(refusals, before)
        if found is None:
            found, before = self.raced(refusals), None
        choices.keep(key, found.candidates, before)
        return found

    @property
    def _settings(self) -> str:
        return f"tolerance {self.tolerance}" + ("" if self.may_split else ", whole")

    def remembered(
        self, refusals: Sequence[str | None], before: Outcome | None
    ) -> Optimized | None:
        """The outcome of a race without those that were slower before; None where nothing is known,
        or where what was fastest does not run now.
        """
        if before is None:
            return None
        slower = before.refusals(self.pairs)
        with contextlib.suppress(BackendError):
            spared = [now or then for now, then in zip(refusals, slower, strict=True)]
            found = self.raced(spared, before)
            return found if before.holds(found.candidates) else None
        return None

    def raced(self, refusals: Sequence[str | None], before: Outcome | None = None) -> Optimized:
        """The outcome. Raises BackendError where no candidate is left. before: an earlier one, by
        which graphs are not split again where that did not pay.
        """
        with tempfile.TemporaryDirectory(prefix="ridgeline-") as name:
            folder = Path(name)
            plans = _plans(folder, self, refusals)
            jobs = _write_jobs(folder, self, plans)
            race = Race(
                plans=plans,
                jobs=jobs,
                expected=self.expected,
                limits=self.limits,
                tell=self.tell,
            )
            with children(jobs, folder, self.server) as nursery:
                timings = race.run(nursery, self.repeats, self._bound_s)
                late = self._late(plans, timings, before)
                if late is not None:
                    plan, rivals = late
                    job = _job(folder, self, len(plans), plan)
                    timings = race.join(nursery, timings, (plan, job), rivals, self.repeats)
            baseline, *tried = (_candidate(p, t) for p, t in zip(plans, timings, strict=True))
            best = _fastest(tried, self.graph)
            number = 1 + tried.index(best)
            files = _files_of(plans[number], jobs[number])
        return self._optimized(replace(baseline, backend=_BASELINE), tuple(tried), best, files)

    def _late(
        self, plans: Sequence[Plan], timings: Sequence[Timing], before: Outcome | None
    ) -> tuple[Plan, list[int]] | None:
        """The graph in parts on the fastest backend and the next of its dtype that can share it,
        where that comes close; and the numbers of these two.
        """
        ran = sorted(
            (t.time_s, n) for n, t in enumerate(timings) if n and t.skipped is None and t.time_s
        )
        if not self.may_split or not ran or not _LEAST_SPLIT_S <= ran[0][0] <= _MOST_SPLIT_S:
            return None
        best_s, fastest = ran[0]
        dtype = plans[fastest].dtype
        close = [n for t, n in ran if t <= _CLOSE_ENOUGH * best_s and plans[n].dtype == dtype]
        for first, second in combinations(close, 2):
            pair = [plans[first], plans[second]]
            split = split_of(pair[0].backend, pair[1].backend)
            forms = [p.graph for p in pair if split and p.backend.declines == split.declines]
            if split is None or not forms:
                continue
            if before is not None and not before.was_close(split.name, dtype):
                return None
            return Plan(backend=split, dtype=dtype, graph=forms[0], refusal=None), [first, second]
        return None

    def _bound_s(self, dtype: Dtype) -> float | None:
        return self.predict(self.folded, dtype, "roofline") if self.predict else None

    def _optimized(
        self,
        baseline: Candidate,
        tried: tuple[Candidate, ...],
        best: Candidate,
        files: Mapping[str, bytes],
    ) -> Optimized:
        waterfall = _waterfall(self, baseline, tried, best)
        return Optimized(
            graph=self.form_of(best),
            passes=self.steps_of(best),
            candidates=tried,
            baseline=baseline,
            best=best,
            waterfall=waterfall,
            roofline_s=next((s.predicted_s for s in waterfall if s.step == "roofline"), None),
            threads=self.threads,
            machine=self.machine,
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


def _plans(folder: Path, task: _Task, refusals: Sequence[str | None]) -> list[Plan]:
    """The baseline, then one per backend and dtype, and the files of their graphs."""
    files = {declined: folder / f"form-{n}.pt2" for n, declined in enumerate(task.forms)}
    captured = folder / "captured.pt2"
    graphs.save(task.graph, captured)
    for declined, steps in task.forms.items():
        graphs.save(steps[-1].graph if steps else task.graph, files[declined])
    return [
        Plan(backend=AsCaptured, dtype="fp32", graph=captured, refusal=None),
        *(
            Plan(backend=backend, dtype=dtype, graph=files[backend.declines], refusal=refusal)
            for (backend, dtype), refusal in zip(task.pairs, refusals, strict=True)
        ),
    ]


def _write_jobs(folder: Path, task: _Task, plans: Sequence[Plan]) -> list[Job]:
    """The files of inputs that the children read, and one job per plan."""
    torch.save([i.detach() for i in task.inputs], folder / _INPUTS)
    torch.save([[i.detach() for i in given] for given in task.sets], folder / _SETS)
    return [_job(folder, task, number, plan) for number, plan in enumerate(plans)]


def _job(folder: Path, task: _Task, number: int, plan: Plan) -> Job:
    """The job of candidate `number`, and the folder that its child writes to."""
    own = folder / str(number)
    own.mkdir()
    return Job(
        backend=f"{plan.backend.__module__}:{plan.backend.__qualname__}",
        dtype=plan.dtype,
        graph=str(plan.graph),
        inputs=str(folder / _INPUTS),
        calibration=str(folder / _SETS),
        folder=str(own),
        threads=task.threads,
        memory_limit_bytes=task.limits.memory_bytes,
        tolerance=_tolerance(task, plan.dtype),
    )


def _tolerance(task: _Task, dtype: Dtype) -> float | None:
    """The error that outputs may have; None for any, as JSON has no infinity."""
    found = TOLERANCES[dtype] if task.tolerance is None else task.tolerance
    return found if isfinite(found) else None


def _files_of(plan: Plan, job: Job) -> dict[str, bytes]:
    """What the child of a candidate left to be saved."""
    paths = [Path(job.folder) / name for name in plan.backend.files]
    return {path.name: path.read_bytes() for path in paths if path.is_file()}


def _candidate(plan: Plan, timing: Timing) -> Candidate:
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
        times_s=timing.times_s,
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
    task: _Task, baseline: Candidate, candidates: Sequence[Candidate], best: Candidate
) -> tuple[Step, ...]:
    """The graph as captured, its folded form, the best compiled one per dtype, the bound."""
    fp32 = [c for c in candidates if c.dtype == "fp32"]
    eager = _best_of([c for c in fp32 if c.backend == "eager"])
    compiled = _best_of([c for c in fp32 if c.backend != "eager"])
    stages: list[tuple[str, Candidate | None, Execution]] = [
        ("eager", baseline, "eager"),
        ("folded", eager, "eager"),
        ("compiled fp32", compiled, "compiled"),
    ]
    for dtype in _LOWER:
        stages.append((dtype, _best_of([c for c in candidates if c.dtype == dtype]), "compiled"))

    def predicted_s(candidate: Candidate, execution: Execution) -> float | None:
        graph = task.form_of(candidate)
        return task.predict(graph, candidate.dtype, execution) if task.predict else None

    steps = [
        Step(step=name, measured_s=c.time_s, predicted_s=predicted_s(c, execution))
        for name, c, execution in stages
        if c is not None
    ]
    bound = predicted_s(best, "roofline")
    return (*steps, Step(step="roofline", measured_s=None, predicted_s=bound))


__all__ = ["BACKENDS", "TOLERANCES", "Execution", "Limits", "Predict", "Progress", "optimize"]
