"""LSTM, GRU and SimpleRNN: torch's own where they are plain, else step by step.

Shapes: N samples, T steps, I input features, H hidden features, G gates.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from ridgeline.frontends.keras.call import Call
from ridgeline.frontends.keras.layers.activations import Elementwise, function_of
from ridgeline.frontends.keras.table import Result, Row, rows
from ridgeline.frontends.keras.value import Value

# A recurrence is unrolled where torch has none like it: no graph of more steps is ever read.
_MAX_STEPS = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class Weights:
    """Of one direction, as torch has them: (G*H, I), (G*H, H), and two of (G*H), or none."""

    w: Tensor
    r: Tensor
    biases: tuple[Tensor, ...]

    @property
    def tensors(self) -> list[Tensor]:
        """In torch's order."""
        return [self.w, self.r, *self.biases]


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One kind of recurrence. order: Keras's gates in torch's places; states: 2 for h and c."""

    order: tuple[int, ...]
    states: int
    step: Callable[["Plan", Tensor, Sequence[Tensor]], tuple[Tensor, ...]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What one recurrence computes with."""

    cell: Cell
    weights: Weights
    functions: tuple[Elementwise, ...]
    names: tuple[str, ...]
    resets_after: bool

    @property
    def is_plain(self) -> bool:
        """Whether torch's composite does the same."""
        usual = {1: ("tanh",), 3: ("tanh", "sigmoid"), 4: ("tanh", "sigmoid")}
        gates = len(self.cell.order)
        is_relu = gates == 1 and self.names == ("relu",)
        return self.resets_after and (self.names == usual[gates] or is_relu)


def _lstm_step(p: Plan, x: Tensor, state: Sequence[Tensor]) -> tuple[Tensor, ...]:
    h, c = state
    act, gate = p.functions
    i, f, g, o = (_linear(p, x) + _recur(p, h)).chunk(4, -1)
    new = gate(f) * c + gate(i) * act(g)
    return gate(o) * act(new), new


def _gru_step(p: Plan, x: Tensor, state: Sequence[Tensor]) -> tuple[Tensor, ...]:
    (h,) = state
    act, gate = p.functions
    xr, xz, xn = _linear(p, x).chunk(3, -1)
    if p.resets_after:
        hr, hz, hn = _recur(p, h).chunk(3, -1)
        back = gate(xr + hr) * hn
    else:
        wr, wz, wn = p.weights.r.chunk(3)
        hz = F.linear(h, wz)
        back = F.linear(gate(xr + F.linear(h, wr)) * h, wn)
    z = gate(xz + hz)
    return (z * h + (1 - z) * act(xn + back),)


def _rnn_step(p: Plan, x: Tensor, state: Sequence[Tensor]) -> tuple[Tensor, ...]:
    (h,) = state
    (act,) = p.functions
    return (act(_linear(p, x) + _recur(p, h)),)


def _linear(p: Plan, x: Tensor) -> Tensor:
    return F.linear(x, p.weights.w, p.weights.biases[0] if p.weights.biases else None)


def _recur(p: Plan, h: Tensor) -> Tensor:
    return F.linear(h, p.weights.r, p.weights.biases[1] if p.weights.biases else None)


CELLS = {
    "LSTM": Cell(order=(0, 1, 2, 3), states=2, step=_lstm_step),
    "GRU": Cell(order=(1, 0, 2), states=1, step=_gru_step),
    "SimpleRNN": Cell(order=(0,), states=1, step=_rnn_step),
}


def plan_of(call: Call, width: int) -> Plan:
    """What a recurrent layer computes with on inputs of `width` features."""
    if call.flag("stateful"):
        raise call.refuse("its state from call to call", "save it with stateful=False")
    cell, units = CELLS[call.layer.kind], call.count("units")
    gates = len(cell.order) * units
    part = call.within("cell")

    def ordered(kernel: Tensor) -> Tensor:
        return torch.cat([kernel.T.chunk(len(cell.order))[i] for i in cell.order])

    w = part.weight(0, (width, gates), "weight_ih_l0", ordered)
    r = part.weight(1, (units, gates), "weight_hh_l0", ordered)
    resets_after = call.layer.kind != "GRU" or call.flag("reset_after", True)
    keys = ("activation",) if len(cell.order) == 1 else ("activation", "recurrent_activation")
    named = [function_of(call, key) for key in keys]
    return Plan(
        cell=cell,
        weights=Weights(w=w, r=r, biases=_biases(part, cell, units, resets_after)),
        functions=tuple(f for _, f in named),
        names=tuple(n for n, _ in named),
        resets_after=resets_after,
    )


def _biases(part: Call, cell: Cell, units: int, resets_after: bool) -> tuple[Tensor, ...]:
    """Of the inputs and of the state; Keras has none for the state but in a GRU."""
    if not part.flag("use_bias", True):
        return ()
    gates = len(cell.order) * units
    has_two = part.layer.kind == "GRU" and resets_after
    shape = (2, gates) if has_two else (gates,)

    def ordered(bias: Tensor, row: int) -> Tensor:
        if row and not has_two:
            return torch.zeros_like(bias)
        own = bias[row] if has_two else bias
        return torch.cat([own.chunk(len(cell.order))[i] for i in cell.order])

    return (
        part.weight(2, shape, "bias_ih_l0", lambda b: ordered(b, 0)),
        part.weight(2, shape, "bias_hh_l0", lambda b: ordered(b, 1)),
    )


def by_torch(
    plans: Sequence[Plan], x_NTI: Tensor, states: Sequence[Tensor]
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """(outputs (N, T, D*H), final states (D, N, H)) of torch's composite, of one direction or two;
    states: (D, N, H) each.
    """
    weights = [tensor for plan in plans for tensor in plan.weights.tensors]
    options = (bool(plans[0].weights.biases), 1, 0.0, False, len(plans) == 2, True)
    if len(states) == 2:
        y, h, c = torch.lstm(x_NTI, list(states), weights, *options)
        return y, (h, c)
    recurrences = {"relu": torch.rnn_relu, "tanh": torch.rnn_tanh}
    gates = len(plans[0].cell.order)
    run = torch.gru if gates == 3 else recurrences[plans[0].names[0]]
    y, h = run(x_NTI, states[0], weights, *options)
    return y, (h,)


def zeros(plan: Plan, x_NTI: Tensor, directions: int = 1) -> list[Tensor]:
    """First states (D, N, H) where none are given."""
    hidden = plan.weights.r.shape[1]
    return [
        torch.zeros(directions, x_NTI.shape[0], hidden, dtype=x_NTI.dtype, device=x_NTI.device)
        for _ in range(plan.cell.states)
    ]


def _step_by_step(
    call: Call, plan: Plan, x_NTI: Tensor, states: Sequence[Tensor], mask: Tensor | None
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """(outputs (N, T, H), final states (N, H)); a step that is masked keeps the state."""
    if x_NTI.shape[1] > _MAX_STEPS:
        raise call.error(f"it would unroll {x_NTI.shape[1]} steps; {_MAX_STEPS} are the most")
    state = tuple(states)
    output = torch.zeros_like(state[0])
    is_zeroed, outputs = call.flag("zero_output_for_mask"), []
    for t in range(x_NTI.shape[1]):
        new = plan.cell.step(plan, x_NTI[:, t], state)
        if mask is None:
            output, state = new[0], new
        else:
            shown = mask[:, t].unsqueeze(-1)
            output = torch.where(shown, new[0], torch.zeros_like(output) if is_zeroed else output)
            state = tuple(torch.where(shown, n, s) for n, s in zip(new, state, strict=True))
        outputs.append(output)
    return torch.stack(outputs, 1), state


def _recurrent(call: Call) -> Result:
    """The last output or all of them, then the final states if they are asked for."""
    value = call.value
    given = [v.plain() for v in call.list_of(call.argument(1, "initial_state")) or call.values[1:]]
    masked = call.optional(2, "mask")
    mask = value.mask if masked is None else masked.plain()
    x = value.plain()
    plan = plan_of(call, x.shape[-1])
    if call.flag("go_backwards"):
        x, mask = x.flip(1), None if mask is None else mask.flip(1)
    if plan.is_plain and mask is None:
        states = [s.unsqueeze(0) for s in given] or zeros(plan, x)
        y, finals = by_torch([plan], x, states)
        finals = tuple(s.squeeze(0) for s in finals)
    else:
        states = given or [s.squeeze(0) for s in zeros(plan, x)]
        mask = None if mask is None else mask.to(torch.bool)
        y, finals = _step_by_step(call, plan, x, states, mask)
    has_all = call.flag("return_sequences")
    output = Value(tensor=y if has_all else y[:, -1], mask=value.mask if has_all else None)
    return (output, *finals) if call.flag("return_state") else output


ROWS: tuple[Row, ...] = rows(dict.fromkeys(CELLS, _recurrent))
