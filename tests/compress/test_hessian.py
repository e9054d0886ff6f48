"""Hessians of calibration inputs against fp64, and what they refuse."""

import math

import pytest
import torch

from ridgeline.compress.hessian import Hessian, no_samples, with_batch
from ridgeline.errors import FormatError


def gathered(*batches: torch.Tensor) -> Hessian:
    hessian = no_samples(batches[0].shape[-1])
    for batch in batches:
        hessian = with_batch(hessian, batch, layer="fc1")
    return hessian


def test_batches_add_up_to_all_samples() -> None:
    x = torch.randn(3, 1700, 24)
    x[..., 5] = 0
    found, flat = gathered(*x), x.reshape(-1, 24).double()
    expected = 2 * flat.T @ flat
    torch.testing.assert_close(found.total().double(), expected, rtol=1e-5, atol=1e-2)
    torch.testing.assert_close(found.mean().double(), expected / 5100, rtol=1e-5, atol=1e-5)
    assert found.samples == 5100
    assert found.dead.nonzero().flatten().tolist() == [5]
    parts = gathered(x[0]) + gathered(x[1:])
    torch.testing.assert_close(parts.sums_II, found.sums_II, rtol=1e-5, atol=1e-2)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_types(dtype: torch.dtype) -> None:
    x = torch.randn(100, 8).to(dtype)
    expected = x.double().T @ x.double()
    torch.testing.assert_close(gathered(x).sums_II, expected, rtol=1e-5, atol=1e-3)


@pytest.mark.parametrize("size", [1e25, 1e-25])
def test_squares_that_fp32_cannot_hold_are_kept(size: float) -> None:
    x = torch.full((4, 2), size)
    found = gathered(x)
    expected = torch.full((2, 2), 4 * float(x[0, 0]) ** 2, dtype=torch.float64)
    torch.testing.assert_close(found.sums_II, expected, rtol=1e-9, atol=0.0)
    assert not found.dead.any()


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_inputs_that_are_not_finite_are_refused_by_layer(bad: float) -> None:
    x = torch.randn(4, 3)
    x[1, 2] = bad
    with pytest.raises(FormatError, match="fc1: 1 of 12 calibration inputs"):
        gathered(x)


def test_nothing_ill_shaped_is_taken() -> None:
    with pytest.raises(FormatError, match="fc1: inputs"):
        with_batch(no_samples(3), torch.ones(2, 4), layer="fc1")
    with pytest.raises(FormatError, match="not floating point"):
        with_batch(no_samples(3), torch.ones(2, 3, dtype=torch.int64), layer="fc1")
    with pytest.raises(FormatError, match="do not add"):
        no_samples(3) + no_samples(4)
    with pytest.raises(FormatError, match="no calibration samples"):
        no_samples(3).mean()
    with pytest.raises(FormatError, match="square"):
        Hessian(sums_II=torch.ones(2, 3), samples=1)
    with pytest.raises(FormatError, match="negative or not finite"):
        Hessian(sums_II=-torch.eye(2), samples=1)
