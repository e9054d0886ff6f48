"""estimate(graph, machine): what each node and the whole cost, and how long they take."""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from ridgeline.cost.fusion import FusionLimits, Traffic, fused_traffic
from ridgeline.cost.kernels import KernelModel, Move
from ridgeline.cost.memory import MemoryProfile, memory_profile
from ridgeline.cost.op_cost import OpCost, total
from ridgeline.cost.roofline import Bound, Execution, compute_dtype, roofline_times
from ridgeline.cost.work import OPTIMIZERS, Part, Recompute, Work, work_of
from ridgeline.graph import Category, Graph, InputKind, Phase
from ridgeline.machines import Ceiling, Machine


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeEstimate:
    """One node of the estimate. Every count and time is of all `repeat` runs together.

    read_bytes and write_bytes are what the node alone would move; moved_bytes is what is left of
    it when neighbours are fused (equal to their sum in eager execution).
    """

    name: str
    op: str
    category: str
    engine: str
    module: str
    part: str
    dtype: str
    repeat: int
    flops: int
    causal_flops: int
    vector_ops: int
    read_bytes: int
    write_bytes: int
    moved_bytes: int
    compute_s: float
    memory_s: float
    overhead_s: float
    time_s: float
    bound: str
    is_counted: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Totals:
    """The whole run.

    flops: model FLOPs, attention full; causal_flops: attention's masked half left out;
    hardware_flops: what the kernels execute, recomputation included. roofline_s: the bound no
    execution can beat at the same ceiling: the larger of all compute at peak and every weight,
    input and output moved once; never above time_s. intensity: FLOPs per byte moved; ridge: where
    the machine turns.
    """

    flops: int
    causal_flops: int
    hardware_flops: int
    macs: int
    vector_ops: int
    parameters: int
    parameter_bytes: int
    read_bytes: int
    write_bytes: int
    moved_bytes: int
    peak_memory_bytes: int
    activation_bytes: int
    cache_bytes: int
    time_s: float
    compute_s: float
    memory_s: float
    overhead_s: float
    roofline_s: float
    bound: str
    intensity: float
    ridge: float
    is_lower_bound: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """Predicted, never observed. A percentage of it is of `ceiling`."""

    graph: str
    digest: str
    phase: str
    machine: Machine
    ceiling: Ceiling
    execution: Execution
    nodes: tuple[NodeEstimate, ...]
    totals: Totals
    memory: MemoryProfile
    uncounted: Mapping[str, int]


def estimate(
    graph: Graph,
    machine: Machine,
    *,
    ceiling: Ceiling = Ceiling.ACHIEVABLE,
    execution: Execution = Execution.COMPILED,
    optimizer: str = "adamw",
    recompute: Recompute = Recompute.NONE,
    allow_uncounted: bool = False,
) -> Estimate:
    """The cost and the predicted time of one run of `graph` on `machine`.

    Where the machine carries measured kernels (a calibrated one) and the ceiling is the
    achievable one, a node's time follows those; elsewhere it is the roofline's. Raises
    UnsupportedOp for a node without a cost rule, unless `allow_uncounted`.
    """
    state = OPTIMIZERS[optimizer]
    works = work_of(graph, optimizer=state, recompute=recompute, allow_uncounted=allow_uncounted)
    model = KernelModel(machine, execution, ceiling)
    memory = memory_profile(graph, works, optimizer=state)
    traffic: Mapping[str, Traffic] = {}
    if execution is Execution.COMPILED:
        traffic = fused_traffic(graph, FusionLimits.of(machine))
    moves = _moves(graph, works, traffic, compulsory_bytes(graph) + memory.activation_bytes)
    nodes = tuple(_node(work, move, model) for work, move in zip(works, moves, strict=True))
    return Estimate(
        graph=graph.name,
        digest=graph.digest,
        phase=graph.phase.value,
        machine=machine,
        ceiling=ceiling,
        execution=execution,
        nodes=nodes,
        totals=_totals(graph, model, nodes, works, memory),
        memory=memory,
        uncounted=_uncounted(works),
    )


def _moves(
    graph: Graph, works: Sequence[Work], traffic: Mapping[str, Traffic], pass_nbytes: int
) -> Iterator[Move]:
    """What each work moves; less than it would alone where it has `traffic` of its own."""
    weights = {i.name for i in graph.inputs if i.kind is not InputKind.INPUT}
    for work in works:
        nbytes, is_start = work.cost.nbytes, True
        if traffic:
            nbytes, is_start = _fused(work, traffic)
        yield Move(
            nbytes=nbytes,
            weight_nbytes=min(nbytes, _weight_nbytes(work, graph, weights)),
            pass_nbytes=pass_nbytes,
            is_start=is_start,
        )


def _weight_nbytes(work: Work, graph: Graph, weights: Collection[str]) -> int:
    """Bytes of weights among what the work reads; all of the optimizer's traffic is weights."""
    node = work.node
    if node is None:
        return work.cost.nbytes
    roots = (ref for ref in node.operands if graph.storage[ref].name in weights)
    return min(sum(node.specs[ref].nbytes for ref in roots), work.cost.read_bytes)


def _fused(work: Work, traffic: Mapping[str, Traffic]) -> tuple[int, bool]:
    """(bytes moved, starts a kernel) in compiled execution; backward fuses as its forward does."""
    inside = traffic.get(work.node.name) if work.node else None
    if inside is None or work.node is None:
        return work.cost.nbytes, work.node is None
    if work.part is Part.FORWARD:
        return min(inside.nbytes, work.cost.nbytes), inside.is_head
    alone = sum(s.nbytes for s in (*work.node.tensors, *work.node.outputs))
    share = min(1.0, inside.nbytes / alone) if alone else 1.0
    return round(work.cost.nbytes * share), inside.is_head


def _node(work: Work, move: Move, model: KernelModel) -> NodeEstimate:
    times = model.times(work, move)
    cost, row = work.cost.times(work.repeat), work.node.row if work.node else None
    return NodeEstimate(
        name=work.name,
        op=work.op,
        category=row.category.value if row else Category.ELEMENTWISE.value,
        engine=row.engine.value if row else "vector",
        module=work.module,
        part=work.part.value,
        dtype=compute_dtype(work.node),
        repeat=work.repeat,
        flops=cost.flops,
        causal_flops=cost.causal_flops,
        vector_ops=cost.vector_ops + cost.special_ops,
        read_bytes=cost.read_bytes,
        write_bytes=cost.write_bytes,
        moved_bytes=move.nbytes * work.repeat,
        compute_s=times.compute_s * work.repeat,
        memory_s=times.memory_s * work.repeat,
        overhead_s=times.overhead_s * work.repeat,
        time_s=times.time_s * work.repeat,
        bound=times.bound.value,
        is_counted=work.is_counted,
    )


def _totals(
    graph: Graph,
    model: KernelModel,
    nodes: Sequence[NodeEstimate],
    works: Sequence[Work],
    memory: MemoryProfile,
) -> Totals:
    time_s = sum(n.time_s for n in nodes)
    cost = total(w.cost.times(w.repeat) for w in works)
    moved = sum(n.moved_bytes for n in nodes)
    return Totals(
        flops=cost.flops,
        causal_flops=cost.causal_flops,
        hardware_flops=cost.executed_flops,
        macs=cost.flops // 2,
        vector_ops=cost.vector_ops + cost.special_ops,
        parameters=graph.parameters,
        parameter_bytes=sum(i.nbytes for i in graph.of_kind(InputKind.PARAMETER)),
        read_bytes=cost.read_bytes,
        write_bytes=cost.write_bytes,
        moved_bytes=moved,
        peak_memory_bytes=memory.peak_bytes,
        activation_bytes=memory.activation_bytes,
        cache_bytes=memory.cache_bytes,
        time_s=time_s,
        compute_s=sum(n.compute_s for n in nodes),
        memory_s=sum(n.memory_s for n in nodes),
        overhead_s=sum(n.overhead_s for n in nodes),
        roofline_s=min(time_s, _roofline_s(graph, model, works)),
        bound=_bound(nodes),
        intensity=cost.flops / moved if moved else 0.0,
        ridge=model.machine.ridge_flops_per_byte(_main_dtype(nodes), model.ceiling),
        is_lower_bound=any(not w.is_counted for w in works),
    )


def _roofline_s(graph: Graph, model: KernelModel, works: Iterable[Work]) -> float:
    """The time below which no execution gets: compute and compulsory traffic overlap completely.

    Compulsory: what the graph must read and write at least once. A gathered table counts by the
    rows taken, so weights are counted by what their readers read. It comes from the nearest cache
    that could hold all of it from run to run, where that cache's bandwidth was measured.
    """
    compute_s = sum(
        roofline_times(
            OpCost(executed_flops=w.cost.causal_flops),
            0,
            compute_dtype(w.node),
            model.machine,
            model.ceiling,
            0.0,
        ).compute_s
        * w.repeat
        for w in works
    )
    return max(compute_s, model.pass_s(compulsory_bytes(graph)))


def compulsory_bytes(graph: Graph) -> int:
    """Bytes any execution moves: each weight and input that is read, and each result, once.

    A training step also writes every gradient-updated parameter once.
    """
    from ridgeline.cost.rules import cost_of, has_rule

    read: dict[str, int] = {}
    inputs = {i.name: i for i in graph.inputs}
    for node in graph.nodes:
        for ref in node.operands:
            source = graph.storage[ref].name
            if source in inputs and not node.row.is_free and has_rule(node):
                nbytes = min(inputs[source].spec.nbytes, cost_of(node).read_bytes)
                read[source] = max(read.get(source, 0), nbytes)
    weights = sum(nbytes * inputs[name].repeat for name, nbytes in read.items())
    results = sum(graph.specs[ref].nbytes for ref in graph.outputs if ref.name not in inputs)
    buffers = sum(i.nbytes for i in graph.inputs if i.is_mutated)
    updated = sum(i.nbytes for i in graph.of_kind(InputKind.PARAMETER))
    extra = updated if graph.phase is Phase.TRAIN else 0
    return weights + max(0, results - buffers) + extra


def _bound(nodes: Iterable[NodeEstimate]) -> str:
    """What most of the time is spent waiting for."""
    shares: dict[str, float] = {}
    for node in nodes:
        shares[node.bound] = shares.get(node.bound, 0.0) + node.time_s
    return max(shares, key=lambda b: shares[b], default=Bound.FREE.value)


def _main_dtype(nodes: Iterable[NodeEstimate]) -> str:
    """The dtype of most matrix work; fp32 without any."""
    flops: dict[str, int] = {}
    for node in nodes:
        flops[node.dtype] = flops.get(node.dtype, 0) + node.flops
    return max(flops, key=lambda d: flops[d], default="fp32")


def _uncounted(works: Iterable[Work]) -> dict[str, int]:
    """target -> how often an op without a cost rule runs."""
    missing: dict[str, int] = {}
    for work in works:
        if not work.is_counted and work.node:
            missing[work.node.target] = missing.get(work.node.target, 0) + work.repeat
    return missing
