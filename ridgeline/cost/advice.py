"""What would help: changes to a run, each priced by the same model as the run itself."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import ceil

from ridgeline.cost.estimate import Estimate, NodeEstimate, estimate
from ridgeline.cost.kernels import KernelModel
from ridgeline.cost.roofline import Bound, Execution
from ridgeline.cost.work import Recompute
from ridgeline.graph import Graph, InputKind, Phase
from ridgeline.machines import Machine

# Bits per weight as stored: int8 with a scale per row; int4 with an fp16 scale per group of 32,
# the usual group-wise layout (GPTQ, AWQ).
_WEIGHT_BITS = {"int8": 8.0, "int4": 4.5}
_BITS = {"fp64": 64, "fp32": 32, "tf32": 32, "fp16": 16, "bf16": 16, "fp8": 8, "int8": 8, "fp4": 4}
_WORTH_SAYING = 1.1
_MAX_BATCH_FACTOR = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One way to run differently. weight_scale and activation_scale: their bytes, now over then.

    batch: how many times as many samples at once. dtype: what fp32 matrix work computes in.
    start_scale: kernels started, now over then.
    """

    weight_scale: float = 1.0
    activation_scale: float = 1.0
    batch: int = 1
    dtype: str | None = None
    start_scale: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Advice:
    """One thing to do, what it gains, and what it needs. speedup: of the time per sample.

    is_bound: the gain is the most that is possible, not what to expect.
    """

    action: str
    text: str
    speedup: float
    time_s: float
    peak_memory_bytes: int
    is_bound: bool = False


def advise(graph: Graph, run: Estimate, *, optimizer: str = "adamw") -> tuple[Advice, ...]:
    """What is worth doing about `run`, the largest gain first; what makes it fit stands first.

    optimizer: the one that `run` was estimated with.
    """
    found = [*_eager(graph, run), *_dtypes(graph, run)]
    if run.phase == Phase.TRAIN.value:
        found += _recompute(graph, run, optimizer)
    else:
        found += [*_quantised(graph, run), *_larger_batch(graph, run), *_fewer_starts(graph, run)]
    worth = sorted((a for a in found if a.speedup >= _WORTH_SAYING), key=lambda a: -a.speedup)
    return (*_sharded(run), *(a for a in found if a.action == "recompute"), *worth)


def predict(graph: Graph, run: Estimate, change: Change) -> float:
    """Seconds of one run after `change`."""
    weights, scales = weight_bytes(graph), _compute_scales(graph, run, change.dtype)
    return sum(_time(node, weights, scales, change) for node in run.nodes)


def weight_bytes(graph: Graph) -> Mapping[str, int]:
    """node name -> bytes of constant operands that one run of it reads whole."""
    fixed = {i.name for i in graph.inputs if i.kind is not InputKind.INPUT and not i.is_mutated}
    return {
        node.name: sum(
            node.specs[ref].nbytes for ref in node.operands if graph.storage[ref].name in fixed
        )
        for node in graph.nodes
    }


def _time(
    node: NodeEstimate, weights: Mapping[str, int], scales: Mapping[str, float], change: Change
) -> float:
    name = node.name.removesuffix(f".{node.part}")
    fixed = min(node.moved_bytes, weights.get(name, 0) * node.repeat)
    rest = node.moved_bytes - fixed
    moved = fixed * change.weight_scale + rest * change.activation_scale * change.batch
    memory_s = node.memory_s * moved / node.moved_bytes if node.moved_bytes else 0.0
    scale = scales.get(name, 1.0) if node.dtype == "fp32" and node.flops else 1.0
    compute_s = node.compute_s * change.batch * scale + _exposed_s(node) * change.weight_scale
    return max(compute_s, memory_s) + node.overhead_s * change.start_scale


def _exposed_s(node: NodeEstimate) -> float:
    """The wait for weights that no computing hides."""
    run_s = node.time_s - node.overhead_s
    return max(0.0, run_s - node.compute_s) if run_s > node.memory_s else 0.0


def _compute_scales(graph: Graph, run: Estimate, dtype: str | None) -> Mapping[str, float]:
    """node name -> compute time in `dtype` over that in fp32, of matrix work: by its kernel where
    both were measured, else by the peaks.
    """
    if dtype is None:
        return {}
    machine, ceiling = run.machine, run.ceiling
    model, weights = KernelModel(machine, run.execution, ceiling), weight_bytes(graph)
    peaks = machine.matrix_flops_per_s("fp32", ceiling) / machine.matrix_flops_per_s(dtype, ceiling)
    scales = {}
    for node in graph.nodes:
        now, then = (
            model.rate_in(node, name, has_weights=weights[node.name] > 0)
            for name in ("fp32", dtype)
        )
        scales[node.name] = min(1.0, now / then if now and then else peaks)
    return scales


def _advice(
    action: str, text: str, graph: Graph, run: Estimate, change: Change, *, is_bound: bool = False
) -> Advice:
    time_s = predict(graph, run, change)
    memory = run.memory
    varying = run.totals.peak_memory_bytes - memory.weight_bytes
    return Advice(
        action=action,
        text=text,
        speedup=run.totals.time_s * change.batch / time_s if time_s else 1.0,
        time_s=time_s,
        peak_memory_bytes=round(
            memory.weight_bytes * change.weight_scale
            + varying * change.activation_scale * change.batch
        ),
        is_bound=is_bound,
    )


def main_dtype(run: Estimate) -> str:
    """The dtype of most matrix work; fp32 without any."""
    flops: dict[str, int] = {}
    for node in run.nodes:
        flops[node.dtype] = flops.get(node.dtype, 0) + node.flops
    return max(flops, key=lambda name: flops[name], default="fp32")


def _eager(graph: Graph, run: Estimate) -> Iterator[Advice]:
    if run.execution is Execution.EAGER:
        compiled = estimate(graph, run.machine, ceiling=run.ceiling, allow_uncounted=True)
        if not compiled.totals.time_s:
            return  # nothing but views, which compiled code does not call
        yield Advice(
            action="compile",
            text="compile it (ridgeline optimize, or torch.compile): neighbours fuse, fewer starts",
            speedup=run.totals.time_s / compiled.totals.time_s,
            time_s=compiled.totals.time_s,
            peak_memory_bytes=run.totals.peak_memory_bytes,
        )


def _dtypes(graph: Graph, run: Estimate) -> Iterator[Advice]:
    if main_dtype(run) != "fp32":
        return
    has = run.machine.matrix
    half = "bf16" if "bf16" in has else "fp16" if "fp16" in has else None
    if half:
        change = Change(weight_scale=0.5, activation_scale=0.5, dtype=half)
        yield _advice(
            half, f"run in {half} (--dtype {half}); check the outputs", graph, run, change
        )
    if "tf32" in has:
        text = 'let fp32 products use tf32 (torch.set_float32_matmul_precision("high"))'
        yield _advice("tf32", text, graph, run, Change(dtype="tf32"))


def _quantised(graph: Graph, run: Estimate) -> Iterator[Advice]:
    """Weight-only: what is multiplied stays as it is, weights shrink on their way in."""
    if run.totals.bound != Bound.MEMORY.value:
        return
    bits = _BITS[main_dtype(run)]
    for name, stored in _WEIGHT_BITS.items():
        if stored < bits:
            text = f"store the weights in {name}, compute as before"
            yield _advice(name, text, graph, run, Change(weight_scale=stored / bits))


def _larger_batch(graph: Graph, run: Estimate) -> Iterator[Advice]:
    """More samples share one reading of the weights, or one start: as many as fit, to a limit."""
    has_experts = any(node.op == "grouped_mm" for node in graph.nodes)
    if run.totals.bound == Bound.COMPUTE.value or has_experts:
        return
    factor = _batch_that_fits(run)
    if factor > 1:
        is_reading = run.totals.bound == Bound.MEMORY.value and any(weight_bytes(graph).values())
        shared = "the weights are read" if is_reading else "each kernel starts"
        text = f"run {factor} times the batch, so that {shared} once for all"
        yield _advice("batch", text, graph, run, Change(batch=factor))


def _batch_that_fits(run: Estimate) -> int:
    capacity = run.machine.memory.capacity_bytes
    fixed = run.memory.weight_bytes
    varying = max(1, run.totals.peak_memory_bytes - fixed)
    if capacity is None:
        return _MAX_BATCH_FACTOR // 2
    room = capacity * devices_needed(run) - fixed
    factor = 1
    while factor < _MAX_BATCH_FACTOR and varying * factor * 2 <= room:
        factor *= 2
    return factor


def _fewer_starts(graph: Graph, run: Estimate) -> Iterator[Advice]:
    """At best a single start is left."""
    starts = sum(n.repeat for n in run.nodes if n.overhead_s)
    if run.totals.bound == Bound.OVERHEAD.value and starts > 1:
        text = f"start fewer kernels than {starts}: fuse, or capture a CUDA graph"
        if run.machine.kind == "cpu":
            text = f"start fewer kernels than {starts}: fuse them"
        yield _advice("fuse", text, graph, run, Change(start_scale=1 / starts), is_bound=True)


def _recompute(graph: Graph, run: Estimate, optimizer: str) -> Iterator[Advice]:
    """Full recomputation, where activations are most of what does not fit."""
    if devices_needed(run) <= 1 or run.totals.activation_bytes < run.memory.weight_bytes:
        return
    again = estimate(
        graph,
        run.machine,
        ceiling=run.ceiling,
        execution=run.execution,
        optimizer=optimizer,
        recompute=Recompute.FULL,
        allow_uncounted=True,
    )
    if again.totals.peak_memory_bytes < run.totals.peak_memory_bytes:
        yield Advice(
            action="recompute",
            text="recompute activations in backward instead of keeping them (--recompute full)",
            speedup=run.totals.time_s / again.totals.time_s,
            time_s=again.totals.time_s,
            peak_memory_bytes=again.totals.peak_memory_bytes,
        )


def _sharded(run: Estimate) -> Iterator[Advice]:
    count = devices_needed(run)
    if count > 1:
        yield Advice(
            action="shard",
            text=f"split it over at least {count} such devices; the links between are not counted",
            speedup=float(count),
            time_s=run.totals.time_s / count,
            peak_memory_bytes=ceil(run.totals.peak_memory_bytes / count),
            is_bound=True,
        )


def devices_needed(run: Estimate) -> int:
    """The least number of such machines whose memories together hold the peak; 1 if unknown."""
    return devices_for(run.totals.peak_memory_bytes, run.machine)


def devices_for(nbytes: int, machine: Machine) -> int:
    """The least number of `machine`s whose memories together hold `nbytes`; 1 if unknown."""
    capacity = machine.memory.capacity_bytes
    return max(1, ceil(nbytes / capacity)) if capacity else 1
