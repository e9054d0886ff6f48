"""What stands between a measurement and its bound: signed parts that add up to the difference.

Each node's time is cut where its bounds lie, from below: its roofline in a fused program, the
roofline of what it moves alone, the time of a compiled kernel where the machine was calibrated for
one, what the node took, and the dispatch that was part of it. See docs/profile.md.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum

from ridgeline.graph import Category, Graph, Node, Ref
from ridgeline.machines import Machine
from ridgeline.machines.tables import Route
from ridgeline.profile.measure import Run
from ridgeline.profile.nodes import NodeProfile
from ridgeline.units import counted, format_bytes, format_percent, format_rate, format_time

MATRIX = tuple(
    c.value for c in (Category.MATMUL, Category.CONVOLUTION, Category.ATTENTION, Category.RECURRENT)
)
# op kind -> the kind that calibration measures it as
_KERNELS = {
    "linear": "gemm",
    "matmul": "gemm",
    "addmm": "gemm",
    "convolution": "convolution",
    "sdpa": "attention",
    "lstm": "lstm",
}
_WORTH_SAYING = 1.1
_ROUTES: tuple[Route, Route] = ("eager", "compiled")
_BETWEEN = (Category.ELEMENTWISE, Category.COPY, Category.SOFTMAX, Category.VIEW, Category.NOISE)


class GapKind(Enum):
    """Why time is lost; decides what can be done about it."""

    ROUTE = "route"
    SLOW = "slow"
    KERNEL_LIMIT = "kernel limit"
    TRAFFIC = "traffic"
    ATTENTION = "attention"
    DISPATCH = "dispatch"
    SMALL = "small"
    ORDER = "order"
    CACHE = "cache"
    RELEASE = "release"
    STATE = "state"
    GLUE = "glue"
    UNEXPLAINED = "unexplained"


@dataclass(frozen=True, slots=True, kw_only=True)
class Gap:
    """One part of the difference. time_s is negative where the run beat the bound of the part."""

    kind: GapKind
    what: str
    time_s: float
    nodes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Cut:
    """One node's time above (or below) its fused roofline, by cause."""

    node: NodeProfile
    route_s: float = 0.0
    limit_s: float = 0.0
    small_s: float = 0.0
    slow_s: float = 0.0
    traffic_s: float = 0.0
    cache_s: float = 0.0

    @property
    def work_s(self) -> float:
        """The node's time without its dispatch."""
        return self.node.measured_s - self.node.dispatch_s


def gaps_of(
    graph: Graph, run: Run, nodes: Sequence[NodeProfile], machine: Machine, bound_s: float
) -> tuple[Gap, ...]:
    """The parts of `run.time_s - bound_s`, largest first; what nothing explains is one of them."""
    cuts = [_cut(node, bool(machine.kernels)) for node in nodes if not node.is_view]
    attention = {n for chain in unfused_attention(graph) for n in chain}
    gaps = [
        *_matrix_gaps(cuts, machine),
        *_small_gaps([c for c in cuts if c.node.name not in attention]),
        *_slow_gaps([c for c in cuts if c.node.name not in attention]),
        *_traffic_gaps([c for c in cuts if c.node.name not in attention]),
        *_attention_gaps([c for c in cuts if c.node.name in attention]),
        *_cache_gaps(cuts),
        *_dispatch_gaps(nodes),
        *_order_gaps(cuts, bound_s),
        *_outside_gaps(run),
    ]
    return tuple(sorted((g for g in gaps if g.time_s), key=lambda g: -g.time_s))


def _cut(node: NodeProfile, has_kernels: bool) -> _Cut:
    work_s = node.measured_s - node.dispatch_s
    if work_s < node.fused_s:
        return _Cut(node, cache_s=work_s - node.fused_s)
    if node.category in MATRIX:
        compiled_s = node.compiled_s if has_kernels else node.fused_s
        reach_s = min(work_s, max(node.fused_s, compiled_s))
        return _Cut(node, route_s=work_s - reach_s, limit_s=reach_s - node.fused_s)
    alone_s = min(work_s, max(node.fused_s, node.achievable_s))
    slow_s, traffic_s = work_s - alone_s, alone_s - node.fused_s
    if node.achievable_s < node.dispatch_s:
        return _Cut(node, small_s=slow_s, traffic_s=traffic_s)
    return _Cut(node, slow_s=slow_s, traffic_s=traffic_s)


def _matrix_gaps(cuts: Sequence[_Cut], machine: Machine) -> Iterator[Gap]:
    groups: dict[tuple[str, str], list[_Cut]] = {}
    for cut in cuts:
        if cut.route_s or cut.limit_s:
            groups.setdefault((cut.node.op, cut.node.dtype), []).append(cut)
    for (op, dtype), members in groups.items():
        yield Gap(
            kind=GapKind.ROUTE,
            what=f"{op} in {dtype} runs at {_reach(members)}{_routes(machine, op, dtype)}",
            time_s=sum(c.route_s for c in members),
            nodes=_worst(members, "route_s"),
        )
        yield Gap(
            kind=GapKind.KERNEL_LIMIT,
            what=f"{op} in {dtype}: the best kernel calibrated here stays above the roofline",
            time_s=sum(c.limit_s for c in members),
            nodes=_worst(members, "limit_s"),
        )


def _routes(machine: Machine, op: str, dtype: str) -> str:
    """What calibration saw of the two routes to this kernel, where the compiled one is faster."""
    kind = _KERNELS.get(op, "")
    eager, compiled = (machine.find_kernel(r, kind, dtype) for r in _ROUTES)
    if eager is None or compiled is None:
        return ""
    slow, fast = (max(sample[-1] for sample in k.samples) for k in (eager, compiled))
    if fast < _WORTH_SAYING * slow:
        return ""
    return (
        f"; calibrated: {format_rate(slow, 'FLOP')} as eager calls it, "
        f"{format_rate(fast, 'FLOP')} compiled with packed weights"
    )


def _slow_gaps(cuts: Sequence[_Cut]) -> Iterator[Gap]:
    groups: dict[str, list[_Cut]] = {}
    for cut in cuts:
        if cut.slow_s:
            groups.setdefault(cut.node.op, []).append(cut)
    for op, members in groups.items():
        yield Gap(
            kind=GapKind.SLOW,
            what=f"{op} runs at {_reach(members)}",
            time_s=sum(c.slow_s for c in members),
            nodes=_worst(members, "slow_s"),
        )


def _small_gaps(cuts: Sequence[_Cut]) -> Iterator[Gap]:
    """Nodes with less work than one dispatch takes: their time is starting kernels."""
    members = [c for c in cuts if c.small_s]
    if not members:
        return
    mean_s = sum(c.work_s for c in members) / len(members)
    work_s = sum(c.node.achievable_s for c in members) / len(members)
    yield Gap(
        kind=GapKind.SMALL,
        what=f"{len(members)} small nodes ({_kinds(members, 'small_s')}) take "
        f"{format_time(mean_s)} each for {format_time(work_s)} of work: starting kernels",
        time_s=sum(c.small_s for c in members),
        nodes=_worst(members, "small_s"),
    )


def _reach(members: Sequence[_Cut]) -> str:
    """ "40% of what this machine reaches (208 of 520 GFLOP/s)"; the rate is of what bounds it."""
    work_s = sum(c.work_s for c in members)
    roof_s = sum(c.node.achievable_s for c in members)
    flops = sum(c.node.flops for c in members)
    compute_s = sum(c.node.achievable_s for c in members if c.node.is_compute_bound)
    is_compute = flops and compute_s > roof_s / 2
    amount, unit = (
        (flops, "FLOP") if is_compute else (sum(c.node.moved_bytes for c in members), "B")
    )
    if not roof_s or not amount or not work_s:
        return "a rate for which the machine has no ceiling"
    rates = f"{format_rate(amount / work_s, unit)} of {format_rate(amount / roof_s, unit)}"
    count = counted(len(members), "node")
    return f"{format_percent(roof_s / work_s)} of what this machine reaches ({rates}; {count})"


def _traffic_gaps(cuts: Sequence[_Cut]) -> Iterator[Gap]:
    members = [c for c in cuts if c.traffic_s]
    if not members:
        return
    extra = sum(c.node.moved_bytes - c.node.fused_bytes for c in members)
    kinds = _kinds(members, "traffic_s")
    yield Gap(
        kind=GapKind.TRAFFIC,
        what=f"{len(members)} nodes ({kinds}) move {format_bytes(extra)} that a fused program "
        "would not",
        time_s=sum(c.traffic_s for c in members),
        nodes=_worst(members, "traffic_s"),
    )


def _attention_gaps(cuts: Sequence[_Cut]) -> Iterator[Gap]:
    if not cuts:
        return
    scores = [c.node for c in cuts if c.node.op == "softmax"]
    nbytes = sum(n.output_bytes for n in scores)
    yield Gap(
        kind=GapKind.ATTENTION,
        what=f"attention unfused: {len(scores)} softmax between two products; scores of "
        f"{format_bytes(nbytes)} are written and read again",
        time_s=sum(c.small_s + c.slow_s + c.traffic_s for c in cuts),
        nodes=_worst(cuts, "work_s"),
    )


def _cache_gaps(cuts: Sequence[_Cut]) -> Iterator[Gap]:
    members = [c for c in cuts if c.cache_s]
    yield Gap(
        kind=GapKind.CACHE,
        what=f"{len(members)} nodes beat their roofline: what they read was still in a cache",
        time_s=sum(c.cache_s for c in members),
        nodes=tuple(c.node.name for c in sorted(members, key=lambda c: c.cache_s)),
    )


def _dispatch_gaps(nodes: Sequence[NodeProfile]) -> Iterator[Gap]:
    views = [n for n in nodes if n.is_view]
    time_s = sum(n.measured_s if n.is_view else n.dispatch_s for n in nodes)
    yield Gap(
        kind=GapKind.DISPATCH,
        what=f"dispatch of {len(nodes)} nodes, {len(views)} of them views",
        time_s=time_s,
        nodes=tuple(n.name for n in sorted(views, key=lambda n: -n.measured_s)),
    )


def _order_gaps(cuts: Sequence[_Cut], bound_s: float) -> Iterator[Gap]:
    yield Gap(
        kind=GapKind.ORDER,
        what="nodes run one after another: computing and moving never overlap between two of "
        "them, and results between kernels pass through memory",
        time_s=sum(c.node.fused_s for c in cuts) - bound_s,
    )


def _outside_gaps(run: Run) -> Iterator[Gap]:
    """What of the whole is in no node."""
    yield Gap(kind=GapKind.RELEASE, what="giving memory back", time_s=run.release_s)
    yield Gap(kind=GapKind.STATE, what="writing new state to its buffers", time_s=run.state_s)
    yield Gap(kind=GapKind.GLUE, what="Python between the nodes", time_s=run.glue_s)
    yield Gap(
        kind=GapKind.UNEXPLAINED,
        what="unexplained: the whole program against its parts (caches, order, noise)",
        time_s=run.unexplained_s,
    )


def _worst(members: Sequence[_Cut], cause: str) -> tuple[str, ...]:
    """Names of the nodes, the largest loss by `cause` first."""
    ordered = sorted(members, key=lambda c: -float(getattr(c, cause)))
    return tuple(c.node.name for c in ordered)


def _kinds(members: Sequence[_Cut], cause: str) -> str:
    """The op kinds that lose most, at most three: "add, relu, batch_norm and others"."""
    losses: dict[str, float] = {}
    for cut in members:
        losses[cut.node.op] = losses.get(cut.node.op, 0.0) + float(getattr(cut, cause))
    ordered = sorted(losses, key=lambda op: -losses[op])
    return ", ".join(ordered[:3]) + (" and others" if len(ordered) > 3 else "")


def unfused_attention(graph: Graph) -> tuple[tuple[str, ...], ...]:
    """Chains of nodes from the product of queries and keys, exclusive, through a softmax, to the
    product with the values, exclusive.
    """
    producers = {Ref(node.name): node for node in graph.nodes}
    readers: dict[str, list[Node]] = {}
    for node in graph.nodes:
        for ref in node.operands:
            readers.setdefault(ref.name, []).append(node)
    chains = []
    for node in graph.nodes:
        if node.op != "softmax":
            continue
        before = _climb(node, producers)
        after = _descend(node, readers)
        if before is not None and after is not None:
            chains.append((*reversed(before), node.name, *after))
    return tuple(chains)


def _climb(node: Node, producers: dict[Ref, Node]) -> list[str] | None:
    """Names between a node and the product above it; None if something else stands above."""
    found: list[str] = []
    while (above := producers.get(node.operands[0])) is not None:
        if above.row.category is Category.MATMUL:
            return found
        if above.row.category not in _BETWEEN or not above.operands:
            return None
        found.append(above.name)
        node = above
    return None


def _descend(node: Node, readers: dict[str, list[Node]]) -> list[str] | None:
    """Names between a node and the product that alone reads it; None if there is no such one."""
    found: list[str] = []
    while len(below := readers.get(node.name, [])) == 1:
        if below[0].row.category is Category.MATMUL:
            return found
        if below[0].row.category not in _BETWEEN:
            return None
        found.append(below[0].name)
        node = below[0]
    return None
