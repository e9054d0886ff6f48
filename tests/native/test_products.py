"""gemm and bmm against torch in double precision, for every instruction set of this machine."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ridgeline.native.library import Library
from ridgeline.native.program import Step
from tests.native.programs import LIBRARIES, Field, packed, run_one

pytestmark = pytest.mark.skipif(not LIBRARIES, reason="the native kernels were not built")
each_library = pytest.mark.parametrize("library", LIBRARIES, ids=lambda library: library.isa)
sizes = st.integers(1, 70)
types = st.sampled_from([torch.float32, torch.bfloat16])


def _random(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    generator = torch.Generator().manual_seed(sum(shape))
    return torch.randn(*shape, generator=generator).to(dtype)


def _padded(rows: int, cols: int, gap: int, dtype: torch.dtype) -> Tensor:
    """A matrix whose rows lie `gap` values further apart than they are long."""
    return _random(rows * (cols + gap) - gap, dtype=dtype).as_strided((rows, cols), (cols + gap, 1))


def _memory(matrix: Tensor) -> Tensor:
    """All its values, with those between its rows."""
    (rows, cols), step = matrix.shape, matrix.stride(0)
    return matrix.as_strided(((rows - 1) * step + cols,), (1,))


def _assert_close(found: Tensor, expected: Tensor, narrow: bool) -> None:
    tolerance = 2e-2 if narrow else 1e-5
    scale = max(1.0, float(expected.abs().max()))
    torch.testing.assert_close(found.double(), expected, rtol=tolerance, atol=tolerance * scale)


def _gemm(
    library: Library,
    x_MK: Tensor,
    w_NK: Tensor,
    bias_N: Tensor | None,
    y_MN: Tensor,
    operands: tuple[Tensor, ...] = (),
    steps: tuple[Step, ...] = (),
    threads: int = 1,
) -> None:
    (m, k), n = x_MK.shape, w_NK.shape[0]
    fields = {
        "x_ref": x_MK, "w_ref": packed(library, w_NK), "bias_ref": bias_N, "y_ref": y_MN,
        "m": m, "n": n, "k": k, "ldx": x_MK.stride(0), "ldy": y_MN.stride(0),
    }  # fmt: skip
    run_one(library, "gemm", fields, operands, steps, threads=threads)


def _check_gemm(
    library: Library, m: int, n: int, k: int, *, x: torch.dtype = torch.float32,
    y: torch.dtype = torch.float32, gap: int = 0, has_bias: bool = True, threads: int = 1,
) -> None:  # fmt: skip
    x_MK, y_MN = _padded(m, k, gap, x), _padded(m, n, gap, y)
    w_NK, bias_N = _random(n, k, dtype=x), _random(n) if has_bias else None
    before = _memory(y_MN).clone()
    _gemm(library, x_MK, w_NK, bias_N, y_MN, threads=threads)
    expected = x_MK.double() @ w_NK.double().T + (0 if bias_N is None else bias_N.double())
    _assert_close(y_MN, expected, torch.bfloat16 in (x, y))
    if gap and m > 1:  # what lies between the rows stays as it was
        step = (n + gap) * torch.arange(m - 1)[:, None] + n + torch.arange(gap)
        assert torch.equal(before[step], _memory(y_MN)[step])


@each_library
@given(m=sizes, n=sizes, k=sizes, x=types, y=types, gap=st.integers(0, 3),
       has_bias=st.booleans(), threads=st.integers(1, 3))  # fmt: skip
@settings(max_examples=50, deadline=None)
def test_gemm_of_any_shape(
    library: Library, m: int, n: int, k: int, x: torch.dtype, y: torch.dtype, gap: int,
    has_bias: bool, threads: int,
) -> None:  # fmt: skip
    _check_gemm(library, m, n, k, x=x, y=y, gap=gap, has_bias=has_bias, threads=threads)


@each_library
@pytest.mark.parametrize("m", [1, 5, 200])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_gemm_of_long_sums(library: Library, m: int, dtype: torch.dtype) -> None:
    _check_gemm(library, m, 130, 2500, x=dtype, y=dtype, threads=2)


@each_library
@pytest.mark.parametrize("steps", [("RELU",), ("CLAMP",), ("GELU",), ("ADD",), ("ADD", "RELU")])
@pytest.mark.parametrize("n", [3, 64, 150])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_gemm_ends_with_its_expression(
    library: Library, steps: tuple[str, ...], n: int, dtype: torch.dtype
) -> None:
    x_MK, w_NK = _random(29, 40, dtype=dtype), _random(n, 40, dtype=dtype)
    bias_N, y_MN = _random(n), _random(29, n, dtype=dtype)
    residual_MN = _random(29, n + 1, dtype=dtype)[:, :n]
    expected = x_MK.double() @ w_NK.double().T + bias_N.double()
    written = []
    for name in steps:
        if name == "ADD":
            written.append(Step("LOAD", to=1, a=0))
            expected = expected + residual_MN.double()
        elif name == "GELU":
            expected = torch.nn.functional.gelu(expected)
        else:
            expected = expected.clamp(0, 6 if name == "CLAMP" else None)
        written.append(Step(name, to=0, a=0, b=1, p=0.0, q=6.0))
    operands = (residual_MN,) if "ADD" in steps else ()
    _gemm(library, x_MK, w_NK, bias_N, y_MN, operands, tuple(written), threads=2)
    _assert_close(y_MN, expected, dtype == torch.bfloat16)


def _check_bmm(
    library: Library, batch: tuple[int, int], m: int, n: int, k: int, *, is_transposed: bool,
    dtype: torch.dtype = torch.float32, alpha: float = 1.0, has_mask: bool = False,
    repeats_w: bool = False, threads: int = 1,
) -> None:  # fmt: skip
    outer, inner = batch
    x_OIMK = _random(outer, m, inner, k, dtype=dtype).transpose(1, 2)
    w = _random(outer, 1 if repeats_w else inner, n, k + 1, dtype=dtype)[..., :k]
    if not is_transposed:
        w = _random(outer, 1 if repeats_w else inner, k, n + 1, dtype=dtype)[..., :n]
    y = _random(outer, inner, m, n, dtype=dtype)
    w_OIKN = (w.transpose(2, 3) if is_transposed else w).expand(outer, inner, k, n)
    mask = _random(outer, 1, 1, n).expand(outer, inner, m, n)
    fields: dict[str, Field] = {
        "x_ref": x_OIMK, "w_ref": w, "y_ref": y, "outer": outer, "inner": inner,
        "m": m, "n": n, "k": k, "x_outer": x_OIMK.stride(0), "x_inner": x_OIMK.stride(1),
        "ldx": x_OIMK.stride(2), "w_outer": w.stride(0), "w_inner": w_OIKN.stride(1),
        "ldw": w.stride(2), "y_outer": y.stride(0), "y_inner": y.stride(1), "ldy": y.stride(2),
        "is_transposed": int(is_transposed), "alpha_bits": alpha,
    }  # fmt: skip
    steps = (Step("LOAD", to=1, a=0), Step("ADD", to=2, a=0, b=1)) if has_mask else ()
    run_one(library, "bmm", fields, (mask,) if has_mask else (), steps, threads=threads)
    expected = alpha * x_OIMK.double() @ w_OIKN.double() + (mask.double() if has_mask else 0)
    _assert_close(y, expected, dtype == torch.bfloat16)


@each_library
@given(outer=st.integers(1, 3), inner=st.integers(1, 4), m=sizes, n=sizes, k=sizes,
       is_transposed=st.booleans(), repeats_w=st.booleans(), threads=st.integers(1, 3))  # fmt: skip
@settings(max_examples=30, deadline=None)
def test_bmm_of_any_shape(
    library: Library, outer: int, inner: int, m: int, n: int, k: int, is_transposed: bool,
    repeats_w: bool, threads: int,
) -> None:  # fmt: skip
    _check_bmm(library, (outer, inner), m, n, k, is_transposed=is_transposed, alpha=0.125,
               repeats_w=repeats_w, has_mask=True, threads=threads)  # fmt: skip


@each_library
@pytest.mark.parametrize("is_transposed", [False, True])
def test_bmm_of_bf16(library: Library, is_transposed: bool) -> None:
    _check_bmm(library, (2, 3), 33, 40, 50, is_transposed=is_transposed, dtype=torch.bfloat16,
               threads=2)  # fmt: skip


@each_library
def test_bmm_of_sums_longer_than_its_scratch_memory(library: Library) -> None:
    _check_bmm(library, (1, 1), 14, 70, 70_001, is_transposed=False, threads=2)
