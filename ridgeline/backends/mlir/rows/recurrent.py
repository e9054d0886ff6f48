"""Recurrent layers: a loop over time that all directions share.

Shapes: T time, N batch, D directions, H hidden, G gates together (4 H).
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from ridgeline.backends.mlir.algebra import Algebra
from ridgeline.backends.mlir.call import Call
from ridgeline.backends.mlir.row import Lowering
from ridgeline.backends.mlir.rows.products import linear, product
from ridgeline.backends.mlir.rows.shapes import cut, joined, viewed
from ridgeline.backends.mlir.value import Operand, Value, plain
from ridgeline.backends.mlir.views import permuted
from ridgeline.errors import UnsupportedOp


@dataclass(frozen=True, slots=True, kw_only=True)
class Weights:
    """One layer's, its directions stacked. inner: (D G, inputs); outer: (D, H, G); bias: (D G,)."""

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
        inner=torch.cat([p[0] for p in each]),
        outer=torch.stack([p[1].t() for p in each]),
        bias=torch.cat([p[2] + p[3] for p in each]) if size == 4 else None,
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
    gates = linear(a, x, weights.inner, weights.bias)
    time, batch, width = gates.shape
    apart = viewed(writer, gates, (time, batch, directions, width // directions))
    gates_TDNG = writer.move(permuted(apart, (0, 2, 1, 3)), plain(4))
    out_TDNH, hidden, cell = _loop(a, _backwards(a, gates_TDNG), weights.outer, states)
    out = permuted(_backwards(a, out_TDNH), (0, 2, 1, 3))
    return viewed(writer, out, (time, batch, out.shape[3] * directions)), hidden, cell


def _backwards(a: Algebra, x_TDNX: Value) -> Value:
    """The second direction in reverse."""
    if x_TDNX.shape[1] == 1:
        return x_TDNX
    first, second = (cut(a.writer, x_TDNX, 1, i, 1) for i in (0, 1))
    turned = a.writer.op(
        "tosa.reverse", [second], second.shape, second.dtype, second.order, axis="0 : i32"
    )
    return joined(a.writer, (first, turned), 1)


def _loop(
    a: Algebra, gates: Value, outer: Tensor, states: tuple[Value, Value]
) -> tuple[Value, Value, Value]:
    """Every step in turn; all directions at once. gates: (T, D, N, G)."""
    writer = a.writer
    time, directions, batch, width = gates.shape
    shape, dtype = (directions, batch, width // 4), gates.dtype
    across = writer.constant(outer)
    blank = writer.blank((time, *shape), dtype)
    zero, one, end = (writer.index(n) for n in (0, 1, time))
    step = writer.fresh()
    hidden, cell, out = (
        Value(writer.fresh(), v.shape, dtype, plain(v.rank)) for v in (*states, blank)
    )
    start = writer.position
    strip = f"[{step}, 0, 0, 0][1, {directions}, {batch}, {{}}][1, 1, 1, 1]"
    now_DNG = Value("", gates.shape[1:], dtype, plain(3))
    text = (
        f"tensor.extract_slice {gates.name}{strip.format(width)} : {gates.type} to {now_DNG.type}"
    )
    now_DNG = a.add(writer.value(text, now_DNG.shape, dtype), product(a, hidden, across))
    fresh_hidden, fresh_cell = _step(a, now_DNG, cell)
    text = (
        f"tensor.insert_slice {fresh_hidden.name} into {out.name}{strip.format(shape[-1])} : "
        f"{hidden.type} into {out.type}"
    )
    fresh_out = writer.value(text, out.shape, dtype)
    body = writer.take(start)
    carried = [
        f"{inside.name} = {before.name}"
        for inside, before in zip((hidden, cell, out), (*states, blank), strict=True)
    ]
    types = ", ".join(v.type for v in (hidden, cell, out))
    name = writer.fresh()
    writer.line(
        f"{name}:3 = scf.for {step} = {zero} to {end} step {one} "
        f"iter_args({', '.join(carried)}) -> ({types}) {{"
    )
    for line in body:
        writer.line(line)
    fresh = ", ".join(v.name for v in (fresh_hidden, fresh_cell, fresh_out))
    writer.line(f"  scf.yield {fresh} : {types}")
    writer.line("}")
    found = (
        Value(f"{name}#{i}", v.shape, dtype, v.order) for i, v in enumerate((hidden, cell, out))
    )
    last_hidden, last_cell, outputs = found
    return outputs, last_hidden, last_cell


def _step(a: Algebra, gates_DNG: Value, cell: Value) -> tuple[Value, Value]:
    """The next hidden and cell states; torch's order of gates: in, forget, new, out."""
    size = cell.shape[-1]
    enter, forget, new, leave = (cut(a.writer, gates_DNG, 2, i * size, size) for i in range(4))
    kept = a.mul(a.unary("tosa.sigmoid", forget), cell)
    taken = a.mul(a.unary("tosa.sigmoid", enter), a.unary("tosa.tanh", new))
    fresh = a.add(kept, taken)
    return a.mul(a.unary("tosa.sigmoid", leave), a.unary("tosa.tanh", fresh)), fresh


ROWS: dict[str, Lowering] = {"aten.lstm.input": _lstm}
