"""Graph: an immutable value around one functional FX graph, the one `torch.export` makes."""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum
from functools import cached_property

from torch.export import ExportedProgram

from ridgeline.errors import GraphError
from ridgeline.graph.node import Node, Ref
from ridgeline.graph.spec import TensorSpec


class Phase(Enum):
    """What one run of the graph does. TRAIN: the forward of a model in training, whose backward and
    update the cost model adds; STEP: a graph that holds all three.
    """

    FORWARD = "forward"
    TRAIN = "train"
    STEP = "step"
    PREFILL = "prefill"
    DECODE = "decode"


class InputKind(Enum):
    """Where a graph input comes from."""

    PARAMETER = "parameter"
    BUFFER = "buffer"
    CONSTANT = "constant"
    INPUT = "input"


@dataclass(frozen=True, slots=True, kw_only=True)
class GraphInput:
    """A value that enters the graph. path: the parameter's dotted name, or the argument's name.

    repeat: how many alike there are, when it belongs to a layer captured once for many.
    is_mutated: a buffer that the graph updates (a KV cache, a running mean).
    is_shared: a tied weight under its second name; it takes no memory of its own.
    """

    name: str
    path: str
    kind: InputKind
    spec: TensorSpec
    repeat: int = 1
    is_mutated: bool = False
    is_shared: bool = False

    @property
    def numel(self) -> int:
        """Elements of all repeats together; 0 for a tied weight's second name."""
        return 0 if self.is_shared else self.spec.numel * self.repeat

    @property
    def nbytes(self) -> int:
        """Bytes of all repeats together; 0 for a tied weight's second name."""
        return self.numel * self.spec.itemsize


@dataclass(frozen=True, eq=False, kw_only=True)
class Graph:
    """A model, traced once, in one phase. `program` is an ExportedProgram that any PyTorch tool
    takes.

    repeats: module path -> how many layers alike stand behind it; such layers appear once in the
    program. A graph with repeats can be counted and costed but not executed as the whole model
    (`is_runnable`).
    """

    name: str
    program: ExportedProgram
    phase: Phase = Phase.FORWARD
    repeats: Mapping[str, int] = field(default_factory=dict)

    @cached_property
    def inputs(self) -> tuple[GraphInput, ...]:
        """Parameters, buffers, constants and user inputs, in the program's order."""
        from ridgeline.graph.read import read_inputs

        return read_inputs(self.program, self.repeats)

    @cached_property
    def nodes(self) -> tuple[Node, ...]:
        """Every operation in execution order; assertions and tuple look-ups are left out."""
        from ridgeline.graph.read import read_nodes

        return read_nodes(self.program, self.repeats)

    @cached_property
    def outputs(self) -> tuple[Ref, ...]:
        """New values of mutated buffers, then what the graph returns to the caller."""
        from ridgeline.graph.read import read_outputs

        return read_outputs(self.program)

    @property
    def is_runnable(self) -> bool:
        """Whether the program is the whole model with real weights, not a folded or weightless
        description.
        """
        return not self.repeats and all(not t.is_meta for t in self.program.state_dict.values())

    @cached_property
    def specs(self) -> Mapping[Ref, TensorSpec]:
        """Spec of every value in the graph."""
        specs = {Ref(i.name): i.spec for i in self.inputs}
        for node in self.nodes:
            specs |= {Ref(node.name, k): spec for k, spec in enumerate(node.outputs)}
        return specs

    @cached_property
    def storage(self) -> Mapping[Ref, Ref]:
        """value -> the value whose memory it occupies: itself, or what it is a view of."""
        roots = {Ref(i.name): Ref(i.name) for i in self.inputs}
        for node in self.nodes:
            for k in range(len(node.outputs)):
                own = Ref(node.name, k)
                is_view = node.row.is_free and bool(node.operands)
                # output k of a view of many values (broadcast_tensors) is a view of the k-th
                source = node.operands[min(k, len(node.operands) - 1)] if is_view else own
                roots[own] = roots[source] if is_view else own
        return roots

    @property
    def parameters(self) -> int:
        """Number of parameters, every repeat counted, shared ones once."""
        return sum(i.numel for i in self.inputs if i.kind is InputKind.PARAMETER)

    def node(self, name: str) -> Node:
        """The node called `name`."""
        for node in self.nodes:
            if node.name == name:
                return node
        raise GraphError(f"graph {self.name} has no node {name!r}.")

    def of_kind(self, kind: InputKind) -> Iterator[GraphInput]:
        """The inputs of one kind."""
        return (i for i in self.inputs if i.kind is kind)

    @cached_property
    def digest(self) -> str:
        """Sixteen hex digits that two graphs share exactly when they do the same work the same way.
        Structure, shapes, types, the numbers in calls and the values of constants of whole numbers
        and truth values count; names and the values of weights and of other constants do not.
        """
        from ridgeline.graph.text import canonical_lines

        return hashlib.sha256("\n".join(canonical_lines(self)).encode()).hexdigest()[:16]

    def __str__(self) -> str:
        from ridgeline.graph.text import to_text

        return to_text(self)
