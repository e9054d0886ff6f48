"""Several inputs to one: sums, products, extremes, concatenation, dot products."""

from collections.abc import Callable, Sequence
from functools import reduce

import torch
from torch import Tensor
from torch.nn import functional as F

from ridgeline.frontends.keras.call import Call
from ridgeline.frontends.keras.table import Result, Row, Run, rows
from ridgeline.frontends.keras.value import Value, aligned, same_mask

Merge = Callable[[Sequence[Tensor]], Tensor]


def _merge(function: Merge) -> Run:
    def run(call: Call) -> Result:
        """One value of several that broadcast, in the order of their channels."""
        values = call.values
        if len(values) < 2:
            raise call.error(f"it is called with {len(values)} inputs; it merges two or more")
        tensors, is_moved = aligned(_same_rank(values))
        return Value(tensor=function(tensors), is_moved=is_moved, mask=same_mask(values))

    return run


def _same_rank(values: Sequence[Value]) -> list[Value]:
    """Values of lower rank with ones after the samples, as Keras widens them."""
    rank = max(v.rank for v in values)
    return [v if v.rank == rank else _widened(v, rank) for v in values]


def _widened(value: Value, rank: int) -> Value:
    """Source: keras, `Merge.call` in layers/merging/base_merge.py."""
    x = value.plain()
    ones = (1,) * (rank - value.rank)
    return Value(tensor=x.reshape(x.shape[0], *ones, *x.shape[1:]))


def _concatenate(call: Call) -> Result:
    values, axis = call.values, call.integer("axis", -1)
    joined = concatenated(values, axis)
    return Value(tensor=joined.tensor, is_moved=joined.is_moved, mask=_joined_mask(values, axis))


def concatenated(values: Sequence[Value], axis: int) -> Value:
    """Values one after the other along one of Keras's dimensions."""
    tensors, is_moved = aligned(values)
    dim = Value(tensor=tensors[0], is_moved=is_moved).dim(axis)
    return Value(tensor=torch.cat(tensors, dim), is_moved=is_moved)


def _joined_mask(values: Sequence[Value], axis: int) -> Tensor | None:
    """A step is shown where any part of it is; steps put one after the other keep their own."""
    if all(v.mask is None for v in values):
        return None
    masks = [v.mask if v.mask is not None else v.plain().new_ones(v.shape[:2]) for v in values]
    shown = [m.to(torch.bool) for m in masks]
    if axis % values[0].rank == 1 and values[0].rank > 2:
        return torch.cat(shown, 1)
    return reduce(torch.logical_or, shown)


def _dot(call: Call) -> Result:
    """Products along one dimension of each, sample by sample."""
    values = call.values
    if len(values) != 2:
        raise call.error(f"it is called with {len(values)} inputs, not 2")
    x, y = (v.plain() for v in values)
    axes = call.integers("axes")
    first, second = (a % t.dim() for a, t in zip((axes * 2)[:2], (x, y), strict=True))
    if 0 in (first, second) or x.shape[first] != y.shape[second]:
        raise call.error(f"dimension {first} of one does not meet dimension {second} of the other")
    if call.flag("normalize"):
        x, y = (_unit(t, d) for t, d in ((x, first), (y, second)))
    left, right = x.movedim(first, -1), y.movedim(second, 1)
    rest = (*left.shape[1:-1], *right.shape[2:])
    left = left.flatten(1, -2) if left.dim() > 2 else left.unsqueeze(1)
    right = right.flatten(2) if right.dim() > 2 else right.unsqueeze(2)
    product = torch.matmul(left, right)
    return product.reshape(x.shape[0], *(rest or (1,)))


def _unit(x: Tensor, dim: int) -> Tensor:
    return F.normalize(x, dim=dim, eps=1e-12)


ROWS: tuple[Row, ...] = rows(
    {
        "Add": _merge(lambda t: reduce(torch.add, t)),
        "Subtract": _merge(lambda t: reduce(torch.sub, t)),
        "Multiply": _merge(lambda t: reduce(torch.mul, t)),
        "Average": _merge(lambda t: reduce(torch.add, t) / len(t)),
        "Maximum": _merge(lambda t: reduce(torch.maximum, t)),
        "Minimum": _merge(lambda t: reduce(torch.minimum, t)),
        "Concatenate": _concatenate,
        "Dot": _dot,
    }
)
