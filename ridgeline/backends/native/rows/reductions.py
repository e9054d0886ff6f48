"""Sums, means and extremes over dimensions that lie together."""

from collections.abc import Callable, Sequence
from math import prod

import torch

from ridgeline.backends.native.call import Call, Result, floating
from ridgeline.backends.native.value import Value, memory_order
from ridgeline.errors import UnsupportedOp

Row = Callable[[Call], Result]
_KINDS = {"sum": 0, "mean": 1, "amax": 2, "amin": 3}


def reduced(call: Call, x: Value, dims: Sequence[int], kind: str) -> Value:
    """x reduced over dimensions; the others stay in the order in which they lie."""
    floating(x.spec, call.out)
    rank = x.spec.dim()
    dims = sorted({d % rank for d in dims}) if dims else list(range(rank))
    order = memory_order(x.spec)
    wide = [d for d in order if x.shape[d] != 1]
    places = [i for i, d in enumerate(wide) if d in dims]
    are_together = not places or places == list(range(places[0], places[-1] + 1))
    if not are_together or not _is_dense(x):
        order = [*(d for d in range(rank) if d not in dims), *dims]
        x = call.ordered(x, order)
        wide = [d for d in order if x.shape[d] != 1]
        places = [i for i, d in enumerate(wide) if d in dims]
    start, stop = (places[0], places[-1] + 1) if places else (len(wide), len(wide))
    sizes = [x.shape[d] for d in wide]
    kept = [d for d in order if d not in dims]
    shape = [x.shape[d] for d in kept]
    target = call.builder.blank(torch.empty(shape, dtype=call.out.dtype, device="meta"))
    call.builder.emit(
        "reduce",
        {
            "x_ref": x.place,
            "y_ref": target.place,
            "x_type": x.type,
            "y_type": target.type,
            "kind": _KINDS[kind],
            "outer": prod(sizes[:start]),
            "length": prod(sizes[start:stop]),
            "inner": prod(sizes[stop:]),
        },
    )
    spec = target.spec.permute([kept.index(d) for d in sorted(kept)])
    if spec.dim() != call.out.dim():
        for dim in dims:
            spec = spec.unsqueeze(dim)
    return target.like(spec)


def _is_dense(x: Value) -> bool:
    size = 1
    for dim in reversed(memory_order(x.spec)):
        if x.shape[dim] != 1 and x.spec.stride(dim) != size:
            return False
        size *= x.shape[dim]
    return True


def _row(kind: str) -> Row:
    def row(call: Call) -> Result:
        x = call.value("self")
        given = call.arguments.get("dim")
        dims = [given] if isinstance(given, int) else list(call.ints("dim"))
        if x.spec.numel() == 0:
            raise UnsupportedOp("it reduces nothing")
        return reduced(call, x, dims, kind)

    return row


ROWS: dict[str, Row] = {f"aten.{kind}": _row(kind) for kind in _KINDS}
