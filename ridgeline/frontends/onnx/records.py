"""What an ONNX file says, as plain immutable records: nodes in an order in which they can run."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Union

from onnx import NodeProto

from ridgeline.frontends.onnx.dtypes import ElementType
from ridgeline.frontends.onnx.weights import Known

Attribute = Union[int, float, str, Known, "Body", "Kind", tuple["Attribute", ...]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """The type of a value. A dimension is its size, the name of a size, or None where unknown;
    dims None: not even the rank is known; container: "sequence" or "optional" of such tensors.
    """

    element: ElementType
    dims: tuple[int | str | None, ...] | None
    container: str = ""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class OnnxNode:
    """One node. references: attribute -> attribute of the function it stands in; path: where it
    belongs in the model, outermost first; overload: of a function called; proto: as the file has
    it.
    """

    op: str
    domain: str
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Attribute] = field(default_factory=dict)
    references: Mapping[str, str] = field(default_factory=dict)
    path: tuple[str, ...] = ()
    overload: str = ""
    proto: NodeProto

    @property
    def title(self) -> str:
        """What errors call it."""
        return f"node {self.name or self.outputs} ({self.qualified})"

    @property
    def qualified(self) -> str:
        """The operator with its domain."""
        return f"{self.domain}.{self.op}" if self.domain else self.op


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Body:
    """A graph, of a model, a function or an attribute. captured: values of the scope around it."""

    nodes: tuple[OnnxNode, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    weights: Mapping[str, Known] = field(default_factory=dict)
    captured: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Function:
    """An operator that is spelt in other operators. attributes: its names -> defaults, if any."""

    body: Body
    opsets: Mapping[str, int]
    attributes: Mapping[str, Attribute | None]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class OnnxModel:
    """A model. inputs: those that a caller must give, in order; functions: its own operators by
    (domain, name, overload).
    """

    name: str
    body: Body
    opsets: Mapping[str, int]
    functions: Mapping[tuple[str, str, str], Function]
    inputs: Mapping[str, Kind]
    outputs: Mapping[str, Kind | None]
