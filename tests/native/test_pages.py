"""Memory in large pages: aligned, apart, and alive as long as a piece of it."""

import gc
import mmap
import sys
from itertools import pairwise
from pathlib import Path

import pytest
import torch

from ridgeline.native.pages import ALIGNMENT, Pages

MIB = 1 << 20


def test_pieces_are_aligned_and_apart() -> None:
    pages = Pages()
    pieces = [pages.take(n) for n in (0, 1, 63, 64, 65, 100_000, 3 * MIB, 7, 200 * MIB, 5)]
    for number, piece in enumerate(pieces):
        assert piece.data_ptr() % ALIGNMENT == 0
        piece[:100].fill_(number)
    for number, piece in enumerate(pieces):
        assert (piece[:100] == number).all()
    spans = sorted((p.data_ptr(), p.data_ptr() + p.numel()) for p in pieces)
    assert all(end <= start for (_, end), (start, _) in pairwise(spans))


def test_a_piece_outlives_what_gave_it() -> None:
    piece = Pages().take(3 * MIB).fill_(7)
    gc.collect()
    torch.empty(3 * MIB, dtype=torch.uint8).fill_(1)
    assert (piece == 7).all()


def _huge_kib() -> int:
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("AnonHugePages")).split()[1])


@pytest.mark.skipif(sys.platform != "linux", reason="reads the pages from /proc")
def test_large_pieces_lie_in_large_pages_and_untouched_ones_nowhere() -> None:
    enabled = Path("/sys/kernel/mm/transparent_hugepage/enabled")
    if not enabled.is_file() or "[never]" in enabled.read_text():
        pytest.skip("this system has no large pages")
    before = _huge_kib()
    piece = Pages().take(64 * MIB)
    assert _huge_kib() == before
    piece.fill_(1)
    assert _huge_kib() >= before + 8 * 1024  # memory may be too scattered for all


def test_without_large_pages_memory_is_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(mmap, "MADV_HUGEPAGE", raising=False)
    piece = Pages().take(5 * MIB).fill_(3)
    assert (piece == 3).all()
    assert piece.data_ptr() % ALIGNMENT == 0
