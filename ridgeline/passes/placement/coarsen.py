"""Fewer tasks, nothing lost: chains that no schedule would split become one task."""

from ridgeline.passes.placement.tasks import Edge, TaskGraph

Groups = tuple[tuple[int, ...], ...]  # new task -> the tasks in it, in order


def coarsen(tasks: TaskGraph) -> tuple[TaskGraph, Groups]:
    """`tasks` with each pair u -> v merged where u feeds v alone, v reads u alone, and on every
    two devices u and v together are no slower on one of them than apart on both.

    Apart they would also leave a gap on each device for others to use; that is not counted, so a
    schedule of the result is valid, and nearly always as good.
    """
    group: dict[int, tuple[int, ...]] = {t: (t,) for t in range(len(tasks.names))}
    times = {t: tasks.times_s[t] for t in group}
    head = {t: t for t in group}
    homes = tasks.homes or (None,) * len(tasks.names)
    for target in range(len(tasks.names)):
        sources = {edge.source for edge in tasks.inputs[target]}
        if len(sources) != 1:
            continue
        (source,) = sources
        if {edge.target for edge in tasks.outputs[source]} != {target}:
            continue
        first = head[source]
        nbytes = sum(edge.nbytes for edge in tasks.inputs[target])
        if homes[source] is not None or homes[target] is not None:
            continue
        if _is_never_split(tasks, times[first], times[target], nbytes):
            group[first] += group.pop(target)
            times[first] = tuple(a + b for a, b in zip(times[first], times[target], strict=True))
            head[target] = first
    return _merged(tasks, group, times, head)


def _is_never_split(
    tasks: TaskGraph, ahead: tuple[float, ...], behind: tuple[float, ...], nbytes: int
) -> bool:
    for a in range(tasks.num_devices):
        for b in range(tasks.num_devices):
            copy_s = tasks.copy_s(a, b, nbytes)
            apart_s = ahead[a] + copy_s + behind[b]
            together_s = min(ahead[a] + behind[a], ahead[b] + behind[b])
            if a != b and apart_s < together_s:
                return False
    return True


def _merged(
    tasks: TaskGraph,
    group: dict[int, tuple[int, ...]],
    times: dict[int, tuple[float, ...]],
    head: dict[int, int],
) -> tuple[TaskGraph, Groups]:
    # a group stands where its last member stood: everything it reads is before that
    order = sorted(group, key=lambda t: group[t][-1])
    number = {first: i for i, first in enumerate(order)}
    edges = tuple(
        Edge(
            source=number[head[e.source]],
            target=number[head[e.target]],
            nbytes=e.nbytes,
            value=e.value,
        )
        for e in tasks.edges
        if head[e.source] != head[e.target]
    )
    merged = TaskGraph(
        names=tuple(_title(tasks, group[t]) for t in order),
        times_s=tuple(times[t] for t in order),
        edges=edges,
        copies=tasks.copies,
        homes=tuple(tasks.homes[t] for t in order) if tasks.homes else (),
    )
    return merged, tuple(group[t] for t in order)


def _title(tasks: TaskGraph, members: tuple[int, ...]) -> str:
    first = tasks.names[members[0]]
    return first if len(members) == 1 else f"{first} .. {tasks.names[members[-1]]}"
