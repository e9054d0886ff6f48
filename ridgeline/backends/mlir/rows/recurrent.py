"""Recurrent layers: a loop over time that all directions share.

Shapes: T time, N batch, D directions, H hidden, G gates together (4 H).
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from ridgeline.backends.mlir.algebra import Algebra
from ridgeline.backends.mlir.call import Call
from ridgeline.backends.mlir.row import Lowering
from ridgeline.backends.mlir.rows.products import product
from ridgeline.backends.mlir.rows.shapes import cut, joined
from ridgeline.backends.mlir.value import Operand, Value, plain
from ridgeline.backends.mlir.views import permuted
from ridgeline.backends.mlir.writer import Writer
from ridgeline.errors import UnsupportedOp

# Of one turn of the loop: IREE plans its steps together, and a turn itself costs as much as two of
# them. Beside all steps written out, one in a turn took 1.7 of the time, sixteen about the same.
_STEPS = 16
_CARRIED = ("hidden", "cell", "out")


@dataclass(frozen=True, slots=True, kw_only=True)
class Weights:
    """One layer's, its directions stacked. inner: (D, G, inputs); outer: (D, G, H); bias:
    (D, 1, G).
    """

    inner: Tensor
    outer: Tensor
    bias: Tensor | None

    @property
    def directions(self) -> int:
        """1, or 2 where it also reads backwards."""
        return len(self.outer)


def _lstm(call: Call) -> tuple[Value, Value, Value]:
    """The outputs of every step, and the last hidden and cell states of every layer."""
    writer, params = call.writer, [p for p in call.operands("params")]
    if not all(isinstance(p, Tensor) for p in params):
        raise UnsupportedOp("its weights are computed")
    directions = 2 if call.flag("bidirectional") else 1
    per_direction = 4 if call.flag("has_biases") else 2
    if len(params) != call.integer("num_layers") * directions * per_direction:
        raise UnsupportedOp("it projects its hidden states")
    x = call.value("input")
    x = permuted(x, (1, 0, 2)) if call.flag("batch_first") else x
    starts = call.operands("hx")
    lasts: list[tuple[Value, Value]] = []
    for layer in range(call.integer("num_layers")):
        size = directions * per_direction
        own = _weights(
            [p for p in params if isinstance(p, Tensor)][layer * size :][:size], directions
        )
        states = tuple(_cut_known(call, s, layer * directions, directions) for s in starts)
        x, hidden, cell = _layer(call.algebra, x, own, (states[0], states[1]))
        lasts.append((hidden, cell))
    out = permuted(x, (1, 0, 2)) if call.flag("batch_first") else x
    hidden, cell = (
        lasts[0][i] if len(lasts) == 1 else joined(writer, [last[i] for last in lasts], 0)
        for i in (0, 1)
    )
    return out, hidden, cell


def _weights(params: list[Tensor], directions: int) -> Weights:
    """torch lists per direction: inner, outer, and two biases that are only ever added."""
    size = len(params) // directions
    each = [params[i * size : (i + 1) * size] for i in range(directions)]
    return Weights(
        inner=torch.stack([p[0] for p in each]),
        outer=torch.stack([p[1] for p in each]),
        bias=torch.stack([p[2] + p[3] for p in each]).unsqueeze(1) if size == 4 else None,
    )


def _cut_known(call: Call, state: Operand, start: int, size: int) -> Value:
    if isinstance(state, Tensor):
        return call.writer.constant(state.narrow(0, start, size))
    return call.writer.move(cut(call.writer, state, 0, start, size), plain(3))


def _layer(
    a: Algebra, x: Value, weights: Weights, states: tuple[Value, Value]
) -> tuple[Value, Value, Value]:
    """One layer. x: (T, N, inputs); states: (D, N, H) each."""
    writer, directions = a.writer, weights.directions
    x = writer.move(x, plain(3))
    time, batch, inputs = x.shape
    readings = [x, _backwards(writer, x)][:directions]
    flat = [writer.reshape(r, (1, time * batch, inputs)) for r in readings]
    stack = flat[0] if directions == 1 else joined(writer, flat, 0)
    gates = product(a, stack, writer.constant(weights.inner), by_rows=True)
    if weights.bias is not None:
        gates = a.add(gates, weights.bias)
    gates_DTNG = writer.reshape(gates, (directions, time, batch, gates.shape[-1]))
    out_DTNH, hidden, cell = _loop(a, gates_DTNG, weights.outer, states)
    outs = [_only(writer, cut(writer, out_DTNH, 0, i, 1)) for i in range(directions)]
    if directions == 2:
        outs = [joined(writer, (outs[0], _backwards(writer, outs[1])), 2)]
    return outs[0], hidden, cell


def _backwards(writer: Writer, x_TNX: Value) -> Value:
    """The last step first."""
    return writer.op("tosa.reverse", [x_TNX], x_TNX.shape, x_TNX.dtype, axis="0 : i32")


def _only(writer: Writer, stack: Value) -> Value:
    """What a stack of one holds."""
    return writer.reshape(stack, stack.shape[1:])


@dataclass(frozen=True, slots=True, kw_only=True)
class Carried:
    """What a step hands to the next. hidden, cell: (D, N, H); out: (D, T, N, H)."""

    hidden: Value
    cell: Value
    out: Value

    @property
    def values(self) -> tuple[Value, Value, Value]:
        """All three, in order."""
        return self.hidden, self.cell, self.out


def _loop(
    a: Algebra, gates: Value, outer: Tensor, states: tuple[Value, Value]
) -> tuple[Value, Value, Value]:
    """Every step in turn; all directions at once. gates: (D, T, N, G)."""
    writer = a.writer
    directions, time, batch, width = gates.shape
    across = writer.constant(outer)
    blank = writer.blank((directions, time, batch, width // 4), gates.dtype)
    carried = Carried(hidden=states[0], cell=states[1], out=blank)
    looped = time // _STEPS * _STEPS
    if looped:
        carried = _turns(a, gates, across, carried, looped)
    for step in range(looped, time):
        carried = _written(a, gates, across, carried, str(step))
    return carried.out, carried.hidden, carried.cell


def _turns(a: Algebra, gates: Value, across: Value, before: Carried, end: int) -> Carried:
    """The steps from 0 to `end`, some in each turn of a loop."""
    writer, dtype = a.writer, gates.dtype
    first, stop, stride = (writer.index(n) for n in (0, end, _STEPS))
    step = writer.fresh()
    inside = Carried(
        **{
            name: Value(writer.fresh(), v.shape, dtype, plain(v.rank))
            for name, v in zip(_CARRIED, before.values, strict=True)
        }
    )
    start, after = writer.position, inside
    for number in range(_STEPS):
        after = _written(a, gates, across, after, _later(writer, step, number))
    body = writer.take(start)
    pairs = zip(inside.values, before.values, strict=True)
    given = ", ".join(f"{within.name} = {outside.name}" for within, outside in pairs)
    types = ", ".join(v.type for v in inside.values)
    name = writer.fresh()
    writer.line(
        f"{name}:3 = scf.for {step} = {first} to {stop} step {stride} "
        f"iter_args({given}) -> ({types}) {{"
    )
    for line in body:
        writer.line(line)
    writer.line(f"  scf.yield {', '.join(v.name for v in after.values)} : {types}")
    writer.line("}")
    return Carried(
        **{
            key: Value(f"{name}#{i}", v.shape, dtype, v.order)
            for i, (key, v) in enumerate(zip(_CARRIED, inside.values, strict=True))
        }
    )


def _later(writer: Writer, step: str, number: int) -> str:
    """The name of the position `number` after `step`."""
    if number == 0:
        return step
    distance, name = writer.index(number), writer.fresh()
    writer.line(f"{name} = arith.addi {step}, {distance} : index")
    return name


def _written(a: Algebra, gates: Value, across: Value, before: Carried, step: str) -> Carried:
    """One step, its hidden state written to the outputs. step: its number, or the name of it."""
    writer, dtype = a.writer, gates.dtype
    directions, _, batch, width = gates.shape
    strip = f"[0, {step}, 0, 0][{directions}, 1, {batch}, {{}}][1, 1, 1, 1]"
    now = Value("", (directions, batch, width), dtype, plain(3))
    text = f"tensor.extract_slice {gates.name}{strip.format(width)} : {gates.type} to {now.type}"
    found = product(a, before.hidden, across, by_rows=True)
    now = a.add(writer.value(text, now.shape, dtype), found)
    hidden, cell = _step(a, now, before.cell)
    out = before.out
    text = (
        f"tensor.insert_slice {hidden.name} into {out.name}{strip.format(width // 4)} : "
        f"{hidden.type} into {out.type}"
    )
    return Carried(hidden=hidden, cell=cell, out=writer.value(text, out.shape, dtype))


def _step(a: Algebra, gates_DNG: Value, cell: Value) -> tuple[Value, Value]:
    """The next hidden and cell states; torch's order of gates: in, forget, new, out."""
    size = cell.shape[-1]
    enter, forget, new, leave = (cut(a.writer, gates_DNG, 2, i * size, size) for i in range(4))
    kept = a.mul(a.unary("tosa.sigmoid", forget), cell)
    taken = a.mul(a.unary("tosa.sigmoid", enter), a.unary("tosa.tanh", new))
    fresh = a.add(kept, taken)
    return a.mul(a.unary("tosa.sigmoid", leave), a.unary("tosa.tanh", fresh)), fresh


ROWS: dict[str, Lowering] = {"aten.lstm.input": _lstm}
