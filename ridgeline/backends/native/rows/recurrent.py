"""LSTMs: the products with the input at once, then step by step."""

import torch
from torch import Tensor

from ridgeline.backends.native.call import Call, Result, floating
from ridgeline.backends.native.rows.products import gemm
from ridgeline.backends.native.tree import Fields, Pending
from ridgeline.backends.native.value import Value
from ridgeline.errors import UnsupportedOp

_MOST_HIDDEN = 16384  # of a row of sums in scratch memory


def _lstm(call: Call) -> Result:
    """Layer after layer, direction after direction."""
    floating(call.out)
    if call.flag("train") or not isinstance(call.arguments.get("hx"), list | tuple):
        raise UnsupportedOp("it trains, or its input is packed")
    x, starts = call.value("input"), call.operands("hx")
    if call.flag("batch_first"):
        x = x.like(x.spec.transpose(0, 1))
    weights = [w for w in call.operands("params") if isinstance(w, Tensor)]
    call.within("units", weights[1].shape[1], _MOST_HIDDEN)
    layers, directions = int(call.number("num_layers")), 1 + call.flag("bidirectional")
    per_direction = 4 if call.flag("has_biases") else 2
    if len(weights) != layers * directions * per_direction:
        raise UnsupportedOp("its weights are computed, or it projects")
    hidden, cells = [], []
    for layer in range(layers):
        wide = weights[0].shape[0] // 4 * directions
        spec = torch.empty((*x.shape[:2], wide), dtype=x.dtype, device="meta")
        target = call.builder.blank(spec)
        each = []
        for direction in range(directions):
            number = layer * directions + direction
            own = weights[number * per_direction : (number + 1) * per_direction]
            size = wide // directions
            slot = target.like(target.spec.narrow(2, direction * size, size))
            h, c = (_start(call, call.settled(s), number) for s in starts)
            each.append(_direction(call, x, own, (h, c), slot))
            hidden.append(h)
            cells.append(c)
        call.builder.emit("lstm", _both(call, x, each, weights[1].shape[1], target))
        x = target
    last = [_gathered(call, states, spec) for states, spec in ((hidden, 1), (cells, 2))]
    if call.flag("batch_first"):
        x = x.like(x.spec.transpose(0, 1))
    return (x, *last)


def _start(call: Call, states: Value, number: int) -> Value:
    """A state of its own, in fp32, to be replaced."""
    given = states.like(states.spec.select(0, number))
    spec = torch.empty(given.shape, dtype=torch.float32, device="meta")
    return call.builder.written(Pending(given, spec), into=call.builder.blank(spec))


def _gathered(call: Call, states: list[Value], number: int) -> Value:
    """The states after the last step as torch returns them."""
    spec = call.outs[number]
    found = call.builder.blank(torch.empty(spec.shape, dtype=spec.dtype, device="meta"))
    for index, state in enumerate(states):
        into = found.like(found.spec.select(0, index))
        call.builder.written(Pending(state, into.spec), into=into)
    return found


def _direction(
    call: Call, x: Value, weights: list[Tensor], state: tuple[Value, Value], target: Value
) -> Fields:
    """The fields of one direction, its products with the input written."""
    of_input, of_state, *biases = weights
    steps, batch, _ = x.shape
    x, ldx = call.as_matrix(x)
    spec = torch.empty((steps, batch, of_input.shape[0]), dtype=torch.float32, device="meta")
    bias = call.builder.vector(biases[0].float() + biases[1].float()) if biases else None
    gates = call.builder.written(Pending(gemm(call, x, ldx, of_input, bias, spec), spec))
    h, c = state
    return {
        "gates_ref": gates.place,
        "w_ref": call.builder.packed(of_state.float()),
        "h_ref": h.place,
        "c_ref": c.place,
        "y_ref": target.place,
    }


def _both(call: Call, x: Value, each: list[Fields], hidden: int, target: Value) -> Fields:
    """The fields of a layer; the second direction, if any, runs from the last step."""
    first, second = each[0], each[1] if len(each) > 1 else dict.fromkeys(each[0])
    steps, batch, _ = x.shape
    return {
        **first,
        **{f"second_{name}": value for name, value in second.items()},
        "y_type": target.type,
        "steps": steps,
        "batch": batch,
        "hidden": hidden,
        "y_step": target.spec.stride(0),
        "y_batch": target.spec.stride(1),
        "gates_step": batch * 4 * hidden,
        "gates_batch": 4 * hidden,
        "is_reverse": False,
    }


ROWS = {"aten.lstm": _lstm}
