"""Layers around layers: both directions of a recurrence, one layer at every step.

Shapes: N samples, T steps, H hidden features.
"""

from dataclasses import replace

import torch
from torch import Tensor

from ridgeline.frontends.keras.call import Call
from ridgeline.frontends.keras.layers.recurrent import CELLS, by_torch, plan_of, zeros
from ridgeline.frontends.keras.table import Result, Row, rows
from ridgeline.frontends.keras.value import Value

_FORWARD, _BACKWARD = "layer", "backward_layer"
# What works on the last dimension, or on each element, needs no step of its own.
_STEPLESS = ("Dense", "Activation", "Dropout")


def _bidirectional(call: Call) -> Result:
    """Both directions, merged; torch's own bidirectional recurrence where they are alike."""
    for key in (_FORWARD, _BACKWARD):
        if key not in call.layer.inner:
            raise call.error(f"its config has no {key}")
    forward, backward = call.inner(_FORWARD), call.inner(_BACKWARD)
    value = call.value
    given = [v.plain() for v in call.list_of(call.argument(1, "initial_state"))]
    masked = call.optional(2, "mask")
    shown = value if masked is None else replace(value, mask=masked.plain())
    joined = _joined(shown, forward, backward, given)
    halves = joined or _one_by_one(call, shown, forward.flag("return_sequences"), given)
    (y, *first), (y_back, *second) = halves
    has_all = forward.flag("return_sequences")
    merged = _merged(call, y, y_back, is_joined=joined is not None)
    outputs = [Value(tensor=m, mask=value.mask if has_all else None) for m in merged]
    return (*outputs, *first, *second)


Half = list[Tensor]


def _joined(
    value: Value, forward: Call, backward: Call, given: list[Tensor]
) -> tuple[Half, Half] | None:
    """Each direction's output and states from one composite, or None where there is none like
    it.
    """
    kinds = {c.layer.kind for c in (forward, backward)}
    if value.mask is not None or len(kinds) != 1 or not kinds <= set(CELLS):
        return None
    if forward.flag("go_backwards") or not backward.flag("go_backwards"):
        return None
    x = value.plain()
    plans = [plan_of(c, x.shape[-1]) for c in (forward, backward)]
    is_alike = plans[0].names == plans[1].names and all(
        a.shape == b.shape
        for a, b in zip(plans[0].weights.tensors, plans[1].weights.tensors, strict=False)
    )
    has_as_many = len(plans[0].weights.tensors) == len(plans[1].weights.tensors)
    if not is_alike or not has_as_many or not all(p.is_plain for p in plans):
        return None
    count = plans[0].cell.states
    states = [torch.stack((given[i], given[i + count])) for i in range(count)] if given else None
    y, finals = by_torch(plans, x, states or zeros(plans[0], x, 2))
    has_all, has_state = forward.flag("return_sequences"), forward.flag("return_state")
    outputs = (y, y) if has_all else tuple(finals[0].unbind(0))
    first, second = ([s[d] for s in finals] if has_state else [] for d in (0, 1))
    return [outputs[0], *first], [outputs[1], *second]


def _one_by_one(call: Call, value: Value, has_all: bool, given: list[Tensor]) -> tuple[Half, Half]:
    half = len(given) // 2
    parts: list[Half] = []
    for key, states in ((_FORWARD, given[:half]), (_BACKWARD, given[half:])):
        state = tuple(Value(tensor=s) for s in states) or None
        outputs = call.run_inner(key, (value,), {"initial_state": state})
        parts.append([v.plain() for v in outputs])
    if has_all:
        parts[1][0] = parts[1][0].flip(1)
    return parts[0], parts[1]


def _merged(call: Call, y: Tensor, y_back: Tensor, *, is_joined: bool) -> list[Tensor]:
    """The outputs of both directions as one, or as two where nothing merges them; joined sequences
    hold both already.
    """
    mode = call.layer.config.get("merge_mode")
    if is_joined and y is y_back:
        if mode == "concat":
            return [y]
        y, y_back = y.chunk(2, -1)
    match mode:
        case None:
            return [y, y_back]
        case "concat":
            return [torch.cat((y, y_back), -1)]
        case "sum":
            return [y + y_back]
        case "ave":
            return [(y + y_back) / 2]
        case "mul":
            return [y * y_back]
    raise call.error(f"it merges by {mode!r}")


def _time_distributed(call: Call) -> Result:
    """The layer on every step: steps count as samples meanwhile."""
    value = call.value
    x = value.plain()
    if value.rank < 3:
        raise call.error(f"its input has {value.rank} dimensions; it needs steps to go over")
    inner = call.layer.inner.get(_FORWARD)
    if inner is not None and inner.kind in _STEPLESS:
        (y,) = call.run_inner(_FORWARD, (Value(tensor=x),), {})
        return Value(tensor=y.plain(), mask=value.mask)
    (y,) = call.run_inner(_FORWARD, (Value(tensor=x.flatten(0, 1)),), {})
    whole = y.plain()
    return Value(tensor=whole.reshape(*x.shape[:2], *whole.shape[1:]), mask=value.mask)


ROWS: tuple[Row, ...] = rows(
    {"Bidirectional": _bidirectional, "TimeDistributed": _time_distributed}
)
