"""Views, which cost nothing, and what only moves values."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ridgeline.backends.native.call import Call, Operand, Result
from ridgeline.backends.native.tree import Pending, Rolled
from ridgeline.backends.native.value import FLOATS, Value, memory_order
from ridgeline.errors import UnsupportedOp

Row = Callable[[Call], Result]
_aten = torch.ops.aten


def _view(target: torch._ops.OpOverload) -> Row:
    """The same view of the value's spec."""

    def row(call: Call) -> Result:
        x = call.value("self")
        rest = {n: v for n, v in call.arguments.items() if n != "self"}
        found = target(x.spec, **rest)
        if isinstance(found, Tensor):
            return x.like(found)
        return tuple(x.like(spec) for spec in found)

    return row


def _reshape(call: Call) -> Result:
    x, shape = call.value("self"), tuple(call.out.shape)
    try:
        return x.like(x.spec.view(shape))
    except RuntimeError:  # no strides for it
        x = call.dense(x)
        return x.like(x.spec.view(shape))


def _contiguous(call: Call) -> Result:
    x = call.value("self")
    return x if x.spec.is_contiguous() else call.dense(x)


def _joined(call: Call) -> Result:
    """Every part is written to its place at once where nothing else wrote it there before."""
    dim = int(call.arguments.get("dim") or 0) % call.out.dim()  # type: ignore[call-overload]
    parts = [p for p in call.operands("tensors") if _shape(p) != (0,)]
    target, start = call.blank(), 0
    for part in parts:
        size = _shape(part)[dim]
        slot = target.like(target.spec.narrow(dim, start, size))
        put(call, part, slot)
        start += size
    return target


def put(call: Call, part: Operand, slot: Value) -> None:
    """Writes an operand to a place."""
    if isinstance(part, Pending):
        if part.spec.dtype != slot.dtype:
            raise UnsupportedOp("its parts differ in type")
        call.builder.written(part, into=slot)
        return
    value = call.settled(part)
    if value.dtype != slot.dtype:
        raise UnsupportedOp("its parts differ in type")
    if value.buffer is slot.buffer and _lies_like(value.spec, slot.spec):
        return
    call.builder.copy(value, slot)


def _lies_like(a: Tensor, b: Tensor) -> bool:
    """Whether two specs are the same places of one buffer."""
    strides = zip(a.shape, a.stride(), b.stride(), strict=True)
    return a.storage_offset() == b.storage_offset() and all(n == 1 or s == t for n, s, t in strides)


def _shape(part: Operand) -> tuple[int, ...]:
    return tuple(part.shape if isinstance(part, Tensor | Value) else part.spec.shape)


def _stacked(call: Call) -> Result:
    dim = int(call.number("dim")) % call.out.dim()
    target = call.blank()
    for number, part in enumerate(call.operands("tensors")):
        put(call, part, target.like(target.spec.select(dim, number)))
    return target


def _padded(call: Call) -> Result:
    x, pads = call.value("self"), call.ints("pad")
    if any(p < 0 for p in pads):
        raise UnsupportedOp("it crops")
    order = memory_order(x.spec)
    target = Call(call.builder, {}, call.outs, None).blank(order)
    value = call.arguments.get("value") or 0.0
    call.builder.emit(
        "fill",
        {
            "y_ref": target.place,
            "y_type": target.type,
            "count": target.spec.numel(),
            "value_bits": float(value),  # type: ignore[arg-type]
        },
    )
    inside = target.spec
    for number in range(len(pads) // 2):
        dim = x.spec.dim() - 1 - number
        inside = inside.narrow(dim, pads[2 * number], x.shape[dim])
    call.builder.copy(x, target.like(inside))
    return target


def _rolled(call: Call) -> Result:
    """Left to whoever reads it where that is an expression; else two copies."""
    x, shifts, dims = call.value("self"), call.ints("shifts"), call.ints("dims")
    if len(dims) != 1:
        raise UnsupportedOp("it rolls several dimensions")
    (dim,) = (d % x.spec.dim() for d in dims)
    size = x.shape[dim]
    shift = shifts[0] % size
    if x.dtype in FLOATS and size:
        return call.pending(Rolled(x, dim, shift))
    target = call.blank(memory_order(x.spec))
    for at, to, length in ((0, shift, size - shift), (size - shift, 0, shift)):
        if length:
            source = x.like(x.spec.narrow(dim, at, length))
            call.builder.copy(source, target.like(target.spec.narrow(dim, to, length)))
    return target


def _repeated(call: Call) -> Result:
    """A view with as many dimensions again, copied."""
    x, repeats = call.value("self"), call.ints("repeats")
    shape = (1,) * (len(repeats) - x.spec.dim()) + x.shape
    wide = x.spec.reshape(shape) if len(shape) == x.spec.dim() else x.spec.expand(shape)
    pairs = [n for r, s in zip(repeats, shape, strict=True) for n in (r, s)]
    for dim in range(len(shape)):
        wide = wide.unsqueeze(2 * dim)
    target = call.blank(range(call.out.dim()))
    call.builder.copy(x.like(wide.expand(pairs)), target.like(target.spec.view(pairs)))
    return target


def _rows_of_table(call: Call) -> Result:
    table, index = call.value("weight"), call.dense(call.value("indices"))
    return _gathered(call, table, index)


def _selected(call: Call) -> Result:
    if int(call.number("dim")) != 0:
        raise UnsupportedOp("it selects along another dimension than the first")
    return _gathered(call, call.value("self"), call.dense(call.value("index")))


def _gathered(call: Call, table: Value, index: Value) -> Result:
    if index.dtype not in (torch.int64, torch.int32):
        raise UnsupportedOp(f"its index is {index.dtype}")
    table = call.dense(table)
    target = call.builder.blank(torch.empty(call.out.shape, dtype=table.dtype, device="meta"))
    width = table.spec[0].numel()
    call.builder.emit(
        "gather",
        {
            "table_ref": table.place,
            "index_ref": index.place,
            "y_ref": target.place,
            "index_type": index.type,
            "count": index.spec.numel(),
            "row_nbytes": width * table.spec.element_size(),
            "rows": table.shape[0],
        },
    )
    return target


def _copied_by_index(call: Call) -> Result:
    """Into places known to lie together: a copy into a slice, or all of the source."""
    index, dim = call.known("index"), int(call.number("dim")) % call.out.dim()
    first = int(index[0]) if index.numel() else 0
    if not torch.equal(index, torch.arange(first, first + index.numel(), dtype=index.dtype)):
        raise UnsupportedOp("its places do not lie together")
    source = call.value("source")
    if index.numel() == call.out.shape[dim]:
        return source
    target = call.builder.blank(torch.empty(call.out.shape, dtype=call.out.dtype, device="meta"))
    call.builder.copy(call.value("self"), target)
    call.builder.copy(source, target.like(target.spec.narrow(dim, first, index.numel())))
    return target


_VIEWS: Sequence[torch._ops.OpOverload] = (
    _aten.permute.default,
    _aten.transpose.int,
    _aten.t.default,
    _aten.expand.default,
    _aten.squeeze.default,
    _aten.squeeze.dim,
    _aten.squeeze.dims,
    _aten.unsqueeze.default,
    _aten.slice.Tensor,
    _aten.select.int,
    _aten.narrow.default,
    _aten.split.Tensor,
    _aten.split_with_sizes.default,
    _aten.chunk.default,
    _aten.unbind.int,
    _aten.alias.default,
    _aten.detach.default,
    _aten.unfold.default,
    _aten.diagonal.default,
)
ROWS: dict[str, Row] = {
    **{str(target): _view(target) for target in _VIEWS},
    "aten.view": _reshape,
    "aten._unsafe_view": _reshape,
    "aten.reshape": _reshape,
    "aten.flatten": _reshape,
    "aten.unflatten": _reshape,
    "aten.contiguous": _contiguous,
    "aten.cat": _joined,
    "aten.stack": _stacked,
    "aten.constant_pad_nd": _padded,
    "aten.pad": _padded,
    "aten.roll": _rolled,
    "aten.repeat": _repeated,
    "aten.embedding": _rows_of_table,
    "aten.index_select": _selected,
    "aten.index_copy": _copied_by_index,
}
