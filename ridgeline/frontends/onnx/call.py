"""One call of an operator: its inputs and attributes as the table's functions ask for them."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeGuard, Union

import numpy as np
import torch
from onnx import AttributeProto, defs
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor
from torch._subclasses.functional_tensor import FunctionalTensor
from torch.utils._python_dispatch import _disable_current_modes

from ridgeline.errors import CaptureError, UnsupportedOp
from ridgeline.frontends.onnx.dtypes import Array, ElementType, decoded, to_array, type_of
from ridgeline.frontends.onnx.records import Attribute, Body, Kind, OnnxNode
from ridgeline.frontends.onnx.weights import SMALL, Known, known

# A tensor that depends on the inputs, one that does not, a sequence, an optional without a value.
Value = Union[Tensor, Known, tuple["Value", ...], None]  # noqa: UP007 - recursive
# One output, or a list of several.
Result = Value | list[Value]


def several(*values: Value) -> list[Value]:
    """The outputs of an operator that has more than one."""
    return list(values)


class TooLarge(Exception):
    """A value that would be computed ahead of the graph has more elements than is worth it."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Call:
    """A node about to run. version: of its operator set; is_ahead: whether all inputs are known and
    the outputs will be known too.

    materialise: a known value as a tensor; run: a sub-graph on these values; find: a value around
    the node; enter: a sub-graph with other values for the names that it reads around it, and
    another way to make known values tensors.
    """

    node: OnnxNode
    version: int
    inputs: tuple[Value, ...]
    attributes: Mapping[str, Attribute]
    device: torch.device
    materialise: Callable[[Known], Tensor]
    run: Callable[[Body, Sequence[Value]], list[Value]]
    find: Callable[[str], Value]
    enter: Callable[[Body, Mapping[str, Value], Callable[[Known], Tensor]], list[Value]]
    is_ahead: bool = False

    # inputs

    def has(self, index: int) -> bool:
        """Whether input `index` was given."""
        return index < len(self.inputs) and self.inputs[index] is not None

    def value(self, index: int) -> Value:
        """Input `index` as it is; None if it was not given."""
        return self.inputs[index] if index < len(self.inputs) else None

    def tensor(self, index: int) -> Tensor:
        """Input `index` as a tensor that torch computes with."""
        return decoded(self.raw(index))

    def raw(self, index: int) -> Tensor:
        """Input `index` as a tensor, in the type that carries it."""
        value = self.value(index)
        if isinstance(value, Known):
            return self.materialise(value)
        if not isinstance(value, Tensor):
            raise self.error(f"its input {index} is no tensor")
        return value

    def derived(
        self, index: int, way: str, shape: tuple[int, ...], function: Callable[[Array], Array]
    ) -> Tensor | None:
        """Input `index`, if it is a weight, laid out in another way; None if it is none."""
        value = self.value(index)
        if not isinstance(value, Known) or self.is_ahead or not value.name:
            return None
        return self.materialise(value.derived(way, shape, function))

    def lifted(self, value: Known) -> Tensor:
        """A value that the function itself computed, as a tensor."""
        return self.materialise(value)

    def optional(self, index: int) -> Tensor | None:
        """Input `index` as a tensor, or None if it was not given."""
        return self.tensor(index) if self.has(index) else None

    def tensors(self) -> list[Tensor]:
        """Every input as a tensor."""
        return [self.tensor(i) for i in range(len(self.inputs))]

    def sequence(self, index: int) -> tuple[Value, ...]:
        """Input `index`, a sequence."""
        value = self.value(index)
        if not isinstance(value, tuple):
            raise self.error(f"its input {index} is no sequence")
        return value

    def array(self, index: int) -> Array:
        """The values of input `index`. Raises CaptureError if they depend on the data."""
        value = self.value(index)
        if isinstance(value, Known):
            return value.read()
        if is_real(value):
            return to_array(value)
        raise self.error(
            f"it needs the values of its input {index} ({self._name(index)}) to be known, and they "
            "depend on the model's inputs"
        )

    def ints(self, index: int) -> list[int]:
        """The values of input `index` as a flat list of integers."""
        return [int(v) for v in self.array(index).reshape(-1)]

    def int_at(self, index: int) -> int:
        """The single value of input `index`."""
        return self.ints(index)[0]

    def float_at(self, index: int) -> float:
        """The single value of input `index`."""
        return float(self.array(index).astype(np.float64).reshape(-1)[0])

    def shape(self, index: int) -> tuple[int, ...]:
        """The shape of input `index`."""
        value = self.value(index)
        if isinstance(value, Known):
            return value.shape
        return tuple(self.raw(index).shape)

    def rank(self, index: int) -> int:
        """The number of dimensions of input `index`."""
        return len(self.shape(index))

    def element(self, index: int) -> ElementType:
        """The element type of input `index`."""
        value = self.value(index)
        return value.element if isinstance(value, Known) else type_of(self.raw(index))

    def dtype(self, index: int) -> torch.dtype:
        """The torch dtype of input `index`."""
        return dtype_of(self.element(index))

    def scalar(self, index: int) -> float | int | bool | None:
        """The single number that input `index` is known to be, or None."""
        value = self.value(index)
        if not isinstance(value, Known) or value.numel != 1 or value.element.name == "string":
            return None
        number = value.read().reshape(())
        if value.element.numpy.kind == "b":
            return bool(number)
        if value.element.numpy.kind in "iu":
            return int(number)
        return None if value.element.numpy.kind == "c" else float(number)

    def axis(self, index: int = 0, name: str = "axis") -> int:
        """Attribute `name` as a dimension of input `index`, counted from the front."""
        return self.dim(self.integer(name), self.rank(index))

    def dim(self, axis: int, rank: int) -> int:
        """Dimension `axis` of a tensor of this rank, counted from the front."""
        if not -rank <= axis < max(rank, 1):
            raise self.error(f"it has no dimension {axis}: the rank is {rank}")
        return axis % rank if rank else 0

    def axes(self, slot: int, name: str = "axes") -> list[int] | None:
        """Dimensions given as an attribute in old versions, as input `slot` in new ones."""
        if name in self.attributes:
            return self.integers(name)
        return self.ints(slot) if self.has(slot) else None

    # attributes

    def given(self, name: str) -> bool:
        """Whether attribute `name` was given."""
        return name in self.attributes

    def integer(self, name: str, default: int | None = None) -> int:
        """Attribute `name`, else the specification's default, else `default`."""
        value = self._attribute(name, default)
        if not isinstance(value, int):
            raise self.error(f"its attribute {name} is {value!r}, not an integer")
        return value

    def flag(self, name: str) -> bool:
        """Whether the integer attribute `name` is set."""
        return bool(self.integer(name, 0))

    def number(self, name: str, default: float | None = None) -> float:
        """Attribute `name`, else the specification's default, else `default`."""
        value = self._attribute(name, default)
        if not isinstance(value, int | float):
            raise self.error(f"its attribute {name} is {value!r}, not a number")
        return float(value)

    def text(self, name: str, default: str | None = None) -> str:
        """Attribute `name`, else the specification's default, else `default`."""
        value = self._attribute(name, default)
        if not isinstance(value, str):
            raise self.error(f"its attribute {name} is {value!r}, not a text")
        return value

    def integers(self, name: str, default: Sequence[int] | None = None) -> list[int]:
        """Attribute `name`, else the specification's default, else `default`."""
        return [v for v in self._list(name, default) if isinstance(v, int)]

    def numbers(self, name: str, default: Sequence[float] | None = None) -> list[float]:
        """Attribute `name`, else `default`."""
        return [float(v) for v in self._list(name, default) if isinstance(v, int | float)]

    def texts(self, name: str, default: Sequence[str] | None = None) -> list[str]:
        """Attribute `name`, else `default`."""
        return [v for v in self._list(name, default) if isinstance(v, str)]

    def known(self, name: str) -> Known | None:
        """The tensor attribute `name`, or None."""
        value = self.attributes.get(name)
        return value if isinstance(value, Known) else None

    def body(self, name: str) -> Body:
        """The sub-graph attribute `name`."""
        value = self.attributes.get(name)
        if not isinstance(value, Body):
            raise self.error(f"it has no sub-graph {name}")
        return value

    def kind(self, name: str) -> Kind | None:
        """The type attribute `name`, or None."""
        value = self.attributes.get(name)
        return value if isinstance(value, Kind) else None

    def _attribute(self, name: str, default: Attribute | None) -> Attribute | None:
        if name in self.attributes:
            return self.attributes[name]
        return _defaults(self.node.domain, self.node.op, self.version).get(name, default)

    def _list(self, name: str, default: Sequence[Attribute] | None) -> Sequence[Attribute]:
        value = self._attribute(name, None if default is None else tuple(default))
        if not isinstance(value, tuple):
            raise self.error(f"its attribute {name} is {value!r}, not a list")
        return value

    # outputs

    @property
    def num_outputs(self) -> int:
        """How many outputs the node names, trailing blanks aside."""
        return max((i + 1 for i, name in enumerate(self.node.outputs) if name), default=0)

    def wants(self, index: int) -> bool:
        """Whether output `index` is named."""
        return index < len(self.node.outputs) and bool(self.node.outputs[index])

    def require_size(self, shape: Sequence[int]) -> list[int]:
        """`shape`, which the node's values ask for. Raises TooLarge if it is not worth computing
        ahead.
        """
        if self.is_ahead and np.prod([float(d) for d in shape]) > SMALL:
            raise TooLarge
        return list(shape)

    def require_data(self, what: str) -> None:
        """Raises CaptureError where the inputs cannot be read now; `what` depends on them."""
        if not self.is_ahead and not all(is_real(v) for v in self.inputs if isinstance(v, Tensor)):
            raise self.error(f"{what} depends on the data, which a graph of fixed sizes cannot say")

    def error(self, reason: str) -> CaptureError:
        """The error that this call cannot be: `reason` begins with a word in lower case."""
        return CaptureError(f"{self.node.title} does not convert: {reason}.")

    def _name(self, index: int) -> str:
        return self.node.inputs[index] if index < len(self.node.inputs) else "absent"


def is_real(value: Value) -> TypeGuard[Tensor]:
    """Whether a value is a tensor whose elements can be read now."""
    if not isinstance(value, Tensor) or isinstance(value, FakeTensor | FunctionalTensor):
        return False
    return not value.is_meta and not torch.compiler.is_exporting()


@contextmanager
def outside_trace() -> Iterator[None]:
    """Within the block torch computes at once, whatever is being traced around it."""
    with _disable_current_modes(), torch._C.DisableTorchFunction(), torch.no_grad():
        yield


def dtype_of(element: ElementType) -> torch.dtype:
    """The torch dtype that carries an element type. Raises UnsupportedOp for strings."""
    if element.carrier is None:
        raise UnsupportedOp("strings are no tensors that torch computes.")
    return element.carrier


def sizes(shape: Sequence[int]) -> Known:
    """A list of sizes as the int64 tensor that ONNX makes of it."""
    return known(np.array(shape, np.int64))


@lru_cache(maxsize=4096)
def _defaults(domain: str, op: str, version: int) -> dict[str, Attribute]:
    """What the specification says attributes are where a node names none."""
    try:
        schema = defs.get_schema(op, version, domain)
    except defs.SchemaError:
        return {}
    values = {name: a.default_value for name, a in schema.attributes.items()}
    return {name: value for name, p in values.items() if (value := _plain(p)) is not None}


def _plain(proto: AttributeProto) -> Attribute | None:
    match proto.type:
        case AttributeProto.FLOAT:
            return proto.f
        case AttributeProto.INT:
            return proto.i
        case AttributeProto.STRING:
            return proto.s.decode()
        case AttributeProto.INTS:
            return tuple(proto.ints)
        case AttributeProto.FLOATS:
            return tuple(proto.floats)
        case AttributeProto.STRINGS:
            return tuple(s.decode() for s in proto.strings)
        case _:
            return None
