"""Memory over a run, by liveness: what is held at each step, and what is held at the peak."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ridgeline.cost.backward import differentiable, saved_by
from ridgeline.cost.work import Optimizer, Part, Recompute, Work
from ridgeline.graph import Graph, InputKind, Node, Phase, Ref


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveTensor:
    """A tensor held at some moment, and the module that made it. nbytes: all repeats together."""

    name: str
    nbytes: int
    what: str
    module: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryProfile:
    """Bytes held over one run. curve: (work name, bytes held while it runs), in order.

    The parts: weights, kv_cache (buffers the graph updates), inputs, gradients and optimizer
    state are held throughout; activations come and go.
    """

    weight_bytes: int
    cache_bytes: int
    input_bytes: int
    gradient_bytes: int
    optimizer_bytes: int
    curve: tuple[tuple[str, int], ...]
    peak_bytes: int
    peak_at: str
    live_at_peak: tuple[LiveTensor, ...]

    @property
    def persistent_bytes(self) -> int:
        """Held from beginning to end."""
        return (
            self.weight_bytes
            + self.cache_bytes
            + self.input_bytes
            + self.gradient_bytes
            + self.optimizer_bytes
        )

    @property
    def activation_bytes(self) -> int:
        """The most that activations take at once."""
        return self.peak_bytes - self.persistent_bytes


def memory_profile(
    graph: Graph,
    works: Sequence[Work],
    *,
    optimizer: Optimizer,
    recompute: Recompute = Recompute.NONE,
) -> MemoryProfile:
    """Liveness over the works in order: a value is held from its node to its last reader.

    Views share their source's memory, and a buffer that the graph updates is updated in place.
    When training, what autograd saves is held until the backward that reads it, once per repeat.
    """
    is_training = graph.phase is Phase.TRAIN
    sizes = _Sizes(graph)
    extents = _extents(graph, works, sizes, recompute) if works else {}
    persistent = _persistent(graph, optimizer if is_training else None)
    base = sum(persistent.values())
    changes: dict[int, int] = defaultdict(int)
    for key, (start, end) in extents.items():
        changes[start] += sizes.nbytes[key]
        changes[end + 1] -= sizes.nbytes[key]
    curve, held = [], base
    for index, work in enumerate(works):
        held += changes[index]
        curve.append((work.name, held))
    at = max(range(len(curve)), key=lambda i: curve[i][1], default=0)
    live = [
        LiveTensor(
            name=str(key), nbytes=sizes.nbytes[key], what="activation", module=sizes.module(key)
        )
        for key, (start, end) in extents.items()
        if start <= at <= end
    ]
    held_throughout = [
        LiveTensor(name=name, nbytes=nbytes, what="persistent")
        for name, nbytes in persistent.items()
        if nbytes
    ]
    return MemoryProfile(
        weight_bytes=persistent["weights"],
        cache_bytes=persistent["KV cache and state"],
        input_bytes=persistent["inputs"],
        gradient_bytes=persistent["gradients"],
        optimizer_bytes=persistent["optimizer state"],
        curve=tuple(curve),
        peak_bytes=curve[at][1] if curve else base,
        peak_at=curve[at][0] if curve else "",
        live_at_peak=tuple(sorted([*held_throughout, *live], key=lambda t: -t.nbytes)),
    )


def _persistent(graph: Graph, optimizer: Optimizer | None) -> dict[str, int]:
    weights = sum(
        i.nbytes
        for i in graph.inputs
        if i.kind is not InputKind.INPUT and not (i.is_mutated and i.kind is InputKind.BUFFER)
    )
    state = sum(i.nbytes for i in graph.of_kind(InputKind.BUFFER) if i.is_mutated)
    parameter_bytes = sum(i.nbytes for i in graph.of_kind(InputKind.PARAMETER))
    return {
        "weights": weights,
        "KV cache and state": state,
        "inputs": sum(i.nbytes for i in graph.of_kind(InputKind.INPUT)),
        "gradients": parameter_bytes if optimizer else 0,
        "optimizer state": graph.parameters * optimizer.state_bytes if optimizer else 0,
    }


class _Sizes:
    """Where each value lives and how large that is."""

    def __init__(self, graph: Graph) -> None:
        self.nbytes: dict[Ref, int] = {}
        self._nodes: dict[str, Node] = {n.name: n for n in graph.nodes}
        self.root = _roots(graph)
        for node in graph.nodes:
            for k, spec in enumerate(node.outputs):
                if self.root[Ref(node.name, k)] == Ref(node.name, k):
                    self.nbytes[Ref(node.name, k)] = spec.nbytes

    def module(self, key: Ref) -> str:
        node = self._nodes.get(key.name)
        return node.module if node else ""

    def repeat(self, key: Ref) -> int:
        node = self._nodes.get(key.name)
        return node.repeat if node else 1


def _roots(graph: Graph) -> Mapping[Ref, Ref]:
    """value -> whose memory it lives in; an update of a mutated buffer lives in that buffer."""
    buffers = {Ref(i.name) for i in graph.inputs if i.is_mutated}
    roots = {Ref(i.name): Ref(i.name) for i in graph.inputs}
    for node in graph.nodes:
        for k in range(len(node.outputs)):
            own = Ref(node.name, k)
            roots[own] = own
            if not node.operands:
                continue
            source = roots.get(node.operands[0], node.operands[0])
            is_update = node.row.category.value in ("scatter", "copy") and source in buffers
            if node.row.is_free or (is_update and node.op != "cat"):
                roots[own] = source
    return roots


def _extents(
    graph: Graph, works: Sequence[Work], sizes: _Sizes, recompute: Recompute
) -> dict[Ref, tuple[int, int]]:
    """value -> (first, last) index of the works during which it is held."""
    forward = {w.name: i for i, w in enumerate(works) if w.part is Part.FORWARD}
    backward = {w.node.name: i for i, w in enumerate(works) if w.part is Part.BACKWARD and w.node}
    extents: dict[Ref, tuple[int, int]] = {}
    for node in graph.nodes:
        for k in range(len(node.outputs)):
            _extend(extents, sizes, Ref(node.name, k), forward[node.name])
        for ref in node.operands:
            _extend(extents, sizes, ref, forward[node.name])
    for ref in graph.outputs:
        _extend(extents, sizes, ref, len(forward) - 1)
    if backward:
        _keep_saved(graph, sizes, extents, backward, recompute)
        _add_gradients(graph, sizes, extents, backward)
    return extents


def _extend(extents: dict[Ref, tuple[int, int]], sizes: _Sizes, ref: Ref, at: int) -> None:
    root = sizes.root.get(ref, ref)
    if root in sizes.nbytes:
        first, last = extents.get(root, (at, at))
        extents[root] = (min(first, at), max(last, at))


def _keep_saved(
    graph: Graph,
    sizes: _Sizes,
    extents: dict[Ref, tuple[int, int]],
    backward: Mapping[str, int],
    recompute: Recompute,
) -> None:
    """Saved values stay until the backward of the node that saved them, once per repeat."""
    kept: set[Ref] = set()
    for node in graph.nodes:
        at = backward.get(node.name)
        if at is None or (recompute is Recompute.FULL and _is_inside(node, graph)):
            continue
        saved = saved_by(node)
        refs = [*saved.operands, *([Ref(node.name)] if saved.outputs else [])]
        for ref in refs:
            _extend(extents, sizes, ref, at)
            kept.add(sizes.root.get(ref, ref))
        if saved.extra_bytes:
            own = Ref(f"{node.name}.saved")
            sizes.nbytes[own] = saved.extra_bytes * node.repeat
            extents[own] = (extents.get(Ref(node.name), (at, at))[0], at)
    for root in kept:
        if root in sizes.nbytes:
            sizes.nbytes[root] *= sizes.repeat(root)


def _is_inside(node: Node, graph: Graph) -> bool:
    """Whether full recomputation rebuilds what this node saves: it is inside a repeated layer."""
    return node.repeat > 1 or not graph.repeats


def _add_gradients(
    graph: Graph,
    sizes: _Sizes,
    extents: dict[Ref, tuple[int, int]],
    backward: Mapping[str, int],
) -> None:
    """An activation's gradient lives from its last reader's backward to its producer's."""
    live = differentiable(graph)
    readers: dict[Ref, list[int]] = defaultdict(list)
    for node in graph.nodes:
        for ref in node.operands:
            if node.name in backward:
                readers[sizes.root.get(ref, ref)].append(backward[node.name])
    for node in graph.nodes:
        ref = Ref(node.name)
        if node.name not in backward or ref not in live or ref not in sizes.nbytes:
            continue
        gradient = Ref(f"{node.name}.gradient")
        sizes.nbytes[gradient] = node.out.nbytes
        first = min(readers[ref], default=backward[node.name])
        extents[gradient] = (min(first, backward[node.name]), backward[node.name])
