"""GPTQ against a plain one in fp64, and on hostile layers."""

import math

import pytest
import torch
from torch import Tensor

from ridgeline.compress.gptq import GptqOptions, RoundedWeight, ScalesFrom, gptq, rtn
from ridgeline.compress.gptq_factor import lower_factor
from ridgeline.compress.gptq_grid import ClipSearch, IntegerGrid, Range, group_of_columns
from ridgeline.errors import FormatError
from ridgeline.native import gptq as native

LAYER = "model.layers.3.mlp"


def layer(outputs: int, inputs: int, samples: int = 400) -> tuple[Tensor, Tensor]:
    """A weight and the Hessian of correlated inputs."""
    x = torch.randn(samples, inputs) @ torch.randn(inputs, inputs) / inputs**0.5
    return torch.randn(outputs, inputs) * 0.02, 2 * x.T @ x / samples


def plain(
    weight: Tensor, hessian: Tensor, found: RoundedWeight, grid: IntegerGrid, order: Tensor
) -> tuple[Tensor, float]:
    """Codes and loss by algorithm 1 of arXiv 2210.17323, one column at a time, with an inverse."""
    group = group_of_columns(weight.shape[1], grid.group_size)
    w = weight.double()[:, order]
    h = hessian.double()[order][:, order]
    h += found.damping * h.diagonal().mean() * torch.eye(len(h))
    u = torch.linalg.cholesky(torch.linalg.inv(h), upper=True)
    codes, loss = torch.empty_like(w), 0.0
    for k, column in enumerate(order.tolist()):
        scale = found.scales_OG[:, group[column]].double()
        zero = found.zeros_OG[:, group[column]].double()
        code = (w[:, k] / scale + zero).round().clamp(grid.low, grid.high)
        error = (w[:, k] - (code - zero) * scale) / u[k, k]
        w[:, k:] -= error[:, None] * u[k, k:]
        codes[:, column] = code
        loss += float(error.square().sum()) / 2
    return codes, loss


def trace_loss(weight: Tensor, hessian: Tensor, found: RoundedWeight) -> float:
    """Half the trace of E H E^T, H damped, in fp64."""
    error = (weight.float() - found.dequantized()).double()
    h = hessian.double()
    h += found.damping * h.diagonal().mean() * torch.eye(len(h))
    return float(((error @ h) * error).sum()) / 2


GRIDS = [
    IntegerGrid(bits=4, group_size=128),
    IntegerGrid(bits=4, group_size=32, range=Range.SYMMETRIC_FULL),
    IntegerGrid(bits=3, group_size=50),
    IntegerGrid(bits=8, range=Range.SYMMETRIC_RESTRICTED),
    IntegerGrid(bits=2, group_size=1000),
]


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("act_order", [False, True])
def test_codes_and_loss_are_those_of_the_plain_one(grid: IntegerGrid, act_order: bool) -> None:
    weight, hessian = layer(70, 300)
    found = gptq(weight, hessian, grid, layer=LAYER, options=GptqOptions(act_order=act_order))
    diagonal = hessian.diagonal()
    order = diagonal.argsort(descending=True, stable=True) if act_order else torch.arange(300)
    codes, loss = plain(weight, hessian, found, grid, order)
    # A tie that fp32 decides otherwise changes a code, and what follows it in its row; over the
    # full symmetric range the largest weight of a group is one, 7.5 scales.
    tolerance = 5e-3 if grid.range is Range.SYMMETRIC_FULL else 1e-3
    assert (codes != found.codes_OI).float().mean() < 0.02
    assert found.loss == pytest.approx(loss, rel=tolerance)
    assert found.loss == pytest.approx(trace_loss(weight, hessian, found), rel=1e-4)
    nearest = rtn(weight, hessian, grid, layer=LAYER)
    assert nearest.loss == pytest.approx(trace_loss(weight, hessian, nearest), rel=1e-4)
    assert found.loss < nearest.loss
    assert not found.notes


@pytest.mark.skipif(not native.has_gptq(), reason="the kernel was not built")
@pytest.mark.parametrize(("outputs", "inputs"), [(70, 300), (1, 17), (64, 128), (130, 129)])
@pytest.mark.parametrize("act_order", [False, True])
def test_the_kernel_does_as_torch_does(
    outputs: int, inputs: int, act_order: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    weight, hessian = layer(outputs, inputs)
    grid, options = IntegerGrid(bits=4, group_size=32), GptqOptions(act_order=act_order)
    fast = gptq(weight, hessian, grid, layer=LAYER, options=options)
    monkeypatch.setattr(native, "_library", lambda: None)
    slow = gptq(weight, hessian, grid, layer=LAYER, options=options)
    assert (fast.codes_OI != slow.codes_OI).float().mean() < 0.02
    assert fast.loss == pytest.approx(slow.loss, rel=1e-3)


@pytest.mark.parametrize("block_columns", [1, 7, 128])
def test_blocks_do_not_matter(block_columns: int) -> None:
    weight, hessian = layer(40, 200)
    grid = IntegerGrid(bits=4, group_size=64)
    whole = gptq(weight, hessian, grid, layer=LAYER)
    options = GptqOptions(block_columns=block_columns)
    found = gptq(weight, hessian, grid, layer=LAYER, options=options)
    assert (found.codes_OI != whole.codes_OI).float().mean() < 0.02


def test_updated_scales_are_of_what_earlier_columns_left() -> None:
    """The second group's scales against the best weights given the first group's, by a solve."""
    weight, hessian = layer(20, 64)
    grid = IntegerGrid(bits=3, group_size=32)
    options = GptqOptions(scales_from=ScalesFrom.UPDATED)
    found = gptq(weight, hessian, grid, layer=LAYER, options=options)
    h = hessian.double() + 0.01 * hessian.double().diagonal().mean() * torch.eye(64)
    error = (weight - found.dequantized()).double()[:, :32]
    rest = weight.double()[:, 32:] + error @ torch.linalg.solve(h[32:, 32:], h[32:, :32]).T
    scales, _ = grid.scales_and_zeros(rest.float())
    torch.testing.assert_close(found.scales_OG[:, 1:], scales, rtol=1e-3, atol=0)
    assert found.loss == pytest.approx(trace_loss(weight, hessian, found), rel=1e-4)


def test_dead_columns_are_rounded_to_nearest_and_told() -> None:
    weight, hessian = layer(30, 100)
    hessian[[3, 40]], hessian[:, [3, 40]] = 0, 0
    grid = IntegerGrid(bits=4, group_size=25)
    found, nearest = (f(weight, hessian, grid, layer=LAYER) for f in (gptq, rtn))
    assert found.dead_columns == nearest.dead_columns == (3, 40)
    torch.testing.assert_close(found.codes_OI[:, [3, 40]], nearest.codes_OI[:, [3, 40]])
    live = torch.tensor([i for i in range(100) if i not in (3, 40)])
    error = (weight - found.dequantized()).double()[:, live]
    h = hessian.double()[live][:, live]
    h += 0.01 * h.diagonal().mean() * torch.eye(98)
    assert found.loss == pytest.approx(float(((error @ h) * error).sum()) / 2, rel=1e-4)
    assert found.notes == (f"{LAYER}: 2 inputs never seen, rounded to nearest.",)


def test_one_sample_and_no_damping_raises_the_damping() -> None:
    weight, hessian = layer(30, 100, samples=1)
    options = GptqOptions(damping=0.0)
    found = gptq(weight, hessian, IntegerGrid(bits=4), layer=LAYER, options=options)
    assert found.damping > 0
    assert "damping raised from 0 to" in found.notes[0]
    assert math.isfinite(found.loss)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_types_are_as_their_fp32(dtype: torch.dtype) -> None:
    weight, hessian = layer(30, 100)
    grid = IntegerGrid(bits=4, group_size=25)
    found = gptq(weight.to(dtype), hessian, grid, layer=LAYER)
    expected = gptq(weight.to(dtype).float(), hessian, grid, layer=LAYER)
    assert torch.equal(found.codes_OI, expected.codes_OI)


def test_nothing_given_is_changed_and_rows_of_zeros_stay() -> None:
    weight, hessian = layer(30, 100)
    weight[4] = 0
    before = weight.clone(), hessian.clone()
    found = gptq(weight, hessian, IntegerGrid(bits=4, group_size=25), layer=LAYER)
    assert torch.equal(weight, before[0])
    assert torch.equal(hessian, before[1])
    assert found.zero_rows == (4,)
    assert not found.dequantized()[4].any()


def test_an_outlier_stays_finite() -> None:
    weight, hessian = layer(30, 100)
    weight[2, 5], hessian[7, 7] = 1e6, 1e8
    found = gptq(weight, hessian, IntegerGrid(bits=4, group_size=25), layer=LAYER)
    assert math.isfinite(found.loss)
    assert found.dequantized()[2, 5] == pytest.approx(1e6, rel=0.1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w, h: (w.index_fill(0, torch.tensor([1]), math.nan), h), "weight has 100 values"),
        (lambda w, h: (w, h * math.inf), "the Hessian has"),
        (lambda w, h: (w, -h), "diagonal is negative"),
        (lambda w, h: (w, h * 0), "every calibration input was zero"),
        (lambda w, h: (w, h[:50, :50]), "for 100 columns"),
        (lambda w, h: (w.int(), h), "not floating point"),
        (lambda w, h: (w[0], h), "a weight is"),
        (lambda w, h: (w, 9 * h.diagonal().max() - h.diag().diag() * 8), "no Cholesky factor"),
    ],
)
def test_bad_layers_are_refused_by_name(change, message: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(FormatError, match=message) as raised:
        gptq(*change(*layer(30, 100)), IntegerGrid(bits=4), layer=LAYER)
    assert str(raised.value).startswith(LAYER)


def test_contradicting_options_are_refused() -> None:
    for options in ({"damping": -1}, {"block_columns": 129}, {"block_columns": 0}):
        with pytest.raises(FormatError):
            GptqOptions(**options)
    with pytest.raises(FormatError, match="act-order"):
        GptqOptions(act_order=True, scales_from=ScalesFrom.UPDATED)
    for bad in ({"bits": 1}, {"bits": 9}, {"bits": 4, "group_size": 0}):
        with pytest.raises(FormatError):
            IntegerGrid(**bad)
    with pytest.raises(FormatError):
        ClipSearch(least=1.5)


def test_a_clip_search_never_rounds_worse() -> None:
    weight = torch.randn(20, 100) ** 3
    plain_grid = IntegerGrid(bits=3, group_size=30)
    searched = IntegerGrid(bits=3, group_size=30, clip=ClipSearch())
    squares = [
        (rtn(weight, torch.eye(100), g, layer=LAYER).dequantized() - weight).square().sum()
        for g in (searched, plain_grid)
    ]
    assert squares[0] < 0.95 * squares[1]


@pytest.mark.parametrize("size", [1, 128, 300])
def test_the_factor_is_that_of_lapack(size: int) -> None:
    _, hessian = layer(1, size, samples=2 * size)
    hessian += 0.1 * torch.eye(size)
    found, expected = lower_factor(hessian), torch.linalg.cholesky(hessian.double())
    assert found is not None
    torch.testing.assert_close(found.tril().double(), expected, rtol=1e-3, atol=1e-4)
    hessian[-1, -1] = -1
    assert lower_factor(hessian) is None
