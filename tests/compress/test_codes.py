"""Every code decoded, a million samples encoded, against ml_dtypes, torch, torchao and gfloat."""

import numpy as np
import pytest
import torch
from format_samples import edges, samples
from torch import Tensor

from ridgeline.compress.codes import (
    Overflow,
    Rounding,
    _encoded_floats,
    code_dtype,
    decode,
    encode,
    is_nan_code,
)
from ridgeline.compress.elements import ELEMENTS, NF4_LEVELS, Element, Kind, element_named
from ridgeline.errors import FormatError

# element -> ml_dtypes' name, and what it does with what is too large
ML_DTYPES = {
    "e4m3fn": ("float8_e4m3fn", Overflow.NAN),
    "e5m2": ("float8_e5m2", Overflow.INF),
    "e3m2": ("float6_e3m2fn", Overflow.SATURATE),
    "e2m3": ("float6_e2m3fn", Overflow.SATURATE),
    "e2m1": ("float4_e2m1fn", Overflow.SATURATE),
    "bf16": ("bfloat16", Overflow.INF),
}
TORCH = {
    "e4m3fn": (torch.float8_e4m3fn, Overflow.SATURATE),
    "e5m2": (torch.float8_e5m2, Overflow.INF),
    "fp16": (torch.float16, Overflow.INF),
    "bf16": (torch.bfloat16, Overflow.INF),
}
GFLOAT = {
    "e4m3fn": "format_info_ocp_e4m3",
    "e5m2": "format_info_ocp_e5m2",
    "e3m2": "format_info_ocp_e3m2",
    "e2m3": "format_info_ocp_e2m3",
    "e2m1": "format_info_ocp_e2m1",
    "e8m0": "format_info_ocp_e8m0",
    "mxint8": "format_info_ocp_int8",
}
SMALL = [element for element in ELEMENTS.values() if element.bits <= 8]
FLOATS = [element for element in SMALL if element.kind is Kind.FLOAT]


def name_of(element: Element) -> str:
    return element.name


def same_codes(ours: Tensor, theirs: Tensor, element: Element) -> int:
    """How many codes differ; a NaN equals every NaN of its format."""
    is_same = (ours == theirs) | (is_nan_code(ours, element) & is_nan_code(theirs, element))
    return int((~is_same).sum())


def all_codes(element: Element) -> Tensor:
    return torch.arange(2**element.bits, dtype=torch.uint8)


@pytest.mark.parametrize("name", list(ML_DTYPES))
def test_encoding_is_that_of_ml_dtypes(name: str) -> None:
    ml_dtypes = pytest.importorskip("ml_dtypes")
    element = ELEMENTS[name]
    dtype_name, overflow = ML_DTYPES[name]
    values = torch.cat([samples(), edges(ELEMENTS["e4m3fn" if element.bits > 8 else name])])
    if not element.has_nan:
        values = values[~values.isnan()]
    with np.errstate(all="ignore"):
        raw = values.numpy().astype(getattr(ml_dtypes, dtype_name))
    theirs = torch.from_numpy(raw.view(np.int16 if element.bits > 8 else np.uint8))
    assert same_codes(encode(values, element, overflow=overflow), theirs, element) == 0


@pytest.mark.parametrize("name", list(TORCH))
def test_the_general_way_is_that_of_torch(name: str) -> None:
    element, (dtype, overflow) = ELEMENTS[name], TORCH[name]
    values = torch.cat([samples(), edges(ELEMENTS["e5m2"]), edges(ELEMENTS["e4m3fn"])])
    general = _encoded_floats(values, element, Rounding.NEAREST_EVEN, overflow, None)
    theirs = values.to(dtype).view(code_dtype(element))
    assert same_codes(general.to(code_dtype(element)), theirs, element) == 0
    assert same_codes(encode(values, element, overflow=overflow), theirs, element) == 0


@pytest.mark.parametrize("element", FLOATS, ids=name_of)
def test_the_fast_way_is_the_general_way(element: Element) -> None:
    values = torch.cat([samples(), edges(element)])
    values = values[~values.isnan()]
    general = _encoded_floats(values, element, Rounding.NEAREST_EVEN, Overflow.SATURATE, None)
    assert torch.equal(encode(values, element), general.to(torch.uint8))


@pytest.mark.parametrize(("name", "function"), [("e2m1", "f4"), ("e3m2", "f6_e3m2")])
def test_encoding_is_that_of_torchao(name: str, function: str) -> None:
    kernels = pytest.importorskip("torchao.prototype.mx_formats.kernels")
    values = torch.cat([samples(), edges(ELEMENTS[name])])
    values = values[~values.isnan()]
    theirs = getattr(kernels, f"f32_to_{function}_unpacked")(values)
    assert torch.equal(encode(values, ELEMENTS[name]), theirs)


@pytest.mark.parametrize("element", SMALL, ids=name_of)
def test_every_code_is_decoded_and_encoded_back(element: Element) -> None:
    codes = all_codes(element)
    values = decode(codes, element)
    is_back = values.isfinite() & (values >= element.lowest)
    assert int(is_back.sum()) >= 2**element.bits - 8
    assert torch.equal(encode(values[is_back], element), codes[is_back])


@pytest.mark.parametrize("name", list(ML_DTYPES)[:-1])
def test_decoding_is_that_of_ml_dtypes(name: str) -> None:
    ml_dtypes = pytest.importorskip("ml_dtypes")
    codes = all_codes(ELEMENTS[name])
    theirs = codes.numpy().view(getattr(ml_dtypes, ML_DTYPES[name][0])).astype(np.float32)
    ours = decode(codes, ELEMENTS[name])
    assert np.array_equal(ours.numpy(), theirs, equal_nan=True)
    assert np.array_equal(ours.signbit().numpy(), np.signbit(theirs))


@pytest.mark.parametrize("name", list(GFLOAT))
def test_decoding_is_that_of_gfloat(name: str) -> None:
    gfloat = pytest.importorskip("gfloat")
    formats = pytest.importorskip("gfloat.formats")
    info = getattr(formats, GFLOAT[name])
    theirs = [gfloat.decode_float(info, code).fval for code in range(2 ** ELEMENTS[name].bits)]
    ours = decode(all_codes(ELEMENTS[name]), ELEMENTS[name])
    assert np.array_equal(ours.double().numpy(), np.array(theirs), equal_nan=True)


def test_a_power_of_two_is_that_of_torch() -> None:
    element = ELEMENTS["e8m0"]
    codes = all_codes(element)
    theirs = codes.view(torch.float8_e8m0fnu).float()
    assert torch.equal(decode(codes, element).nan_to_num(-1), theirs.nan_to_num(-1))
    values = samples().abs()
    values = values[(values >= 2.0**-126) & (values <= 2.0**127)]
    assert torch.equal(encode(values, element), values.to(torch.float8_e8m0fnu).view(torch.uint8))


@pytest.mark.parametrize("element", [ELEMENTS["nf4"]], ids=name_of)
def test_a_codebook_takes_the_nearest_level(element: Element) -> None:
    values = torch.cat([torch.empty(100_000).uniform_(-1.2, 1.2), edges(element)[:-2]])
    levels = torch.tensor(NF4_LEVELS, dtype=torch.float64)
    nearest = (values.double().unsqueeze(-1) - levels).abs().argmin(-1)  # ties: the lower
    assert torch.equal(encode(values, element), nearest.to(torch.uint8))


@pytest.mark.parametrize("name", ["int8", "int4", "int3_restricted", "uint4", "mxint8"])
def test_integers_are_rounded_and_clamped(name: str) -> None:
    element = ELEMENTS[name]
    values = torch.cat([torch.randn(100_000) * 2 * element.largest, edges(element)])
    wanted = (values / element.unit).round() * element.unit
    wanted = wanted.clamp(element.lowest, element.largest)
    assert torch.equal(decode(encode(values, element), element), wanted + 0.0)


@pytest.mark.parametrize("element", [*FLOATS, ELEMENTS["int4"]], ids=name_of)
def test_toward_zero_takes_the_neighbour_within(element: Element) -> None:
    values = torch.cat([torch.randn(100_000) * element.largest / 2, edges(element)])
    kept = decode(encode(values, element, rounding=Rounding.TOWARD_ZERO), element).double()
    grid = decode(all_codes(element), element).double()
    grid = grid[grid.isfinite()].unique()
    inside = values.double().clamp(element.lowest, element.largest)
    below = grid[(torch.bucketize(inside, grid, right=True) - 1)]
    above = grid[torch.bucketize(inside, grid)]
    assert torch.equal(kept, torch.where(inside >= 0, below, above))


@pytest.mark.parametrize("name", ["e4m3fn", "e2m1", "e3m2", "int4"])
def test_stochastic_rounding_is_unbiased(name: str) -> None:
    value, draws = 1.1875 if name == "e4m3fn" else 1.3, 200_000
    generator = torch.Generator().manual_seed(0)
    codes = encode(
        torch.full((draws,), value),
        ELEMENTS[name],
        rounding=Rounding.STOCHASTIC,
        generator=generator,
    )
    kept = decode(codes, ELEMENTS[name])
    gap = float(kept.max() - kept.min())
    # five standard errors of a draw between two neighbours
    assert len(kept.unique()) == 2 or name == "e4m3fn"
    assert abs(float(kept.double().mean()) - value) < 5 * max(gap, 1e-9) / 2 / draws**0.5 + 1e-7


@pytest.mark.parametrize(
    ("name", "overflow", "code"),
    [
        ("e4m3fn", Overflow.SATURATE, 0x7E),
        ("e4m3fn", Overflow.NAN, 0x7F),
        ("e5m2", Overflow.SATURATE, 0x7B),
        ("e5m2", Overflow.INF, 0x7C),
        ("e5m2", Overflow.NAN, 0x7F),
    ],
)
def test_overflow_is_what_is_asked_for(name: str, overflow: Overflow, code: int) -> None:
    values = torch.tensor([1e6, torch.inf, -1e6])
    assert encode(values, ELEMENTS[name], overflow=overflow).tolist() == [code, code, code | 0x80]


def test_what_cannot_be_is_refused() -> None:
    nan, one = torch.tensor([1.0, torch.nan]), torch.ones(1)
    with pytest.raises(FormatError, match="has no NaN"):
        encode(nan, ELEMENTS["e2m1"])
    with pytest.raises(FormatError, match="has no inf to overflow to"):
        encode(one, ELEMENTS["e4m3fn"], overflow=Overflow.INF)
    with pytest.raises(FormatError, match="needs a generator"):
        encode(one, ELEMENTS["int8"], rounding=Rounding.STOCHASTIC)
    with pytest.raises(FormatError, match="to nearest only"):
        encode(one, ELEMENTS["nf4"], rounding=Rounding.TOWARD_ZERO)
    with pytest.raises(FormatError, match="encodes floats"):
        encode(torch.ones(1, dtype=torch.int32), ELEMENTS["int8"])
    with pytest.raises(FormatError, match="no element is called 'int9'"):
        element_named("int9")
