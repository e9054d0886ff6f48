"""Memory for weights and activations, in large pages where the system gives them.

Weights pass by once per run, 64 lines to a page of 4 KiB. Each page that the processor does not
remember is looked up in tables, in a virtual machine through those of the host as well, and no
prefetch hides that. A page of 2 MiB is looked up 512 times less often.
"""

import mmap
from contextlib import suppress

import torch
from torch import Tensor

ALIGNMENT = 64  # a cache line, and the widest vector
_LARGE_PAGE_NBYTES, _LEAST_NBYTES, _MOST_NBYTES = 2 << 20, 64 << 10, 64 << 20


class Pages:
    """Hands out memory piece by piece, in blocks that double; what was handed out stays as long as
    its tensor lives, and the block with it.
    """

    def __init__(self) -> None:
        self._left = torch.empty(0, dtype=torch.uint8)
        self._next_nbytes = _LEAST_NBYTES

    def take(self, nbytes: int) -> Tensor:
        """Bytes of no particular value from a multiple of `ALIGNMENT` on, with as many to spare
        behind them.
        """
        room = -(-(nbytes + ALIGNMENT) // ALIGNMENT) * ALIGNMENT
        if room > self._left.numel():
            self._left = _block(max(room, self._next_nbytes))
            self._next_nbytes = min(2 * self._next_nbytes, _MOST_NBYTES)
        piece, self._left = self._left[: nbytes + ALIGNMENT], self._left[room:]
        return piece


def _block(nbytes: int) -> Tensor:
    """New memory, in large pages if it is large; what is not touched takes none."""
    if nbytes < _LARGE_PAGE_NBYTES or not hasattr(mmap, "MADV_HUGEPAGE"):
        return _from_multiple(torch.empty(nbytes + ALIGNMENT, dtype=torch.uint8), ALIGNMENT)
    whole = -(-nbytes // _LARGE_PAGE_NBYTES) * _LARGE_PAGE_NBYTES
    held = mmap.mmap(-1, whole + _LARGE_PAGE_NBYTES, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with suppress(OSError):  # a system without large pages
        held.madvise(mmap.MADV_HUGEPAGE)
    return _from_multiple(torch.frombuffer(held, dtype=torch.uint8), _LARGE_PAGE_NBYTES)


def _from_multiple(held: Tensor, unit: int) -> Tensor:
    """All of it but what comes before a multiple of `unit`."""
    return held[-held.data_ptr() % unit :]
