"""Observers against the exact answer over all data, in any order and any split."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from ridgeline.compress.granularity import PER_TENSOR, PER_TOKEN, per_channel
from ridgeline.compress.histogram import NUM_BINS, Histogram
from ridgeline.compress.observers import MinMax, MovingAverage
from ridgeline.compress.presets import SCHEMES
from ridgeline.compress.quantized import dequantize, extent_of, quantize
from ridgeline.errors import FormatError

SEEDS = st.integers(0, 2**31)


def batches(seed: int, count: int = 5) -> list[Tensor]:
    """Normals whose scales lie far apart, a batch of zeros among them."""
    generator = torch.Generator().manual_seed(seed)
    scales = 10 ** torch.empty(count).uniform_(-6, 4, generator=generator)
    scales[count // 2] = 0
    return [torch.randn(8, 33, generator=generator) * scale for scale in scales]


@given(seed=SEEDS)
def test_min_max_is_that_of_all_batches(seed: int) -> None:
    data = batches(seed)
    granularity = per_channel(1)
    first, second = MinMax(granularity=granularity), MinMax(granularity=granularity)
    for batch in data[:2]:
        first = first.observed(batch)
    for batch in data[2:]:
        second = second.observed(batch)
    exact = extent_of(torch.cat(data), granularity)
    for merged in (first.merged(second), second.merged(first)):
        assert torch.equal(merged.extent.low, exact.low)
        assert torch.equal(merged.extent.high, exact.high)


def test_a_moving_average_is_its_recurrence() -> None:
    data = batches(1)
    observer = MovingAverage(granularity=PER_TENSOR, rate=0.25)
    for batch in data:
        observer = observer.observed(batch)
    high = float(data[0].max())
    for batch in data[1:]:
        high += 0.25 * (float(batch.max()) - high)
    assert float(observer.extent.high) == pytest.approx(high, rel=1e-5)


def counted(data: list[Tensor]) -> Histogram:
    histogram = Histogram.empty()
    for batch in data:
        histogram = histogram.observed(batch)
    return histogram


@given(seed=SEEDS, cut=st.integers(0, 5))
def test_counts_do_not_depend_on_order_or_split(seed: int, cut: int) -> None:
    data = batches(seed)
    whole = counted([torch.cat(data)])
    others = [
        counted(data),
        counted(data[::-1]),
        counted(data[:cut]).merged(counted(data[cut:])),
        counted(data[cut:]).merged(counted(data[:cut])),
    ]
    for other in others:
        assert (other.exponent, other.amax) == (whole.exponent, whole.amax)
        assert torch.equal(other.counts, whole.counts)
    assert whole.total == torch.cat(data).numel()
    assert NUM_BINS / 2 <= whole.amax / whole.bin_width < NUM_BINS


@given(seed=SEEDS, percent=st.floats(1, 100))
def test_a_percentile_is_exact_to_one_bin(seed: int, percent: float) -> None:
    data = batches(seed)
    histogram = counted(data)
    sizes = torch.cat(data).reshape(-1).abs().double().sort().values
    rank = max(1, -int(-percent / 100 * len(sizes) // 1))
    exact = float(sizes[rank - 1])
    assert exact <= histogram.percentile(percent) + 1e-12
    assert histogram.percentile(percent) <= exact + histogram.bin_width
    assert histogram.percentile(100) == histogram.amax


@pytest.mark.parametrize("name", ["int8_tensor", "fp8_tensor"])
def test_the_least_error_is_that_over_all_data(name: str) -> None:
    scheme = SCHEMES[name]
    data = [torch.randn(64, 64), torch.randn(64, 64) * 0.1, torch.full((1, 64), 40.0)]

    def fake(values: Tensor, amax: float) -> Tensor:
        line = values.reshape(1, -1).float()
        extent = Histogram.empty().extent(amax)
        return dequantize(quantize(line, scheme, extent=extent)).reshape(values.shape)

    histogram, everything = counted(data), torch.cat(data)

    def loss(amax: float) -> float:
        return float((fake(everything, amax) - everything).double().square().mean())

    chosen = histogram.least_error(fake, steps=40)
    best = min(loss(histogram.amax * (step + 1) / 40) for step in range(40))
    assert loss(chosen) <= 1.02 * best


def test_nothing_observed_and_bad_batches_are_refused() -> None:
    for observer in (MinMax(granularity=PER_TOKEN), MovingAverage(granularity=PER_TOKEN)):
        with pytest.raises(FormatError, match="no batch was observed"):
            _ = observer.extent
        with pytest.raises(FormatError, match="NaN or inf"):
            observer.observed(torch.tensor([torch.nan]))
        with pytest.raises(FormatError, match="a batch has scales of"):
            observer.observed(torch.ones(2, 3)).observed(torch.ones(3, 3))
    with pytest.raises(FormatError, match="no batch was observed"):
        Histogram.empty().percentile(99)
    with pytest.raises(FormatError, match="NaN or inf"):
        Histogram.empty().observed(torch.tensor([torch.inf]))
    with pytest.raises(FormatError, match="do not merge"):
        MinMax(granularity=PER_TOKEN).merged(MinMax(granularity=PER_TENSOR))
