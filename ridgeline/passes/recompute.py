"""Computes part of forward again in backward instead of keeping it: less memory for more time."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from torch import fx

from ridgeline.errors import GraphError
from ridgeline.graph import Graph, Ref
from ridgeline.graph.edit import Edit
from ridgeline.machines import Machine
from ridgeline.passes.schedule import Joint
from ridgeline.units import format_bytes

# Into how many stretches forward is cut, each computed again from what enters it. About the square
# root of the depth is best for a chain (Chen et al. 2016); wide graphs differ, so all are tried.
_STRETCHES = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32)
# Node visits that refining may spend, a few seconds.
_MAX_VISITS = 60_000
# Prices of a second in bytes, as quantiles of what the nodes offer; between them the cut changes
# little.
_QUANTILES = (0.0, 0.1, 0.25, 0.5, 0.75, 0.9)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What to compute again, and what the step then needs. again: names of nodes."""

    again: frozenset[str]
    peak_bytes: int
    time_s: float


def recompute(graph: Graph, machine: Machine, *, budget_bytes: int) -> Graph:
    """The joint graph with the least added time whose peak memory is at most `budget_bytes`.

    Outputs stay what they were: the same kernels run on the same values, and what draws random
    numbers is never run again. The graph as it is, if it fits. Raises GraphError if nothing does.
    """
    plans = plan(graph, machine)
    fitting = [p for p in plans if p.peak_bytes <= budget_bytes]
    if not fitting:
        least = min(p.peak_bytes for p in plans)
        raise GraphError(
            f"graph {graph.name} does not fit in {format_bytes(budget_bytes)}: recomputation "
            f"brings its peak from {format_bytes(plans[0].peak_bytes)} to {format_bytes(least)}, "
            "no further; take a smaller batch."
        )
    return rewrite(Joint(graph=graph, machine=machine), min(fitting, key=lambda p: p.time_s).again)


def sweep(graph: Graph, machine: Machine) -> tuple[tuple[int, float], ...]:
    """(peak memory in bytes, predicted time in seconds) of every plan that no other beats in both,
    from the most memory to the least.
    """
    return tuple((p.peak_bytes, p.time_s) for p in plan(graph, machine))


def plan(graph: Graph, machine: Machine) -> tuple[Plan, ...]:
    """The plans of `sweep`, the first of which adds no time."""
    joint = Joint(graph=graph, machine=machine)
    sets = {frozenset[str]()}
    for kept in _checkpoints(joint):
        for price in _prices(joint):
            sets.add(_cut(joint, kept, price))
    return _refined(joint, _front(_plan(joint, again) for again in sets))


def _front(plans: Iterable[Plan]) -> tuple[Plan, ...]:
    """The plans that no other beats in both time and memory, fastest first."""
    best: list[Plan] = []
    for one in sorted(plans, key=lambda p: (p.time_s, p.peak_bytes, sorted(p.again))):
        if not best or one.peak_bytes < best[-1].peak_bytes:
            best.append(one)
    return tuple(best)


def _refined(joint: Joint, front: tuple[Plan, ...]) -> tuple[Plan, ...]:
    """The front after single nodes were added to its plans, or taken out, while that helped.

    A cut weighs what is kept from forward to backward; the peak also holds what backward makes.
    """
    names = [n.name for n in joint.forward if joint.is_repeatable(n) and not n.row.is_free]
    left = _MAX_VISITS // len(joint.graph.nodes)
    seen = {p.again for p in front}
    pending = list(front)
    while pending and left > 0:
        base = pending.pop()
        near = {_toggled(joint, base.again, name) for name in names} - seen
        seen |= near
        left -= len(near)
        found = _front([*front, *(_plan(joint, again) for again in near)])
        pending = [p for p in pending if p in found] + [p for p in found if p not in front]
        front = found
    return front


def _toggled(joint: Joint, again: frozenset[str], name: str) -> frozenset[str]:
    """One node more or less, and with it the views, which cost nothing."""
    return (again ^ {name}) | joint.views


def _plan(joint: Joint, again: frozenset[str]) -> Plan:
    runs = joint.runs(again)
    return Plan(again=again, peak_bytes=joint.peak_bytes(runs, again), time_s=joint.time_s(runs))


def _prices(joint: Joint) -> list[float]:
    """Bytes that a second of recomputation must save, from none to more than any node offers."""
    offers = sorted(
        sum(spec.nbytes for spec in node.outputs) / joint.times_s[node.name]
        for node in joint.forward
        if joint.times_s[node.name] > 0
    )
    return [offers[int(q * (len(offers) - 1))] for q in _QUANTILES] if offers else [0.0]


def _checkpoints(joint: Joint) -> list[frozenset[str]]:
    """Per number of stretches, the nodes whose values enter a stretch: these are kept."""
    crossing = _crossing(joint)
    sizes = [sum(joint.graph.specs[ref].nbytes for ref in refs) for refs in crossing]
    made = _cumulative(joint)
    found = []
    for count in _STRETCHES:
        if count > max(1, len(joint.forward) // 2):
            break
        places = [_place(made, sizes, (k / count, 0.5 / count)) for k in range(1, count)]
        found.append(frozenset(ref.name for place in places for ref in crossing[place]))
    return found


def _crossing(joint: Joint) -> list[frozenset[Ref]]:
    """Per node of forward, the values whose memory later nodes of forward still read after it."""
    last: dict[Ref, int] = {}
    order = {node.name: k for k, node in enumerate(joint.forward)}
    storage = joint.graph.storage
    for k, node in enumerate(joint.forward):
        last |= {storage[ref]: k for ref in node.operands if storage[ref].name in order}
    opening: list[set[Ref]] = [set() for _ in joint.forward]
    for ref, end in last.items():
        for k in range(order[ref.name], end):
            opening[k].add(ref)
    return [frozenset(refs) for refs in opening]


def _cumulative(joint: Joint) -> list[float]:
    """Per node of forward, the share of what backward reads that is made up to there."""
    storage = joint.graph.storage
    kept = {storage[ref] for ref in joint.read_by_backward}
    sums, so_far = [], 0
    for node in joint.forward:
        own = (Ref(node.name, k) for k in range(len(node.outputs)))
        so_far += sum(joint.graph.specs[ref].nbytes for ref in own if ref in kept)
        sums.append(so_far)
    return [s / max(1, so_far) for s in sums]


def _place(made: Sequence[float], sizes: Sequence[int], window: tuple[float, float]) -> int:
    """The position about a share of the way at which the least crosses."""
    centre, width = window
    near = [k for k, share in enumerate(made) if abs(share - centre) <= width]
    near = near or [min(range(len(made)), key=lambda k: abs(made[k] - centre))]
    return min(near, key=lambda k: (sizes[k], abs(made[k] - centre)))


def _cut(joint: Joint, kept: frozenset[str], price: float) -> frozenset[str]:
    """The nodes to compute again so that bytes kept + price * seconds added is least.

    A minimum cut. A node on the far side runs again, at its time; a value on the far side is read
    by backward or by what runs again; where a value is on the far side and its node is not, it is
    kept, at its bytes. What runs again reads values of the far side only.
    """
    import networkx as nx

    network = nx.DiGraph()
    storage, results = joint.graph.storage, set(joint.graph.outputs)
    for node in joint.forward:
        if node.name not in kept and joint.is_repeatable(node):
            time = round(price * joint.times_s[node.name]) + (0 if node.row.is_free else 1)
            network.add_edge("start", ("node", node.name), capacity=time)
        else:
            network.add_edge("start", ("node", node.name))  # without a capacity: never cut
        for k in range(len(node.outputs)):
            ref = Ref(node.name, k)
            nbytes = 0 if ref in results else joint.graph.specs[storage[ref]].nbytes
            network.add_edge(("node", node.name), ref, capacity=nbytes)
            if ref in joint.read_by_backward:
                network.add_edge(ref, "end")
        for ref in node.operands:
            if ref.name in joint.forward_names:
                network.add_edge(ref, ("node", node.name))
    if "end" not in network:
        return frozenset()
    _, (_, far) = nx.minimum_cut(network, "start", "end")
    return frozenset(node.name for node in joint.forward if ("node", node.name) in far)


def rewrite(joint: Joint, again: frozenset[str]) -> Graph:
    """The graph in which the nodes named run once more, right before backward first reads them."""
    edit = Edit(joint.graph)
    copies: dict[fx.Node, fx.Node] = {}
    for node in edit.nodes:
        if node.op != "call_function" or _maker(node).name in joint.forward_names:
            continue
        for source in _late(node, again, copies):
            with edit.module.graph.inserting_before(node):
                copy = edit.module.graph.node_copy(source, lambda n: copies.get(n, n))
            copies[source] = copy
        node.args = fx.map_arg(node.args, lambda n: copies.get(n, n))
        node.kwargs = fx.map_arg(node.kwargs, lambda n: copies.get(n, n))
    return edit.finish()


def _maker(node: fx.Node) -> fx.Node:
    """The node that makes a value: a look-up's is what it looks into."""
    source = node.args[0] if node.args else None
    is_lookup = getattr(node.target, "__name__", "") == "getitem" and isinstance(source, fx.Node)
    return source if is_lookup and isinstance(source, fx.Node) else node


def _late(node: fx.Node, again: frozenset[str], done: dict[fx.Node, fx.Node]) -> list[fx.Node]:
    """What must be copied before `node`, in order: everything that runs again that it leads to."""
    order: dict[fx.Node, None] = {}
    pending = [(source, False) for source in reversed(node.all_input_nodes)]
    while pending:
        source, is_ready = pending.pop()
        if is_ready:
            order[source] = None
        elif _maker(source).name in again and source not in done and source not in order:
            pending.append((source, True))
            pending += [(s, False) for s in reversed(source.all_input_nodes)]
    return list(order)
