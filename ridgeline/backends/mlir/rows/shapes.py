"""Views, and what moves elements without computing: slices, joins, pads, repeats."""

from collections.abc import Sequence

from torch import Tensor

from ridgeline.backends.mlir.call import Call, shape_of
from ridgeline.backends.mlir.row import Lowering
from ridgeline.backends.mlir.value import Operand, Value, plain
from ridgeline.backends.mlir.views import permuted, viewed_order
from ridgeline.backends.mlir.writer import Writer
from ridgeline.errors import UnsupportedOp


def viewed(writer: Writer, x: Value, shape: Sequence[int]) -> Value:
    """x in another shape; moved to lie row by row only where the view needs it."""
    order = viewed_order(x, shape)
    if order is None:
        x, order = writer.move(x, plain(x.rank)), plain(len(shape))
    return writer.reshape(x, [shape[dim] for dim in order], order)


def cut(writer: Writer, x: Value, dim: int, start: int, size: int, step: int = 1) -> Value:
    """`size` elements of one dimension, from `start` on."""
    axis = x.order.index(dim)
    if (start, size, step) == (0, x.shape[axis], 1):
        return x
    starts = [start if i == axis else 0 for i in range(x.rank)]
    shape = [size if i == axis else d for i, d in enumerate(x.shape)]
    if step == 1:
        operands: list[Value | str] = [x, writer.dims(starts), writer.dims(shape)]
        return writer.op("tosa.slice", operands, shape, x.dtype, x.order)
    steps = [step if i == axis else 1 for i in range(x.rank)]
    result = Value("", tuple(shape), x.dtype, x.order)
    text = f"tensor.extract_slice {x.name}{starts}{list(shape)}{steps} : {x.type} to {result.type}"
    return writer.value(text, shape, x.dtype, x.order)


def joined(writer: Writer, operands: Sequence[Operand], dim: int) -> Value:
    """The operands one after another along a dimension, in the order of the largest."""
    computed = [o for o in operands if isinstance(o, Value)]
    order = max(computed, key=lambda v: v.numel).order
    parts = [
        writer.constant(o, order) if isinstance(o, Tensor) else writer.move(o, order)
        for o in operands
    ]
    axis = order.index(dim)
    total = sum(p.shape[axis] for p in parts)
    shape = [total if i == axis else d for i, d in enumerate(parts[0].shape)]
    return writer.op("tosa.concat", parts, shape, parts[0].dtype, order, axis=f"{axis} : i32")


def _view(call: Call) -> Value:
    return viewed(call.writer, call.value("self"), call.shape)


def _permute(call: Call) -> Value:
    x = call.value("self")
    return permuted(x, [d % x.rank for d in call.ints("dims")])


def _transpose(call: Call) -> Value:
    x = call.value("self")
    dims = list(plain(x.rank))
    a, b = (call.dim(name, x.rank) for name in ("dim0", "dim1"))
    dims[a], dims[b] = dims[b], dims[a]
    return permuted(x, dims)


def _reverse_dims(call: Call) -> Value:
    x = call.value("self")
    return permuted(x, plain(x.rank)[::-1])


def _expand(call: Call) -> Value:
    x, shape = call.value("self"), call.shape
    x = viewed(call.writer, x, (1,) * (len(shape) - x.rank) + x.logical)
    multiples = [shape[dim] // x.logical[dim] for dim in x.order]
    return tiled(call.writer, x, multiples)


def tiled(writer: Writer, x: Value, multiples: Sequence[int]) -> Value:
    """x repeated along its stored dimensions."""
    if all(m == 1 for m in multiples):
        return x
    shape = [size * m for size, m in zip(x.shape, multiples, strict=True)]
    return writer.op("tosa.tile", [x, writer.dims(multiples)], shape, x.dtype, x.order)


def _repeat(call: Call) -> Value:
    x, repeats = call.value("self"), call.ints("repeats")
    x = viewed(call.writer, x, (1,) * (len(repeats) - x.rank) + x.logical)
    return tiled(call.writer, x, [repeats[dim] for dim in x.order])


def _slice(call: Call) -> Value:
    x = call.value("self")
    dim = call.dim("dim", x.rank)
    size = x.logical[dim]
    start = call.integer("start") if call.has("start") else 0
    start = min(max(start + size if start < 0 else start, 0), size)
    return cut(call.writer, x, dim, start, call.shape[dim], call.integer("step"))


def _select(call: Call) -> Value:
    x = call.value("self")
    dim = call.dim("dim", x.rank)
    one = cut(call.writer, x, dim, call.integer("index") % x.logical[dim], 1)
    return call.algebra.squeezed(one, [dim])


def _split(call: Call) -> tuple[Value, ...]:
    x = call.value("self")
    dim = call.dim("dim", x.rank)
    parts, start = [], 0
    for out in call.outs:
        parts.append(cut(call.writer, x, dim, start, out.shape[dim]))
        start += out.shape[dim]
    return tuple(parts)


def _unbind(call: Call) -> tuple[Value, ...]:
    x = call.value("self")
    dim = call.dim("dim", x.rank)
    parts = (cut(call.writer, x, dim, i, 1) for i in range(x.logical[dim]))
    return tuple(call.algebra.squeezed(part, [dim]) for part in parts)


def _join(call: Call) -> Operand:
    dim = call.dim("dim", len(call.shape))
    parts = [_typed(call, o) for o in call.operands("tensors") if shape_of(o) != (0,)]
    return parts[0] if len(parts) == 1 else joined(call.writer, parts, dim)


def _stack(call: Call) -> Value:
    dim = call.dim("dim", len(call.shape))
    shape = tuple(1 if i == dim else size for i, size in enumerate(call.shape))
    parts = [_typed(call, o) for o in call.operands("tensors")]
    wide = [
        o.reshape(shape) if isinstance(o, Tensor) else viewed(call.writer, o, shape) for o in parts
    ]
    return joined(call.writer, wide, dim)


def _typed(call: Call, operand: Operand) -> Operand:
    dtype = call.out.dtype
    if isinstance(operand, Tensor):
        return operand.to(dtype)
    return call.algebra.cast(operand, dtype)


def _roll(call: Call) -> Value:
    x, shifts, dims = call.value("self"), call.ints("shifts"), call.ints("dims")
    if not dims:
        raise UnsupportedOp("it rolls the flattened tensor")
    for shift, dim in zip(shifts, dims, strict=True):
        dim %= x.rank
        size = x.logical[dim]
        begin = -shift % size if size else 0
        if begin:
            parts = (
                cut(call.writer, x, dim, begin, size - begin),
                cut(call.writer, x, dim, 0, begin),
            )
            x = joined(call.writer, parts, dim)
    return x


def _flip(call: Call) -> Value:
    x = call.value("self")
    for dim in call.dims("dims", x.rank):
        axis = x.order.index(dim)
        x = call.writer.op("tosa.reverse", [x], x.shape, x.dtype, x.order, axis=f"{axis} : i32")
    return x


def padded(
    writer: Writer, x: Value, before: Sequence[int], after: Sequence[int], number: float = 0.0
) -> Value:
    """x with a border of one number: elements before and after each dimension of the graph's
    tensor, cut away where negative.
    """
    for dim in range(x.rank):
        low, high = min(before[dim], 0), min(after[dim], 0)
        x = cut(writer, x, dim, -low, x.logical[dim] + low + high)
    sides = [(max(before[dim], 0), max(after[dim], 0)) for dim in x.order]
    if not any(a or b for a, b in sides):
        return x
    shape = [size + a + b for size, (a, b) in zip(x.shape, sides, strict=True)]
    border = writer.splat(number, [1], x.dtype)
    operands: list[Value | str] = [x, writer.dims([n for side in sides for n in side]), border]
    return writer.op("tosa.pad", operands, shape, x.dtype, x.order)


def _pad(call: Call) -> Value:
    """torch counts from the last dimension."""
    if call.has("mode") and call.text("mode") != "constant":
        raise UnsupportedOp(f"it pads by {call.text('mode')}")
    x, sizes = call.value("self"), call.ints("pad")
    before, after = [0] * x.rank, [0] * x.rank
    for number in range(len(sizes) // 2):
        dim = x.rank - 1 - number
        before[dim], after[dim] = sizes[2 * number : 2 * number + 2]
    value = call.number("value") if call.has("value") else 0.0
    return padded(call.writer, x, before, after, value)


def _pixel_shuffle(call: Call) -> Value:
    """Channels to space: (C r r, H, W) -> (C, H r, W r)."""
    x, r = call.value("self"), call.integer("upscale_factor")
    *batch, channels, height, width = x.logical
    apart = viewed(call.writer, x, (*batch, channels // r**2, r, r, height, width))
    lead = list(plain(len(batch) + 1))
    n = len(lead)
    mixed = permuted(apart, [*lead, n + 2, n, n + 3, n + 1])
    return viewed(call.writer, mixed, call.shape)


_VIEWS = ("view", "_unsafe_view", "reshape", "squeeze", "unsqueeze")
ROWS: dict[str, Lowering] = {
    **{f"aten.{name}": _view for name in _VIEWS},
    "aten.permute": _permute,
    "aten.transpose": _transpose,
    "aten.t": _reverse_dims,
    "aten.expand": _expand,
    "aten.repeat": _repeat,
    "aten.slice": _slice,
    "aten.select": _select,
    "aten.split": _split,
    "aten.split_with_sizes": _split,
    "aten.unbind": _unbind,
    "aten.cat": _join,
    "aten.stack": _stack,
    "aten.roll": _roll,
    "aten.flip": _flip,
    "aten.constant_pad_nd": _pad,
    "aten.pad": _pad,
    "aten.pixel_shuffle": _pixel_shuffle,
}
