"""Packed codes: round trips, and the words of compressed-tensors, torchao, GPTQ and AWQ."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ridgeline.compress.packing import (
    packed_awq,
    packed_bytes,
    packed_words,
    to_offset,
    unpacked_awq,
    unpacked_bytes,
    unpacked_words,
)
from ridgeline.errors import FormatError


@given(bits=st.integers(1, 8), rows=st.integers(0, 3), columns=st.integers(1, 70))
def test_codes_come_back(bits: int, rows: int, columns: int) -> None:
    codes = torch.randint(0, 2**bits, (rows, columns), dtype=torch.uint8)
    packed = packed_bytes(codes, bits)
    assert packed.shape == (rows, -(-columns * bits // 8))
    assert torch.equal(unpacked_bytes(packed, bits, columns), codes)
    for axis, count in ((1, columns), (0, rows)):
        words = packed_words(codes, bits, axis=axis)
        assert torch.equal(unpacked_words(words, bits, count, axis=axis), codes)


def test_bits_stand_where_the_layouts_say() -> None:
    nibbles = torch.tensor([1, 2, 3], dtype=torch.uint8)
    assert packed_bytes(nibbles, 4).tolist() == [0x21, 0x03]
    assert packed_bytes(torch.tensor([1, 2, 3, 4], dtype=torch.uint8), 6).tolist() == [
        *(1 | 2 << 6).to_bytes(2, "little")[:1],
        (2 >> 2) | (3 << 4) & 0xFF,
        (3 >> 4) | 4 << 2,
    ]
    eight = torch.arange(8, dtype=torch.uint8).reshape(1, 8)
    assert packed_words(eight, 4).tolist() == [[0x76543210]]
    assert packed_words(eight.T.contiguous(), 4, axis=0).tolist() == [[0x76543210]]
    assert packed_awq(eight).tolist() == [[0x75316420]]


def test_awq_comes_back() -> None:
    codes = torch.randint(0, 16, (5, 24), dtype=torch.uint8)
    assert torch.equal(unpacked_awq(packed_awq(codes)), codes)


@pytest.mark.parametrize("bits", range(2, 9))
@pytest.mark.parametrize("axis", [0, 1])
def test_words_are_those_of_compressed_tensors(bits: int, axis: int) -> None:
    helpers = pytest.importorskip("compressed_tensors.compressors.pack_quantized.helpers")
    values = torch.randint(-(2 ** (bits - 1)), 2 ** (bits - 1), (33, 70), dtype=torch.int8)
    codes = values.view(torch.uint8) & (2**bits - 1)
    theirs = helpers.pack_to_int32(values, bits, packed_dim=axis)
    assert torch.equal(packed_words(to_offset(codes, bits), bits, axis=axis), theirs)


def test_nibbles_are_those_of_torchao() -> None:
    kernels = pytest.importorskip("torchao.prototype.mx_formats.kernels")
    codes = torch.randint(0, 16, (4, 32), dtype=torch.uint8)
    assert torch.equal(packed_bytes(codes, 4), kernels.pack_uint4(codes))


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(FormatError, match="the code 16 has more than 4 bits"):
        packed_bytes(torch.tensor([16], dtype=torch.uint8), 4)
    with pytest.raises(FormatError, match="9 codes of 4 bits are 5 bytes, not 4"):
        unpacked_bytes(torch.zeros(4, dtype=torch.uint8), 4, 9)
    with pytest.raises(FormatError, match="AWQ packs eight columns"):
        packed_awq(torch.zeros(1, 9, dtype=torch.uint8))
