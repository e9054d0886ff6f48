"""Large pages for memory that others allocated: which of it, and that its content stays."""

import subprocess
import sys
from pathlib import Path

import pytest

from ridgeline.backends.forkserver import environment
from ridgeline.native.large_pages import Region, _parsed, enlarge, regions, without

SETTING = Path("/sys/kernel/mm/transparent_hugepage/enabled")
TABLE = """\
00400000-00800000 r-xp 00000000 08:01 42 /usr/bin/python3
Size:               4096 kB
Rss:                4096 kB
01000000-02000000 rw-p 00000000 00:00 0 [heap]
Size:              16384 kB
Rss:                8192 kB
VmFlags: rd wr mr mw me ac
02000000-02100000 rw-p 00000000 00:00 0
Size:               1024 kB
Rss:                1024 kB
7f0000000000-7f0004000000 rw-p 00000000 00:00 0
Size:              65536 kB
Rss:               65536 kB
7f0010000000-7f0014000000 rw-s 00000000 00:01 77 /dev/shm/shared
Size:              65536 kB
Rss:               65536 kB
7f0020000000-7f0024000000 rw-p 00000000 08:01 42 /some/weights.bin
Size:              65536 kB
Rss:               65536 kB
7ffd00000000-7ffd00800000 rw-p 00000000 00:00 0 [stack]
Size:               8192 kB
Rss:                8192 kB
"""


def test_private_memory_of_no_file_that_is_large() -> None:
    assert tuple(_parsed(TABLE)) == (
        Region(0x01000000, 0x02000000, 8 << 20),
        Region(0x7F0000000000, 0x7F0004000000, 64 << 20),
    )
    assert list(_parsed("")) == list(_parsed("nonsense\nRss: 12 kB")) == []


def test_what_was_there_before_is_left_alone() -> None:
    whole = Region(0, 100, 80)
    assert list(without(whole, ())) == [whole]
    assert list(without(whole, [Region(200, 300, 9)])) == [whole]
    assert list(without(whole, [whole])) == []
    # grown at the end; two that became one with a new one between them
    assert list(without(whole, [Region(0, 60, 60)])) == [Region(60, 100, 20)]
    known = [Region(70, 100, 30), Region(0, 50, 30)]
    assert list(without(whole, known)) == [Region(50, 70, 20)]
    # a piece of one that was larger
    assert list(without(whole, [Region(-50, 20, 60), Region(90, 400, 0)])) == [Region(20, 90, 20)]


# In a process of its own, whose memory is its own.
SCRIPT = """
import mmap, re, sys
from pathlib import Path
from ridgeline.native.large_pages import enlarge, regions

def large():
    text = Path("/proc/self/smaps_rollup").read_text()
    return 1024 * int(re.search(r"AnonHugePages: +(\\d+)", text)[1])

held = mmap.mmap(-1, 64 << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
held.madvise(mmap.MADV_NOHUGEPAGE)  # whatever this machine gives unasked
for start in range(0, 64 << 20, 1 << 20):
    held[start : start + (1 << 20)] = bytes([start >> 20]) * (1 << 20)
known = regions()
assert enlarge(known) == 0
before = large()
moved = enlarge([r for r in regions() if r.nbytes < 64 << 20])
is_same = all(held[i] == i >> 20 for i in range(0, 64 << 20, 4096))
print(moved >> 20, large() - before >> 20, is_same)
"""


@pytest.mark.skipif(
    not SETTING.is_file() or "[never]" in SETTING.read_text(),
    reason="this system gives no large pages",
)
def test_memory_moves_into_large_pages_and_keeps_its_content() -> None:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        capture_output=True,
        text=True,
        env=environment(),
        check=True,
    )
    moved, grown, is_same = done.stdout.split()
    assert is_same == "True"
    assert int(moved) == 0 or int(moved) >= 60  # another system may refuse
    assert int(grown) >= min(int(moved), 60)


def test_regions_that_are_gone_do_no_harm(monkeypatch: pytest.MonkeyPatch) -> None:
    gone = Region(2 << 40, (2 << 40) + (64 << 20), 64 << 20)
    monkeypatch.setattr("ridgeline.native.large_pages.regions", lambda: (gone,))
    assert enlarge() == 0


@pytest.mark.skipif(sys.platform != "linux", reason="the table is Linux's")
def test_this_process_has_regions() -> None:
    hoard = bytearray(b"x" * (32 << 20))
    assert any(r.used_nbytes >= 32 << 20 for r in regions())
    assert len(hoard) == 32 << 20
