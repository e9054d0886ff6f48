"""How long tensors were kept, for how many reads."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from ridgeline.traces.accesses import Access, Accesses, Event, by_tensor
from ridgeline.traces.columns import ABSENT
from ridgeline.traces.execution_trace import OpNode
from ridgeline.traces.node_times import NodeTimes
from ridgeline.traces.tensor_roles import Role, roles_of


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorLife:
    """One tensor. nbytes: of the most that was used of it. writer: who wrote it first, "" of what
    was there; born_ns: when. unused_ns: the longest time from one access to a read, reuse_bytes:
    the bytes of other tensors that were accessed in it, unused_from, unused_to: by whom. Times
    None where the recording has none. is_dead: it is gone, and nobody read it.
    """

    number: int
    role: Role
    nbytes: int
    shape: tuple[int, ...]
    dtype: str
    writer: str
    born_ns: int | None
    num_reads: int
    last_use: str
    last_use_ns: int | None
    unused_ns: int | None
    reuse_bytes: int
    unused_from: str
    unused_to: str
    is_dead: bool


def tensor_lives(
    nodes: Sequence[OpNode], found: Accesses, times: NodeTimes
) -> tuple[TensorLife, ...]:
    """The life of every tensor that was accessed, in the order in which they first were."""
    of_tensor = by_tensor(found.events)
    distances = reuse_bytes(found.events)
    roles = roles_of(nodes, found, of_tensor)
    return tuple(
        _life(number, mine, nodes, found, times, distances, roles[number])
        for number, mine in of_tensor.items()
    )


def _life(
    number: int,
    mine: Sequence[int],
    nodes: Sequence[OpNode],
    found: Accesses,
    times: NodeTimes,
    distances: Sequence[int],
    role: Role,
) -> TensorLife:
    events = [found.events[place] for place in mine]
    largest = max((event.operand for event in events), key=lambda one: one.nbytes)
    writes = [event for event in events if event.access is Access.WRITE]
    reads = [event for event in events if event.access is Access.READ]
    is_new = not found.was_there[number]
    used = [place for place in mine if found.events[place].access is not Access.ALLOCATE]
    wait = max(_waits(used, found.events, times), default=(0, 0, 0))
    has_wait = wait[0] > 0
    writer = writes[0].node if writes and is_new else ABSENT
    last = events[-1].node
    return TensorLife(
        number=number,
        role=role,
        nbytes=largest.nbytes,
        shape=largest.shape,
        dtype=largest.dtype,
        writer=nodes[writer].name if writer != ABSENT else "",
        born_ns=_known(int(times.end_ns[writer])) if writer != ABSENT else None,
        num_reads=len(reads),
        last_use=nodes[last].name,
        last_use_ns=_known(int(times.end_ns[last])),
        unused_ns=wait[0] if has_wait else None,
        reuse_bytes=distances[wait[2]] if has_wait else 0,
        unused_from=nodes[found.events[wait[1]].node].name if has_wait else "",
        unused_to=nodes[found.events[wait[2]].node].name if has_wait else "",
        is_dead=is_new and bool(writes) and not reads and found.is_gone[number],
    )


def _waits(
    used: Sequence[int], events: Sequence[Event], times: NodeTimes
) -> list[tuple[int, int, int]]:
    """Time, and the two accesses, from each access to the next where that is a read."""
    waits = []
    for before, after in pairwise(used):
        start_ns = _known(int(times.end_ns[events[before].node]))
        end_ns = _known(int(times.start_ns[events[after].node]))
        if events[after].access is Access.READ and start_ns is not None and end_ns is not None:
            waits.append((end_ns - start_ns, before, after))
    return waits


def _known(time_ns: int) -> int | None:
    return None if time_ns == ABSENT else time_ns


def reuse_bytes(events: Sequence[Event]) -> list[int]:
    """For each access, the bytes of all other tensors that were accessed since the last one of its
    tensor, each counted once; 0 of a first access. Source: the stack distance of Mattson et al.,
    Evaluation techniques for storage hierarchies, 1970, with sizes.
    """
    size: dict[int, int] = {}
    for event in events:
        size[event.tensor] = max(size.get(event.tensor, 0), event.operand.nbytes)
    sums, last, found = [0] * (len(events) + 1), dict[int, int](), []
    for place, event in enumerate(events):
        before = last.get(event.tensor)
        nbytes = size[event.tensor]
        if before is None:
            found.append(0)
        else:
            found.append(_sum(sums, place) - _sum(sums, before + 1))
            _add(sums, before, -nbytes)
        _add(sums, place, nbytes)
        last[event.tensor] = place
    return found


def _add(sums: list[int], place: int, value: int) -> None:
    """To a Fenwick tree."""
    place += 1
    while place < len(sums):
        sums[place] += value
        place += place & -place


def _sum(sums: Sequence[int], count: int) -> int:
    """Of the first `count` values."""
    total = 0
    while count:
        total += sums[count]
        count -= count & -count
    return total
