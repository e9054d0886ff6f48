"""Look-ups by index, and writes at known places."""

from math import prod

import torch
from torch import Tensor

from ridgeline.backends.mlir.call import Call, rank_of, shape_of
from ridgeline.backends.mlir.row import Lowering
from ridgeline.backends.mlir.rows.shapes import cut, joined
from ridgeline.backends.mlir.value import Operand, Value, plain
from ridgeline.backends.mlir.views import permuted
from ridgeline.errors import UnsupportedOp


def _embedding(call: Call) -> Value:
    return _rows(call, call.operand("weight"), call.value("indices"))


def _rows(call: Call, table: Operand, indices: Value) -> Value:
    """The rows of a table, (K, *rest), at the indices, in the shape of the result."""
    writer = call.writer
    count, *rest = shape_of(table)
    known = (
        writer.constant(table)
        if isinstance(table, Tensor)
        else writer.move(table, plain(table.rank))
    )
    wide = writer.reshape(known, (1, count, prod(rest)))
    flat = writer.reshape(writer.move(indices, plain(indices.rank)), (1, indices.numel))
    listed = call.algebra.cast(flat, torch.int32)
    shape = (1, indices.numel, prod(rest))
    found = writer.op("tosa.gather", [wide, listed], shape, wide.dtype)
    return writer.reshape(found, (*indices.logical, *rest))


def _index_select(call: Call) -> Value:
    table, index = call.operand("self"), call.value("index")
    dim = call.dim("dim", rank_of(table))
    if dim == 0:
        return _rows(call, table, index)
    order = (dim, *(d for d in range(rank_of(table)) if d != dim))
    first = table.permute(order) if isinstance(table, Tensor) else permuted(table, order)
    found = _rows(call, first, index)
    return permuted(found, [order.index(d) for d in range(found.rank)])


def _index(call: Call) -> Value:
    """One list of indices, into the first dimension; those below zero count from the end."""
    listed = call.operands("indices")
    table = call.operand("self")
    if len(listed) != 1 or not _is_first(call) or listed[0].dtype is torch.bool:
        raise UnsupportedOp("it indexes by other than one list of numbers in the first dimension")
    given = listed[0]
    count = shape_of(table)[0]
    if isinstance(given, Tensor):
        return _rows(call, table, call.writer.constant(given.to(torch.int64) % count))
    a = call.algebra
    is_low = a.binary("tosa.greater", 0, given, torch.bool)
    return _rows(call, table, a.select(is_low, a.add(given, count), given, given.logical))


def _is_first(call: Call) -> bool:
    places = call.listed("indices")
    return len(places) > 0 and places[0] is not None


def _index_copy(call: Call) -> Operand:
    """A run of known places: what is before, the source, what is after."""
    index = call.known("index").flatten()
    x, source = call.value("self"), call.operand("source")
    dim = call.dim("dim", x.rank)
    start, size = int(index[0]), x.logical[dim]
    if not torch.equal(index, torch.arange(start, start + len(index))):
        raise UnsupportedOp("its places are no run")
    after = start + len(index)
    before = cut(call.writer, x, dim, 0, start) if start else None
    behind = cut(call.writer, x, dim, after, size - after) if after < size else None
    parts: list[Operand] = [p for p in (before, source, behind) if p is not None]
    return parts[0] if len(parts) == 1 else joined(call.writer, parts, dim)


ROWS: dict[str, Lowering] = {
    "aten.embedding": _embedding,
    "aten.index_select": _index_select,
    "aten.index": _index,
    "aten.index_copy": _index_copy,
}
