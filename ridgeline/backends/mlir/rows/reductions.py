"""Reductions over dimensions."""

from collections.abc import Callable

import torch

from ridgeline.backends.mlir.algebra import Algebra
from ridgeline.backends.mlir.call import Call
from ridgeline.backends.mlir.row import Lowering
from ridgeline.backends.mlir.value import Value, plain
from ridgeline.errors import UnsupportedOp


def _reduction(name: str, dtype: torch.dtype | None = None) -> Lowering:
    def lower(call: Call) -> Value:
        x, dims = _operand(call, dtype or call.out.dtype)
        return _kept(call, call.algebra.reduce(name, x, dims), dims)

    return lower


def _operand(call: Call, dtype: torch.dtype) -> tuple[Value, tuple[int, ...]]:
    x = call.algebra.cast(call.value("self"), dtype)
    return x, _dims(call, x.rank)


def _dims(call: Call, rank: int) -> tuple[int, ...]:
    return call.dims("dim", rank) if call.has("dim") else plain(rank)


def _kept(call: Call, x: Value, dims: tuple[int, ...]) -> Value:
    return x if call.flag("keepdim") else call.algebra.squeezed(x, dims)


def _mean(call: Call) -> Value:
    x, dims = _operand(call, call.out.dtype)
    return _kept(call, call.algebra.mean(x, dims), dims)


def _spread(finish: Callable[[Algebra, Value], Value]) -> Lowering:
    """The variance, and what `finish` makes of it."""

    def lower(call: Call) -> Value:
        a = call.algebra
        x, dims = _operand(call, call.out.dtype)
        count = 1
        for dim in dims:
            count *= x.logical[dim]
        free = count - _correction(call)
        if free <= 0:
            raise UnsupportedOp("its variance has no degree of freedom")
        centred = a.sub(x, a.mean(x, dims))
        total = a.reduce("tosa.reduce_sum", a.mul(centred, centred), dims)
        return _kept(call, finish(a, a.mul(total, 1.0 / free)), dims)

    return lower


def _correction(call: Call) -> float:
    """What is taken from the count; one where nothing is said."""
    if call.has("correction"):
        return call.number("correction")
    return float(call.flag("unbiased")) if call.has("unbiased") else 1.0


def _best(prepare: Callable[[Algebra, Value], Value]) -> Lowering:
    """The index of the largest of what `prepare` makes of the operand, along one dimension."""

    def lower(call: Call) -> Value:
        if not call.has("dim"):
            raise UnsupportedOp("it has no dim")
        x = prepare(call.algebra, call.value("self"))
        dim = call.dim("dim", x.rank)
        axis = x.order.index(dim)
        shape = [size for i, size in enumerate(x.shape) if i != axis]
        order = tuple(d - (d > dim) for d in x.order if d != dim)
        found = call.writer.op("tosa.argmax", [x], shape, torch.int32, order, axis=f"{axis} : i32")
        wide = call.algebra.cast(found, call.out.dtype)
        if not call.flag("keepdim"):
            return wide
        flat = call.writer.move(wide, plain(wide.rank))
        return call.writer.reshape(flat, call.shape)

    return lower


def _root(a: Algebra, x: Value) -> Value:
    return a.writer.value(f"math.sqrt {x.name} : {x.type}", x.shape, x.dtype, x.order)


ROWS: dict[str, Lowering] = {
    "aten.sum": _reduction("tosa.reduce_sum"),
    "aten.mean": _mean,
    "aten.amax": _reduction("tosa.reduce_max"),
    "aten.amin": _reduction("tosa.reduce_min"),
    "aten.prod": _reduction("tosa.reduce_product"),
    "aten.any": _reduction("tosa.reduce_any", torch.bool),
    "aten.all": _reduction("tosa.reduce_all", torch.bool),
    "aten.var": _spread(lambda _, x: x),
    "aten.std": _spread(_root),
    "aten.argmax": _best(lambda _, x: x),
    "aten.argmin": _best(lambda a, x: a.negate(x)),
}
