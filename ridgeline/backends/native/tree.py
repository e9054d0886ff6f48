"""Trees: what is computed element by element but not yet written anywhere, over what is."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ridgeline.backends.native.value import Place, Value, joined
from ridgeline.errors import UnsupportedOp
from ridgeline.native.program import REGISTERS, Step

# Fields of an instruction, places for refs.
Fields = Mapping[str, "int | float | Place | None"]


@dataclass(frozen=True, slots=True, eq=False)
class Host:
    """A product that is not written yet, so that what follows it can be done before it is.

    name, fields: the instruction, but for y. axes: the dimensions of its result that each axis of
    its expression counts through, the columns last. flops: which of two hosts keeps what follows.
    """

    name: str
    fields: Fields
    spec: Tensor
    axes: tuple[tuple[int, ...], ...]
    flops: int
    finish: "Callable[[Value], Fields]"

    @property
    def order(self) -> tuple[int, ...]:
        """The order in which the dimensions of its result lie."""
        return tuple(dim for dims in self.axes for dim in dims)

    def strides(self, spec: Tensor) -> tuple[int, ...] | None:
        """The strides of a tensor of its result's shape along the axes; None where it has none."""
        found = [joined(spec, dims) for dims in self.axes]
        known = tuple(stride for stride in found if stride is not None)
        return known if len(known) == len(found) else None


@dataclass(frozen=True, slots=True, eq=False)
class Rolled:
    """A value whose elements are `shift` places farther along a dimension, the last ones first."""

    value: Value
    dim: int
    shift: int

    def is_like(self, other: "Rolled") -> bool:
        """Whether its runs are the other's."""
        own, its = (self.dim, self.shift), (other.dim, other.shift)
        return own == its and self.value.spec.shape == other.value.spec.shape

    def pieces(self) -> tuple[tuple[int, int, int], ...]:
        """Where runs of it start and where they come from in the value, and how long they are."""
        size = self.value.shape[self.dim]
        both = ((0, size - self.shift, self.shift), (self.shift, 0, size - self.shift))
        return tuple(piece for piece in both if piece[2])


@dataclass(frozen=True, slots=True, eq=False)
class Apply:
    """One step on others. p, q: its numbers."""

    step: str
    arguments: tuple["Tree", ...]
    p: float = 0.0
    q: float = 0.0


Tree = Value | Host | Rolled | Apply | float


@dataclass(frozen=True, slots=True, eq=False)
class Pending:
    """A tree and the shape and type of what it computes."""

    tree: Tree
    spec: Tensor


def leaves(tree: Tree) -> Iterator[Value | Host | Rolled]:
    """What a tree reads, each as often as it is read."""
    if isinstance(tree, Apply):
        for argument in tree.arguments:
            yield from leaves(argument)
    elif not isinstance(tree, float):
        yield tree


def replaced(tree: Tree, new: "Callable[[Value | Host | Rolled], Tree]") -> Tree:
    """The tree with all that it reads replaced."""
    if isinstance(tree, Apply):
        found = tuple(replaced(a, new) for a in tree.arguments)
        return Apply(tree.step, found, tree.p, tree.q)
    return tree if isinstance(tree, float) else new(tree)


@dataclass(slots=True)
class Writer:
    """Writes a tree as steps. operands: the values that LOAD steps name, in order. A register is
    free again once what it holds was read.
    """

    host: Host | None = None
    operands: list[Value] = field(default_factory=list)
    steps: list[Step] = field(default_factory=list)
    _free: list[int] = field(default_factory=lambda: list(range(REGISTERS - 1, -1, -1)))

    def write(self, tree: Tree) -> int:
        """The register that holds the tree's value after the steps so far. Raises UnsupportedOp
        for a tree that needs more registers than there are.
        """
        if tree is self.host:
            return 0
        if isinstance(tree, Apply):
            return self._apply(tree)
        to = self._take()
        if isinstance(tree, float):
            self.steps.append(Step("CONSTANT", to, p=tree))
            return to
        assert isinstance(tree, Value)
        self.steps.append(Step("LOAD", to, self._operand(tree)))
        return to

    def reserve_host(self) -> None:
        """Keeps register 0 for the host."""
        self._free.remove(0)

    def _apply(self, tree: Apply) -> int:
        # what needs most comes first, while all are free (Sethi and Ullman, 1970)
        registers = [0] * len(tree.arguments)
        for i in sorted(range(len(registers)), key=lambda i: -need_of(tree.arguments[i])):
            registers[i] = self.write(tree.arguments[i])
        for register in set(registers):
            self._free.append(register)
        to = self._take()
        a, b, *rest = (*registers, 0, 0)[: max(2, len(registers))]
        if tree.step == "SELECT":  # mask, yes, no
            self.steps.append(Step("SELECT", to, registers[1], registers[2], p=float(registers[0])))
        else:
            assert not rest
            self.steps.append(Step(tree.step, to, a, b, tree.p, tree.q))
        return to

    def _operand(self, value: Value) -> int:
        for number, known in enumerate(self.operands):
            if known.buffer is value.buffer and known.spec is value.spec:
                return number
        self.operands.append(value)
        return len(self.operands) - 1

    def _take(self) -> int:
        if not self._free:
            raise UnsupportedOp("its expression needs too many registers")
        return self._free.pop()


def need_of(tree: Tree) -> int:
    """Registers that a tree takes at once, its own included."""
    if not isinstance(tree, Apply):
        return 1
    needs = sorted(map(need_of, tree.arguments), reverse=True)
    return max(n + held for held, n in enumerate(needs))


def spec_of(leaf: Value | Host | Rolled) -> Tensor:
    """The shape and type of what a tree reads."""
    return leaf.value.spec if isinstance(leaf, Rolled) else leaf.spec


def broadcast(value: Value, shape: torch.Size) -> Value:
    """The value as it broadcasts to a shape."""
    return value if value.spec.shape == shape else value.like(value.spec.expand(shape))
