"""Pooling and upsampling beside torch's."""

from math import prod

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from programs import LIBRARIES, run_one
from torch import Tensor
from torch.nn import functional

from ridgeline.native.library import Library

on_every_isa = pytest.mark.parametrize("library", LIBRARIES, ids=lambda library: library.isa)
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 1e-2}
LARGEST, MEAN_INSIDE, SUM_OVER_DIVISOR = range(3)


def channels_last(x: Tensor) -> Tensor:
    """(N, C, *S) as (N, *S, C), dense."""
    return x.movedim(1, -1).contiguous()


def wider(shape: tuple[int, ...], dtype: torch.dtype, room: int) -> Tensor:
    """A channels-last tensor whose positions lie `room` more elements apart than they need."""
    held = torch.full((*shape[:-1], shape[-1] + room), 7.0).to(dtype)
    return held[..., : shape[-1]]


def run_pool(
    library: Library,
    x_NCDHW: Tensor,
    kind: int,
    kernel: tuple[int, ...],
    stride: tuple[int, ...],
    pad: tuple[int, ...],
    dilation: tuple[int, ...],
    out: tuple[int, ...],
    threads: int = 1,
    room: int = 0,
) -> Tensor:
    """(N, C, *out) in fp32."""
    n, channels, *size = x_NCDHW.shape
    x = wider((n, *size, channels), x_NCDHW.dtype, room)
    x.copy_(channels_last(x_NCDHW))
    y = wider((n, *out, channels), x.dtype, room)
    fields = {"x_ref": x, "y_ref": y, "kind": kind, "divisor_bits": float(prod(kernel))}
    fields |= {"batch": n, "channels": channels, "ldx": channels + room, "ldy": channels + room}
    for i, d in enumerate(("depth", "height", "width")):
        fields |= {d: size[i], f"out_{d}": out[i], f"kernel_{d}": kernel[i]}
        fields |= {f"stride_{d}": stride[i], f"pad_{d}": pad[i], f"dilation_{d}": dilation[i]}
    run_one(library, "pool", fields, threads=threads)
    if room:
        assert (y.as_strided((n, *out, room), y.stride(), channels) == 7).all()
    return y.movedim(-1, 1).float()


@on_every_isa
@given(st.data())
def test_pools_are_torchs(library: Library, data: st.DataObject) -> None:
    def three(least: int, most: int) -> tuple[int, ...]:
        return tuple(data.draw(st.integers(least, most)) for _ in range(3))

    kernel, stride, size = three(1, 4), three(1, 3), three(4, 9)
    pad = tuple(data.draw(st.integers(0, k // 2)) for k in kernel)
    kind = data.draw(st.sampled_from((LARGEST, MEAN_INSIDE, SUM_OVER_DIVISOR)))
    channels = data.draw(st.integers(1, 40))
    ceil_mode = kind == LARGEST and data.draw(st.booleans())
    dtype = data.draw(st.sampled_from((torch.float32, torch.bfloat16)))
    x = torch.randn(data.draw(st.integers(1, 2)), channels, *size).to(dtype)
    if kind == LARGEST:
        expected = functional.max_pool3d(x.float(), kernel, stride, pad, ceil_mode=ceil_mode)
    else:
        expected = functional.avg_pool3d(
            x.float(), kernel, stride, pad, count_include_pad=kind == SUM_OVER_DIVISOR
        )
    found = run_pool(
        library, x, kind, kernel, stride, pad, (1, 1, 1), tuple(expected.shape[2:]),
        data.draw(st.integers(1, 2)), data.draw(st.integers(0, 3)),
    )  # fmt: skip
    torch.testing.assert_close(found, expected, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])


@on_every_isa
def test_the_largest_of_dilated_windows_keeps_nan_and_infinity(library: Library) -> None:
    x = torch.randn(1, 37, 1, 13, 17)
    x[0, 3, 0, 5, 6], x[0, 20, 0, 12, 16], x[0, 36] = torch.nan, torch.nan, -torch.inf
    expected = functional.max_pool2d(x[:, :, 0], (3, 2), (2, 1), (1, 1), (2, 3))
    found = run_pool(
        library, x, LARGEST, (1, 3, 2), (1, 2, 1), (0, 1, 1), (1, 2, 3), (1, *expected.shape[2:])
    )
    torch.testing.assert_close(found[:, :, 0], expected, rtol=0, atol=0, equal_nan=True)


@on_every_isa
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("mode", "align"), [("nearest", None), ("bilinear", False), ("bilinear", True)]
)
@pytest.mark.parametrize(("size", "out"), [((7, 9), (14, 18)), ((5, 6), (13, 4)), ((3, 1), (3, 5))])
def test_upsampling_is_torchs(
    library: Library,
    mode: str,
    align: bool | None,
    size: tuple[int, int],
    out: tuple[int, int],
    dtype: torch.dtype,
    threads: int,
) -> None:
    x, y = torch.randn(2, *size, 35).to(dtype), wider((2, *out, 35), dtype, 2)
    expected = functional.interpolate(
        x.movedim(-1, 1).float(), size=out, mode=mode, align_corners=align
    )
    scales = [
        (i - 1) / (o - 1) if align and o > 1 else i / o for i, o in zip(size, out, strict=True)
    ]
    fields = {"x_ref": x, "y_ref": y, "kind": int(mode == "bilinear"), "batch": 2}
    fields |= {"height": size[0], "width": size[1], "out_height": out[0], "out_width": out[1]}
    fields |= {"channels": 35, "ldx": 35, "ldy": 37, "is_corners_aligned": bool(align)}
    fields |= {"scale_height_bits": scales[0], "scale_width_bits": scales[1]}
    run_one(library, "upsample", fields, threads=threads)
    tolerance = TOLERANCE[dtype]
    torch.testing.assert_close(y.movedim(-1, 1).float(), expected, rtol=tolerance, atol=tolerance)
