"""Call: one node under way, its arguments by name."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ridgeline.backends.native.builder import Builder
from ridgeline.backends.native.tree import Host, Pending, Tree, leaves
from ridgeline.backends.native.value import FLOATS, Place, Value, as_matrix, channels_last, laid
from ridgeline.errors import UnsupportedOp

# What a node gives: written, not yet written, or known before the program runs.
Operand = Value | Pending | Tensor
Result = Operand | tuple[Operand, ...]


@dataclass(frozen=True, slots=True)
class Call:
    """What a row gets. outs: the specs of all results, on the meta device; home: where the result
    is wanted, if anywhere.
    """

    builder: Builder
    arguments: Mapping[str, object]
    outs: tuple[Tensor, ...]
    home: Value | None

    @property
    def out(self) -> Tensor:
        """The spec of the first result."""
        return self.outs[0]

    def has(self, name: str) -> bool:
        """Whether the argument is given."""
        return self.arguments.get(name) is not None

    def operand(self, name: str) -> Operand:
        """A tensor argument in any form."""
        return _operand(self.arguments[name], name)

    def operands(self, name: str) -> tuple[Operand, ...]:
        """A list of tensors."""
        listed = self.arguments[name]
        assert isinstance(listed, list | tuple)
        return tuple(_operand(x, name) for x in listed)

    def known(self, name: str) -> Tensor:
        """A tensor argument that must be known before the program runs."""
        found = self.operand(name)
        if not isinstance(found, Tensor):
            raise UnsupportedOp(f"its {name} is computed, not a weight")
        return found

    def value(self, name: str) -> Value:
        """A tensor argument, written."""
        return self.settled(self.operand(name))

    def settled(self, operand: Operand) -> Value:
        """An operand, written."""
        if isinstance(operand, Tensor):
            return self.builder.constant(operand)
        return self.builder.written(operand) if isinstance(operand, Pending) else operand

    def matrix(self, name: str) -> tuple[Value, int]:
        """A tensor argument with a dense last dimension and rows at one distance, and that."""
        return self.as_matrix(self.value(name))

    def as_matrix(self, value: Value) -> tuple[Value, int]:
        """The value with a dense last dimension and rows at one distance, and that distance."""
        distance = as_matrix(value.spec)
        if distance is not None:
            return value, distance
        value = self.dense(value)
        return value, value.shape[-1]

    def pixels(self, name: str) -> tuple[Value, int]:
        """An (N, C, *spatial) argument with dense channels and positions at one distance."""
        operand = self.operand(name)
        order = channels_last(_spec(operand).dim())
        value = self._laid(operand, order)
        distance = as_matrix(value.spec.permute(order))
        if distance is not None:
            return value, distance
        value = self.ordered(value, order)
        return value, value.shape[1]

    def _laid(self, operand: Operand, order: Sequence[int]) -> Value:
        """An operand, written; in that order where it is not clear from a product before it."""
        if not isinstance(operand, Pending) or isinstance(operand.tree, Value | Host):
            return self.settled(operand)
        if any(isinstance(leaf, Host) for leaf in leaves(operand.tree)):
            return self.settled(operand)
        target = self.builder.blank(laid(operand.spec, order))
        return self.builder.written(operand, into=target)

    def dense(self, value: Value) -> Value:
        """The value row by row."""
        return value if value.spec.is_contiguous() else self.ordered(value, range(value.spec.dim()))

    def ordered(self, value: Value, order: Sequence[int]) -> Value:
        """A dense copy whose dimensions lie in an order."""
        target = self.builder.blank(laid(value.spec, order))
        self.builder.copy(value, target)
        return target

    def tree(self, operand: object) -> Tree:
        """A number or a floating or boolean tensor as part of an expression."""
        if isinstance(operand, bool | int | float):
            return float(operand)
        found = _operand(operand, "operand")
        spec = found.spec if not isinstance(found, Tensor) else found
        if spec.dtype not in (*FLOATS, torch.bool):
            raise UnsupportedOp(f"an expression of {spec.dtype}")
        if isinstance(found, Tensor):
            return float(found) if found.numel() == 1 else self.builder.constant(found)
        return found.tree if isinstance(found, Pending) else found

    def pending(self, tree: Tree) -> Pending:
        """The first result, not yet written."""
        return Pending(tree, self.out)

    def hosted(self, host: Host) -> Pending:
        """The first result as a host that has yet to be written."""
        return Pending(host, host.spec)

    def blank(self, order: Sequence[int] | None = None) -> Value:
        """Where the first result goes; new memory unless it has a home, dense, in an order."""
        if self.home is not None:
            return self.home
        return self.builder.blank(laid(self.out, order or range(self.out.dim())))

    def number(self, name: str) -> float:
        """An argument that is a number."""
        found = self.arguments[name]
        if not isinstance(found, int | float):
            raise UnsupportedOp(f"its {name} is no number")
        return found

    def ints(self, name: str) -> tuple[int, ...]:
        """A list of whole numbers."""
        found = self.arguments.get(name)
        if found is None:
            return ()
        if not isinstance(found, list | tuple) or not all(isinstance(i, int) for i in found):
            raise UnsupportedOp(f"its {name} is no list of numbers")
        return tuple(found)

    def flag(self, name: str) -> bool:
        """An argument that is true or false."""
        return bool(self.arguments.get(name))

    def within(self, what: str, size: int, most: int) -> None:
        """Raises UnsupportedOp for a size that a kernel's scratch memory has no room for."""
        if size > most:
            raise UnsupportedOp(f"it has {size:,} {what}, and our kernels take {most:,}")

    def vector(self, name: str) -> Place | None:
        """A known vector in fp32, where it is given."""
        return self.builder.vector(self.known(name)) if self.has(name) else None


def _spec(operand: Operand) -> Tensor:
    return operand if isinstance(operand, Tensor) else operand.spec


def _operand(found: object, name: str) -> Operand:
    if not isinstance(found, Value | Pending | Tensor):
        raise UnsupportedOp(f"its {name} is no tensor")
    return found


def floating(*specs: Tensor) -> None:
    """Raises UnsupportedOp for a tensor in a type that kernels do not compute in."""
    for spec in specs:
        if spec.dtype not in FLOATS:
            raise UnsupportedOp(f"no kernel for {spec.dtype}")
