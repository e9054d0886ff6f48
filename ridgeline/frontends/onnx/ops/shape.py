"""Shapes: views, joins, cuts, paddings, and tensors made from sizes."""

from math import prod

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ridgeline.frontends.onnx.call import Call, Result, Value, dtype_of, sizes
from ridgeline.frontends.onnx.dtypes import element_type, to_tensor
from ridgeline.frontends.onnx.table import Row, rows
from ridgeline.frontends.onnx.weights import known


def _shape(call: Call) -> Value:
    end = call.integer("end") if call.given("end") else None
    return sizes(call.shape(0)[call.integer("start", 0) : end])


def _size(call: Call) -> Value:
    return known(np.array(prod(call.shape(0)), np.int64))


def _reshape(call: Call) -> Value:
    shape = call.integers("shape") if call.given("shape") else call.ints(1)
    given = call.shape(0)
    if not call.integer("allowzero", 0):
        shape = [given[i] if d == 0 else d for i, d in enumerate(shape)]
    return call.raw(0).reshape(shape)


def _flatten(call: Call) -> Value:
    shape, axis = call.shape(0), call.integer("axis")
    axis = axis + len(shape) if axis < 0 else axis
    return call.raw(0).reshape(prod(shape[:axis]), prod(shape[axis:]))


def _squeeze(call: Call) -> Value:
    axes, shape = call.axes(1), call.shape(0)
    if axes is None:
        axes = [i for i, d in enumerate(shape) if d == 1]
    dropped = {call.dim(a, len(shape)) for a in axes}
    if any(shape[a] != 1 for a in dropped):
        raise call.error(f"dimensions {sorted(dropped)} of {list(shape)} are not all 1")
    return call.raw(0).reshape([d for i, d in enumerate(shape) if i not in dropped])


def _unsqueeze(call: Call) -> Value:
    axes = call.axes(1) or []
    rank = call.rank(0) + len(axes)
    x = call.raw(0)
    for axis in sorted(call.dim(a, rank) for a in axes):
        x = x.unsqueeze(axis)
    return x


def _transpose(call: Call) -> Value:
    order = call.integers("perm", tuple(reversed(range(call.rank(0)))))
    return call.raw(0).permute(order)


def _concat(call: Call) -> Value:
    parts = [call.raw(i) for i in range(len(call.inputs))]
    return torch.cat(parts, call.integer("axis", 1))


def _split(call: Call) -> Result:
    """Into sizes given, else into equal parts, of which the last may be smaller."""
    axis = call.axis()
    lengths = call.axes(1, "split")
    if lengths is None:
        parts = call.integer("num_outputs", call.num_outputs)
        whole = call.shape(0)[axis]
        step = -(-whole // parts)
        lengths = [max(0, min(step, whole - i * step)) for i in range(parts)]
    return list(torch.split(call.raw(0), lengths, axis))


def _slice(call: Call) -> Value:
    """Ranges as Python has them; backwards ones are cut forwards and flipped."""
    x = call.raw(0)
    if call.given("starts"):
        starts, ends = call.integers("starts"), call.integers("ends")
        axes, steps = call.integers("axes", range(len(starts))), [1] * len(starts)
    else:
        starts, ends = call.ints(1), call.ints(2)
        axes = call.ints(3) if call.has(3) else list(range(len(starts)))
        steps = call.ints(4) if call.has(4) else [1] * len(starts)
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        x = _cut(x, call.dim(axis, x.dim()), slice(start, end, step))
    return x


def _cut(x: Tensor, axis: int, part: slice) -> Tensor:
    places = range(*part.indices(x.shape[axis]))
    before = (slice(None),) * axis
    if places == range(x.shape[axis]):
        return x
    if not places:
        return x[(*before, slice(0, 0))]
    if places.step > 0:
        return x[(*before, slice(places.start, places.stop, places.step))]
    return x[(*before, slice(places[-1], places[0] + 1, -places.step))].flip(axis)


def _expand(call: Call) -> Value:
    shape = np.broadcast_shapes(call.shape(0), tuple(call.ints(1)))
    return call.raw(0).expand(call.require_size(shape))


def _tile(call: Call) -> Value:
    if call.version < 6:
        repeats = [1] * call.rank(0)
        repeats[call.int_at(2)] = call.int_at(1)
    else:
        repeats = call.ints(1)
    call.require_size([d * r for d, r in zip(call.shape(0), repeats, strict=True)])
    return call.raw(0).repeat(repeats)


def _constant_of_shape(call: Call) -> Value:
    value = call.known("value")
    shape = call.require_size(call.ints(0))
    if value is None:
        return torch.zeros(shape, device=call.device)
    number = to_tensor(value.read()).reshape(())
    if number.dtype.is_floating_point and number.dtype.itemsize == 1:
        return number.expand(shape)
    return torch.full(shape, number.item(), dtype=number.dtype, device=call.device)


def _range(call: Call) -> Value:
    """Counted in NumPy's numbers: their count is a size of the graph."""
    start, limit, step = (call.array(i).reshape(())[()] for i in range(3))
    count = max(0, int(np.ceil((np.float64(limit) - np.float64(start)) / np.float64(step))))
    call.require_size([count])
    kind = dtype_of(call.element(0))
    if not kind.is_floating_point:
        first, by = int(start), int(step)
        return torch.arange(first, first + count * by, by, dtype=kind, device=call.device)
    steps = torch.arange(count, dtype=kind, device=call.device)
    return steps * float(step) + float(start)


def _eye_like(call: Call) -> Value:
    rows_, columns = call.shape(0)
    dtype = dtype_of(element_type(call.integer("dtype"))) if call.given("dtype") else call.dtype(0)
    call.require_size((rows_, columns))
    ones = torch.ones(rows_, columns, dtype=dtype, device=call.device)
    offset = call.integer("k")
    return ones.triu(offset).tril(offset)


def _trilu(call: Call) -> Value:
    x, offset = call.tensor(0), call.int_at(1) if call.has(1) else 0
    return x.triu(offset) if call.flag("upper") else x.tril(offset)


def _depth_to_space(call: Call) -> Value:
    x, block = call.tensor(0), call.integer("blocksize")
    if call.text("mode", "DCR") == "CRD":
        return F.pixel_shuffle(x, block)
    n, c, h, w = x.shape
    x = x.reshape(n, block, block, c // block**2, h, w).permute(0, 3, 4, 1, 5, 2)
    return x.reshape(n, c // block**2, h * block, w * block)


def _space_to_depth(call: Call) -> Value:
    x, block = call.tensor(0), call.integer("blocksize")
    n, c, h, w = x.shape
    x = x.reshape(n, c, h // block, block, w // block, block)
    order = (0, 3, 5, 1, 2, 4) if call.text("mode", "DCR") == "DCR" else (0, 1, 3, 5, 2, 4)
    return x.permute(order).reshape(n, c * block**2, h // block, w // block)


def _constant(call: Call) -> Value:
    """A constant inside a function, whose attributes the call gives."""
    for name in ("value", "sparse_value"):
        found = call.known(name)
        if found is not None:
            return found
    if call.given("value_string") or call.given("value_strings"):
        texts: object = call.attributes.get("value_string", call.attributes.get("value_strings"))
        return known(np.array(texts, object))
    dtype = np.float32 if any(n.startswith("value_float") for n in call.attributes) else np.int64
    (value,) = call.attributes.values()
    return known(np.array(value, dtype))


# Pad

_MODES = {"constant": "constant", "reflect": "reflect", "edge": "replicate", "wrap": "circular"}


def _pad(call: Call) -> Value:
    x, rank = call.tensor(0), call.rank(0)
    given = next((call.integers(n) for n in ("pads", "paddings") if call.given(n)), None)
    amounts = call.ints(1) if given is None else given
    axes = call.ints(3) if call.has(3) else list(range(rank))
    befores, afters = [0] * rank, [0] * rank
    for i, axis in enumerate(axes):
        befores[axis], afters[axis] = amounts[i], amounts[i + len(axes)]
    call.require_size([d + b + a for d, b, a in zip(x.shape, befores, afters, strict=True)])
    mode = call.text("mode", "constant")
    if mode == "constant":
        return padded(x, befores, afters, _fill(call))
    return _mirrored(x, befores, afters, mode)


def _fill(call: Call) -> float:
    if call.given("value"):
        return call.number("value")
    return call.float_at(2) if call.has(2) else 0.0


def padded(x: Tensor, befores: list[int], afters: list[int], value: float) -> Tensor:
    """`x` with constant borders; negative ones cut."""
    pads = [p for pair in zip(befores[::-1], afters[::-1], strict=True) for p in pair]
    while pads[-2:] == [0, 0]:
        pads = pads[:-2]
    if not pads:
        return x
    number = value if x.is_floating_point() else int(value)
    return F.pad(x, pads, value=number)


def _mirrored(x: Tensor, befores: list[int], afters: list[int], mode: str) -> Tensor:
    """Borders made of the tensor's own values; by torch's kernel where it has one."""
    padded_axes = [i for i, (b, a) in enumerate(zip(befores, afters, strict=True)) if b or a]
    if not padded_axes:
        return x
    count, rank = x.dim() - padded_axes[0], x.dim()
    has_kernel = count <= 3 and rank == max(count + 2, 3) and min(*befores, *afters) >= 0
    if has_kernel and mode in ("reflect", "edge") and x.is_floating_point():
        tail = list(zip(befores, afters, strict=True))[-count:]
        return F.pad(x, [p for pair in reversed(tail) for p in pair], mode=_MODES[mode])
    for axis in padded_axes:
        places = _places(x.shape[axis], befores[axis], afters[axis], mode)
        x = x.index_select(axis, torch.tensor(places, device=x.device))
    return x


def _places(length: int, before: int, after: int, mode: str) -> list[int]:
    """Where each element of a bordered dimension comes from."""
    span = range(-before, length + after)
    match mode:
        case "edge":
            return [min(max(i, 0), length - 1) for i in span]
        case "wrap":
            return [i % length for i in span]
        case _:
            period = max(2 * (length - 1), 1)
            return [min(i % period, period - i % period) if length > 1 else 0 for i in span]


def _reverse_sequence(call: Call) -> Value:
    """The first `length` steps of each sample backwards, the rest as they are."""
    x, lengths = call.tensor(0), call.tensor(1)
    time, batch = call.integer("time_axis"), call.integer("batch_axis")
    steps = torch.arange(x.shape[time], device=x.device)
    shape = [1] * x.dim()
    shape[time] = -1
    t = steps.reshape(shape)
    shape = [1] * x.dim()
    shape[batch] = -1
    n = lengths.reshape(shape)
    index = torch.where(t < n, n - 1 - t, t).expand(x.shape)
    return x.gather(time, index)


def _center_crop_pad(call: Call) -> Value:
    x, wanted = call.tensor(0), call.ints(1)
    axes = call.integers("axes", range(x.dim()))
    befores, afters = [0] * x.dim(), [0] * x.dim()
    for axis, target in zip(axes, wanted, strict=True):
        missing = target - x.shape[axis]
        half = abs(missing) // 2
        befores[axis] = half if missing > 0 else -half
        afters[axis] = missing - befores[axis]
    return padded(x, befores, afters, 0.0)


ROWS: tuple[Row, ...] = rows(
    {
        "Constant": _constant,
        "Shape": _shape,
        "Size": _size,
        "Reshape": _reshape,
        "Flatten": _flatten,
        "Squeeze": _squeeze,
        "Unsqueeze": _unsqueeze,
        "Transpose": _transpose,
        "Concat": _concat,
        "Split": _split,
        "Slice": _slice,
        "Expand": _expand,
        "Tile": _tile,
        "ConstantOfShape": _constant_of_shape,
        "Range": _range,
        "EyeLike": _eye_like,
        "Trilu": _trilu,
        "DepthToSpace": _depth_to_space,
        "SpaceToDepth": _space_to_depth,
        "Pad": _pad,
        "ReverseSequence": _reverse_sequence,
        "CenterCropPad": _center_crop_pad,
    }
)
