"""Work: every piece of a run, forward, backward and optimizer, with its cost."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from itertools import groupby

from ridgeline.cost.backward import backward_of, differentiable
from ridgeline.cost.op_cost import OpCost
from ridgeline.cost.rules import cost_of, has_rule
from ridgeline.errors import UnsupportedOp
from ridgeline.graph import Graph, InputKind, Node, Phase


class Part(Enum):
    """Which part of a training step a piece of work belongs to; inference is all forward."""

    FORWARD = "forward"
    RECOMPUTE = "recompute"
    BACKWARD = "backward"
    OPTIMIZER = "optimizer"


class Recompute(Enum):
    """What is computed again in backward instead of being kept (Chen et al. 2016).

    FULL keeps the input of every numbered layer and runs the layer once more.
    """

    NONE = "none"
    FULL = "full"


@dataclass(frozen=True, slots=True, kw_only=True)
class Optimizer:
    """state_bytes: kept per parameter; ops: arithmetic per parameter and step."""

    name: str
    state_bytes: int
    ops: int


# AdamW: two fp32 moments; about 12 operations (Loshchilov and Hutter 2019, alg. 2).
OPTIMIZERS = {
    "adamw": Optimizer(name="adamw", state_bytes=8, ops=12),
    "sgd": Optimizer(name="sgd", state_bytes=0, ops=2),
    "momentum": Optimizer(name="momentum", state_bytes=4, ops=4),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """One piece of a run. cost: of one repeat. node: None for the optimizer's step."""

    name: str
    op: str
    part: Part
    cost: OpCost
    node: Node | None
    module: str = ""
    repeat: int = 1
    is_counted: bool = True


def work_of(
    graph: Graph,
    *,
    optimizer: Optimizer = OPTIMIZERS["adamw"],
    recompute: Recompute = Recompute.NONE,
    allow_uncounted: bool = False,
) -> tuple[Work, ...]:
    """All work of one run of the graph, in the order in which it happens.

    Raises UnsupportedOp for a node without a cost rule; with `allow_uncounted` such a node counts
    nothing and is marked.
    """
    forward = tuple(_forward(graph, allow_uncounted))
    if graph.phase is not Phase.TRAIN:
        return forward
    backward = tuple(_backward(graph, forward, recompute))
    return (*forward, *backward, _step(graph, optimizer))


def _forward(graph: Graph, allow_uncounted: bool) -> Iterator[Work]:
    for node in graph.nodes:
        yield Work(
            name=node.name,
            op=node.op,
            part=Part.FORWARD,
            cost=_cost(node, allow_uncounted),
            node=node,
            module=node.module,
            repeat=node.repeat,
            is_counted=_is_counted(node),
        )


def _is_counted(node: Node) -> bool:
    return has_rule(node) and all(_is_counted(c) for branch in node.branches for c in branch)


def _cost(node: Node, allow_uncounted: bool) -> OpCost:
    try:
        return cost_of(node)
    except UnsupportedOp:
        if allow_uncounted:
            return OpCost()
        raise


def _backward(graph: Graph, forward: Sequence[Work], recompute: Recompute) -> Iterator[Work]:
    live = differentiable(graph)
    for segment in reversed(segments(graph)):
        works = [work for work in forward if work.name in segment.names]
        if recompute is Recompute.FULL and segment.is_layer:
            yield from (_derived(w, Part.RECOMPUTE, _again(w)) for w in works)
        for work in reversed(works):
            cost = backward_of(work.node, work.cost, live) if work.node else None
            if work.node and cost is not None and not work.node.row.is_free:
                yield _derived(work, Part.BACKWARD, cost)


def _again(work: Work) -> OpCost:
    """Recomputation costs what forward did, but is no useful work."""
    return replace(work.cost, flops=0, causal_flops=0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """Consecutive nodes of one layer, or between layers."""

    layer: str
    names: tuple[str, ...]

    @property
    def is_layer(self) -> bool:
        """Whether it lies in a numbered layer, which full recomputation keeps only the input of."""
        return self.layer != ""


def segments(graph: Graph) -> tuple[Segment, ...]:
    """The graph's nodes in order, cut where the layer changes."""
    runs = groupby(graph.nodes, key=lambda node: layer_of(node.module))
    return tuple(Segment(layer=layer, names=tuple(n.name for n in run)) for layer, run in runs)


def layer_of(module: str) -> str:
    """The path of the outermost numbered layer around a module, "model.layers.3"; "" outside."""
    parts = module.split(".")
    number = next((i for i, part in enumerate(parts) if part.isdigit()), None)
    return "" if number is None else ".".join(parts[: number + 1])


def _derived(work: Work, part: Part, cost: OpCost) -> Work:
    return Work(
        name=f"{work.name}.{part.value}",
        op=work.op,
        part=part,
        cost=cost,
        node=work.node,
        module=work.module,
        repeat=work.repeat,
        is_counted=work.is_counted,
    )


def _step(graph: Graph, optimizer: Optimizer) -> Work:
    """One update: reads parameter, gradient and state; writes parameter and state."""
    parameters = list(graph.of_kind(InputKind.PARAMETER))
    count = sum(p.numel for p in parameters)
    nbytes = sum(p.nbytes for p in parameters)
    state = count * optimizer.state_bytes
    cost = OpCost(
        vector_ops=optimizer.ops * count,
        read_bytes=2 * nbytes + state,
        write_bytes=nbytes + state,
    )
    return Work(
        name="optimizer", op=f"{optimizer.name} step", part=Part.OPTIMIZER, cost=cost, node=None
    )
