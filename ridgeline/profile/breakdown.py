"""Joins what was measured with what was estimated: per node, per op kind, in total."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from ridgeline.cost import Estimate, Execution, estimate
from ridgeline.cost.advice import Advice, advise
from ridgeline.cost.roofline import roofline_times
from ridgeline.cost.work import Work, work_of
from ridgeline.errors import GraphError
from ridgeline.graph import Graph, Phase
from ridgeline.machines import Ceiling, Machine
from ridgeline.profile.gaps import Gap, gaps_of
from ridgeline.profile.measure import Measurement, Run
from ridgeline.profile.nodes import KindProfile, MemoryPoint, NodeProfile


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """A run beside its estimate. estimate: eager, at the achievable ceiling. bound_s: the time no
    execution here can beat; gaps: what stands between, largest first, adding up to the measured
    time less the bound. advice: what would help, priced by the estimate.
    """

    graph: str
    phase: str
    machine: Machine
    run: Run
    estimate: Estimate
    datasheet: Estimate
    nodes: tuple[NodeProfile, ...]
    kinds: tuple[KindProfile, ...]
    memory: tuple[MemoryPoint, ...]
    gaps: tuple[Gap, ...]
    advice: tuple[Advice, ...]

    @property
    def measured_s(self) -> float:
        """The whole program, called at once, less what other programs on the machine cost it."""
        return self.run.time_s

    @property
    def predicted_s(self) -> float:
        """The same, estimated."""
        return self.estimate.totals.time_s

    @property
    def error(self) -> float:
        """Predicted over measured, less one."""
        return self.predicted_s / self.measured_s - 1

    @property
    def bound_s(self) -> float:
        """The roofline of the whole at the achievable ceiling."""
        return self.estimate.totals.roofline_s

    def percent_of(self, ceiling: Ceiling) -> float:
        """Share of the whole roofline reached, as a fraction of one."""
        found = self.datasheet if ceiling is Ceiling.DATASHEET else self.estimate
        return found.totals.roofline_s / self.measured_s


def breakdown(
    graph: Graph, run: Run, machine: Machine, *, allow_uncounted: bool = False
) -> Profile:
    """`run` of `graph`, beside what `machine` should need for it.

    Raises GraphError for a run of another graph, or of a training graph, whose backward is not in
    the program; UnsupportedOp for a node without a cost rule, unless `allow_uncounted`.
    """
    if run.digest != graph.digest:
        raise GraphError(f"the run is of {run.graph} ({run.digest}), not of graph {graph.name}.")
    if graph.phase is Phase.TRAIN:
        raise GraphError(
            f"graph {graph.name} is of phase train, of which only the forward part can be run "
            "node by node; profile the phase forward."
        )
    eager, datasheet, compiled = (
        estimate(
            graph, machine, ceiling=ceiling, execution=execution, allow_uncounted=allow_uncounted
        )
        for ceiling, execution in (
            (Ceiling.ACHIEVABLE, Execution.EAGER),
            (Ceiling.DATASHEET, Execution.EAGER),
            (Ceiling.ACHIEVABLE, Execution.COMPILED),
        )
    )
    nodes = _nodes(graph, run, eager, compiled, allow_uncounted)
    return Profile(
        graph=graph.name,
        phase=graph.phase.value,
        machine=machine,
        run=run,
        estimate=eager,
        datasheet=datasheet,
        nodes=nodes,
        kinds=_kinds(nodes),
        memory=_memory(run, eager),
        gaps=gaps_of(graph, run, nodes, machine, eager.totals.roofline_s),
        advice=advise(graph, eager),
    )


def _nodes(
    graph: Graph, run: Run, eager: Estimate, compiled: Estimate, allow_uncounted: bool
) -> tuple[NodeProfile, ...]:
    works = {w.name: w for w in work_of(graph, allow_uncounted=allow_uncounted)}
    fused = {n.name: n for n in compiled.nodes}
    measured = {m.name: m for m in run.nodes}
    return tuple(
        _node(
            measured[n.name],
            works[n.name],
            eager.machine,
            predicted_s=n.time_s,
            compiled_s=fused[n.name].time_s,
            fused_bytes=fused[n.name].moved_bytes,
            dtype=n.dtype,
            total_s=run.nodes_s,
        )
        for n in eager.nodes
    )


def _node(
    measured: Measurement,
    work: Work,
    machine: Machine,
    *,
    predicted_s: float,
    compiled_s: float,
    fused_bytes: int,
    dtype: str,
    total_s: float,
) -> NodeProfile:
    node = work.node
    assert node is not None  # only the optimizer's step has none, and this is no training step

    def roof(ceiling: Ceiling, nbytes: int) -> float:
        return roofline_times(work.cost, nbytes, dtype, machine, ceiling, 0.0).time_s

    times = roofline_times(
        work.cost, work.cost.nbytes, dtype, machine, Ceiling.ACHIEVABLE, machine.dispatch_overhead_s
    )
    return NodeProfile(
        name=work.name,
        op=work.op,
        category=node.row.category.value,
        module=work.module,
        dtype=dtype,
        bound=times.bound.value,
        measured_s=measured.time_s,
        spread_s=measured.spread_s,
        num_samples=measured.num_samples,
        num_clean=measured.num_clean,
        predicted_s=predicted_s,
        compiled_s=compiled_s,
        datasheet_s=roof(Ceiling.DATASHEET, work.cost.nbytes),
        achievable_s=roof(Ceiling.ACHIEVABLE, work.cost.nbytes),
        fused_s=roof(Ceiling.ACHIEVABLE, fused_bytes),
        dispatch_s=min(measured.time_s, machine.dispatch_overhead_s),
        flops=work.cost.flops,
        moved_bytes=work.cost.nbytes,
        fused_bytes=fused_bytes,
        output_bytes=measured.output_bytes,
        share=measured.time_s / total_s if total_s else 0.0,
        is_view=node.row.is_free,
        is_compute_bound=times.compute_s > times.memory_s,
        is_counted=work.is_counted,
    )


def _kinds(nodes: Iterable[NodeProfile]) -> tuple[KindProfile, ...]:
    """Nodes summed by op kind, the longest first."""
    groups: dict[str, list[NodeProfile]] = {}
    for node in nodes:
        groups.setdefault(node.op, []).append(node)
    kinds = [
        KindProfile(
            op=op,
            count=len(members),
            measured_s=sum(n.measured_s for n in members),
            predicted_s=sum(n.predicted_s for n in members),
            achievable_s=sum(n.achievable_s for n in members),
            flops=sum(n.flops for n in members),
            moved_bytes=sum(n.moved_bytes for n in members),
            share=sum(n.share for n in members),
        )
        for op, members in groups.items()
    ]
    return tuple(sorted(kinds, key=lambda k: -k.measured_s))


def _memory(run: Run, predicted: Estimate) -> tuple[MemoryPoint, ...]:
    curve: Mapping[str, int] = dict(predicted.memory.curve)
    return tuple(
        MemoryPoint(
            name=step.name,
            measured_bytes=step.live_bytes,
            predicted_bytes=curve[step.name],
            rss_bytes=step.rss_bytes,
        )
        for step in run.memory
    )
