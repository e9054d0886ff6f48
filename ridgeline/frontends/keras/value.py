"""Value: a tensor as Keras sees it, with its channels where torch wants them.

Shapes: N samples, C channels, S the dimensions between them in Keras's order.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Value:
    """A tensor and its mask. is_moved: what Keras has as its last dimension is dimension 1 here;
    only for three dimensions or more. A chain of layers that all want it there permutes twice, not
    at every layer.
    """

    tensor: Tensor
    is_moved: bool = False
    mask: Tensor | None = None

    @property
    def rank(self) -> int:
        """Number of dimensions."""
        return self.tensor.dim()

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape in Keras's order."""
        shape = tuple(self.tensor.shape)
        return (shape[0], *shape[2:], shape[1]) if self.is_moved else shape

    def plain(self) -> Tensor:
        """The tensor in Keras's order."""
        if not self.is_moved:
            return self.tensor
        if set(self.shape[1:-1]) == {1}:
            return self.tensor.reshape(self.shape)
        return self.tensor.permute(0, *range(2, self.rank), 1)

    def moved(self) -> Tensor:
        """The tensor with Keras's last dimension at 1."""
        if self.is_moved or self.rank < 3:
            return self.tensor
        if set(self.shape[1:-1]) == {1}:
            return self.tensor.reshape(self.shape[0], self.shape[-1], *self.shape[1:-1])
        return self.tensor.permute(0, self.rank - 1, *range(1, self.rank - 1))

    def like(self, tensor: Tensor) -> "Value":
        """`tensor`, made element by element from this one, in the same order."""
        return Value(tensor=tensor, is_moved=self.is_moved)

    def dim(self, axis: int) -> int:
        """The dimension of `tensor` that is Keras's `axis`. Raises IndexError if there is none."""
        if not -self.rank <= axis < self.rank:
            raise IndexError(f"it has no dimension {axis}: the rank is {self.rank}")
        if not self.is_moved:
            return axis
        axis %= self.rank
        return axis if axis == 0 else 1 if axis == self.rank - 1 else axis + 1


def moved(tensor: Tensor) -> Value:
    """A tensor made with channels first that Keras has last."""
    return Value(tensor=tensor, is_moved=tensor.dim() > 2)


def aligned(values: Sequence[Value]) -> tuple[list[Tensor], bool]:
    """(the tensors in one order, in which they broadcast as in Keras; whether channels were
    moved).
    """
    rank = max(v.rank for v in values)
    if not any(v.is_moved and v.rank == rank for v in values):
        return [v.plain() for v in values], False
    return [_widened(v, rank).moved() if v.rank else v.tensor for v in values], True


def _widened(value: Value, rank: int) -> Value:
    if value.rank == rank:
        return value
    tensor = value.plain()
    return Value(tensor=tensor.reshape((1,) * (rank - tensor.dim()) + tuple(tensor.shape)))


def same_mask(values: Sequence[Value]) -> Tensor | None:
    """The mask of what several masked values are merged to: what any of them keeps."""
    masks = [v.mask for v in values]
    result = masks[0] if masks else None
    for mask in masks[1:]:
        result = None if result is None or mask is None else torch.logical_or(result, mask)
    return result
