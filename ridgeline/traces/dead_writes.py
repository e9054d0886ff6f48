"""What was written for nobody."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest

from ridgeline.traces.accesses import Access, Accesses, Event, by_tensor
from ridgeline.traces.execution_trace import OpNode
from ridgeline.traces.op_effects import is_overwrite


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadWrite:
    """What one operator wrote and nobody read: until it was gone, or written over by `over`."""

    op: str
    over: str
    shape: tuple[int, ...]
    nbytes: int
    count: int


def dead_writes(nodes: Sequence[OpNode], found: Accesses) -> tuple[DeadWrite, ...]:
    """What was written and never read, by operator and shape, the most bytes first."""
    count: Counter[tuple[str, str, tuple[int, ...], int]] = Counter()
    for number, places in by_tensor(found.events).items():
        mine = [found.events[place] for place in places]
        for event, over in _unread(mine, nodes, is_gone=found.is_gone[number]):
            if event.operand.nbytes:
                by = "" if over is None else nodes[over.node].name
                one = event.operand
                count[nodes[event.node].name, by, one.shape, one.nbytes] += 1
    dead = [
        DeadWrite(op=op, over=over, shape=shape, nbytes=nbytes, count=number)
        for (op, over, shape, nbytes), number in count.items()
    ]
    return tuple(sorted(dead, key=lambda one: -one.nbytes * one.count))


def _unread(
    mine: Sequence[Event], nodes: Sequence[OpNode], *, is_gone: bool
) -> list[tuple[Event, Event | None]]:
    """The writes to one tensor that nobody read, and what wrote over them."""
    found: list[tuple[Event, Event | None]] = []
    readers = {event.node for event in mine if event.access is Access.READ}
    used = [event for event in mine if event.access is not Access.ALLOCATE]
    for event, after in zip_longest(used, used[1:]):
        if event.access is not Access.WRITE:
            continue
        if after is None:
            if is_gone:
                found.append((event, None))
        elif (
            after.access is Access.WRITE
            and after.operand.nbytes >= event.operand.nbytes
            and is_overwrite(nodes[after.node], reads=after.node in readers)
        ):
            found.append((event, after))
    return found
