"""Value: a tensor of the program as it lies in memory; Buffer: the memory."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum

import torch
from torch import Tensor

from ridgeline.errors import UnsupportedOp
from ridgeline.native.program import Type

TYPES = {
    torch.float32: Type.F32,
    torch.bfloat16: Type.BF16,
    torch.int64: Type.I64,
    torch.int32: Type.I32,
    torch.bool: Type.U8,
    torch.uint8: Type.U8,
    torch.int8: Type.I8,
}
FLOATS = (torch.float32, torch.bfloat16)


class Kind(Enum):
    """Where memory comes from."""

    ARENA = "arena"
    CONSTANT = "constant"
    INPUT = "input"
    OUTPUT = "output"


@dataclass(eq=False, slots=True)
class Buffer:
    """Memory. number: which constant, input or output; offset: in the arena, once planned.

    tensor: what a constant holds. first, last: the steps between which it is in use.
    """

    kind: Kind
    nbytes: int
    number: int = 0
    tensor: Tensor | None = None
    offset: int = 0
    first: int = -1
    last: int = -1


@dataclass(frozen=True, slots=True)
class Place:
    """So many bytes into a buffer."""

    buffer: Buffer
    nbytes: int = 0


@dataclass(frozen=True, slots=True)
class Value:
    """A tensor in a buffer. spec: on the meta device, with the strides and the offset that it has
    there; a view of a value is that view of its spec.
    """

    buffer: Buffer
    spec: Tensor = field(repr=False)

    @property
    def shape(self) -> tuple[int, ...]:
        """Its shape."""
        return tuple(self.spec.shape)

    @property
    def dtype(self) -> torch.dtype:
        """Its type."""
        return self.spec.dtype

    @property
    def type(self) -> Type:
        """Its type as programs spell it."""
        return type_of(self.spec)

    @property
    def place(self) -> Place:
        """Where its first element lies."""
        return Place(self.buffer, int(self.spec.storage_offset()) * self.spec.element_size())

    def like(self, spec: Tensor) -> "Value":
        """Another view of the same memory."""
        return Value(self.buffer, spec)


def type_of(spec: Tensor) -> Type:
    """The type of a tensor. Raises UnsupportedOp for one that no kernel has."""
    if spec.dtype not in TYPES:
        raise UnsupportedOp(f"no kernel for {spec.dtype}")
    return TYPES[spec.dtype]


def channels_last(rank: int) -> tuple[int, ...]:
    """The order (N, *spatial, C) of an (N, C, *spatial)."""
    return (0, *range(2, rank), 1)


def memory_order(spec: Tensor) -> list[int]:
    """The dimensions of a tensor from the farthest apart to the closest."""
    strides = spec.stride()
    return sorted(range(spec.dim()), key=lambda d: (-strides[d], d))


def rows_of(spec: Tensor) -> tuple[int, int] | None:
    """The strides (of a row, of a column) by which a tensor is a matrix of its last dimension and
    all others together; None where no one stride leads from row to row.
    """
    if spec.dim() == 0:
        return 0, 0
    row, column = joined(spec, range(spec.dim() - 1)), joined(spec, [spec.dim() - 1])
    return None if row is None or column is None else (row, column)


def joined(spec: Tensor, dims: Sequence[int]) -> int | None:
    """The stride by which some dimensions of a tensor, the last one innermost, count as one; 0
    where they have one element, None where no one stride does.
    """
    shape, strides = spec.shape, spec.stride()
    found: int | None = None
    size = 1
    for dim in reversed(dims):
        if shape[dim] == 1:
            continue
        if found is None:
            found = int(strides[dim])
        elif strides[dim] != found * size:
            return None
        size *= int(shape[dim])
    return found or 0


def as_matrix(spec: Tensor) -> int | None:
    """The distance of rows of a tensor whose last dimension is dense; None where it is not one, or
    one row is repeated.
    """
    found = rows_of(spec)
    if found is None or (spec.shape[-1] != 1 and found[1] != 1):
        return None
    has_rows = spec.numel() > spec.shape[-1]
    return None if has_rows and found[0] == 0 else found[0] or int(spec.shape[-1])


def laid(spec: Tensor, order: Sequence[int]) -> Tensor:
    """A dense tensor of that shape and type whose dimensions lie in an order."""
    order = list(order)
    shape = [spec.shape[d] for d in order]
    back = [order.index(d) for d in range(spec.dim())]
    return torch.empty(shape, dtype=spec.dtype, device="meta").permute(back)
