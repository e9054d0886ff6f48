"""If, Loop and Scan: what is known is decided now, what is not becomes torch.cond or an error."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from ridgeline.frontends.onnx.call import Call, Result, Value, dtype_of, is_real, outside_trace
from ridgeline.frontends.onnx.records import Body
from ridgeline.frontends.onnx.table import Row, rows
from ridgeline.frontends.onnx.weights import Known, known

# Iterations of one loop that are laid out one after the other.
MAX_ITERATIONS = 4096


def _if(call: Call) -> Result:
    condition = call.value(0)
    if isinstance(condition, Known) or is_real(condition):
        return call.run(call.body("then_branch" if call.int_at(0) else "else_branch"), ())
    if call.raw(0).is_meta and not torch.compiler.is_exporting():
        call.run(call.body("else_branch"), ())  # a run for shapes takes both ways
        return call.run(call.body("then_branch"), ())
    return _cond(call, call.tensor(0).reshape(()))


def _cond(call: Call, condition: Tensor) -> Result:
    """Both branches in the graph. What they read is handed to them: a first run, for shapes alone,
    finds which known values they want as tensors.
    """
    bodies = [call.body("then_branch"), call.body("else_branch")]
    names = sorted({n for b in bodies for n in b.captured if isinstance(call.find(n), Tensor)})
    around = [v for v in map(call.find, names) if isinstance(v, Tensor)]
    wanted = [_wanted(call, body, names, around) for body in bodies]
    operands = (*around, *(call.materialise(k) for ks in wanted for k in ks))
    first = (len(around), len(around) + len(wanted[0]))

    def branch(which: int) -> Callable[..., tuple[Tensor, ...]]:
        def run(*given: Tensor) -> tuple[Tensor, ...]:
            mine = iter(given[first[which] :])
            rebound = dict(zip(names, given, strict=False))
            values = call.enter(bodies[which], rebound, lambda known: next(mine))
            return tuple(
                _apart(_as_tensor(call, v, lambda known: next(mine)), given) for v in values
            )

        return run

    return list(torch.ops.higher_order.cond(condition, branch(0), branch(1), operands))


def _wanted(call: Call, body: Body, names: Sequence[str], around: Sequence[Tensor]) -> list[Known]:
    """The known values that a branch reads as tensors, one for each time."""
    found: list[Known] = []

    def shape_of(value: Known) -> Tensor:
        found.append(value)
        return torch.empty(value.shape, dtype=dtype_of(value.element), device="meta")

    with outside_trace():
        given = [torch.empty(t.shape, dtype=t.dtype, device="meta") for t in around]
        for value in call.enter(body, dict(zip(names, given, strict=True)), shape_of):
            _as_tensor(call, value, shape_of)
    return found


def _apart(value: Tensor, given: Sequence[Tensor]) -> Tensor:
    """`value` as one that a branch may return: none of what it was given."""
    return value.clone() if any(value is g for g in given) else value


def _as_tensor(call: Call, value: Value, materialise: Callable[[Known], Tensor]) -> Tensor:
    if isinstance(value, Known):
        return materialise(value)
    if not isinstance(value, Tensor):
        raise call.error("a branch makes a sequence, which no graph can choose")
    return value


def _loop(call: Call) -> Result:
    """Unrolled; the iterations must be known in number, or the values real."""
    body = call.body("body")
    count = call.int_at(0) if call.has(0) else None
    keeps_going: Value = call.value(1)
    state = list(call.inputs[2:])
    scanned: list[list[Value]] = []
    step = 0
    while (count is None or step < count) and _is_true(call, keeps_going):
        if step >= MAX_ITERATIONS:
            raise call.error(f"it runs more than {MAX_ITERATIONS} times, which is not unrolled")
        number = known(np.array(step, np.int64))
        flag = known(np.array(True)) if keeps_going is None else keeps_going
        results = call.run(body, (number, flag, *state))
        keeps_going, results = results[0], results[1:]
        state = list(results[: len(state)])
        scanned.append(results[len(state) :])
        step += 1
    return [*state, *_stacked(call, scanned, len(body.outputs) - 1 - len(state))]


def _is_true(call: Call, value: Value) -> bool:
    if value is None:
        return True
    if isinstance(value, Known):
        return bool(value.read().reshape(()))
    if is_real(value):
        return bool(value)
    raise call.error("how often it runs depends on the data, so it cannot be unrolled")


def _stacked(call: Call, scanned: Sequence[Sequence[Value]], count: int) -> list[Value]:
    """The outputs of every iteration, one after the other along a new first dimension."""
    if not scanned:
        return [torch.zeros(0, device=call.device) for _ in range(count)]
    return [_stack(call, list(column), 0) for column in zip(*scanned, strict=True)]


def _stack(call: Call, values: Sequence[Value], axis: int) -> Value:
    if all(isinstance(v, Known) for v in values):
        return known(np.stack([v.read() for v in values if isinstance(v, Known)], axis))
    parts = [call.materialise(v) if isinstance(v, Known) else v for v in values]
    return torch.stack([p for p in parts if isinstance(p, Tensor)], axis)


def _scan(call: Call) -> Result:
    """Unrolled over the steps of its scanned inputs."""
    body, num_scanned = call.body("body"), call.integer("num_scan_inputs")
    given = call.inputs
    state, inputs = list(given[: len(given) - num_scanned]), given[len(given) - num_scanned :]
    axes = call.integers("scan_input_axes", (0,) * num_scanned)
    backwards = call.integers("scan_input_directions", (0,) * num_scanned)
    sources = [
        _steps(call, v, axis, is_backward=bool(b))
        for v, axis, b in zip(inputs, axes, backwards, strict=True)
    ]
    scanned: list[list[Value]] = []
    for parts in zip(*sources, strict=True):
        results = call.run(body, (*state, *parts))
        state = list(results[: len(state)])
        scanned.append(results[len(state) :])
    num_outputs = len(body.outputs) - len(state)
    out_axes = call.integers("scan_output_axes", (0,) * num_outputs)
    reversed_ = call.integers("scan_output_directions", (0,) * num_outputs)
    columns = zip(*scanned, strict=True)
    return [
        *state,
        *(
            _stack(call, list(reversed(c)) if b else list(c), axis)
            for c, axis, b in zip(columns, out_axes, reversed_, strict=True)
        ),
    ]


def _steps(call: Call, value: Value, axis: int, *, is_backward: bool) -> list[Value]:
    tensor = call.materialise(value) if isinstance(value, Known) else value
    assert isinstance(tensor, Tensor)
    if tensor.shape[axis] > MAX_ITERATIONS:
        raise call.error(f"it scans {tensor.shape[axis]} steps; {MAX_ITERATIONS} are unrolled")
    parts: list[Value] = list(tensor.unbind(axis))
    return parts[::-1] if is_backward else parts


def _old_scan(call: Call) -> Result:
    """Version 8: each sample of a batch is scanned on its own, forwards along dimension 1."""
    body, num_scanned = call.body("body"), call.integer("num_scan_inputs")
    given = [call.tensor(i) for i in range(1, len(call.inputs))]
    num_state = len(given) - num_scanned
    backwards = call.integers("directions", (0,) * num_scanned)
    samples = []
    for n in range(given[0].shape[0]):
        state: list[Value] = [t[n] for t in given[:num_state]]
        sources = [
            _steps(call, t[n], 0, is_backward=bool(b))
            for t, b in zip(given[num_state:], backwards, strict=True)
        ]
        scanned: list[list[Value]] = []
        for parts in zip(*sources, strict=True):
            results = call.run(body, (*state, *parts))
            state = list(results[:num_state])
            scanned.append(results[num_state:])
        samples.append([*state, *(_stack(call, list(c), 0) for c in zip(*scanned, strict=True))])
    return [_stack(call, list(c), 0) for c in zip(*samples, strict=True)]


ROWS: tuple[Row, ...] = (
    *rows({"If": _if, "Loop": _loop}, is_pure=False),
    Row(op="Scan", run=_old_scan, since=8, is_pure=False),
    Row(op="Scan", run=_scan, since=9, is_pure=False),
)
