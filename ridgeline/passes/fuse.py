"""fuse: which nodes run as one kernel, what that saves, and why others may not."""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import Enum

from torch import fx
from torch.fx.passes.split_module import split_module

from ridgeline.cost.fusion import FusionLimits, Loops, Members, is_pointwise
from ridgeline.cost.grouping import groups_of, would_close_cycle
from ridgeline.cost.rules import cost_of, has_rule
from ridgeline.graph import Graph, Ref
from ridgeline.graph.flat import flat_module
from ridgeline.machines import Machine
from ridgeline.passes.chains import Chain, find_chains

_NO_GAIN = "it would save less than it costs"
_CYCLE = "another kernel between them would wait for itself"


class GroupKind(Enum):
    """What a kernel is built around."""

    PRODUCT = "product"  # a matrix product or convolution with what is done to its result
    REDUCTION = "reduction"  # rows reduced, and what reads the result while they are in cache
    POINTWISE = "pointwise"
    SINGLE = "single"  # one node


@dataclass(frozen=True, slots=True, kw_only=True)
class FusionGroup:
    """Nodes that run as one kernel, and the bytes that it then moves."""

    kind: GroupKind
    nodes: tuple[str, ...]
    read_bytes: int
    write_bytes: int
    repeat: int

    @property
    def nbytes(self) -> int:
        """Bytes read and written."""
        return self.read_bytes + self.write_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """Two nodes that pass a value through memory all the same. nbytes: what a common kernel would
    not read.
    """

    producer: str
    consumer: str
    reason: str
    nbytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class FusionPlan:
    """The kernels a graph runs as, in an order in which they can; all of it predicted.

    inlined: nodes computed anew in every kernel that reads them. *_before: every node a kernel of
    its own. chains: products that could share tiles; they are in no group.
    """

    graph: str
    groups: tuple[FusionGroup, ...]
    inlined: tuple[str, ...]
    refusals: tuple[Refusal, ...]
    chains: tuple[Chain, ...]
    launches_before: int
    launches_after: int
    bytes_before: int
    bytes_after: int

    @property
    def reasons(self) -> Mapping[str, int]:
        """Reason -> how often it kept two nodes apart, the most frequent first."""
        return dict(Counter(r.reason for r in self.refusals).most_common())


def fuse(graph: Graph, machine: Machine | None = None) -> FusionPlan:
    """How `graph` runs in as few and as light kernels as are legal, on `machine` where one is
    given.

    It changes no node: it is what a backend that generates code follows, what the predicted time of
    compiled execution rests on, and what the report shows.
    """
    limits = FusionLimits.of(machine) if machine else FusionLimits()
    loops = Loops(graph, limits)
    partition = groups_of(loops)
    groups = tuple(_group(loops, group) for group in partition)
    return FusionPlan(
        graph=graph.name,
        groups=groups,
        inlined=tuple(loops.nodes[i].name for i in sorted(loops.inlined)),
        refusals=tuple(_refusals(loops, partition)),
        chains=find_chains(graph, loops),
        launches_before=sum(n.repeat for n in loops.nodes),
        launches_after=sum(g.repeat for g in groups),
        bytes_before=sum(cost_of(n).nbytes * n.repeat for n in loops.nodes if has_rule(n)),
        bytes_after=sum(g.nbytes * g.repeat for g in groups),
    )


def _group(loops: Loops, members: Members) -> FusionGroup:
    traffic = loops.traffic(members, min(members)).values()
    return FusionGroup(
        kind=_kind(loops, members),
        nodes=tuple(loops.nodes[i].name for i in sorted(members)),
        read_bytes=sum(t.read_bytes for t in traffic),
        write_bytes=sum(t.write_bytes for t in traffic),
        repeat=loops.nodes[min(members)].repeat,
    )


def _kind(loops: Loops, members: Members) -> GroupKind:
    if len(members) == 1:
        return GroupKind.SINGLE
    if any(loops.reductions[i] is not None for i in members):
        return GroupKind.REDUCTION
    if all(is_pointwise(loops.nodes[i]) for i in members):
        return GroupKind.POINTWISE
    return GroupKind.PRODUCT


def _refusals(loops: Loops, partition: tuple[Members, ...]) -> Iterator[Refusal]:
    home = {i: group for group in partition for i in group}
    for consumer in loops.members:
        for producer in sorted(loops.producers[consumer]):
            if consumer in home[producer]:
                continue
            ref = Ref(loops.nodes[producer].name)
            read = loops.operands[consumer].get(ref)
            yield Refusal(
                producer=ref.name,
                consumer=loops.nodes[consumer].name,
                reason=_reason(
                    loops, partition, home[producer], home[consumer], producer, consumer
                ),
                nbytes=read.nbytes if read else 0,
            )


def _reason(
    loops: Loops,
    partition: tuple[Members, ...],
    one: Members,
    other: Members,
    producer: int,
    consumer: int,
) -> str:
    """The most telling of the reasons: what the two nodes say, then their groups, then others."""
    pair = frozenset({producer, consumer})
    told = loops.obstacle(pair) or loops.obstacle(one | other)
    if told is not None:
        return told
    return _CYCLE if would_close_cycle(loops, partition, one | other) else _NO_GAIN


def split(graph: Graph, plan: FusionPlan) -> fx.GraphModule:
    """The graph as a module of one sub-module per group, called in the plan's order: tensors in, a
    tuple of tensors out, as `flat_module` gives. Views run with what they view.
    """
    flat = flat_module(graph)
    number = {name: k + 1 for k, group in enumerate(plan.groups) for name in group.nodes}
    inlined = set(plan.inlined)
    part: dict[fx.Node, int] = {}
    for node in flat.graph.nodes:
        made_by = [part[i] for i in node.all_input_nodes if i in part]
        if node.op == "call_function":
            is_early = node.name in inlined
            part[node] = 0 if is_early else number.get(node.name, max(made_by, default=0))
    _sort(flat, part)
    result: fx.GraphModule = split_module(flat, flat, lambda node: part[node])
    return result


def _sort(module: fx.GraphModule, part: Mapping[fx.Node, int]) -> None:
    """Puts the nodes of each part together, parts in order; raises where a part needs a later
    one.
    """
    calls = sorted(part, key=lambda node: part[node])
    output = module.graph.output_node()
    for node in calls:
        output.prepend(node)
    module.graph.lint()
