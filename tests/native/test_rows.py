"""reduce, norm, group_norm and gather against torch."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from programs import LIBRARIES, run_one
from torch import Tensor

from ridgeline.native.library import Library
from ridgeline.native.program import Step

pytestmark = pytest.mark.skipif(not LIBRARIES, reason="the native kernels were not built")
over_libraries = pytest.mark.parametrize("library", LIBRARIES, ids=lambda library: library.isa)
over_threads = pytest.mark.parametrize("threads", [1, 2])
DTYPES = (torch.float32, torch.bfloat16)
NAN, INF = float("nan"), float("inf")

REDUCTIONS: tuple[Callable[[Tensor], Tensor], ...] = (
    lambda x: x.sum(1),
    lambda x: x.mean(1),
    lambda x: x.amax(1),
    lambda x: x.amin(1),
)
LAYER_NORM, RMS_NORM, SOFTMAX, LOG_SOFTMAX = range(4)


def assert_close(found: Tensor, expected: Tensor, *, scale: float = 1.0) -> None:
    """fp32 to 2e-6 of the largest value (or of 1/100), bf16 to its own rounding."""
    tolerance = 2e-6 if found.dtype == torch.float32 else 2**-8
    expected = expected.float()
    finite = expected[expected.isfinite()]
    largest = max(0.01, float(finite.abs().max())) if finite.numel() else 0.0
    torch.testing.assert_close(
        found.float(), expected, rtol=tolerance * scale, atol=tolerance * scale * largest,
        equal_nan=True,
    )  # fmt: skip


def _reduced(library: Library, x: Tensor, kind: int, y_dtype: torch.dtype, threads: int) -> Tensor:
    outer, length, inner = x.shape
    y = torch.full((outer, inner), 7.0, dtype=y_dtype)
    fields = {"x_ref": x, "y_ref": y, "kind": kind}
    sizes = {"outer": outer, "length": length, "inner": inner}
    run_one(library, "reduce", fields | sizes, threads=threads)
    return y


@over_libraries
@over_threads
@pytest.mark.parametrize("kind", range(4))
@settings(max_examples=25)
@given(
    outer=st.sampled_from([1, 2, 5]),
    length=st.sampled_from([1, 3, 17, 64, 1000]),
    inner=st.sampled_from([1, 2, 15, 16, 33, 80, 300]),
    x_dtype=st.sampled_from(DTYPES),
    y_dtype=st.sampled_from(DTYPES),
)
def test_reduce(
    library: Library,
    threads: int,
    kind: int,
    outer: int,
    length: int,
    inner: int,
    x_dtype: torch.dtype,
    y_dtype: torch.dtype,
) -> None:
    x = torch.randn(outer, length, inner).to(x_dtype)
    found = _reduced(library, x, kind, y_dtype, threads)
    expected = REDUCTIONS[kind](x.double())
    # a sum is as exact as the sum of sizes lets it be
    scale = float(x.double().abs().sum(1).max() / expected.abs().max()) if kind < 2 else 1.0
    assert_close(found, expected, scale=max(1.0, scale / (1 if kind == 0 else length)))


@over_libraries
@over_threads
@pytest.mark.parametrize(("length", "inner"), [(40, 1), (40, 3), (40, 40), (2000, 20)])
@pytest.mark.parametrize("kind", range(4))
def test_reduce_keeps_nan_and_infinity(
    library: Library, threads: int, length: int, inner: int, kind: int
) -> None:
    x = torch.randn(3, length, inner)
    x[0, 21, 0] = NAN
    x[1, 5, inner - 1] = INF
    x[2, 7, inner // 2] = -INF
    assert_close(_reduced(library, x, kind, torch.float32, threads), REDUCTIONS[kind](x))


@over_libraries
def test_reduce_of_nothing(library: Library) -> None:
    assert _reduced(library, torch.empty(0, 4, 4), 0, torch.float32, 2).shape == (0, 4)
    assert _reduced(library, torch.empty(2, 0, 3), 0, torch.float32, 2).eq(0).all()


def _norm_of(
    x: Tensor, kind: int, scale: Tensor | None, shift: Tensor | None, eps: float
) -> Tensor:
    width = (x.shape[-1],)
    if kind == LAYER_NORM:
        return F.layer_norm(x, width, scale, shift, eps)
    if kind == RMS_NORM:
        found = F.rms_norm(x, width, scale, eps)
        return found if shift is None else found + shift
    return F.softmax(x, -1) if kind == SOFTMAX else F.log_softmax(x, -1)


def _normed(
    library: Library,
    x: Tensor,
    kind: int,
    y: Tensor,
    scale: Tensor | None,
    shift: Tensor | None,
    threads: int,
) -> Tensor:
    rows, width = x.shape
    fields = {"x_ref": x, "scale_ref": scale, "shift_ref": shift, "y_ref": y, "kind": kind}
    sizes = {"rows": rows, "width": width, "ldx": x.stride(0), "ldy": y.stride(0)}
    run_one(library, "norm", fields | sizes | {"epsilon_bits": 1e-5}, threads=threads)
    return y


@over_libraries
@over_threads
@pytest.mark.parametrize("kind", range(4))
@settings(max_examples=25)
@given(
    rows=st.sampled_from([1, 2, 7]),
    width=st.sampled_from([1, 5, 16, 31, 197, 768, 5000]),
    x_dtype=st.sampled_from(DTYPES),
    y_dtype=st.sampled_from(DTYPES),
    affine=st.sampled_from(["none", "scale", "both"]),
    gap=st.sampled_from([0, 3]),
)
def test_norm(
    library: Library,
    threads: int,
    kind: int,
    rows: int,
    width: int,
    x_dtype: torch.dtype,
    y_dtype: torch.dtype,
    affine: str,
    gap: int,
) -> None:
    x = (3 * torch.randn(rows, width + gap) + 1).to(x_dtype)[:, :width]
    scale = torch.randn(width) if affine != "none" and kind < SOFTMAX else None
    shift = torch.randn(width) if affine == "both" and kind < SOFTMAX else None
    y = torch.full((rows, width + 2 * gap), 7.0, dtype=y_dtype)
    _normed(library, x, kind, y[:, :width], scale, shift, threads)
    wide = [None if t is None else t.double() for t in (scale, shift)]
    assert_close(y[:, :width], _norm_of(x.double(), kind, *wide, 1e-5), scale=4)
    assert y[:, width:].eq(7).all()


@over_libraries
@pytest.mark.parametrize("kind", range(4))
def test_norm_in_place(library: Library, kind: int) -> None:
    x = torch.randn(3, 100)
    y = x.clone()
    assert_close(_normed(library, y, kind, y, None, None, 2), _norm_of(x, kind, None, None, 1e-5))


@over_libraries
@pytest.mark.parametrize("kind", [SOFTMAX, LOG_SOFTMAX])
def test_softmax_of_extremes(library: Library, kind: int) -> None:
    x = torch.randn(6, 37)
    x[0, 3] = NAN
    x[1, 5:] = -INF
    x[2] = -INF
    x[3] = 1e30
    x[4, 36] = INF
    x[5] *= 80
    found = _normed(library, x, kind, torch.empty(6, 37), None, None, 1)
    assert_close(found, _norm_of(x, kind, None, None, 0.0), scale=4)


@over_libraries
def test_layer_norm_of_a_large_mean(library: Library) -> None:
    x = torch.randn(2, 768) + 1e4
    found = _normed(library, x, LAYER_NORM, torch.empty(2, 768), None, None, 1)
    torch.testing.assert_close(
        found, F.layer_norm(x.double(), (768,)).float(), rtol=1e-4, atol=1e-4
    )


@over_libraries
@over_threads
@settings(max_examples=25)
@given(
    batch=st.sampled_from([1, 3]),
    positions=st.sampled_from([1, 6, 49, 1000]),
    groups=st.sampled_from([1, 2, 6]),
    per_group=st.sampled_from([1, 5, 16, 50]),
    x_dtype=st.sampled_from(DTYPES),
    y_dtype=st.sampled_from(DTYPES),
    gap=st.sampled_from([0, 3]),
    is_affine=st.booleans(),
    has_silu=st.booleans(),
)
def test_group_norm(
    library: Library,
    threads: int,
    batch: int,
    positions: int,
    groups: int,
    per_group: int,
    x_dtype: torch.dtype,
    y_dtype: torch.dtype,
    gap: int,
    is_affine: bool,
    has_silu: bool,
) -> None:
    channels = groups * per_group
    x = (2 * torch.randn(batch, positions, channels + gap) + 1).to(x_dtype)[..., :channels]
    scale, shift = (torch.randn(channels), torch.randn(channels)) if is_affine else (None, None)
    y = torch.full((batch, positions, channels + 2 * gap), 7.0, dtype=y_dtype)
    fields = {"x_ref": x, "scale_ref": scale, "shift_ref": shift, "y_ref": y}
    sizes = {"batch": batch, "positions": positions, "channels": channels, "groups": groups,
             "ldx": x.stride(1), "ldy": y.stride(1), "epsilon_bits": 1e-5}  # fmt: skip
    added = torch.randn(batch * positions, channels)
    operands, steps = (), ()
    if has_silu:
        operands, steps = (added,), (Step("SILU"), Step("LOAD", 1, 0), Step("ADD", 2, 0, 1))
    run_one(library, "group_norm", fields | sizes, operands, steps, threads=threads)
    wide = [None if t is None else t.double() for t in (scale, shift)]
    by_channel = x.double().transpose(1, 2)[..., None]
    expected = torch.group_norm(by_channel, groups, *wide, 1e-5)[..., 0].transpose(1, 2)
    if has_silu:
        expected = F.silu(expected) + added.double().view(batch, positions, channels)
    assert_close(y[..., :channels], expected, scale=4)
    assert y[..., channels:].eq(7).all()


@over_libraries
@over_threads
@pytest.mark.parametrize("index_dtype", [torch.int64, torch.int32])
@pytest.mark.parametrize(("rows", "row", "count"), [(10, 5, 33), (1, 768, 3), (5, 1, 0)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.int8])
def test_gather(
    library: Library,
    threads: int,
    index_dtype: torch.dtype,
    rows: int,
    row: int,
    count: int,
    dtype: torch.dtype,
) -> None:
    table = torch.randn(rows, row).mul(50).to(dtype)
    index = torch.randint(-rows, rows, (count,)).to(index_dtype)
    y = torch.zeros(count, row, dtype=dtype)
    fields = {"table_ref": table, "index_ref": index, "y_ref": y, "count": count, "rows": rows}
    nbytes = {"row_nbytes": row * dtype.itemsize}
    run_one(library, "gather", fields | nbytes, threads=threads)
    assert y.equal(table[index.long()])
