"""Memory over a run, by liveness: what is held at each step, and what is held at the peak."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate

from ridgeline.cost.backward import differentiable, saved_by
from ridgeline.cost.work import Optimizer, Part, Work, layer_of
from ridgeline.graph import Category, Graph, InputKind, Node, Phase, Ref


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
    state are held throughout; activations come and go. saved_bytes: activations that autograd
    keeps from forward to backward.
    """

    weight_bytes: int
    cache_bytes: int
    input_bytes: int
    gradient_bytes: int
    optimizer_bytes: int
    saved_bytes: int
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
) -> MemoryProfile:
    """Liveness over the works in order: a value is held from its node to its last reader.

    Views share their source's memory, and a buffer that the graph updates is updated in place.
    When training, what autograd saves is held until the backward that reads it, once per repeat.
    """
    persistent = _persistent(graph, optimizer if graph.phase is Phase.TRAIN else None)
    held, saved_bytes = _intervals(graph, works)
    curve = _curve(works, held.values(), sum(persistent.values()))
    at = max(range(len(curve)), key=lambda i: curve[i][1], default=0)
    live = [
        LiveTensor(name=name, nbytes=nbytes, what="persistent")
        for name, nbytes in persistent.items()
        if nbytes
    ]
    live += [
        LiveTensor(name=name, nbytes=i.nbytes, what="activation", module=i.module)
        for name, i in held.items()
        if i.start <= at <= i.end
    ]
    return MemoryProfile(
        weight_bytes=persistent["weights"],
        cache_bytes=persistent["KV cache and state"],
        input_bytes=persistent["inputs"],
        gradient_bytes=persistent["gradients"],
        optimizer_bytes=persistent["optimizer state"],
        saved_bytes=saved_bytes,
        curve=curve,
        peak_bytes=curve[at][1] if curve else sum(persistent.values()),
        peak_at=curve[at][0] if curve else "",
        live_at_peak=tuple(sorted(live, key=lambda t: -t.nbytes)),
    )


def _curve(
    works: Sequence[Work], intervals: Iterable["_Interval"], base: int
) -> tuple[tuple[str, int], ...]:
    changes: dict[int, int] = defaultdict(int)
    for interval in intervals:
        changes[interval.start] += interval.nbytes
        changes[interval.end + 1] -= interval.nbytes
    held = accumulate(changes[i] for i in range(len(works)))
    return tuple((work.name, base + nbytes) for work, nbytes in zip(works, held, strict=True))


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


@dataclass(slots=True)
class _Interval:
    """Memory held from one work to another, both included."""

    nbytes: int
    start: int
    end: int
    module: str

    def extend(self, to: int) -> None:
        self.end = max(self.end, to)


_Held = dict[str, _Interval]


def _intervals(graph: Graph, works: Sequence[Work]) -> tuple[_Held, int]:
    """Every value by name with when it is held, and the bytes kept from forward to backward."""
    roots = _roots(graph)
    held: _Held = {}
    for index, node in enumerate(graph.nodes):
        for k, spec in enumerate(node.outputs):
            own = Ref(node.name, k)
            if roots[own] == own:
                held[str(own)] = _Interval(spec.nbytes, index, index, node.module)
        for ref in node.operands:
            _extend(held, roots[ref], index)
    for ref in graph.outputs:
        _extend(held, roots.get(ref, ref), len(graph.nodes) - 1)
    if graph.phase is not Phase.TRAIN:
        return held, 0
    saved_bytes = _keep_saved(graph, works, roots, held)
    _add_gradients(graph, works, roots, held)
    return held, saved_bytes


def _extend(held: _Held, root: Ref, to: int) -> None:
    if interval := held.get(str(root)):  # graph inputs are held throughout
        interval.extend(to)


def _roots(graph: Graph) -> Mapping[Ref, Ref]:
    """value -> whose memory it lives in; an update of a mutated buffer lives in that buffer."""
    buffers = {Ref(i.name) for i in graph.inputs if i.is_mutated}
    roots = {Ref(i.name): Ref(i.name) for i in graph.inputs}
    for node in graph.nodes:
        for k in range(len(node.outputs)):
            own = Ref(node.name, k)
            source = roots[node.operands[min(k, len(node.operands) - 1)]] if node.operands else own
            is_update = _overwrites_first(node) and source in buffers
            roots[own] = source if node.row.is_free or is_update else own
    return roots


def _overwrites_first(node: Node) -> bool:
    """Whether the node is an in-place update of its first operand, made functional by export."""
    is_update = node.row.category is Category.SCATTER or node.target.startswith("aten.copy.")
    return is_update and node.out.shape == node.tensors[0].shape


def _keep_saved(graph: Graph, works: Sequence[Work], roots: Mapping[Ref, Ref], held: _Held) -> int:
    """Holds what autograd saves until the backward of the node that saved it, once per repeat.

    A recomputed layer's own values are held only from its recomputation on, and of one repeat at a
    time. Returns the bytes kept from forward to backward.
    """
    live, layers = differentiable(graph), {n.name: layer_of(n.module) for n in graph.nodes}
    backward, again = _positions(works, Part.BACKWARD), _positions(works, Part.RECOMPUTE)
    forward, nodes = _positions(works, Part.FORWARD), {n.name: n for n in graph.nodes}
    kept: dict[str, int] = {}
    for node in graph.nodes:
        if node.name not in backward:
            continue
        saved = saved_by(node, live)
        refs = [*saved.operands, *(Ref(node.name, k) for k in saved.outputs)]
        values = {str(roots[ref]): roots[ref].name for ref in refs if str(roots[ref]) in held}
        if saved.extra_bytes:
            own = f"{node.name}.saved"
            held[own] = _Interval(
                saved.extra_bytes, forward[node.name], forward[node.name], node.module
            )
            values[own] = node.name
        for value, maker in values.items():
            if maker in again and layers[maker] == layers[node.name]:
                remade = f"{value}.again"
                held.setdefault(remade, replace(held[value], start=again[maker], end=again[maker]))
                held[remade].extend(backward[node.name])
            else:
                held[value].extend(backward[node.name])
                kept[value] = held[value].nbytes * nodes[maker].repeat
    for value, nbytes in kept.items():
        held[value].nbytes = nbytes
    return sum(kept.values())


def _positions(works: Sequence[Work], part: Part) -> dict[str, int]:
    """node name -> index of its work of this part."""
    return {w.node.name: i for i, w in enumerate(works) if w.part is part and w.node}


def _add_gradients(
    graph: Graph, works: Sequence[Work], roots: Mapping[Ref, Ref], held: _Held
) -> None:
    """An activation's gradient lives from its last reader's backward to its producer's."""
    live, backward = differentiable(graph), _positions(works, Part.BACKWARD)
    first: dict[Ref, int] = {}
    for node in graph.nodes:
        for ref in node.operands:
            if node.name in backward:
                at = backward[node.name]
                first[roots[ref]] = min(first.get(roots[ref], at), at)
    for node in graph.nodes:
        ref = Ref(node.name)
        if node.name in backward and ref in live and roots[ref] == ref:
            end = backward[node.name]
            start = min(first.get(ref, end), end)
            held[f"{node.name}.gradient"] = _Interval(node.out.nbytes, start, end, node.module)
