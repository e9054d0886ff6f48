"""quantize and gemm_int8 beside torch, for every instruction set of this machine."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ridgeline.native.library import Library
from ridgeline.native.program import Step
from tests.native.programs import LIBRARIES, packed, run_one

pytestmark = pytest.mark.skipif(not LIBRARIES, reason="the native kernels were not built")
each_library = pytest.mark.parametrize("library", LIBRARIES, ids=lambda library: library.isa)
MOST_DEPTH = 2**16  # beyond that sums might not fit into 32 bits
TYPES = st.sampled_from([torch.float32, torch.bfloat16])


def _rounded_up(size: int) -> int:
    return -(-size // 64) * 64


def quantized(library: Library, x_MK: Tensor, threads: int = 1) -> tuple[Tensor, Tensor, Tensor]:
    """Rows of x in eight bits, with room up to a multiple of 64, their scales and lowest values."""
    (m, k), room = x_MK.shape, _rounded_up(x_MK.shape[1])
    y, scales, lows = torch.full((m, room), 77, dtype=torch.uint8), torch.empty(m), torch.empty(m)
    fields = {"x_ref": x_MK, "y_ref": y, "scale_ref": scales, "low_ref": lows, "rows": m}
    fields |= {"width": k, "ldx": x_MK.stride(0), "ldy": room}
    run_one(library, "quantize", fields, threads=threads)
    return y, scales, lows


@each_library
@given(m=st.integers(1, 40), k=st.integers(1, 200), dtype=TYPES, gap=st.integers(0, 3),
       shift=st.sampled_from([-5, 0, 5]), threads=st.integers(1, 3))  # fmt: skip
@settings(max_examples=40, deadline=None)
def test_rows_are_rounded_to_their_own_scale(
    library: Library, m: int, k: int, dtype: torch.dtype, gap: int, shift: int, threads: int
) -> None:
    x = ((torch.randn(m, k + gap) + shift) * torch.logspace(-3, 3, m)[:, None]).to(dtype)[:, :k]
    y, scales, lows = quantized(library, x, threads)
    span = x.float().amax(1) - x.float().amin(1)
    torch.testing.assert_close(scales, span / 255)
    assert torch.equal(lows, x.float().amin(1))
    assert not y[:, k:].any()
    error = (y[:, :k] * scales[:, None] + lows[:, None] - x.float()).abs().amax(1)
    assert (error <= 0.502 * scales + 1e-6 * x.float().abs().amax(1)).all()


@each_library
@pytest.mark.parametrize("value", [0.0, -3.5])
def test_a_row_of_one_value_stays_that(library: Library, value: float) -> None:
    y, scales, lows = quantized(library, torch.full((2, 70), value))
    assert not y.any()
    assert not scales.any()
    assert (lows == value).all()


@each_library
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("at", [0, 1, 17, 65, 112, 127, 129])
def test_what_is_not_finite_makes_its_row_nan(library: Library, at: int, value: float) -> None:
    x = torch.randn(3, 130)
    x[1, at] = value
    _, scales, lows = quantized(library, x)
    assert scales.isnan().tolist() == [False, True, False]
    assert torch.equal(lows[::2], x.amin(1)[::2])


@each_library
def test_the_widest_row_has_a_finite_scale(library: Library) -> None:
    x = torch.tensor([[-3e38, 3e38, 0.0, 1e38]])
    y, scales, lows = quantized(library, x)
    assert torch.isfinite(scales).all()
    assert y[0, :4].tolist()[:2] == [0, 255]
    assert (y[0, :4].double() * scales.double() + lows.double() - x).abs().max() < 2e36


def _check(
    library: Library, m: int, n: int, k: int, *, y: torch.dtype = torch.float32,
    has_bias: bool = True, threads: int = 1, with_expression: bool = False,
) -> None:  # fmt: skip
    room = _rounded_up(k)
    x = torch.zeros(m, room, dtype=torch.uint8)
    x[:, :k] = torch.randint(0, 256, (m, k))
    w = torch.randint(-127, 128, (n, k)).to(torch.int8)
    if n % 2:  # k by k
        w = w.t().contiguous().t()
    if k == MOST_DEPTH:
        x[:, :k], w[:] = 255, 127
    rows, columns = torch.rand(m) + 0.1, torch.rand(n) + 0.1
    row_lows, column_lows = torch.randn(m) * 100, torch.randn(n)
    bias = torch.randn(n) * 100 if has_bias else None
    found = torch.empty(m, n, dtype=y)
    fields = {"x_ref": x, "w_ref": packed(library, w), "row_scale_ref": rows, "y_ref": found}
    fields |= {"row_low_ref": row_lows, "column_low_ref": column_lows}
    fields |= {"column_scale_ref": columns, "bias_ref": bias, "m": m, "n": n, "k": k}
    fields |= {"ldx": room, "ldy": n}
    sums = x[:, :k].double() @ w.double().T
    expected = sums * rows[:, None] * columns + row_lows[:, None] * column_lows
    if bias is not None:
        expected = expected + bias
    operands, steps = [], []
    if with_expression:
        z = torch.randn(m, n) * 1000
        operands = [z]
        steps = [Step("LOAD", to=1, a=0), Step("ADD", to=0, a=0, b=1), Step("RELU", to=0, a=0)]
        expected = (expected + z).relu()
    run_one(library, "gemm_int8", fields, operands, steps, threads=threads)
    tolerance = 1e-5 if y == torch.float32 else 1e-2
    scale = float(expected.abs().max())
    torch.testing.assert_close(
        found.double(), expected, rtol=tolerance, atol=tolerance * max(scale, 1)
    )


@each_library
@given(
    m=st.integers(1, 70), n=st.integers(1, 70), k=st.integers(1, 200), y=TYPES,
    has_bias=st.booleans(), threads=st.integers(1, 3), with_expression=st.booleans(),
)  # fmt: skip
@settings(max_examples=60, deadline=None)
def test_products_of_any_shape(
    library: Library, m: int, n: int, k: int, y: torch.dtype, has_bias: bool, threads: int,
    with_expression: bool,
) -> None:  # fmt: skip
    _check(
        library, m, n, k, y=y, has_bias=has_bias, threads=threads, with_expression=with_expression
    )


@each_library
@pytest.mark.parametrize(
    ("m", "n", "k"),
    [(1, 768, 3072), (128, 768, 768), (197, 300, 100), (33, 17, 4000), (2, 17, MOST_DEPTH)],
)
def test_products_of_networks(library: Library, m: int, n: int, k: int) -> None:
    _check(library, m, n, k, threads=2, with_expression=True)
