"""attention against torch's."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from programs import LIBRARIES, run_one
from torch import Tensor

from ridgeline.native.library import Library

pytestmark = pytest.mark.skipif(not LIBRARIES, reason="the native kernels were not built")
over_libraries = pytest.mark.parametrize("library", LIBRARIES, ids=lambda library: library.isa)
over_threads = pytest.mark.parametrize("threads", [1, 2])
DTYPES = (torch.float32, torch.bfloat16)


def attend(
    library: Library,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor | None = None,
    *,
    y_dtype: torch.dtype = torch.float32,
    is_causal: bool = False,
    scale: float | None = None,
    threads: int = 1,
) -> Tensor:
    """The instruction on (batch, heads, rows, width) tensors of any strides whose last is 1; y is
    laid out (batch, rows, heads, width).
    """
    batch, heads, queries, width = q.shape
    y = torch.full((batch, queries, heads, v.shape[3]), 7.0, dtype=y_dtype).transpose(1, 2)
    over = None if mask is None else mask.expand(batch, heads, queries, k.shape[2])
    strides = {
        f"{name}_{part}": 0 if t is None else t.stride(i)
        for name, t in (("q", q), ("k", k), ("v", v), ("mask", over), ("y", y))
        for i, part in enumerate(("batch", "head", "row", "column"))
        if i < 3 or name == "mask"
    }
    sizes = {"batch": batch, "heads": heads, "kv_heads": k.shape[1], "queries": queries,
             "keys": k.shape[2], "width": width, "value_width": v.shape[3]}  # fmt: skip
    fields = {"q_ref": q, "k_ref": k, "v_ref": v, "mask_ref": over, "y_ref": y}
    rest = {"is_causal": is_causal, "scale_bits": width**-0.5 if scale is None else scale}
    run_one(library, "attention", fields | sizes | strides | rest, threads=threads)
    return y


def assert_attends(
    library: Library, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, *,
    y_dtype: torch.dtype = torch.float32, is_causal: bool = False, scale: float | None = None,
    threads: int = 1,
) -> None:  # fmt: skip
    found = attend(
        library, q, k, v, mask, y_dtype=y_dtype, is_causal=is_causal, scale=scale, threads=threads
    )
    wide_mask = mask.double() if mask is not None and mask.dtype != torch.bool else mask
    expected = F.scaled_dot_product_attention(
        q.double(), k.double(), v.double(), wide_mask, is_causal=is_causal, scale=scale,
        enable_gqa=True,
    )  # fmt: skip
    # bf16 operands may be multiplied as they are, with probabilities rounded to bf16
    tolerance = 4e-6 if q.dtype == y_dtype == torch.float32 else 2**-7
    largest = float(v.abs().max())
    torch.testing.assert_close(
        found.double(), expected, rtol=tolerance, atol=tolerance * largest, equal_nan=True
    )


def _heads(batch: int, heads: int, rows: int, width: int, dtype: torch.dtype) -> Tensor:
    """(batch, heads, rows, width) cut out of a wider (batch, rows, heads, width) tensor."""
    return torch.randn(batch, rows, heads, width + 5).to(dtype)[..., :width].transpose(1, 2)


@over_libraries
@over_threads
@settings(max_examples=25)
@given(
    batch=st.sampled_from([1, 2]),
    kv_heads=st.sampled_from([1, 2, 3]),
    group=st.sampled_from([1, 2, 4]),
    queries=st.sampled_from([1, 2, 13, 70, 129]),
    keys=st.sampled_from([1, 5, 77, 128, 300]),
    width=st.sampled_from([1, 8, 40, 64, 67]),
    value_width=st.sampled_from([1, 16, 40, 64, 70]),
    dtype=st.sampled_from(DTYPES),
    y_dtype=st.sampled_from(DTYPES),
    mask=st.sampled_from(["none", "added", "added per key", "hidden", "causal"]),
    scale=st.sampled_from([None, 0.3]),
)
def test_attention(
    library: Library,
    threads: int,
    batch: int,
    kv_heads: int,
    group: int,
    queries: int,
    keys: int,
    width: int,
    value_width: int,
    dtype: torch.dtype,
    y_dtype: torch.dtype,
    mask: str,
    scale: float | None,
) -> None:
    q = _heads(batch, kv_heads * group, queries, width, dtype)
    k = _heads(batch, kv_heads, keys, width, dtype)
    v = _heads(batch, kv_heads, keys, value_width, dtype)
    masks = {
        "added": torch.randn(batch, 1, queries, keys),
        "added per key": torch.randn(batch, 1, 1, keys),
        "hidden": torch.rand(batch, 1, queries, keys) < 0.7,
    }
    assert_attends(
        library, q, k, v, masks.get(mask), y_dtype=y_dtype, is_causal=mask == "causal",
        scale=scale, threads=threads,
    )  # fmt: skip


@over_libraries
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("queries", [1, 40])
def test_rows_that_see_nothing_are_zero(library: Library, queries: int, dtype: torch.dtype) -> None:
    q, k, v = (torch.randn(1, 2, n, 16).to(dtype) for n in (queries, 50, 50))
    hidden = torch.rand(1, 2, queries, 50) < 0.5
    hidden[:, :, queries // 2] = False
    assert_attends(library, q, k, v, hidden)
    added = torch.where(hidden, 0.0, float("-inf"))
    assert_attends(library, q, k, v, added)


@over_libraries
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("scale", [1.0, -1.0, 0.0])
def test_large_scores_do_not_overflow(library: Library, dtype: torch.dtype, scale: float) -> None:
    q, k, v = ((40 * torch.randn(1, 1, 33, 24)).to(dtype) for _ in range(3))
    assert_attends(library, q, k, v, scale=scale)


@over_libraries
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("width", [40, 512, 520])
def test_many_rows_that_see_what_came_before(
    library: Library, dtype: torch.dtype, width: int
) -> None:
    q, k, v = (torch.randn(1, 2, 300, width).to(dtype) for _ in range(3))
    assert_attends(library, q, k, v, is_causal=True, threads=2)


@over_libraries
@pytest.mark.parametrize("dtype", DTYPES)
def test_later_blocks_of_keys_may_be_hidden_or_count_most(
    library: Library, dtype: torch.dtype
) -> None:
    q, k, v = (torch.randn(1, 1, n, 32).to(dtype) for n in (45, 900, 900))
    added = torch.zeros(1, 1, 45, 900)
    added[:, :, ::3, 256:] = float("-inf")
    added[:, :, 1::3, :512] = float("-inf")
    added[:, :, 2::3, 600:] = 30.0
    assert_attends(library, q, k, v, added, threads=2)


@over_libraries
@over_threads
@pytest.mark.parametrize("dtype", DTYPES)
def test_long_cache(library: Library, threads: int, dtype: torch.dtype) -> None:
    q = torch.randn(1, 4, 1, 64).to(dtype)
    k, v = (torch.randn(1, 2, 5000, 64).to(dtype) for _ in range(2))
    assert_attends(library, q, k, v, threads=threads)
