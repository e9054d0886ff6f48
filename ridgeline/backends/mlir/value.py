"""Value: one result in the module, with the order its dimensions lie in."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor

from ridgeline.errors import UnsupportedOp

# TOSA has no 64-bit floats, and a processor's compiler no unsigned tensors.
TYPES = {
    torch.float32: "f32",
    torch.bfloat16: "bf16",
    torch.float16: "f16",
    torch.int64: "i64",
    torch.int32: "i32",
    torch.int16: "i16",
    torch.int8: "i8",
    torch.bool: "i1",
}


@dataclass(frozen=True, slots=True)
class Value:
    """One result. shape: as it lies in memory; order: the dimension of the graph's tensor that each
    of those is, so that (0, 2, 3, 1) holds an image's channels last.
    """

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    order: tuple[int, ...]

    @property
    def type(self) -> str:
        """Its type as MLIR spells it."""
        return tensor_type(self.shape, self.dtype)

    @property
    def rank(self) -> int:
        """Number of dimensions."""
        return len(self.shape)

    @property
    def numel(self) -> int:
        """Number of elements."""
        return prod(self.shape)

    @property
    def is_plain(self) -> bool:
        """Whether it lies as the graph's tensor would, row by row."""
        return self.order == plain(self.rank)

    @property
    def logical(self) -> tuple[int, ...]:
        """The shape of the graph's tensor."""
        return tuple(self.shape[self.order.index(dim)] for dim in range(self.rank))


# What a row gets: a result of the module, or a tensor that is known before it runs.
Operand = Value | Tensor


def plain(rank: int) -> tuple[int, ...]:
    """The order in which torch's contiguous tensors lie."""
    return tuple(range(rank))


def channels_last(rank: int) -> tuple[int, ...]:
    """The order (N, *spatial, C) of an (N, C, *spatial)."""
    return (0, *range(2, rank), 1)


def element_type(dtype: torch.dtype) -> str:
    """The type of one element. Raises UnsupportedOp for one that TOSA lacks."""
    if dtype not in TYPES:
        raise UnsupportedOp(f"no {dtype} in TOSA")
    return TYPES[dtype]


def tensor_type(shape: Sequence[int], dtype: torch.dtype) -> str:
    """The type of a tensor as MLIR spells it."""
    return f"tensor<{'x'.join([*map(str, shape), element_type(dtype)])}>"
