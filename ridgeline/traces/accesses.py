"""Who read and who wrote which tensor, in order, from an execution trace.

An operator is a tree of operators: `linear` calls `addmm`, which calls `copy_`. A read or write
counts once, for the innermost operator that was given the storage to read or write it; fills and
copies within an operator that gives the same storage count as that operator's. A storage that an
operator gives without having been given it is a new tensor, though its address may be an old one.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum

from ridgeline.traces.execution_trace import Operand, OpNode
from ridgeline.traces.op_effects import ABSORBED, base_name, effects_of


class Access(Enum):
    """What was done to a tensor."""

    ALLOCATE = "allocate"
    READ = "read"
    WRITE = "write"


@dataclass(slots=True, kw_only=True)
class Event:
    """One access. tensor: its number; node: the operator's place in the trace."""

    node: int
    tensor: int
    access: Access
    operand: Operand


@dataclass(frozen=True, slots=True, kw_only=True)
class Accesses:
    """All accesses in order. was_there: of each tensor, whether it was before the recording;
    is_gone: whether its address was given to another."""

    events: tuple[Event, ...]
    was_there: tuple[bool, ...]
    is_gone: tuple[bool, ...]


@dataclass(slots=True)
class _Below:
    """What the operators within one did, by storage: all accesses, and the steps among them that
    may count as its own; the storages that they allocated, and wrote for good."""

    events: dict[int, list[Event]] = field(default_factory=dict)
    steps: dict[int, list[Event]] = field(default_factory=dict)
    allocated: set[int] = field(default_factory=set)
    written: set[int] = field(default_factory=set)

    def add(self, other: "_Below") -> None:
        for storage, events in other.events.items():
            self.events.setdefault(storage, []).extend(events)
        self.allocated |= other.allocated
        self.written |= other.written


class _Tensors:
    """Which tensor each storage is at the moment."""

    def __init__(self) -> None:
        self.number: dict[int, int] = {}
        self.was_there: list[bool] = []
        self.is_gone: list[bool] = []

    def of(self, storage: int) -> int:
        return self.number[storage] if storage in self.number else self._new(storage, True)

    def begin(self, storage: int) -> int:
        if storage in self.number:
            self.is_gone[self.number[storage]] = True
        return self._new(storage, False)

    def _new(self, storage: int, was_there: bool) -> int:
        self.number[storage] = len(self.was_there)
        self.was_there.append(was_there)
        self.is_gone.append(False)
        return self.number[storage]


def accesses(nodes: Sequence[OpNode]) -> Accesses:
    """Every access of the operators in `nodes`, which come in the order in which they ended; those
    of one operator to one tensor count once.
    """
    tensors, below, events = _Tensors(), dict[int, _Below](), list[Event]()
    for place, node in enumerate(nodes):
        inner = below.pop(node.id, None) or _Below()
        around = below.setdefault(node.parent, _Below())
        around.add(inner)
        if not node.schema:  # a range, or a node of autograd: nothing of its own
            continue
        own = _own_events(place, node, inner, tensors)
        events += own
        _pass_on(node, own, inner, around)
    once = {(one.node, one.tensor, one.access): one for one in reversed(events)}
    return Accesses(
        events=tuple(reversed(once.values())),
        was_there=tuple(tensors.was_there),
        is_gone=tuple(tensors.is_gone),
    )


def _own_events(place: int, node: OpNode, inner: _Below, tensors: _Tensors) -> list[Event]:
    """What an operator did beyond what was done within it. Steps within it become its own."""
    effects = effects_of(node)
    new = [one for one in effects.fresh if one.storage not in inner.allocated]
    for one in new:
        number = tensors.begin(one.storage)
        # a kernel's wrapper allocates unseen, then fills by a step that is seen
        for event in inner.events.get(one.storage, ()):
            event.tensor = number
    for one in effects.writes:
        for event in inner.steps.get(one.storage, ()):
            event.node = place
    own = [(one, Access.READ) for one in effects.reads if not _is_used(inner, one.storage)]
    own += [(one, Access.ALLOCATE) for one in new]
    own += [(one, Access.WRITE) for one in effects.writes if one.storage not in inner.written]
    return [
        Event(node=place, tensor=tensors.of(one.storage), access=access, operand=one)
        for one, access in own
    ]


def _is_used(inner: _Below, storage: int) -> bool:
    """Whether an operator within has read or written it."""
    return any(one.access is not Access.ALLOCATE for one in inner.events.get(storage, ()))


def _pass_on(node: OpNode, own: Sequence[Event], inner: _Below, around: _Below) -> None:
    """Tells the operator around this one what was done."""
    for one in own:
        around.events.setdefault(one.operand.storage, []).append(one)
    around.allocated |= {one.operand.storage for one in own if one.access is Access.ALLOCATE}
    wrote = [one.operand.storage for one in own if one.access is Access.WRITE]
    if base_name(node.name) not in ABSORBED:
        around.written |= {*wrote}
        return
    for storage in wrote:
        steps = [*own, *inner.steps.get(storage, ())]
        around.steps.setdefault(storage, []).extend(steps)


def by_tensor(events: Sequence[Event]) -> dict[int, list[int]]:
    """The places of the accesses of each tensor."""
    found: dict[int, list[int]] = {}
    for place, event in enumerate(events):
        found.setdefault(event.tensor, []).append(place)
    return found
