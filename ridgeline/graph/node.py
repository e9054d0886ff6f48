"""Node: one operation of a graph, with the specs of what it reads and writes."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Union

from ridgeline.errors import GraphError
from ridgeline.graph.ops import OpRow
from ridgeline.graph.spec import TensorSpec


@dataclass(frozen=True, slots=True)
class Ref:
    """Output number `index` of the node or graph input called `name`."""

    name: str
    index: int = 0

    def __str__(self) -> str:
        return f"%{self.name}" if self.index == 0 else f"%{self.name}.{self.index}"


Argument = Union[  # noqa: UP007 - a recursive alias needs the quoted form
    Ref, bool, int, float, complex, str, None, tuple["Argument", ...]
]


def references(argument: Argument) -> Iterator[Ref]:
    """Every value an argument refers to, in order."""
    if isinstance(argument, Ref):
        yield argument
    elif isinstance(argument, tuple):
        for item in argument:
            yield from references(item)


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """One operation. `repeat`: how often it runs, when it sits in a layer captured once for many.

    args: by schema name, complete with defaults; values are `Ref`s. specs: what each `Ref` looks
    like. module: dotted path of the module it came from. branches: the nodes of its sub-graphs
    (`cond`).
    """

    name: str
    row: OpRow
    target: str
    module: str
    args: Mapping[str, Argument]
    specs: Mapping[Ref, TensorSpec]
    outputs: tuple[TensorSpec, ...]
    repeat: int = 1
    source: str = ""
    branches: tuple[tuple["Node", ...], ...] = field(default=())

    @property
    def op(self) -> str:
        """The op kind: the key of every table."""
        return self.row.kind

    def arg(self, name: str) -> Argument:
        """Argument `name`, from the call, the op row or the schema's default."""
        if name in self.row.fixed:
            return self.row.fixed[name]
        if name not in self.args:
            raise GraphError(f"node {self.name} ({self.target}) has no argument {name!r}.")
        return self.args[name]

    def has(self, name: str) -> bool:
        """Whether argument `name` exists and is not None."""
        return name in self.row.fixed or self.args.get(name) is not None

    def spec(self, name: str) -> TensorSpec:
        """Spec of the tensor argument `name`."""
        ref = self.arg(name)
        if not isinstance(ref, Ref):
            raise GraphError(f"argument {name!r} of node {self.name} ({self.target}) is no tensor.")
        return self.specs[ref]

    def spec_list(self, name: str) -> tuple[TensorSpec, ...]:
        """Specs of a list-of-tensors argument."""
        return tuple(self.specs[ref] for ref in references(self.arg(name)))

    @property
    def operands(self) -> tuple[Ref, ...]:
        """Every distinct value it reads, in argument order."""
        return tuple(dict.fromkeys(r for a in self.args.values() for r in references(a)))

    @property
    def tensors(self) -> tuple[TensorSpec, ...]:
        """Specs of every tensor argument in order; a value used twice appears twice."""
        return tuple(self.specs[r] for a in self.args.values() for r in references(a))

    @property
    def out(self) -> TensorSpec:
        """Spec of its first output."""
        return self.outputs[0]

    def int_arg(self, name: str) -> int:
        """Argument `name` as an int."""
        value = self.arg(name)
        if not isinstance(value, int):
            raise GraphError(f"argument {name!r} of node {self.name} is {value!r}, not an int.")
        return value
