"""Norms and softmax: a row at a time."""

from collections.abc import Callable, Sequence
from math import prod

import torch

from ridgeline.backends.native.call import Call, Result, floating
from ridgeline.backends.native.rows.pixels import into_pixels, pixel_axes
from ridgeline.backends.native.tree import Host
from ridgeline.backends.native.value import Place, Value, as_matrix
from ridgeline.errors import UnsupportedOp

Row = Callable[[Call], Result]
# What 4 MiB of scratch memory per thread have room for, with a margin.
_MOST_WIDTH, _MOST_GROUPS = 2**19, 2**15
_LAYER, _RMS, _SOFTMAX, _LOG_SOFTMAX = range(4)


def _norm(
    call: Call,
    kind: int,
    x: Value,
    target: Value,
    width: int,
    *,
    scale: Place | None = None,
    shift: Place | None = None,
    epsilon: float = 0.0,
) -> None:
    ldx, ldy = as_matrix(x.spec), as_matrix(target.spec)
    assert ldx is not None
    assert ldy is not None
    rows = prod(x.shape) // width if width else 0
    if width != x.shape[-1]:  # dense, several dimensions to a row
        ldx = ldy = width
    call.builder.emit(
        "norm",
        {
            "x_ref": x.place,
            "scale_ref": scale,
            "shift_ref": shift,
            "y_ref": target.place,
            "x_type": x.type,
            "y_type": target.type,
            "kind": kind,
            "rows": rows,
            "width": width,
            "ldx": ldx,
            "ldy": ldy,
            "epsilon_bits": epsilon,
        },
    )


def _affine_norm(kind: int) -> Row:
    def row(call: Call) -> Result:
        floating(call.out)
        shape = call.ints("normalized_shape")
        width = prod(shape)
        x = call.value("input")
        if as_matrix(x.spec) is None or len(shape) > 1:
            x = call.dense(x)
        target = _target(call, is_dense=len(shape) > 1)
        epsilon = call.arguments.get("eps")
        if epsilon is None:
            epsilon = torch.finfo(x.dtype).eps
        scale = call.vector("weight")
        shift = call.vector("bias") if "bias" in call.arguments else None
        _norm(call, kind, x, target, width, scale=scale, shift=shift, epsilon=float(epsilon))  # type: ignore[arg-type]
        return target

    return row


def _target(call: Call, *, is_dense: bool = False) -> Value:
    home = call.home
    if home is not None and as_matrix(home.spec) is not None:
        if home.spec.is_contiguous() or not is_dense:
            return home
    return call.builder.blank(torch.empty(call.out.shape, dtype=call.out.dtype, device="meta"))


def _softmax(kind: int) -> Row:
    def row(call: Call) -> Result:
        floating(call.out)
        call.within("elements", call.out.shape[int(call.number("dim"))], _MOST_WIDTH)
        x, dim = call.value("self"), int(call.number("dim")) % max(call.out.dim(), 1)
        floating(x.spec)
        order = [*(d for d in range(call.out.dim()) if d != dim), dim]
        moved = x.like(x.spec.permute(order))
        if as_matrix(moved.spec) is None:
            moved = call.dense(moved)
        if dim == call.out.dim() - 1:
            target = _target(call)
            _norm(call, kind, moved, target, x.shape[dim])
            return target
        shape = [call.out.shape[d] for d in order]
        target = call.builder.blank(torch.empty(shape, dtype=call.out.dtype, device="meta"))
        _norm(call, kind, moved, target, x.shape[dim])
        return target.like(target.spec.permute(_inverse(order)))

    return row


def _inverse(order: Sequence[int]) -> list[int]:
    return [list(order).index(d) for d in range(len(order))]


def _group_norm(call: Call) -> Result:
    floating(call.out)
    if call.out.dim() < 3:
        raise UnsupportedOp("it has no positions")
    groups = int(call.number("num_groups"))
    call.within("groups in all", call.out.shape[0] * groups, _MOST_GROUPS)
    call.within("channels", call.out.shape[1], _MOST_GROUPS)
    x, ldx = call.pixels("input")
    host = Host(
        name="group_norm",
        fields={
            "x_ref": x.place,
            "scale_ref": call.vector("weight"),
            "shift_ref": call.vector("bias"),
            "x_type": x.type,
            "batch": x.shape[0],
            "positions": prod(x.shape[2:]),
            "channels": x.shape[1],
            "groups": groups,
            "ldx": ldx,
            "epsilon_bits": call.number("eps"),
        },
        spec=call.out,
        axes=pixel_axes(call.out.dim()),
        flops=call.out.numel(),
        finish=into_pixels,
    )
    return call.hosted(host)


ROWS = {
    "aten.layer_norm": _affine_norm(_LAYER),
    "aten.rms_norm": _affine_norm(_RMS),
    "aten.softmax": _softmax(_SOFTMAX),
    "aten._softmax": _softmax(_SOFTMAX),
    "aten.log_softmax": _softmax(_LOG_SOFTMAX),
    "aten._log_softmax": _softmax(_LOG_SOFTMAX),
    "aten.group_norm": _group_norm,
}
