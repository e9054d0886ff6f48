"""Codes of few bits in bytes and in 32-bit words, and back, exactly."""

import torch
from torch import Tensor

from ridgeline.errors import FormatError

WORD_BITS = 32
# AutoAWQ's order: nibble j of a word holds the column AWQ_ORDER[j] of its eight.
AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)


def to_offset(codes: Tensor, bits: int) -> Tensor:
    """Two's complement as value + 2**(bits - 1), which integer checkpoints pack; its own
    inverse.
    """
    return codes ^ (1 << (bits - 1))


def packed_bytes(codes: Tensor, bits: int) -> Tensor:
    """Codes along the last axis, the first in the lowest bits: (..., n) -> (..., ceil(n bits / 8)).

    The bits that are left over are zero. Of four bits: low nibble first; of six: four in three
    bytes, little-endian. codes: uint8, below 2**bits.
    """
    _check(codes, bits)
    # eight codes are `bits` whole bytes
    groups = _groups(_filled(codes, 8), 8).long()
    word = (groups << (bits * torch.arange(8, device=codes.device))).sum(-1)
    steps = 8 * torch.arange(bits, device=codes.device)
    packed = ((word.unsqueeze(-1) >> steps) & 0xFF).to(torch.uint8).flatten(-2)
    return packed[..., : -(-codes.shape[-1] * bits // 8)]


def unpacked_bytes(packed: Tensor, bits: int, count: int) -> Tensor:
    """The first `count` codes that `packed_bytes` packed along the last axis, uint8."""
    wanted = -(-count * bits // 8)
    if packed.dtype != torch.uint8 or packed.shape[-1] != wanted:
        raise FormatError(
            f"{count} codes of {bits} bits are {wanted} bytes, not {packed.shape[-1]} of "
            f"{packed.dtype}."
        )
    groups = _groups(_filled(packed, bits), bits).long()
    word = (groups << (8 * torch.arange(bits, device=packed.device))).sum(-1)
    steps = bits * torch.arange(8, device=packed.device)
    codes: Tensor = (word.unsqueeze(-1) >> steps) & (2**bits - 1)
    return codes.to(torch.uint8).flatten(-2)[..., :count]


def packed_words(codes: Tensor, bits: int, *, axis: int = -1) -> Tensor:
    """Codes along `axis` as dense int32 words, codes across their borders.

    compressed-tensors' pack-quantized is axis -1 of `to_offset` codes; GPTQ's `qweight`, whose rows
    are inputs, is axis 0, and its `qzeros` axis -1.
    """
    packed = packed_bytes(codes.movedim(axis, -1), bits)
    filled = _filled(packed, 4)
    flat = filled.reshape(-1).clone().view(torch.int32)  # a view needs a stride of one
    words = flat.reshape(*filled.shape[:-1], filled.shape[-1] // 4)
    return words.movedim(-1, axis).contiguous()


def unpacked_words(words: Tensor, bits: int, count: int, *, axis: int = -1) -> Tensor:
    """The first `count` codes that `packed_words` packed along `axis`, uint8."""
    if words.dtype != torch.int32:
        raise FormatError(f"words are int32, not {words.dtype}.")
    lines = words.movedim(axis, -1)
    packed = lines.reshape(-1).clone().view(torch.uint8)
    packed = packed.reshape(*lines.shape[:-1], 4 * lines.shape[-1])
    nbytes = -(-count * bits // 8)
    return unpacked_bytes(packed[..., :nbytes], bits, count).movedim(-1, axis)


def packed_awq(codes: Tensor) -> Tensor:
    """Four-bit codes (inputs, outputs) as AWQ's words (inputs, outputs / 8), interleaved."""
    if codes.shape[-1] % len(AWQ_ORDER):
        raise FormatError(f"AWQ packs eight columns in a word; {codes.shape[-1]} do not divide.")
    groups = _groups(codes, 8)[..., list(AWQ_ORDER)]
    return packed_words(groups.flatten(-2), 4)


def unpacked_awq(words: Tensor) -> Tensor:
    """The codes of AWQ's words, uint8."""
    groups = _groups(unpacked_words(words, 4, 8 * words.shape[-1]), 8)
    inverse = sorted(range(8), key=AWQ_ORDER.__getitem__)
    return groups[..., inverse].flatten(-2)


def _check(codes: Tensor, bits: int) -> None:
    if codes.dtype != torch.uint8 or not 1 <= bits <= 8:
        raise FormatError(f"codes of 1 to 8 bits are uint8; these are {codes.dtype}, {bits} bits.")
    if codes.numel() and int(codes.max()) >> bits:
        raise FormatError(f"the code {int(codes.max())} has more than {bits} bits.")


def _groups(values: Tensor, size: int) -> Tensor:
    """(..., n) as (..., n / size, size)."""
    return values.reshape(*values.shape[:-1], values.shape[-1] // size, size)


def _filled(values: Tensor, multiple: int) -> Tensor:
    """Zeros appended on the last axis up to a multiple."""
    missing = -values.shape[-1] % multiple
    return torch.nn.functional.pad(values, (0, missing)) if missing else values
