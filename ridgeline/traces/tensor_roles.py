"""What a tensor is to a training step: parameter, activation, gradient; from names and order."""

from collections.abc import Mapping, Sequence
from enum import Enum

from ridgeline.traces.accesses import Access, Accesses, Event
from ridgeline.traces.columns import ABSENT
from ridgeline.traces.execution_trace import OpNode
from ridgeline.traces.node_times import parents_of


class Phase(Enum):
    """The part of a training step that an operator is in."""

    FORWARD = "forward"
    BACKWARD = "backward"
    OPTIMIZER = "optimizer"


class Role(Enum):
    """What a tensor is to the program, as names and order say."""

    PARAMETER = "parameter"
    OPTIMIZER_STATE = "optimizer state"
    GIVEN = "given"  # was there before, and nobody wrote it: an input, or a frozen parameter
    UPDATED = "updated"  # was there before, and was written in place outside of an optimizer
    ACTIVATION = "activation"  # written in the forward pass, read in the backward
    PARAMETER_GRADIENT = "parameter gradient"
    GRADIENT = "gradient"
    TEMPORARY = "temporary"


_PHASES: Mapping[str, Phase] = {
    "autograd::engine::evaluate_function": Phase.BACKWARD,
    "Optimizer.step#": Phase.OPTIMIZER,
}
"""How the name of a range begins that is around all operators of a phase; the rest is forward."""
_ACCUMULATES = "torch::autograd::AccumulateGrad"


def phases_of(nodes: Sequence[OpNode]) -> list[Phase]:
    """The phase of every node: of the nearest range around it that says."""
    found = [_phase_of(node.name) for node in nodes]
    parents = parents_of(nodes)
    for place in range(len(nodes) - 1, -1, -1):  # those around come last
        if found[place] is None and parents[place] != ABSENT:
            found[place] = found[parents[place]]
    return [one or Phase.FORWARD for one in found]


def _phase_of(name: str) -> Phase | None:
    return next((phase for start, phase in _PHASES.items() if name.startswith(start)), None)


def accumulated(nodes: Sequence[OpNode]) -> frozenset[tuple[int, int]]:
    """Place and storage of what is added to the gradient of a parameter."""
    return frozenset(
        (place, one.storage)
        for place, node in enumerate(nodes)
        if node.name == _ACCUMULATES
        for part in node.inputs
        for one in part
    )


def roles_of(
    nodes: Sequence[OpNode], found: Accesses, of_tensor: Mapping[int, Sequence[int]]
) -> dict[int, Role]:
    """The role of every tensor. of_tensor: the places of its accesses."""
    phases, parents = phases_of(nodes), parents_of(nodes)
    gradients = _gradients(nodes, found, parents)
    roles = {}
    for number, places in of_tensor.items():
        mine = [found.events[place] for place in places]
        is_there = found.was_there[number]
        if number in gradients:
            roles[number] = Role.PARAMETER_GRADIENT
        else:
            roles[number] = _there(mine, phases) if is_there else _made(mine, phases)
    return roles


def _there(mine: Sequence[Event], phases: Sequence[Phase]) -> Role:
    """The role of what was there before the recording."""
    written = {phases[event.node] for event in mine if event.access is Access.WRITE}
    read = {phases[event.node] for event in mine if event.access is Access.READ}
    if Phase.OPTIMIZER in written:
        is_model = read & {Phase.FORWARD, Phase.BACKWARD}
        return Role.PARAMETER if is_model else Role.OPTIMIZER_STATE
    return Role.UPDATED if written else Role.GIVEN


def _made(mine: Sequence[Event], phases: Sequence[Phase]) -> Role:
    """The role of what was made in it."""
    born = phases[mine[0].node]
    reads = {phases[event.node] for event in mine if event.access is Access.READ}
    if born is Phase.BACKWARD:
        return Role.GRADIENT
    is_kept = born is Phase.FORWARD and Phase.BACKWARD in reads
    return Role.ACTIVATION if is_kept else Role.TEMPORARY


def _gradients(nodes: Sequence[OpNode], found: Accesses, parents: Sequence[int]) -> set[int]:
    """The tensors that gradients of parameters are: at the time at which they were added."""
    added = sorted(accumulated(nodes))
    numbers: set[int] = set()
    current: dict[int, int] = {}
    at = 0
    for event in found.events:
        while at < len(added) and added[at][0] < event.node:
            if added[at][1] in current:
                numbers.add(current[added[at][1]])
            at += 1
        current[event.operand.storage] = event.tensor
    return numbers | {current[storage] for _, storage in added[at:] if storage in current}
