"""Call: one node under way, its arguments by name."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from ridgeline.backends.mlir.algebra import Algebra
from ridgeline.backends.mlir.value import Operand, Value, plain
from ridgeline.backends.mlir.writer import Writer
from ridgeline.errors import UnsupportedOp


class Call:
    """What a row gets. out: the spec of the first result; outs: of all."""

    def __init__(
        self, writer: Writer, arguments: Mapping[str, object], outs: Sequence[Tensor]
    ) -> None:
        self.writer = writer
        self.outs = tuple(outs)
        self.algebra = Algebra(writer)
        self._arguments = arguments

    @property
    def out(self) -> Tensor:
        """The spec of the first result."""
        return self.outs[0]

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the first result."""
        return tuple(self.out.shape)

    def has(self, name: str) -> bool:
        """Whether the argument is given."""
        return self._arguments.get(name) is not None

    def operand(self, name: str) -> Operand:
        """A tensor argument, known or not."""
        value = self._arguments[name]
        if not isinstance(value, Value | Tensor):
            raise UnsupportedOp(f"its {name} is no tensor")
        return value

    def value(self, name: str, order: tuple[int, ...] | None = None) -> Value:
        """A tensor argument in some order; as it lies where none is given."""
        found = self.operand(name)
        if isinstance(found, Tensor):
            return self.writer.constant(found, order)
        return found if order is None else self.writer.move(found, order)

    def plain(self, name: str) -> Value:
        """A tensor argument that lies row by row."""
        return self.value(name, plain(rank_of(self.operand(name))))

    def known(self, name: str) -> Tensor:
        """A tensor argument that must be known before the module runs."""
        found = self.operand(name)
        if isinstance(found, Value):
            raise UnsupportedOp(f"its {name} is computed, not a weight")
        return found

    def operands(self, name: str) -> tuple[Operand, ...]:
        """A list of tensors."""
        listed = self._arguments[name]
        assert isinstance(listed, list | tuple)
        return tuple(x for x in listed if isinstance(x, Value | Tensor))

    def listed(self, name: str) -> tuple[object, ...]:
        """A list, with what it leaves out as None."""
        found = self._arguments[name]
        assert isinstance(found, list | tuple)
        return tuple(found)

    def ints(self, name: str) -> tuple[int, ...]:
        """A list of whole numbers; one number is a list of one."""
        listed = self._arguments[name]
        if isinstance(listed, int):
            return (listed,)
        if listed is None:
            return ()
        assert isinstance(listed, list | tuple)
        return tuple(int(x) for x in listed)

    def integer(self, name: str) -> int:
        """A whole number."""
        value = self._arguments[name]
        assert isinstance(value, int)
        return value

    def number(self, name: str) -> float:
        """A number."""
        value = self._arguments[name]
        if not isinstance(value, int | float):
            raise UnsupportedOp(f"its {name} is no number")
        return value

    def scalar_or(self, name: str) -> Operand | float:
        """A tensor or a number."""
        value = self._arguments[name]
        if not isinstance(value, Value | Tensor | int | float):
            raise UnsupportedOp(f"its {name} is neither tensor nor number")
        return value

    def flag(self, name: str) -> bool:
        """A switch."""
        return bool(self._arguments.get(name))

    def text(self, name: str) -> str:
        """A word."""
        return str(self._arguments.get(name))

    def dtype(self, name: str) -> torch.dtype | None:
        """A type; None where none is given."""
        value = self._arguments.get(name)
        return value if isinstance(value, torch.dtype) else None

    def dim(self, name: str, rank: int) -> int:
        """A dimension, counted from the front."""
        return self.integer(name) % max(rank, 1)

    def dims(self, name: str, rank: int) -> tuple[int, ...]:
        """Dimensions, counted from the front; all where none is given."""
        return tuple(sorted(d % max(rank, 1) for d in self.ints(name))) or plain(rank)


def rank_of(operand: Operand) -> int:
    """Number of dimensions."""
    return operand.rank if isinstance(operand, Value) else operand.dim()


def shape_of(operand: Operand) -> tuple[int, ...]:
    """The shape of the graph's tensor."""
    return operand.logical if isinstance(operand, Value) else tuple(operand.shape)
