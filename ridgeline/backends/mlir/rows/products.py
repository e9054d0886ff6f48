"""Matrix products: linalg's, because data tiling packs their operands and TOSA's run batched."""

from collections.abc import Sequence
from itertools import zip_longest
from math import prod

import torch
from torch import Tensor

from ridgeline.backends.mlir.algebra import Algebra
from ridgeline.backends.mlir.call import Call, rank_of, shape_of
from ridgeline.backends.mlir.row import Lowering
from ridgeline.backends.mlir.rows.shapes import tiled, viewed
from ridgeline.backends.mlir.value import Operand, Value, plain
from ridgeline.backends.mlir.writer import Writer
from ridgeline.errors import UnsupportedOp

_WIDE = {torch.bfloat16: torch.float32, torch.float16: torch.float32}
# What a product of x by the rows of y reads and writes, by the number of dimensions before the two.
_BY_ROWS = (
    "[affine_map<(m, n, k) -> (m, k)>, affine_map<(m, n, k) -> (n, k)>, "
    "affine_map<(m, n, k) -> (m, n)>]",
    "[affine_map<(b, m, n, k) -> (b, m, k)>, affine_map<(b, m, n, k) -> (b, n, k)>, "
    "affine_map<(b, m, n, k) -> (b, m, n)>]",
)


def product(a: Algebra, x: Value, y: Value, *, by_rows: bool = False) -> Value:
    """x @ y of two matrices, or of two stacks of as many, lying row by row; narrow floats are
    summed in fp32. by_rows: y is given transposed, as linear layers keep their weights, and each
    element is a product of two rows: what IREE runs in half the time where it packs nothing.
    """
    writer = a.writer
    *batch, rows, _ = x.shape
    shape = (*batch, rows, y.shape[-2 if by_rows else -1])
    wide = _WIDE.get(x.dtype, x.dtype)
    start = writer.filled(shape, wide, 0)
    name = "linalg.batch_matmul" if batch else "linalg.matmul"
    maps = f" indexing_maps = {_BY_ROWS[len(batch)]}" if by_rows else ""
    types = f"{x.name}, {y.name} : {x.type}, {y.type}"
    text = f"{name}{maps} ins({types}) outs({start.name} : {start.type})"
    return a.cast(writer.value(f"{text} -> {start.type}", shape, wide), x.dtype)


def linear(a: Algebra, x: Value, weight: Operand, bias: Operand | None) -> Value:
    """x @ weight.T + bias over the last dimension. weight: (outputs, inputs)."""
    writer = a.writer
    x = writer.move(x, plain(x.rank))
    *lead, inputs = x.shape
    flat = writer.reshape(x, (prod(lead), inputs))
    rows = writer.constant(weight) if isinstance(weight, Tensor) else weight
    found = product(a, flat, rows, by_rows=rows.is_plain)
    if bias is not None:
        found = a.add(found, bias)
    return writer.reshape(found, (*lead, found.shape[-1]))


def _swapped(weight: Value) -> tuple[int, ...]:
    return tuple(1 - dim for dim in weight.order)


def _linear(call: Call) -> Value:
    bias = call.operand("bias") if call.has("bias") else None
    return linear(call.algebra, call.value("input"), call.operand("weight"), bias)


def _matrix_product(call: Call) -> Value:
    return matmul(call.algebra, call.operand("self"), call.operand(_second(call)))


def _second(call: Call) -> str:
    return "mat2" if call.has("mat2") else "other"


def matmul(a: Algebra, x: Operand, y: Operand) -> Value:
    """x @ y as torch broadcasts them; vectors are refused."""
    writer = a.writer
    if min(rank_of(x), rank_of(y)) < 2:
        raise UnsupportedOp("it is a product with a vector")
    if rank_of(y) == 2:  # one matrix for all
        flipped = y.t() if isinstance(y, Tensor) else Value(y.name, y.shape, y.dtype, _swapped(y))
        left = writer.constant(x) if isinstance(x, Tensor) else x
        return linear(a, left, flipped, None)
    batch = _common(shape_of(x)[:-2], shape_of(y)[:-2])
    stacks = [stacked(writer, v, batch) for v in (x, y)]
    found = product(a, stacks[0], stacks[1])
    return writer.reshape(found, (*batch, *found.shape[-2:]))


def _common(first: Sequence[int], second: Sequence[int]) -> tuple[int, ...]:
    """The shape that two shapes broadcast to."""
    pairs = list(zip_longest(reversed(first), reversed(second), fillvalue=1))
    return tuple(b if a == 1 else a for a, b in reversed(pairs))


def stacked(writer: Writer, operand: Operand, batch: Sequence[int]) -> Value:
    """The operand, broadcast, as (all batches, rows, columns), row by row."""
    *own, rows, columns = shape_of(operand)
    if isinstance(operand, Tensor):
        wide = operand.expand(*batch, rows, columns)
        return writer.constant(wide.reshape(-1, rows, columns))
    value = writer.move(operand, plain(operand.rank))
    own = [1] * (len(batch) - len(own)) + own
    value = viewed(writer, value, (*own, rows, columns))
    multiples = [want // have for want, have in zip(batch, own, strict=True)]
    value = tiled(writer, value, [*multiples, 1, 1])
    return writer.reshape(value, (prod(batch), rows, columns))


def _product_and_sum(call: Call) -> Value:
    """beta * self + alpha * mat1 @ mat2."""
    names = ("mat1", "mat2") if call.has("mat1") else ("batch1", "batch2")
    found = matmul(call.algebra, *(call.operand(name) for name in names))
    a, start = call.algebra, call.operand("self")
    alpha, beta = call.number("alpha"), call.number("beta")
    scaled = found if alpha == 1 else a.mul(found, alpha)
    if beta == 0:
        return scaled
    return a.add(scaled, start if beta == 1 else a.mul(start, beta))


ROWS: dict[str, Lowering] = {
    "aten.linear": _linear,
    "aten.matmul": _matrix_product,
    "aten.mm": _matrix_product,
    "aten.bmm": _matrix_product,
    "aten.addmm": _product_and_sum,
    "aten.baddbmm": _product_and_sum,
}
