"""LSTM, GRU and RNN: torch's own where they are plain, else step by step.

Shapes: T steps, N samples, D directions, H hidden features.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ridgeline.frontends.onnx.call import Call, Result
from ridgeline.frontends.onnx.table import Row, rows

Activation = Callable[[Tensor], Tensor]
_ACTIVATIONS: dict[str, Callable[[float | None, float | None], Activation]] = {
    "relu": lambda a, b: torch.relu,
    "tanh": lambda a, b: torch.tanh,
    "sigmoid": lambda a, b: torch.sigmoid,
    "softsign": lambda a, b: F.softsign,
    "softplus": lambda a, b: F.softplus,
    "affine": lambda a, b: lambda x: (1.0 if a is None else a) * x + (b or 0.0),
    "leakyrelu": lambda a, b: lambda x: F.leaky_relu(x, 0.01 if a is None else a),
    "thresholdedrelu": lambda a, b: lambda x: F.threshold(x, 1.0 if a is None else a, 0.0),
    "scaledtanh": lambda a, b: lambda x: (a or 1.0) * torch.tanh((b or 1.0) * x),
    "hardsigmoid": lambda a, b: (
        lambda x: ((0.2 if a is None else a) * x + (0.5 if b is None else b)).clamp(0, 1)
    ),
    "elu": lambda a, b: lambda x: F.elu(x, 1.0 if a is None else a),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One kind of recurrent cell. order: torch's gates by their place in ONNX; names: of its
    activations where none are given; num_states: 2 for h and c.
    """

    op: str
    order: tuple[int, ...]
    names: tuple[str, ...]
    num_states: int
    step: Callable[["Direction", Tensor, Sequence[Tensor]], tuple[Tensor, ...]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Direction:
    """What one direction computes with. w, r: (gates*H, features); wb, rb: biases; p: peepholes."""

    w: Tensor
    r: Tensor
    wb: Tensor
    rb: Tensor
    p: Tensor | None
    functions: tuple[Activation, ...]
    clip: float
    is_linear_before_reset: bool
    is_coupled: bool

    def clipped(self, x: Tensor) -> Tensor:
        """`x` within the clip, if there is one."""
        return x.clamp(-self.clip, self.clip) if self.clip else x


def _lstm_step(d: Direction, x: Tensor, state: Sequence[Tensor]) -> tuple[Tensor, ...]:
    h, c = state
    f, g, k = d.functions
    i, o, forget, cell = (F.linear(x, d.w, d.wb) + F.linear(h, d.r, d.rb)).chunk(4, -1)
    if d.p is not None:
        pi, po, pf = d.p.chunk(3)
        i, forget = i + pi * c, forget + pf * c
    i = f(d.clipped(i))
    forget = 1 - i if d.is_coupled else f(d.clipped(forget))
    new = forget * c + i * g(d.clipped(cell))
    o = o + po * new if d.p is not None else o
    return f(d.clipped(o)) * k(new), new


def _gru_step(d: Direction, x: Tensor, state: Sequence[Tensor]) -> tuple[Tensor, ...]:
    (h,) = state
    f, g = d.functions
    xz, xr, xh = F.linear(x, d.w, d.wb).chunk(3, -1)
    rz, rr, rh = d.r.chunk(3)
    bz, br, bh = d.rb.chunk(3)
    z = f(d.clipped(xz + F.linear(h, rz, bz)))
    r = f(d.clipped(xr + F.linear(h, rr, br)))
    back = r * F.linear(h, rh, bh) if d.is_linear_before_reset else F.linear(r * h, rh, bh)
    return ((1 - z) * g(d.clipped(xh + back)) + z * h,)


def _rnn_step(d: Direction, x: Tensor, state: Sequence[Tensor]) -> tuple[Tensor, ...]:
    (h,) = state
    (f,) = d.functions
    return (f(d.clipped(F.linear(x, d.w, d.wb) + F.linear(h, d.r, d.rb))),)


_LSTM = Cell(
    op="LSTM", order=(0, 2, 3, 1), names=("sigmoid", "tanh", "tanh"), num_states=2, step=_lstm_step
)
_GRU = Cell(op="GRU", order=(1, 0, 2), names=("sigmoid", "tanh"), num_states=1, step=_gru_step)
_RNN = Cell(op="RNN", order=(0,), names=("tanh",), num_states=1, step=_rnn_step)


def _run(call: Call, cell: Cell) -> Result:
    """[Y (T, D, N, H), Y_h (D, N, H), Y_c]; sample-first if the layout says so."""
    x, is_sample_first = call.tensor(0), bool(call.integer("layout", 0))
    x_TNI = x.transpose(0, 1) if is_sample_first else x
    states = [
        _initial(call, 5 + i, x_TNI, is_sample_first=is_sample_first)
        for i in range(cell.num_states)
    ]
    if _is_plain(call, cell, x_TNI.shape[0]):
        y, finals = _by_torch(call, cell, x_TNI, states)
    else:
        y, finals = _step_by_step(call, cell, x_TNI, states)
    if is_sample_first:
        y, finals = y.permute(2, 0, 1, 3), [s.transpose(0, 1) for s in finals]
    return [y, *finals]


def _initial(call: Call, index: int, x_TNI: Tensor, *, is_sample_first: bool) -> Tensor:
    given = call.optional(index)
    if given is None:
        directions, hidden = call.shape(2)[0], call.shape(2)[2]
        return x_TNI.new_zeros(directions, x_TNI.shape[1], hidden)
    return given.transpose(0, 1) if is_sample_first else given


def _names(call: Call, cell: Cell) -> list[str]:
    """Activations of every direction, in lower case."""
    default = cell.names * call.shape(1)[0]
    return [n.lower() for n in call.texts("activations", default)] or list(default)


def _is_plain(call: Call, cell: Cell, steps: int) -> bool:
    """Whether torch's composite does the same."""
    names = _names(call, cell)
    usual = [list(cell.names * call.shape(1)[0])]
    if cell.op == "RNN":
        usual.append(["relu"] * call.shape(1)[0])
    return (
        names in usual
        and not call.given("clip")
        and not call.has(7)
        and not call.integer("input_forget", 0)
        and (cell.op != "GRU" or bool(call.integer("linear_before_reset", 0)))
        and _has_full_length(call, steps)
    )


def _has_full_length(call: Call, steps: int) -> bool:
    """Whether every sample is as long as the tensor, as far as that is known."""
    if not call.has(4):
        return True
    value = call.value(4)
    is_known = not isinstance(value, Tensor)
    return is_known and all(n == steps for n in call.ints(4))


def _by_torch(
    call: Call, cell: Cell, x_TNI: Tensor, states: list[Tensor]
) -> tuple[Tensor, list[Tensor]]:
    directions = call.shape(1)[0]
    is_reverse = call.text("direction") == "reverse"
    weights = [t for d in range(directions) for t in _torch_weights(call, cell, d)]
    has_biases = call.has(3)
    x = x_TNI.flip(0) if is_reverse else x_TNI
    rest = (weights, has_biases, 1, 0.0, False, directions == 2, False)
    if cell.op == "LSTM":
        y, *finals = torch._VF.lstm(x, tuple(states), *rest)
    else:
        name = "gru" if cell.op == "GRU" else f"rnn_{_names(call, cell)[0]}"
        y, *finals = getattr(torch._VF, name)(x, states[0], *rest)
    y = y.flip(0) if is_reverse else y
    y = y.reshape(*y.shape[:2], directions, -1).transpose(1, 2)
    return y, finals


def _torch_weights(call: Call, cell: Cell, direction: int) -> list[Tensor]:
    """Weights and biases of one direction with torch's order of gates."""
    found = [_gates(call, cell, i, direction) for i in (1, 2)]
    if call.has(3):
        found += [_gates(call, cell, 3, direction, half=half) for half in (0, 1)]
    return found


def _gates(call: Call, cell: Cell, index: int, direction: int, half: int = 0) -> Tensor:
    """The rows of one direction of a weight, of a bias the first or second half, gate by gate as
    torch orders them; done once where the weight is the file's.
    """
    hidden = call.shape(2)[2]
    rows_ = len(cell.order) * hidden
    places = np.concatenate([np.arange(hidden) + gate * hidden for gate in cell.order])
    places += half * rows_
    way = f"{cell.op} {direction} {half}"
    shape = (rows_, *call.shape(index)[2:])
    weight = call.derived(index, way, shape, lambda array: array[direction][places])
    if weight is not None:
        return weight
    part = call.tensor(index)[direction].narrow(0, half * rows_, rows_)
    pieces = part.chunk(len(cell.order))
    return torch.cat([pieces[i] for i in cell.order])


def _step_by_step(
    call: Call, cell: Cell, x_TNI: Tensor, states: list[Tensor]
) -> tuple[Tensor, list[Tensor]]:
    """Every direction unrolled; samples that are over keep their state and give zeros."""
    lengths = None if _has_full_length(call, x_TNI.shape[0]) else call.tensor(4)
    outputs, finals = [], []
    for number, d in enumerate(_directions(call, cell)):
        is_reverse = call.text("direction") == "reverse" or number == 1
        state = tuple(s[number] for s in states)
        y, state = _unrolled(cell, d, x_TNI, state, lengths, is_reverse=is_reverse)
        outputs.append(y)
        finals.append(state)
    return torch.stack(outputs, 1), [torch.stack(s) for s in zip(*finals, strict=True)]


def _unrolled(
    cell: Cell,
    d: Direction,
    x_TNI: Tensor,
    state: tuple[Tensor, ...],
    lengths: Tensor | None,
    *,
    is_reverse: bool,
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """(outputs (T, N, H), final state) of one direction."""
    order = range(x_TNI.shape[0])
    outputs = [x_TNI[0]] * len(order)
    for t in reversed(order) if is_reverse else order:
        new = cell.step(d, x_TNI[t], state)
        if lengths is None:
            outputs[t], state = new[0], new
            continue
        is_on = (t < lengths).unsqueeze(1)
        outputs[t] = torch.where(is_on, new[0], 0.0)
        state = tuple(torch.where(is_on, n, s) for n, s in zip(new, state, strict=True))
    return torch.stack(outputs), state


def _directions(call: Call, cell: Cell) -> list[Direction]:
    w, r, b, p = call.tensor(1), call.tensor(2), call.optional(3), call.optional(7)
    names, count = _names(call, cell), len(cell.names)
    # alpha and beta are given for the activations that take one, in their order
    alphas, betas = (call.numbers(f"activation_{k}", ()) for k in ("alpha", "beta"))
    padded_a = [*alphas, *(None,) * (len(names) - len(alphas))]
    padded_b = [*betas, *(None,) * (len(names) - len(betas))]
    functions = [_ACTIVATIONS[n](a, c) for n, a, c in zip(names, padded_a, padded_b, strict=True)]
    found = []
    for i in range(w.shape[0]):
        wb, rb = (w.new_zeros(w.shape[1]),) * 2 if b is None else b[i].chunk(2)
        found.append(
            Direction(
                w=w[i],
                r=r[i],
                wb=wb,
                rb=rb,
                p=None if p is None else p[i],
                functions=tuple(functions[i * count : (i + 1) * count]),
                clip=call.number("clip", 0.0),
                is_linear_before_reset=bool(call.integer("linear_before_reset", 0)),
                is_coupled=bool(call.integer("input_forget", 0)),
            )
        )
    return found


ROWS: tuple[Row, ...] = rows(
    {
        "LSTM": lambda call: _run(call, _LSTM),
        "GRU": lambda call: _run(call, _GRU),
        "RNN": lambda call: _run(call, _RNN),
    }
)
