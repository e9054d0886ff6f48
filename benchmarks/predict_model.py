"""Measures one model with every backend, in turns, and predicts it: one process per model.

python benchmarks/predict_model.py CASE MACHINE.toml BACKENDS OUT.json
"""

import math
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path

import msgspec
import torch
from predict_cases import CASES, Case
from predict_place import Place, place
from torch import Tensor

from ridgeline.backends.backend import Dtype, Runnable
from ridgeline.backends.choose import BACKENDS
from ridgeline.backends.eager import Eager
from ridgeline.cost import Estimate, Execution, estimate
from ridgeline.errors import BackendError
from ridgeline.frontends.torch_export import capture
from ridgeline.graph import Graph, Phase
from ridgeline.graph.spec import DTYPES
from ridgeline.machines import Machine, parse
from ridgeline.machines.matrix_probes import packed_linear
from ridgeline.machines.timing import Sample, preferred, summarise, take_samples
from ridgeline.passes.manager import run_passes
from ridgeline.passes.precision import set_precision
from ridgeline.profile.measure import Run, measure
from ridgeline.zoo import get

EAGER = "eager"
THREADS = 2
SEED = 0
ENOUGH_CLEAN = 10
PATIENCE_S = 12.0
TURN_S = 0.25
# Products of the sizes that the models are made of, and how long to look at each.
WATCHED, LOOK_S = ((128, 3072, 768), (128, 4096, 1024), (512, 768, 768)), 0.03
NODE_REPEATS = 8
# One block as large as glibc learns from: see ridgeline.machines.calibrate.
SETTLING_NBYTES = 31 * 2**20


class Timed(msgspec.Struct):
    """One way to run the model. time_s: median of the clean samples, of fewer than three the
    fastest of all.
    """

    time_s: float
    fastest_s: float
    num_samples: int
    num_clean: int
    predicted_s: float


class KindError(msgspec.Struct):
    """All nodes of one op kind in eager execution."""

    op: str
    count: int
    measured_s: float
    predicted_s: float


class Watched(msgspec.Struct):
    """One and the same product, timed between the turns: how steady the machine was meanwhile.

    calibrated: its rate in the machine's description; rates: in FLOP/s, the median of each turn.
    """

    shape: tuple[int, int, int]
    calibrated: float
    rates: list[float]


class Part(msgspec.Struct):
    """What one case's process found."""

    key: str
    dtype: str
    best: str
    variants: dict[str, Timed]
    failed: dict[str, str]
    kinds: list[KindError]
    compiled_kinds: dict[str, float]
    bound: str
    roofline_s: float
    prepare_s: float
    watched: list[Watched]
    place: Place | None = None


@dataclass(frozen=True, slots=True)
class _Variant:
    run: Runnable
    prediction: Estimate


def main() -> None:
    """One case to its end."""
    key, machine_path, backends, priority, out = sys.argv[1:]
    case = next(c for c in CASES if c.key == key)
    machine = parse(Path(machine_path).read_text(encoding="utf-8"), origin=machine_path)
    torch.set_num_threads(THREADS)
    part = run_case(case, machine, backends.split(","), is_realtime=priority == "realtime")
    Path(out).write_bytes(msgspec.json.encode(part))


def run_case(case: Case, machine: Machine, backends: Sequence[str], *, is_realtime: bool) -> Part:
    """Captures, compiles, measures and predicts."""
    start_s = time.perf_counter()
    torch.manual_seed(SEED)
    workload = get(case.model)
    module, inputs = workload.forms[case.phase](workload.build(), case.sizes)
    graph = capture(module, inputs, phase=Phase(case.phase), name=case.key, is_trusted=True)
    torch.ones(SETTLING_NBYTES // 4)
    folded = run_passes(graph)[-1].graph
    variants, failed = _variants(graph, folded, case.dtype, machine, backends)
    prepare_s = time.perf_counter() - start_s
    lowered = set_precision(graph, DTYPES[case.dtype])
    watch, placed = Watch(machine, case.dtype), None
    with realtime() if is_realtime else nullcontext():
        samples = _in_turns({name: v.run for name, v in variants.items()}, inputs, watch)
        run = measure(lowered, inputs, threads=THREADS, repeats=NODE_REPEATS)
        timed = {name: _timed(samples[name], v.prediction) for name, v in variants.items()}
        best = min(timed, key=lambda name: timed[name].time_s)
        own = lowered if best == EAGER else set_precision(folded, DTYPES[case.dtype])
        with preferred(), suppress(RuntimeError):  # for one, torch may lack a packed form
            placed = place(own, variants[best].prediction)
    compiled = _predicted(folded, case.dtype, machine, Execution.COMPILED)
    return Part(
        key=case.key,
        dtype=case.dtype,
        best=best,
        variants=timed,
        failed=failed,
        kinds=_kinds(run, variants[EAGER].prediction),
        compiled_kinds=_predicted_kinds(compiled),
        bound=compiled.totals.bound,
        roofline_s=compiled.totals.roofline_s,
        prepare_s=prepare_s,
        watched=watch.products,
        place=placed,
    )


@contextmanager
def realtime() -> Iterator[None]:
    """Runs this process's threads before everything else; leaves them as they are where the system
    says no.
    """
    try:
        _schedule(os.SCHED_RR, 1)
    except OSError:
        yield
        return
    try:
        yield
    finally:
        _schedule(os.SCHED_OTHER, 0)


def _schedule(policy: int, priority: int) -> None:
    for task in Path("/proc/self/task").iterdir():
        os.sched_setscheduler(int(task.name), policy, os.sched_param(priority))


def _predicted(graph: Graph, dtype: Dtype, machine: Machine, execution: Execution) -> Estimate:
    return estimate(set_precision(graph, DTYPES[dtype]), machine, execution=execution)


def _variants(
    graph: Graph, folded: Graph, dtype: Dtype, machine: Machine, backends: Sequence[str]
) -> tuple[dict[str, _Variant], dict[str, str]]:
    """The graph as captured, run eagerly, and its folded form through each backend."""
    eager = _predicted(graph, dtype, machine, Execution.EAGER)
    compiled = _predicted(folded, dtype, machine, Execution.COMPILED)
    variants = {EAGER: _Variant(Eager().compile(graph, dtype), eager)}
    failed: dict[str, str] = {}
    for name in backends:
        try:
            variants[name] = _Variant(BACKENDS[name]().compile(folded, dtype), compiled)
        except BackendError as error:
            failed[name] = str(error)
    return variants, failed


def _in_turns(
    runs: Mapping[str, Runnable], inputs: Sequence[Tensor], watch: "Watch"
) -> dict[str, list[Sample]]:
    """Samples of each, taking turns, until each has enough clean ones or patience ends; the watch
    looks before, between and after them.
    """
    samples: dict[str, list[Sample]] = {name: [] for name in runs}
    names = list(runs)
    with torch.inference_mode(), preferred():
        end_s = time.perf_counter() + PATIENCE_S
        while True:
            watch.look()
            for name in names:
                samples[name] += take_samples(
                    _bound(runs[name], inputs), budget_s=TURN_S, wait=lambda: None
                )
            names.reverse()
            has_enough = all(
                sum(s.is_clean for s in taken) >= ENOUGH_CLEAN for taken in samples.values()
            )
            if has_enough or time.perf_counter() > end_s:
                watch.look()
                return samples


class Watch:
    """Products that calibration timed too, called as a frozen graph calls them."""

    def __init__(self, machine: Machine, dtype: Dtype) -> None:
        found = [
            k for k in machine.kernels if (k.route, k.kind, k.dtype) == ("compiled", "gemm", dtype)
        ]
        rates = {tuple(map(int, s[:3])): s[3] for kernel in found for s in kernel.samples}
        self.products = [
            Watched(shape=shape, calibrated=rates[shape], rates=[])
            for shape in WATCHED
            if shape in rates
        ]
        self._calls = [
            packed_linear(p.shape, DTYPES[dtype], torch.device("cpu"))() for p in self.products
        ]

    def look(self) -> None:
        """Adds one rate to each."""
        for product, call in zip(self.products, self._calls, strict=True):
            samples = take_samples(call, budget_s=LOOK_S, wait=lambda: None)
            product.rates.append(2.0 * math.prod(product.shape) / summarise(samples).time_s)


def _bound(run: Runnable, inputs: Sequence[Tensor]) -> Callable[[], object]:
    return lambda: run(*inputs)


def _timed(samples: Sequence[Sample], prediction: Estimate) -> Timed:
    timing = summarise(samples)
    return Timed(
        time_s=timing.time_s,
        fastest_s=timing.fastest_s,
        num_samples=timing.num_samples,
        num_clean=timing.num_clean,
        predicted_s=prediction.totals.time_s,
    )


def _kinds(run: Run, prediction: Estimate) -> list[KindError]:
    """Measured and predicted eager time per op kind, longest first."""
    measured = {node.name: node.time_s for node in run.nodes}
    kinds: dict[str, KindError] = {}
    for node in prediction.nodes:
        kind = kinds.setdefault(
            node.op, KindError(op=node.op, count=0, measured_s=0.0, predicted_s=0.0)
        )
        kind.count += 1
        kind.measured_s += measured[node.name]
        kind.predicted_s += node.time_s
    return sorted(kinds.values(), key=lambda kind: -kind.measured_s)


def _predicted_kinds(prediction: Estimate) -> dict[str, float]:
    """Predicted compiled time per op kind, longest first."""
    times: dict[str, float] = {}
    for node in prediction.nodes:
        times[node.op] = times.get(node.op, 0.0) + node.time_s
    return dict(sorted(times.items(), key=lambda item: -item[1]))


if __name__ == "__main__":
    main()
