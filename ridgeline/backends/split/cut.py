"""Where a graph can be cut: after which calls, and what then goes from one part to the next."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

import torch
from torch import Tensor, fx

from ridgeline.cost.rules import cost_of, has_rule
from ridgeline.errors import BackendError
from ridgeline.graph import Graph
from ridgeline.graph.flat import flat_module

# FLOPs that a processor does in the time in which it moves one byte, roughly: 520 GFLOP/s over
# 20 GB/s on the one of our records. It only decides where the parts are about as long.
_FLOPS_PER_BYTE = 26
# What a cut may copy, as a share of what all of the graph moves or could compute meanwhile.
_LARGEST_SHARE = 0.02


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One part, by the names of values: what it takes, earlier parts' results or inputs of the
    graph, and what it gives to later parts and to the caller.
    """

    module: fx.GraphModule
    takes: tuple[str, ...]
    gives: tuple[str, ...]


class Pieces:
    """A graph as its calls in order, to be cut after some of them. Raises GraphError for a graph
    that cannot run, BackendError for one that keeps a state or has dynamic shapes.
    """

    def __init__(self, graph: Graph) -> None:
        if any(i.is_mutated for i in graph.inputs):
            raise BackendError("it keeps a state, which cannot be cut.")
        if any(any(i.spec.symbols) for i in graph.inputs):
            raise BackendError("it has dynamic shapes; capture it at one size.")
        self._module = flat_module(graph)
        self.calls = [n for n in self._module.graph.nodes if n.op == "call_function"]
        self.inputs = [n for n in self._module.graph.nodes if n.op == "placeholder"]
        self._place = {node: number for number, node in enumerate(self.calls)}
        (output,) = (n for n in self._module.graph.nodes if n.op == "output")
        self.outputs: tuple[fx.Node, ...] = tuple(output.args[0])
        self._work = _work(graph)
        # of each value, the number of the last call that reads it; beyond all where the caller does
        self._last = {
            node: max((self._place.get(u, len(self.calls)) for u in node.users), default=number)
            for node, number in self._place.items()
        }

    def crossing(self, cut: int) -> tuple[fx.Node, ...] | None:
        """What calls after number `cut` read of those up to it; None where that is no tensor."""
        found = tuple(n for n in self.calls[: cut + 1] if self._last[n] > cut)
        return found if all(map(_is_tensor, found)) else None

    def _copied_nbytes(self) -> dict[int, int]:
        """Of every cut across which only tensors go, their bytes."""
        found: dict[int, int] = {}
        ends: dict[int, list[fx.Node]] = {}
        nbytes = others = 0
        for cut, node in enumerate(self.calls):
            ends.setdefault(self._last[node], []).append(node)
            nbytes, others = nbytes + _nbytes(node), others + (not _is_tensor(node))
            for gone in ends.pop(cut, []):
                nbytes, others = nbytes - _nbytes(gone), others - (not _is_tensor(gone))
            if not others:
                found[cut] = nbytes
        return found

    def cheap_cuts(self, parts: int) -> tuple[int, ...]:
        """Cuts into up to so many parts of about equal work, each where the least is copied; none
        where every place copies much.
        """
        done = list(accumulate(self._work.get(n.name, 0) for n in self.calls))
        whole = done[-1] if done else 0
        most = _LARGEST_SHARE * whole
        sizes = {c: n for c, n in self._copied_nbytes().items() if n <= most and c + 1 < len(done)}
        found: list[int] = []
        for number in range(1, parts):
            low, aim, high = ((number + shift) * whole / parts for shift in (-0.5, 0, 0.5))
            window = [c for c in sizes if low <= done[c] < high]
            key = {c: (sizes[c], abs(done[c] - aim)) for c in window}
            found += [min(window, key=lambda c: key[c])] if window else []
        return tuple(found)

    def fixed_outputs(self) -> dict[str, Tensor]:
        """Those of the graph's outputs that are weights as they stand."""
        return {
            node.name: getattr(self._module, str(node.target)).detach()
            for node in self.outputs
            if node.op == "get_attr"
        }

    def parts(self, cuts: Sequence[int]) -> tuple[Part, ...]:
        """The parts between these cuts, which rise. Raises BackendError where one is none."""
        ends = [-1, *cuts, len(self.calls) - 1]
        if any(a >= b for a, b in pairwise(ends)) or any(
            self.crossing(cut) is None for cut in cuts
        ):
            raise BackendError(f"it cannot be cut after its calls {list(cuts)}.")
        return tuple(self._part(a + 1, b + 1) for a, b in pairwise(ends))

    def _part(self, start: int, end: int) -> Part:
        own = self.calls[start:end]
        inside = set(own)
        read = dict.fromkeys(n for node in own for n in node.all_input_nodes)
        takes = [n for n in read if n not in inside and n.op != "get_attr"]
        gives = [n for n in own if self._last[n] >= end]
        return Part(
            module=self._extracted(takes, own, gives),
            takes=tuple(n.name for n in takes),
            gives=tuple(n.name for n in gives),
        )

    def _extracted(
        self, takes: Sequence[fx.Node], calls: Sequence[fx.Node], gives: Sequence[fx.Node]
    ) -> fx.GraphModule:
        graph = fx.Graph()
        copies: dict[fx.Node, fx.Node] = {}
        for node in takes:
            copies[node] = graph.placeholder(node.name)
            copies[node].meta = dict(node.meta)
        for node in _with_attributes(calls):
            copies[node] = graph.node_copy(node, lambda n: copies[n])
        graph.output(tuple(copies[n] for n in gives))
        return fx.GraphModule(self._module, graph)


def _with_attributes(calls: Sequence[fx.Node]) -> Iterator[fx.Node]:
    """The weights that the calls read, each before its first reader, and the calls."""
    seen: set[fx.Node] = set()
    for node in calls:
        for source in node.all_input_nodes:
            if source.op == "get_attr" and source not in seen:
                seen.add(source)
                yield source
        yield node


def _work(graph: Graph) -> Mapping[str, float]:
    """Bytes that each node moves, or could move while it computes; without a cost rule, writes."""
    found = {}
    for node in graph.nodes:
        if has_rule(node):
            cost = cost_of(node)
            found[node.name] = max(cost.flops / _FLOPS_PER_BYTE, cost.nbytes)
        else:
            found[node.name] = sum(spec.nbytes for spec in node.outputs)
    return found


def _is_tensor(node: fx.Node) -> bool:
    return isinstance(node.meta.get("val"), Tensor)


def _nbytes(node: fx.Node) -> int:
    value = node.meta.get("val")
    return value.numel() * value.element_size() if isinstance(value, Tensor) else 0


def values_of(
    parts: Sequence[Part], names: Sequence[str], inputs: Sequence[Tensor]
) -> dict[str, Tensor]:
    """Every value that goes from part to part, computed eagerly. names: of the graph's inputs."""
    values = dict(zip(names, inputs, strict=True))
    with torch.no_grad():
        for part in parts:
            values |= zip(part.gives, part.module(*(values[n] for n in part.takes)), strict=True)
    return values
