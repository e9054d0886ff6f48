"""place(graph, fleet): which device runs each part of a graph, and when."""

import difflib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from graphlib import TopologicalSorter

from ridgeline.cost import Execution, estimate
from ridgeline.cost.fusion import fused_traffic
from ridgeline.errors import GraphError
from ridgeline.graph import Graph, InputKind, Ref
from ridgeline.graph.ops import OPS
from ridgeline.machines import Ceiling
from ridgeline.machines.fleet import Device, Fleet
from ridgeline.passes.placement.coarsen import coarsen
from ridgeline.passes.placement.schedule import Schedule, evaluate, priority
from ridgeline.passes.placement.search import MAX_EVALUATIONS, Found, search
from ridgeline.passes.placement.tasks import INFEASIBLE, Edge, TaskGraph

HOST = 0
ARRIVE, RETURN = "inputs", "outputs"
KINDS = frozenset(row.kind for row in OPS.values())


@dataclass(frozen=True, kw_only=True)
class Placement:
    """A graph placed on a fleet; all times are predicted by the cost model.

    members[t]: the nodes of task t in execution order; the first and the last task are the inputs'
    arrival and the outputs' return, and have none. single_s: per device that can run it all, the
    time on that device alone, copies from and to the host included.
    """

    graph: str
    fleet: Fleet
    tasks: TaskGraph
    members: tuple[tuple[str, ...], ...]
    schedule: Schedule
    heft_s: float
    single_s: Mapping[str, float]
    evaluations: int

    @property
    def makespan_s(self) -> float:
        """From the inputs on the host to the outputs on the host."""
        return self.schedule.makespan_s

    def devices_of_nodes(self) -> dict[str, str]:
        """Node name -> the name of the device that runs it."""
        return {
            node: self.fleet.devices[device].name
            for names, device in zip(self.members, self.schedule.assignment, strict=True)
            for node in names
        }


def place(
    graph: Graph,
    fleet: Fleet,
    *,
    ceiling: Ceiling = Ceiling.ACHIEVABLE,
    seed: int = 0,
    max_evaluations: int = MAX_EVALUATIONS,
    progress: Callable[[float], None] | None = None,
) -> Placement:
    """The fastest placement found, never slower than HEFT's nor than the best single device.

    Weights lie where they are used. Raises GraphError when an op runs on no device.
    """
    fine, members = task_graph(graph, fleet, ceiling)
    tasks, groups = coarsen(fine)
    found: Found = search(tasks, seed=seed, max_evaluations=max_evaluations, progress=progress)
    return Placement(
        graph=graph.name,
        fleet=fleet,
        tasks=tasks,
        members=tuple(tuple(name for t in group for name in members[t]) for group in groups),
        schedule=found.best,
        heft_s=found.heft.makespan_s,
        single_s=dict(_single(tasks, fleet)),
        evaluations=found.evaluations,
    )


def _single(tasks: TaskGraph, fleet: Fleet) -> Iterator[tuple[str, float]]:
    for number, device in enumerate(fleet.devices):
        homes = tasks.homes or (None,) * len(tasks.names)
        wanted = tuple(number if home is None else home for home in homes)
        if all(d in choices for d, choices in zip(wanted, tasks.choices, strict=True)):
            yield device.name, evaluate(tasks, wanted, priority(tasks)).makespan_s


def task_graph(
    graph: Graph, fleet: Fleet, ceiling: Ceiling = Ceiling.ACHIEVABLE
) -> tuple[TaskGraph, tuple[tuple[str, ...], ...]]:
    """The graph's fused groups as tasks, and the nodes of each."""
    _require_known(fleet)
    group_of = _groups(graph)
    flows = list(_flows(graph, group_of))
    order = _ordered(set(group_of.values()), flows)
    place_of = {group: i for i, group in enumerate(order)}
    members: list[list[str]] = [[] for _ in order]
    for node in graph.nodes:
        if node.name in group_of:
            members[place_of[group_of[node.name]]].append(node.name)
    columns = [_times(graph, device, ceiling) for device in fleet.devices]
    times = tuple(
        tuple(sum(column.get(name, 0.0) for name in names) for column in columns)
        for names in members
    )
    tasks = TaskGraph(
        names=tuple(_title(group, names) for group, names in zip(order, members, strict=True)),
        times_s=times,
        edges=tuple(
            Edge(source=place_of[a], target=place_of[b], nbytes=nbytes, value=value)
            for a, b, nbytes, value in flows
        ),
        copies=_copies(fleet),
        homes=tuple(HOST if group in (_FIRST, _LAST) else None for group in order),
    )
    _require_homes(tasks, graph)
    return tasks, tuple(map(tuple, members))


_FIRST, _LAST = -1, -2  # the groups of the inputs and of the outputs


def _groups(graph: Graph) -> dict[str, int]:
    """node -> number of its fused group; views belong to none."""
    return {name: traffic.group for name, traffic in fused_traffic(graph).items()}


def _flows(graph: Graph, group_of: Mapping[str, int]) -> Iterator[tuple[int, int, int, int]]:
    """(from group, to group, bytes, value) of everything that is read outside its own group."""
    users = {i.name for i in graph.of_kind(InputKind.INPUT)}
    values: dict[Ref, int] = {}
    seen: set[tuple[int, int, int]] = set()

    def flow(ref: Ref, target: int) -> Iterator[tuple[int, int, int, int]]:
        root = graph.storage[ref]
        source = _FIRST if root.name in users else group_of.get(root.name)
        value = values.setdefault(root, len(values))
        if source is None or source == target or (source, target, value) in seen:
            return
        seen.add((source, target, value))
        yield source, target, graph.specs[root].nbytes, value

    for node in graph.nodes:
        if node.name in group_of:
            for ref in node.operands:
                yield from flow(ref, group_of[node.name])
    for ref in graph.outputs:
        yield from flow(ref, _LAST)


def _ordered(groups: set[int], flows: list[tuple[int, int, int, int]]) -> list[int]:
    """The groups, each behind those it reads from; inputs first, outputs last."""
    sorter: TopologicalSorter[int] = TopologicalSorter({group: {_FIRST} for group in groups})
    sorter.add(_LAST, *groups)
    for source, target, _, _ in flows:
        sorter.add(target, source)
    return list(sorter.static_order())


def _times(graph: Graph, device: Device, ceiling: Ceiling) -> dict[str, float]:
    """node -> seconds on the device; INFEASIBLE where it cannot run there."""
    run = estimate(graph, device.machine, ceiling=ceiling, execution=Execution.COMPILED)
    return {
        node.name: INFEASIBLE if node.op in device.unsupported else node.time_s
        for node in run.nodes
    }


def _copies(fleet: Fleet) -> tuple[tuple[tuple[float, float], ...], ...]:
    every = range(len(fleet.devices))
    none = (0.0, 0.0)
    return tuple(
        tuple(
            none
            if a == b
            else (fleet.copy_s(a, b, 0), fleet.copy_s(a, b, 1) - fleet.copy_s(a, b, 0))
            for b in every
        )
        for a in every
    )


def _title(group: int, names: list[str]) -> str:
    if not names:
        return ARRIVE if group == _FIRST else RETURN
    return names[0] if len(names) == 1 else f"{names[0]} +{len(names) - 1}"


def _require_known(fleet: Fleet) -> None:
    for device in fleet.devices:
        for kind in sorted(device.unsupported - KINDS):
            near = difflib.get_close_matches(kind, KINDS, n=1)
            raise GraphError(
                f"device {device.name}: there is no op kind {kind!r}"
                + (
                    f"; did you mean {near[0]}?"
                    if near
                    else "; `inspect --op-list` names a model's."
                )
            )


def _require_homes(tasks: TaskGraph, graph: Graph) -> None:
    for name, choices in zip(tasks.names, tasks.choices, strict=True):
        if not choices:
            raise GraphError(
                f"{graph.name}: {name} runs on no device of the fleet; take an op of it from a "
                "device's `unsupported`."
            )
