"""When the operators of an execution trace ran, and for how long: joined to the recording of the
same process by the id that both give a call."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np

from ridgeline.traces.columns import ABSENT, Kind, Recording
from ridgeline.traces.execution_trace import OpNode
from ridgeline.traces.intervals import Times
from ridgeline.traces.launches import Launches

_ID = "Record function id"


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeTimes:
    """Of each node, when it started and ended and what it took, in the recording's time; ABSENT
    where the recording does not have it. On a device: of what it launched.
    """

    start_ns: Times
    end_ns: Times
    time_ns: Times
    num_joined: int
    is_device: bool


def parents_of(nodes: Sequence[OpNode]) -> list[int]:
    """The place of the node around each; ABSENT of the outermost."""
    places = {node.id: place for place, node in enumerate(nodes)}
    # children end first: what does not stand after is none, or a loop in a damaged file
    around = [places.get(node.parent, ABSENT) for node in nodes]
    return [one if one > place else ABSENT for place, one in enumerate(around)]


def node_times(
    recording: Recording, found: Launches, nodes: Sequence[OpNode], actors: Collection[int]
) -> NodeTimes:
    """The time of every node. What nodes within an actor took, and are no actors, it took."""
    row_of, parents = _rows(recording, nodes), parents_of(nodes)
    events = recording.events
    start_ns, end_ns, own_ns = (np.full(len(nodes), ABSENT, np.int64) for _ in range(3))
    joined = np.array(sorted(row_of), np.intp)
    rows = np.array([row_of[place] for place in joined.tolist()], np.intp)
    start_ns[joined], end_ns[joined] = events.start_ns[rows], events.end_ns[rows]
    is_device = len(found.rows) > 0
    if is_device:
        own_ns = _on_device(recording, found, row_of, parents, actors, start_ns, end_ns)
    else:
        own_ns[joined] = events.duration_ns[rows]
        _without_inner(own_ns, parents)
    return NodeTimes(
        start_ns=start_ns,
        end_ns=end_ns,
        time_ns=_of_actors(own_ns, parents, actors),
        num_joined=len(joined),
        is_device=is_device,
    )


def _rows(recording: Recording, nodes: Sequence[OpNode]) -> dict[int, int]:
    """The row of every node by its place; only where the name is the same, too."""
    events = recording.events
    of_id: dict[int, int] = {}
    for row in events.where(Kind.CPU_OP).tolist():
        number = recording.args_of(row).get(_ID)
        if isinstance(number, int) and number:
            of_id[number] = row
    found = {}
    for place, node in enumerate(nodes):
        row = of_id.get(node.function_id)
        if row is not None and recording.name_of(row) == node.name:
            found[place] = row
    return found


def _without_inner(own_ns: Times, parents: Sequence[int]) -> None:
    """Takes from each node what the nodes right within it took."""
    whole_ns = own_ns.copy()
    for place, parent in enumerate(parents):
        if parent != ABSENT and own_ns[parent] != ABSENT and whole_ns[place] != ABSENT:
            own_ns[parent] = max(0, own_ns[parent] - whole_ns[place])


def _on_device(
    recording: Recording,
    found: Launches,
    row_of: dict[int, int],
    parents: Sequence[int],
    actors: Collection[int],
    start_ns: Times,
    end_ns: Times,
) -> Times:
    """What each node's own launches took; their start and end become those of the actor."""
    events, places = recording.events, {row: place for place, row in row_of.items()}
    own_ns = np.full(len(parents), ABSENT, np.int64)
    seen: set[int] = set()
    for row, op in zip(found.rows.tolist(), found.ops.tolist(), strict=True):
        place = places.get(op, ABSENT)
        if place == ABSENT:
            continue
        own_ns[place] = max(0, own_ns[place]) + events.duration_ns[row]
        actor = _actor_of(place, parents, actors)
        if actor == ABSENT:
            continue
        first, last = int(events.start_ns[row]), int(events.end_ns[row])
        is_first = actor not in seen
        start_ns[actor] = first if is_first else min(int(start_ns[actor]), first)
        end_ns[actor] = last if is_first else max(int(end_ns[actor]), last)
        seen.add(actor)
    return own_ns


def _of_actors(own_ns: Times, parents: Sequence[int], actors: Collection[int]) -> Times:
    time_ns = np.full(len(parents), ABSENT, np.int64)
    for place in np.flatnonzero(own_ns != ABSENT).tolist():
        actor = _actor_of(place, parents, actors)
        if actor != ABSENT:
            time_ns[actor] = max(0, time_ns[actor]) + own_ns[place]
    return time_ns


def _actor_of(place: int, parents: Sequence[int], actors: Collection[int]) -> int:
    """The node itself or the nearest around it that is an actor."""
    while place != ABSENT and place not in actors:
        place = parents[place]
    return place
