"""lstm against torch's. T: steps, B: batch, H: hidden, G: the four gates of each."""

from collections.abc import Sequence
from dataclasses import dataclass

import pytest
import torch
from programs import LIBRARIES, Field, packed, run_one
from torch import Tensor, nn

from ridgeline.native.library import Library

pytestmark = pytest.mark.skipif(not LIBRARIES, reason="the native kernels were not built")
over_libraries = pytest.mark.parametrize("library", LIBRARIES, ids=lambda library: library.isa)
over_threads = pytest.mark.parametrize("threads", [1, 2])


@dataclass(frozen=True)
class Direction:
    """What one direction of a layer reads and writes. w: packed."""

    gates_TBG: Tensor
    w: Tensor
    h_BH: Tensor
    c_BH: Tensor
    y_BTH: Tensor


def direction_of(
    library: Library, layer: nn.LSTM, x_TBI: Tensor, h_BH: Tensor, c_BH: Tensor, y_BTH: Tensor,
    suffix: str = "",
) -> Direction:  # fmt: skip
    """One direction of a layer: the one whose parameters end in `suffix`."""
    w_ih, w_hh, b_ih, b_hh = (
        getattr(layer, f"{name}_l0{suffix}").detach()
        for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    )
    gates_TBG = nn.functional.linear(x_TBI, w_ih, b_ih + b_hh)
    return Direction(gates_TBG, packed(library, w_hh), h_BH, c_BH, y_BTH)


def fields_of(directions: Sequence[Direction], *, is_reverse: bool = False) -> dict[str, Field]:
    """The fields of the instruction."""
    gates, y = directions[0].gates_TBG, directions[0].y_BTH
    steps, batch, width = gates.shape
    fields: dict[str, Field] = {
        "steps": steps, "batch": batch, "hidden": width // 4, "is_reverse": is_reverse,
        "y_step": y.stride(1), "y_batch": y.stride(0), "gates_step": gates.stride(0),
        "gates_batch": gates.stride(1),
    }  # fmt: skip
    for prefix, d in zip(("", "second_"), (*directions, None), strict=False):
        names = ("gates_ref", "w_ref", "h_ref", "c_ref", "y_ref")
        tensors = (None,) * 5 if d is None else (d.gates_TBG, d.w, d.h_BH, d.c_BH, d.y_BTH)
        fields |= {prefix + name: t for name, t in zip(names, tensors, strict=True)}
    return fields


@over_libraries
@over_threads
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("is_reverse", [False, True])
@pytest.mark.parametrize(
    ("steps", "batch", "hidden"),
    [(1, 1, 1), (5, 2, 7), (3, 1, 64), (4, 8, 20), (2, 9, 33), (2, 3, 256), (1, 700, 160)],
)
def test_lstm(
    library: Library,
    threads: int,
    dtype: torch.dtype,
    is_reverse: bool,
    steps: int,
    batch: int,
    hidden: int,
) -> None:
    layer = nn.LSTM(3, hidden)
    x = torch.randn(steps, batch, 3)
    h, c = torch.randn(batch, hidden), torch.randn(batch, hidden)
    with torch.no_grad():
        expected, (last_h, last_c) = layer(x.flip(0) if is_reverse else x, (h[None], c[None]))
    y = torch.full((batch, steps, hidden + 3), 7.0, dtype=dtype)
    fields = fields_of([direction_of(library, layer, x, h, c, y)], is_reverse=is_reverse)
    run_one(library, "lstm", fields, threads=threads)
    tolerance = 2e-6 if dtype == torch.float32 else 2**-8
    found = y[..., :hidden].transpose(0, 1).float()
    found = found.flip(0) if is_reverse else found
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(h, last_h[0], rtol=2e-6, atol=2e-6)
    torch.testing.assert_close(c, last_c[0], rtol=2e-6, atol=2e-6)
    assert y[..., hidden:].eq(7).all()


@over_libraries
@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize(("steps", "batch", "hidden"), [(4, 1, 32), (3, 2, 21), (2, 5, 96)])
def test_both_directions(
    library: Library, threads: int, steps: int, batch: int, hidden: int
) -> None:
    layer = nn.LSTM(3, hidden, bidirectional=True)
    x = torch.randn(steps, batch, 3)
    h, c = torch.randn(2, batch, hidden), torch.randn(2, batch, hidden)
    with torch.no_grad():
        expected, (last_h, last_c) = layer(x, (h, c))
    y = torch.zeros(batch, steps, 2 * hidden)
    directions = [
        direction_of(library, layer, x, h[i], c[i], y[..., i * hidden :], suffix)
        for i, suffix in enumerate(("", "_reverse"))
    ]
    run_one(library, "lstm", fields_of(directions), threads=threads)
    torch.testing.assert_close(y.transpose(0, 1), expected, rtol=2e-6, atol=2e-6)
    torch.testing.assert_close(h, last_h, rtol=2e-6, atol=2e-6)
    torch.testing.assert_close(c, last_c, rtol=2e-6, atol=2e-6)
