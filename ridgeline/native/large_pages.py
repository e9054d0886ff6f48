"""Puts memory that others allocated into large pages, where the system lets us.

Compilers and runtimes keep weights in what malloc gives: pages of 4 KiB, each of which is looked up
on the way to the processor, in a virtual machine through the host's tables too. How long that takes
depends on where they lie and on who else is there; in pages of 2 MiB, less. docs/split.md has what
that gains and where it gains nothing. Linux gives such pages to those who ask
(Documentation/admin-guide/mm/transhuge.rst).
"""

import ctypes
import re
import sys
from collections.abc import Collection, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

_LARGE_PAGE_NBYTES = 2 << 20
# From <linux/mman.h>: what is touched from now on, and what was touched already (Linux 6.1).
_ADVISE, _COLLAPSE = 14, 25
# Smaller ones hold little, and among them are what allocators grow by.
_LEAST_NBYTES = 4 << 20
# Where less of it is in use, large pages would fill memory that nobody asked for.
_LEAST_USED = 0.8
_HEAD = re.compile(r"([0-9a-f]+)-([0-9a-f]+) (\S+) \S+ \S+ (\d+)\s*(.*)")


@dataclass(frozen=True, slots=True)
class Region:
    """Private memory of this process: its addresses, and the bytes that are in use."""

    start: int
    end: int
    used_nbytes: int

    @property
    def nbytes(self) -> int:
        """All of it."""
        return self.end - self.start


def regions() -> tuple[Region, ...]:
    """The large private regions of this process; none where the system does not tell."""
    with suppress(OSError):
        return tuple(_parsed(Path("/proc/self/smaps").read_text(errors="replace")))
    return ()


def _parsed(text: str) -> Iterator[Region]:
    """The regions in a table of mappings that are writable, of no file and large enough."""
    bounds: tuple[int, int] | None = None
    for line in text.splitlines():
        if head := _HEAD.match(line):
            low, high, mode, inode, name = head.groups()
            is_ours = mode == "rw-p" and inode == "0" and (name in ("", "[heap]"))
            bounds = (int(low, 16), int(high, 16)) if is_ours else None
        elif bounds and line.startswith("Rss:"):
            if bounds[1] - bounds[0] >= _LEAST_NBYTES:
                yield Region(*bounds, used_nbytes=1024 * int(line.split()[1]))
            bounds = None


def enlarge(before: Collection[Region] = ()) -> int:
    """Asks for large pages for all large regions but what was there `before`, which may be shared
    with the process that this one was forked from; the bytes that lie in some now. What cannot be
    had stays as it is: nothing depends on it.
    """
    if not sys.platform.startswith("linux"):
        return 0
    advise = ctypes.CDLL(None).madvise
    advise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    fresh = (piece for region in regions() for piece in without(region, before))
    return sum(_enlarged(advise, piece) for piece in fresh if piece.nbytes >= _LEAST_NBYTES)


def without(region: Region, known: Collection[Region]) -> Iterator[Region]:
    """The pieces of a region that no known one covers: regions grow, and neighbours become one.
    What is in use of it beyond what was in use of those is taken to lie evenly.
    """
    inside = sorted(
        (max(k.start, region.start), min(k.end, region.end), k.used_nbytes)
        for k in known
        if k.start < region.end and region.start < k.end
    )
    ends = [region.start, *(end for _, end, _ in inside)]
    starts = [*(start for start, _, _ in inside), region.end]
    gaps = [(a, b) for a, b in zip(ends, starts, strict=True) if a < b]
    free = sum(b - a for a, b in gaps)
    used = max(0, region.used_nbytes - sum(used for _, _, used in inside))
    for start, end in gaps:
        yield Region(start, end, used_nbytes=min(end - start, used * (end - start) // free))


def _enlarged(advise: "ctypes._NamedFuncPointer", region: Region) -> int:
    start = -(-region.start // _LARGE_PAGE_NBYTES) * _LARGE_PAGE_NBYTES
    nbytes = region.end // _LARGE_PAGE_NBYTES * _LARGE_PAGE_NBYTES - start
    if nbytes <= 0 or region.used_nbytes < _LEAST_USED * region.nbytes:
        return 0
    if advise(start, nbytes, _ADVISE) or advise(start, nbytes, _COLLAPSE):
        return 0
    return nbytes
