"""A captured graph as a function of all its values, for tracing through."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx
from torch.export.graph_signature import ConstantArgument, InputKind, OutputKind, OutputSpec
from torch.utils import _pytree as pytree

from ridgeline.errors import GraphError
from ridgeline.graph import Graph
from ridgeline.passes.retrace import Replay

WEIGHTS = (InputKind.PARAMETER, InputKind.BUFFER, InputKind.CONSTANT_TENSOR)
_MUTATIONS = (OutputKind.BUFFER_MUTATION, OutputKind.USER_INPUT_MUTATION)


class GraphFunction:
    """A graph as a function of its placeholders' values, weights included, by position.

    names: the placeholders'. examples: what stands in for each while tracing. Raises GraphError for
    a graph with folded layers or dynamic shapes.
    """

    def __init__(self, graph: Graph) -> None:
        if graph.repeats or any(any(i.spec.symbols) for i in graph.inputs):
            raise GraphError(
                f"graph {graph.name} has folded layers or dynamic shapes, which autodiff does not "
                "take; capture it with fold_layers=False and without `dynamic`."
            )
        self.graph = graph
        self.specs = graph.program.graph_signature.input_specs
        self.placeholders = [n for n in graph.program.graph.nodes if n.op == "placeholder"]
        self.names = [n.name for n in self.placeholders]
        self.examples = [_tensor_of(n) for n in self.placeholders]
        self.written = [
            s for s in graph.program.graph_signature.output_specs if s.kind in _MUTATIONS
        ]
        # position -> the position of the same tensor's first name; most are their own
        self.first = [self._first_name(k) for k in range(len(self.specs))]

    def weight(self, position: int) -> Tensor | None:
        """The tensor of a parameter, buffer or constant; None for an input."""
        spec, program = self.specs[position], self.graph.program
        found = program.state_dict.get(spec.target, program.constants.get(spec.target))
        return found if spec.kind in WEIGHTS and isinstance(found, Tensor) else None

    def _first_name(self, position: int) -> int:
        value = self.weight(position)
        if value is None:
            return position
        return next(k for k in range(position + 1) if _is_same(self.weight(k), value))

    def is_constant(self, position: int) -> bool:
        """Whether the placeholder stands for a plain number or None, fixed when captured."""
        return isinstance(self.specs[position].arg, ConstantArgument)

    def is_input(self, position: int) -> bool:
        """Whether the caller gives this value."""
        return self.specs[position].kind is InputKind.USER_INPUT and not self.is_constant(position)

    def path(self, position: int) -> str:
        """The dotted name of a weight, the argument's name of an input."""
        target: str | None = self.specs[position].target
        return target or self.names[position]

    def __call__(self, values: Mapping[int, Tensor]) -> tuple[Any, dict[str, Tensor]]:
        """What the graph returns, and the new value of everything it writes, by path. A weight's
        second name takes the value of its first.
        """
        given = [
            self.specs[k].arg.value if self.is_constant(k) else values[self.first[k]]
            for k in range(len(self.specs))
        ]
        results = Replay(self.graph.program.graph_module).run(*given)
        outputs: Sequence[OutputSpec] = self.graph.program.graph_signature.output_specs
        pairs = list(zip(outputs, results, strict=True))
        written = {s.target or "": v for s, v in pairs if s.kind in _MUTATIONS}
        returned = [v for s, v in pairs if s.kind not in _MUTATIONS]
        return pytree.tree_unflatten(returned, self.graph.program.call_spec.out_spec), written


def _tensor_of(node: fx.Node) -> Tensor:
    value = node.meta.get("val")
    return value if isinstance(value, Tensor) else torch.empty(())


def _is_same(left: Tensor | None, right: Tensor) -> bool:
    """Whether two weights are one tensor, as an embedding tied to the output head is."""
    if left is None or left is right:
        return left is not None
    is_at_one_place = (
        left.untyped_storage()._cdata == right.untyped_storage()._cdata
        and left.storage_offset() == right.storage_offset()
    )
    return is_at_one_place and left.shape == right.shape and left.stride() == right.stride()
