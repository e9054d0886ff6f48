"""Sequences and optionals: Python's own tuples and None, gone once the graph is traced."""

import numpy as np
import torch
from torch import Tensor

from ridgeline.frontends.onnx.call import Call, Result, Value, several
from ridgeline.frontends.onnx.table import Row, rows
from ridgeline.frontends.onnx.weights import Known, known


def _place(call: Call, index: int, length: int) -> int:
    place = call.int_at(index) if call.has(index) else length - 1
    return place + length if place < 0 else place


def _at(call: Call) -> Value:
    parts = call.sequence(0)
    return parts[_place(call, 1, len(parts))]


def _insert(call: Call) -> Value:
    parts = call.sequence(0)
    place = _place(call, 2, len(parts)) if call.has(2) else len(parts)
    return (*parts[:place], call.value(1), *parts[place:])


def _erase(call: Call) -> Value:
    parts = call.sequence(0)
    place = _place(call, 1, len(parts))
    return (*parts[:place], *parts[place + 1 :])


def _split(call: Call) -> Value:
    """Into pieces of one length, or of lengths given; without any, one by one."""
    x, axis = call.raw(0), call.axis()
    whole = x.shape[axis]
    if not call.has(1):
        parts = torch.split(x, 1, axis)
        keeps = bool(call.integer("keepdims"))
        return tuple(p if keeps else p.squeeze(axis) for p in parts)
    lengths = call.ints(1)
    if call.rank(1):
        return torch.split(x, lengths, axis)
    return torch.split(x, lengths[0], axis) if whole else (x,)


def _concat(call: Call) -> Value:
    parts = [call.materialise(v) if isinstance(v, Known) else v for v in call.sequence(0)]
    tensors = [p for p in parts if isinstance(p, Tensor)]
    axis = call.integer("axis")
    return torch.stack(tensors, axis) if call.integer("new_axis", 0) else torch.cat(tensors, axis)


def _map(call: Call) -> Result:
    """The body on each element; inputs that are no sequences are the same for all."""
    body, first = call.body("body"), call.sequence(0)
    columns = [v if isinstance(v, tuple) else (v,) * len(first) for v in call.inputs]
    results = [call.run(body, values) for values in zip(*columns, strict=True)]
    if not results:
        return several(*(() for _ in body.outputs))
    return several(*(tuple(column) for column in zip(*results, strict=True)))


def _has_element(call: Call) -> Value:
    return known(np.array(call.value(0) is not None))


def _get_element(call: Call) -> Value:
    if call.value(0) is None:
        raise call.error("the optional it reads is empty")
    return call.value(0)


ROWS: tuple[Row, ...] = rows(
    {
        "SequenceEmpty": lambda call: (),
        "SequenceConstruct": lambda call: call.inputs,
        "SequenceAt": _at,
        "SequenceInsert": _insert,
        "SequenceErase": _erase,
        "SequenceLength": lambda call: known(np.array(len(call.sequence(0)), np.int64)),
        "SplitToSequence": _split,
        "ConcatFromSequence": _concat,
        "SequenceMap": _map,
        "Optional": lambda call: call.value(0),
        "OptionalHasElement": _has_element,
        "OptionalGetElement": _get_element,
    },
    is_pure=False,
)
