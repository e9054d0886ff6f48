"""Schemes against torchao and compressed-tensors; what quantizing promises of every one."""

from math import prod

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from ridgeline.compress.codes import decode
from ridgeline.compress.elements import ELEMENTS
from ridgeline.compress.granularity import (
    PER_HEAD,
    PER_TENSOR,
    PER_TOKEN,
    Granularity,
    per_block,
    per_channel,
    per_group,
)
from ridgeline.compress.packing import packed_bytes
from ridgeline.compress.presets import SCHEMES, scheme_named
from ridgeline.compress.quantized import Extent, dequantize, quantize
from ridgeline.compress.scaling import MX_RULES, Scaling, TensorScale
from ridgeline.compress.scheme import Scheme
from ridgeline.errors import FormatError

SHAPE = (256, 512)
MX = {
    "mxfp8": torch.float8_e4m3fn,
    "mxfp8_e5m2": torch.float8_e5m2,
    "mxfp6": "fp6_e2m3",
    "mxfp6_e3m2": "fp6_e3m2",
    "mxfp4": torch.float4_e2m1fn_x2,
}
# compressed-tensors' preset and side -> our scheme, with the rule or the scale's element it takes
COMPRESSED = {
    ("W8A8", "weights"): "int8_channel",
    ("W8A8", "input_activations"): "int8_token",
    ("W4A4", "input_activations"): "int4_token",
    **{(f"W{bits}A16", "weights"): f"w{bits}_g128" for bits in range(2, 8)},
    ("W8A16", "weights"): "int8_g128",
    ("FP8", "weights"): "fp8_tensor",
    ("FP8_DYNAMIC", "weights"): "fp8_channel",
    ("FP8_DYNAMIC", "input_activations"): "fp8_token",
    ("FP8_BLOCK", "weights"): "fp8_block128",
    ("FP8_BLOCK", "input_activations"): "fp8_g128",
    ("NVFP4", "weights"): "nvfp4",
    ("MXFP4", "weights"): "mxfp4",
    ("MXFP6A16", "weights"): "mxfp6",
    ("MXFP8", "weights"): "mxfp8",
}


def weights(shape: tuple[int, ...] = SHAPE) -> Tensor:
    """A normal per row, of many scales."""
    return torch.randn(shape) * 10 ** torch.empty(shape[0], *(1 for _ in shape[1:])).uniform_(-3, 1)


def with_parts(scheme: Scheme, **parts: object) -> Scheme:
    values = {name: getattr(scheme, name) for name in Scheme.__slots__}
    return Scheme(**{**values, **parts})


@pytest.mark.parametrize("name", list(MX))
@pytest.mark.parametrize("mode", ["FLOOR", "CEIL", "RCEIL", "EVEN"])
def test_microscaling_is_that_of_torchao(name: str, mode: str) -> None:
    mx = pytest.importorskip("torchao.prototype.mx_formats.mx_tensor")
    values = weights((2048, 512))
    scheme = with_parts(SCHEMES[name], scaling=Scaling[f"MX_{mode}"])
    ours = quantize(values, scheme)
    scales, codes = mx.to_mx(values, MX[name], 32, mx.ScaleCalculationMode[mode])
    assert torch.equal(ours.scale_codes, scales.view(torch.uint8))
    packed = packed_bytes(ours.codes, 4) if name == "mxfp4" else ours.codes
    assert torch.equal(packed, codes.view(torch.uint8))


def test_nvfp4_is_that_of_torchao() -> None:
    nvfp4 = pytest.importorskip("torchao.prototype.mx_formats.nvfp4_tensor")
    values = weights((2048, 512))
    ours = quantize(values, SCHEMES["nvfp4_scale"])
    tensor_scale = nvfp4.per_tensor_amax_to_scale(values.abs().amax())
    scales, codes = nvfp4.nvfp4_quantize(values, 16, tensor_scale)
    assert ours.tensor_scale is not None
    assert torch.equal(ours.tensor_scale, tensor_scale)
    assert torch.equal(ours.scale_codes, scales.view(torch.uint8))
    assert torch.equal(packed_bytes(ours.codes, 4), codes)


def theirs_of(preset: str, side: str, values: Tensor) -> Tensor:
    """compressed-tensors' fake_quantize with the qparams it calculates."""
    quantization = pytest.importorskip("compressed_tensors.quantization")
    utils = pytest.importorskip("compressed_tensors.quantization.utils")
    forward = pytest.importorskip("compressed_tensors.quantization.lifecycle.forward")
    scheme = quantization.preset_name_to_scheme(preset, ["Linear"])
    args = getattr(scheme, side)
    tile = {
        "tensor": values.reshape(1, -1),
        "channel": values,
        "token": values,
        "block": values.unflatten(1, (-1, 128)).unflatten(0, (-1, 128)).transpose(1, 2).flatten(2),
    }.get(args.strategy, values.unflatten(1, (-1, args.group_size or 1)))
    low, high = tile.amin(-1), tile.amax(-1)
    if args.strategy in ("channel", "token"):
        low, high = low.unsqueeze(-1), high.unsqueeze(-1)
    one = None
    if args.strategy == "tensor_group":
        one = utils.generate_gparam(values.amin(), values.amax())
    scale, zero = utils.calculate_qparams(low, high, args, global_scale=one)
    return forward.fake_quantize(values, scale, zero, args, global_scale=one)


@pytest.mark.parametrize(("preset", "side"), list(COMPRESSED))
def test_presets_are_those_of_compressed_tensors(preset: str, side: str) -> None:
    values = weights((2048, 512))
    theirs = theirs_of(preset, side, values)
    scheme = SCHEMES[COMPRESSED[preset, side]]
    if scheme.scaling in MX_RULES:
        rule = Scaling.MX_EVEN if preset == "MXFP6A16" else Scaling.MX_1_75
        scheme = with_parts(scheme, scaling=rule)
    elif scheme.tensor_scale is TensorScale.NONE:
        scheme = with_parts(scheme, scale_element=ELEMENTS["fp32"])
    assert torch.equal(dequantize(quantize(values, scheme)) + 0.0, theirs + 0.0)


def test_zero_points_are_those_of_compressed_tensors() -> None:
    values = weights((2048, 512)) + 0.1
    theirs = theirs_of("W4A16_ASYM", "weights", values)
    scheme = with_parts(
        SCHEMES["w4_g128_asym"], element=ELEMENTS["int4"], scale_element=ELEMENTS["fp32"]
    )
    assert torch.equal(dequantize(quantize(values, scheme)) + 0.0, theirs + 0.0)


def shape_for(scheme: Scheme) -> tuple[int, ...]:
    return (2, 4, 128, 128) if scheme.name.endswith("head") else SHAPE


@pytest.mark.parametrize("name", list(SCHEMES))
def test_no_value_moves_by_more_than_half_a_step(name: str) -> None:
    scheme = SCHEMES[name]
    values = weights(shape_for(scheme))
    quantized = quantize(values, scheme)
    back = dequantize(quantized)
    granularity = scheme.granularity
    scales = granularity.spread(quantized.scales)
    error = (granularity.tiled(back) - granularity.tiled(values)).abs() / scales
    grid = decode(torch.arange(2**scheme.element.bits, dtype=torch.uint8), scheme.element)
    grid = grid[grid.isfinite()].unique()
    size = granularity.tiled(values).abs() / scales
    # half the widest step, and what a scale that is rounded down or floored cuts off above
    cut = (size - scheme.element.largest).clamp(min=0)
    bound = (grid[1:] - grid[:-1]).max() / 2 * (1 + scheme.is_asymmetric) + cut
    assert bool((error <= bound * (1 + 1e-4) + 1e-5).all())


@pytest.mark.parametrize("name", list(SCHEMES))
def test_tiles_of_zeros_stay_zeros(name: str) -> None:
    values = torch.zeros(shape_for(SCHEMES[name]))
    assert torch.equal(dequantize(quantize(values, SCHEMES[name])).abs(), values)
    values[..., :1] = 1e-30
    back = dequantize(quantize(values, with_parts(SCHEMES[name])))
    assert bool(back.isfinite().all())
    assert float(back.abs().max()) < 1e-3


@pytest.mark.parametrize(
    ("name", "bits"),
    [
        ("mxfp8", 8.25),
        ("mxfp6", 6.25),
        ("mxfp4", 4.25),
        ("mxint8", 8.25),
        ("w4_g128", 4.125),
        ("w4_g128_asym", 4.15625),
        ("nf4", 4.5),
        ("nvfp4", 4.5 + 32 / 2**24),
        ("int8_channel", 8 + 32 / 4096),
        ("fp8_block128", 8 + 32 / 128**2),
    ],
)
def test_bits_per_weight(name: str, bits: float) -> None:
    assert SCHEMES[name].bits_per_weight((4096, 4096)) == bits


@pytest.mark.parametrize("name", ["w3_g32_asym", "nvfp4", "mxfp6", "int8_channel"])
def test_storage_is_what_the_packed_parts_take(name: str) -> None:
    scheme = SCHEMES[name]
    quantized = quantize(weights(), scheme)
    nbytes = packed_bytes(quantized.codes.reshape(-1), scheme.element.bits).numel()
    nbytes += quantized.scale_codes.numel() * scheme.scale_element.bits // 8
    if quantized.zero_codes is not None:
        nbytes += packed_bytes(quantized.zero_codes.reshape(-1), scheme.element.bits).numel()
    if quantized.tensor_scale is not None:
        nbytes += 4
    assert quantized.storage_bytes == nbytes


TILES = st.sampled_from(
    [PER_TENSOR, PER_TOKEN, PER_HEAD, per_channel(), per_channel(1), per_group(4), per_block(2, 3)]
)


@given(granularity=TILES, shape=st.tuples(*(st.integers(1, 13) for _ in range(3))))
def test_every_value_lies_under_one_scale(
    granularity: Granularity, shape: tuple[int, int, int]
) -> None:
    granularity = Granularity(
        **{n: getattr(granularity, n) for n in Granularity.__slots__ if n != "is_padded"},
        is_padded=True,
    )
    values = torch.randn(shape)
    padded = granularity.padded(values)
    assert tuple(padded.shape) == granularity.padded_shape(shape)
    tiles = granularity.scale_shape(shape)
    assert prod(tiles) * granularity.tile_values(shape) == padded.numel()
    marks = torch.arange(prod(tiles), dtype=torch.float32).reshape(tiles)
    spread = torch.empty_like(granularity.tiled(padded))
    spread.copy_(granularity.spread(marks))
    index = torch.tensor([11 % shape[0], 7 % shape[1], 5 % shape[2]])
    tile = torch.tensor(granularity.tile(shape))
    found = spread.reshape(padded.shape)[tuple(index.tolist())]
    assert found == marks[tuple((index // tile).tolist())]


def test_a_static_extent_sets_the_scale() -> None:
    values = torch.tensor([[1.0, -2.0, 100.0]])
    extent = Extent(low=torch.tensor([[-2.0]]), high=torch.tensor([[12.7]]))
    quantized = quantize(values, SCHEMES["int8_restricted"], extent=extent)
    assert dequantize(quantized)[0, 2] == pytest.approx(12.7)
    assert float(quantized.scales) == pytest.approx(0.1)


def test_bad_values_and_shapes_are_refused() -> None:
    scheme = SCHEMES["int8_channel"]
    with pytest.raises(FormatError, match="1 of 4 values are NaN or inf"):
        quantize(torch.tensor([[1.0, torch.nan], [0.0, 1.0]]), scheme)
    with pytest.raises(FormatError, match="1 of 2 values are NaN or inf"):
        quantize(torch.tensor([[1.0, -torch.inf]]), scheme)
    with pytest.raises(FormatError, match="has no values, hence no scale"):
        quantize(torch.zeros(0, 4), scheme)
    with pytest.raises(FormatError, match="100 long, which 128 does not divide"):
        quantize(torch.ones(2, 100), SCHEMES["w4_g128"])
    with pytest.raises(FormatError, match="beyond fp16"):
        quantize(torch.full((1, 128), 1e6), SCHEMES["w4_g128"])
    with pytest.raises(FormatError, match="no scheme is called 'w9'"):
        scheme_named("w9")
    with pytest.raises(FormatError, match="powers of two are kept as e8m0"):
        with_parts(SCHEMES["mxfp4"], scale_element=ELEMENTS["fp32"])
    with pytest.raises(FormatError, match="zero points are for integers"):
        with_parts(SCHEMES["fp8_tensor"], scaling=Scaling.RANGE)
