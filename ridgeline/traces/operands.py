"""What operators read and wrote: who had written it and when, who reads it again, and when last."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ridgeline.traces.accesses import Access, Accesses, Event, accesses, by_tensor
from ridgeline.traces.columns import ABSENT, Recording
from ridgeline.traces.dead_writes import DeadWrite, dead_writes
from ridgeline.traces.execution_trace import ExecutionTrace, OpNode
from ridgeline.traces.launches import Launches
from ridgeline.traces.node_times import NodeTimes, node_times
from ridgeline.traces.tensor_lives import TensorLife, tensor_lives
from ridgeline.traces.tensor_roles import Role

_MOST_OPERATORS = 20
_MOST_TENSORS = 50
_LEAST_JOINED = 0.5  # of the operators; fewer, and the two are of different runs


@dataclass(frozen=True, slots=True, kw_only=True)
class OperandUse:
    """One tensor that an operator read, wrote or both. writer: who had last written it, since_ns:
    how long before; later_reads: how often it was read again, the last time by last_use, in_ns
    later. "" and None where nobody did, or the recording does not have it.
    """

    is_read: bool
    is_written: bool
    role: Role
    shape: tuple[int, ...]
    dtype: str
    nbytes: int
    writer: str
    since_ns: int | None
    later_reads: int
    last_use: str
    in_ns: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class OperatorOperands:
    """All runs of an operator on operands of the same shapes, with those of the longest run, which
    started start_ns after the first."""

    op: str
    count: int
    total_ns: int
    start_ns: int
    operands: tuple[OperandUse, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class RoleSum:
    """All tensors of one role; nbytes: together, though not all at one time."""

    role: Role
    num_tensors: int
    nbytes: int
    num_reads: int


@dataclass(frozen=True, slots=True, kw_only=True)
class OperandUses:
    """What an execution trace says of one rank. operators: the 20 that took longest, tensors: the
    50 made in the recording that take most bytes times time between two accesses. Times are since
    the first operator. num_joined: of num_operators, nodes of autograd among them, those that the
    recording has too.
    """

    source: str
    num_operators: int
    num_joined: int
    is_device: bool
    operators: tuple[OperatorOperands, ...]
    tensors: tuple[TensorLife, ...]
    roles: tuple[RoleSum, ...]
    dead: tuple[DeadWrite, ...]
    notes: tuple[str, ...]


def operand_uses(recording: Recording, launched: Launches, trace: ExecutionTrace) -> OperandUses:
    """What the operators of a recording read and wrote, by the execution trace of the same run."""
    found = accesses(trace.nodes)
    actors = {event.node for event in found.events if event.access is not Access.ALLOCATE}
    times = _from_first(node_times(recording, launched, trace.nodes, actors))
    lives = tensor_lives(trace.nodes, found, times)
    num_operators = len(trace.nodes)
    return OperandUses(
        source=trace.source,
        num_operators=num_operators,
        num_joined=times.num_joined,
        is_device=times.is_device,
        operators=_operators(trace.nodes, found, times, lives),
        tensors=_kept(lives),
        roles=_sums(lives),
        dead=dead_writes(trace.nodes, found),
        notes=(*trace.notes, *_remarks(trace, times, num_operators)),
    )


def _from_first(times: NodeTimes) -> NodeTimes:
    """The same since the first start."""
    known = times.start_ns[times.start_ns != ABSENT]
    zero_ns = int(known.min()) if len(known) else 0
    start_ns, end_ns = (
        np.where(column == ABSENT, ABSENT, column - zero_ns)
        for column in (times.start_ns, times.end_ns)
    )
    return NodeTimes(
        start_ns=start_ns,
        end_ns=end_ns,
        time_ns=times.time_ns,
        num_joined=times.num_joined,
        is_device=times.is_device,
    )


def _remarks(trace: ExecutionTrace, times: NodeTimes, num_operators: int) -> list[str]:
    notes = []
    if times.num_joined < _LEAST_JOINED * num_operators:
        notes.append(
            f"of the {num_operators:,} operators in {trace.source} the recording has "
            f"{times.num_joined:,}: it is of another run, or of other steps."
        )
    untold = sum(
        any(node.inputs) and not node.schema and node.name.startswith("triton_")
        for node in trace.nodes
    )
    if untold:
        notes.append(f"{untold:,} Triton kernels do not say what they write; left out of operands.")
    return notes


def _kept(lives: Sequence[TensorLife]) -> tuple[TensorLife, ...]:
    """Those that held most memory for the longest time without a read."""
    waiting = [one for one in lives if one.born_ns is not None and one.unused_ns]
    waiting.sort(key=lambda one: -one.nbytes * (one.unused_ns or 0))
    return tuple(waiting[:_MOST_TENSORS])


def _sums(lives: Sequence[TensorLife]) -> tuple[RoleSum, ...]:
    sums = []
    for role in Role:
        mine = [one for one in lives if one.role is role]
        if mine:
            sums.append(
                RoleSum(
                    role=role,
                    num_tensors=len(mine),
                    nbytes=sum(one.nbytes for one in mine),
                    num_reads=sum(one.num_reads for one in mine),
                )
            )
    return tuple(sums)


def _operators(
    nodes: Sequence[OpNode], found: Accesses, times: NodeTimes, lives: Sequence[TensorLife]
) -> tuple[OperatorOperands, ...]:
    """Runs are alike where name and operands' shapes are."""
    of_node: dict[int, list[int]] = {}
    for place, event in enumerate(found.events):
        if event.access is not Access.ALLOCATE:
            of_node.setdefault(event.node, []).append(place)
    count, total_ns = Counter[object](), Counter[object]()
    longest: dict[object, int] = {}
    for node, mine in of_node.items():
        if times.time_ns[node] == ABSENT or times.start_ns[node] == ABSENT:
            continue
        shapes = tuple(found.events[place].operand.shape for place in mine)
        key = (nodes[node].name, shapes)
        count[key] += 1
        total_ns[key] += int(times.time_ns[node])
        if key not in longest or times.time_ns[node] > times.time_ns[longest[key]]:
            longest[key] = node
    roles = {one.number: one.role for one in lives}
    of_tensor = by_tensor(found.events)
    return tuple(
        OperatorOperands(
            op=nodes[longest[key]].name,
            count=count[key],
            total_ns=spent_ns,
            start_ns=int(times.start_ns[longest[key]]),
            operands=_operands(of_node[longest[key]], found.events, of_tensor, nodes, times, roles),
        )
        for key, spent_ns in total_ns.most_common(_MOST_OPERATORS)
    )


def _operands(
    mine: Sequence[int],
    events: Sequence[Event],
    of_tensor: Mapping[int, Sequence[int]],
    nodes: Sequence[OpNode],
    times: NodeTimes,
    roles: Mapping[int, Role],
) -> tuple[OperandUse, ...]:
    """One row per tensor, in the order in which it was accessed."""
    by_number: dict[int, list[Event]] = {}
    for place in mine:
        by_number.setdefault(events[place].tensor, []).append(events[place])
    return tuple(
        _operand(seen, [events[place] for place in of_tensor[number]], nodes, times, roles[number])
        for number, seen in by_number.items()
    )


def _operand(
    seen: Sequence[Event],
    life: Sequence[Event],
    nodes: Sequence[OpNode],
    times: NodeTimes,
    role: Role,
) -> OperandUse:
    node, what = seen[0].node, seen[0].operand
    done = {event.access for event in seen}
    writers = [one.node for one in life if one.access is Access.WRITE and one.node < node]
    readers = [one.node for one in life if one.access is Access.READ and one.node > node]
    writer, reader = writers[-1] if writers else ABSENT, readers[-1] if readers else ABSENT
    return OperandUse(
        is_read=Access.READ in done,
        is_written=Access.WRITE in done,
        role=role,
        shape=what.shape,
        dtype=what.dtype,
        nbytes=what.nbytes,
        writer=nodes[writer].name if writer != ABSENT else "",
        since_ns=_between(times, writer, node),
        later_reads=len(readers),
        last_use=nodes[reader].name if reader != ABSENT else "",
        in_ns=_between(times, node, reader),
    )


def _between(times: NodeTimes, first: int, then: int) -> int | None:
    """From the end of one node to the start of another."""
    if ABSENT in (first, then):
        return None
    end_ns, start_ns = int(times.end_ns[first]), int(times.start_ns[then])
    return None if ABSENT in (end_ns, start_ns) else max(0, start_ns - end_ns)
