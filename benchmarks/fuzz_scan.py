"""Mutated recordings through the built scanner: no crash, no read beyond the end of the text.

    python benchmarks/fuzz_scan.py FOLDER [--mutations 1000000] [--limit-s 300] [--out RECORD.json]

The seeds are the recordings in FOLDER, cut to a few KB that are still whole JSON. Every text ends
where a page begins that may not be read, so that a byte too far is a crash. Blocks of mutations run
in a process of their own, which the count survives; a block is told by its number, from which the
same mutations come again. One in `--every` is also read by the scanner in Python, and compared.
"""

import argparse
import ctypes
import datetime
import gzip
import json
import mmap
import platform
import random
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ridgeline.native import scan as native
from ridgeline.native.scan import COLUMNS, Scan
from ridgeline.traces.scan import scan_in_python

SEED, BLOCK, BLOCKS_PER_POOL, MOST_BYTES = 0, 2_000, 50, 16_384
_SEED_EVENTS, _SEED_BYTES = 24, 6_000
_PROT_NONE = 0
_EXTREMES = tuple(
    b"0|-0|-1|1e999|-1e999|1e-999|9223372036854775807|9223372036854775808|18446744073709551616"
    b"|2305843009213693951|2305843009213693.952|NaN|-Infinity|1e2147483648|0.0000000000000000001"
    b"|99999999999999999999999999999999999999999999|1.|.5|--1|1e|1e+|00|0x10".split(b"|")
)
_TOKENS = tuple(
    b'{|}|[|]|"|\\|\\u12|:|,|null|{"args":|"traceEvents":[|"ph":"X",|"ts":|\x00|\xff'.split(b"|")
)
_COUNTS = ("num_python", "num_flows", "num_untimed", "num_unread")
Mutation = Callable[[bytes, random.Random, Sequence[bytes]], bytes]


class Guarded:
    """Memory before a page that may not be read."""

    def __init__(self, nbytes: int) -> None:
        page = mmap.PAGESIZE
        self.nbytes = -(-nbytes // page) * page
        self._memory = mmap.mmap(-1, self.nbytes + page)
        self._array = np.frombuffer(self._memory, np.uint8)
        guard = self._array.ctypes.data + self.nbytes
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.mprotect(ctypes.c_void_p(guard), ctypes.c_size_t(page), _PROT_NONE):
            raise OSError(ctypes.get_errno(), "mprotect")

    def hold(self, text: bytes) -> NDArray[np.uint8]:
        """`text`, so that its last byte is the last that may be read."""
        place = self._array[self.nbytes - len(text) : self.nbytes]
        place[:] = np.frombuffer(text, np.uint8)
        return place


def main() -> None:
    """Runs the blocks, prints the count, writes the record; 1 where there was a crash."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--mutations", type=int, default=1_000_000)
    parser.add_argument("--every", type=int, default=200, help="Mutations per one compared.")
    parser.add_argument("--limit-s", type=float, default=300.0, help="Seconds, all in all.")
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    seeds = {path.name: cut(path) for path in sorted(options.folder.glob("*.json*"))}
    if not seeds or not native.has_scanner():
        sys.exit("there are no recordings, or the scanner was not built.")
    found = fuzz(tuple(seeds.values()), options)
    found |= {
        "date": datetime.date.today().isoformat(),
        "python": platform.python_version(),
        "seed": options.seed,
        "seeds": {name: len(text) for name, text in seeds.items()},
    }
    print(json.dumps(found, indent=1))
    if options.out:
        options.out.write_text(json.dumps(found, indent=1) + "\n")
    sys.exit(bool(found["crashed_blocks"]))


def fuzz(seeds: Sequence[bytes], options: argparse.Namespace) -> dict[str, object]:
    """What became of all mutations, in as much time as there is."""
    counts: Counter[str] = Counter()
    crashed: list[int] = []
    start_s = time.monotonic()
    for first in range(0, -(-options.mutations // BLOCK), BLOCKS_PER_POOL):
        if time.monotonic() - start_s > options.limit_s:
            break
        numbers = range(first, min(first + BLOCKS_PER_POOL, -(-options.mutations // BLOCK)))
        work = partial(run_block, seeds=seeds, seed=options.seed, every=options.every)
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
            for number, future in [(n, pool.submit(work, n)) for n in numbers]:
                try:
                    counts += future.result()
                except BrokenProcessPool:
                    crashed.append(number)
                    break  # those behind it ran in the same process
    return {
        "mutations": counts.pop("mutations", 0),
        "compared": counts.pop("compared", 0),
        "different": counts.pop("different", 0),
        "crashed_blocks": crashed,
        "elapsed_s": round(time.monotonic() - start_s, 1),
        "ends": {name: counts[name] for name in ("WHOLE", "CUT", "BROKEN")},
        "by_mutation": {name: counts[name] for name in MUTATIONS},
    }


def run_block(number: int, seeds: Sequence[bytes], seed: int, every: int) -> Counter[str]:
    """Scans the mutations of a block; how many of which kind, how they ended, how many differ."""
    guarded, counts = Guarded(MOST_BYTES), Counter[str]()
    for index, (names, text) in enumerate(mutated(number, seeds, seed)):
        found = native.scan(guarded.hold(text), keeps_python=index % 2 == 0)  # type: ignore[arg-type]
        assert found is not None
        counts.update(names)
        counts.update(("mutations", found.end.name))
        if index % every == 0:
            counts["compared"] += 1
            if not is_same(found, scan_in_python(text, keeps_python=index % 2 == 0)):
                counts["different"] += 1
                print(f"block {number}, mutation {index}: {text!r}", file=sys.stderr)
    return counts


def mutated(number: int, seeds: Sequence[bytes], seed: int) -> Iterator[tuple[list[str], bytes]]:
    """The mutations of a block, and which were done one after another to get there."""
    rng = random.Random(seed * 1_000_003 + number)
    kinds = tuple(MUTATIONS)
    for _ in range(BLOCK):
        text = rng.choice(seeds)
        names = rng.choices(kinds, k=rng.choice((1, 1, 2, 4)))
        for name in names:
            text = MUTATIONS[name](text, rng, seeds)[:MOST_BYTES]
        yield names, text


def is_same(one: Scan, other: Scan) -> bool:
    """Whether two scans say the same."""
    if dict(one.header) != dict(other.header):  # of a key that comes twice the last counts
        return False
    fields = ("tables", "end", "offset", "num_recorded", *_COUNTS)
    return all(getattr(one, f) == getattr(other, f) for f in fields) and all(
        np.array_equal(one.columns[name], other.columns[name]) for name in COLUMNS
    )


def cut(path: Path) -> bytes:
    """A recording of a few events of each category, as compact as it was written."""
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "rb") as file:
        document = json.loads(file.read())
    seen: Counter[object] = Counter()
    events, nbytes = [], 0
    for event in document["traceEvents"]:
        key = (event.get("ph"), event.get("cat"))
        size = len(json.dumps(event))
        if seen[key] < 2 and nbytes + size <= _SEED_BYTES and len(events) < _SEED_EVENTS:
            seen[key] += 1
            events.append(event)
            nbytes += size
    header = {k: v for k, v in document.items() if k != "traceEvents" and len(str(v)) < 500}
    return json.dumps(header | {"traceEvents": events}, indent=1).encode()


def _flip(text: bytes, rng: random.Random, seeds: Sequence[bytes]) -> bytes:
    changed = bytearray(text)
    for _ in range(rng.randint(1, 8) if text else 0):
        changed[rng.randrange(len(text))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def _splice(text: bytes, rng: random.Random, seeds: Sequence[bytes]) -> bytes:
    start, stop = _part(text, rng)
    other = rng.choice(seeds)
    first, last = _part(other, rng)
    return text[:start] + other[first:last] + text[stop:]


def _duplicate(text: bytes, rng: random.Random, seeds: Sequence[bytes]) -> bytes:
    start, stop = _part(text, rng)
    return text[:stop] + text[start:stop] * rng.randint(1, 4) + text[stop:]


def _truncate(text: bytes, rng: random.Random, seeds: Sequence[bytes]) -> bytes:
    return text[: rng.randint(0, len(text))]


def _delete(text: bytes, rng: random.Random, seeds: Sequence[bytes]) -> bytes:
    start, stop = _part(text, rng)
    return text[:start] + text[stop:]


def _number(text: bytes, rng: random.Random, seeds: Sequence[bytes]) -> bytes:
    """Another number where the next number stands behind some place."""
    start = rng.randint(0, len(text))
    while start < len(text) and text[start] not in b"-0123456789":
        start += 1
    stop = start
    while stop < len(text) and text[stop] in b"-+.eE0123456789":
        stop += 1
    return text[:start] + rng.choice(_EXTREMES) + text[stop:]


def _token(text: bytes, rng: random.Random, seeds: Sequence[bytes]) -> bytes:
    start = rng.randint(0, len(text))
    return text[:start] + rng.choice(_TOKENS) * rng.choice((1, 1, 1, 300)) + text[start:]


def _part(text: bytes, rng: random.Random) -> tuple[int, int]:
    start = rng.randint(0, len(text))
    return start, min(len(text), start + rng.choice((1, 8, 64, 512)))


MUTATIONS: Mapping[str, Mutation] = {
    "flip": _flip,
    "splice": _splice,
    "duplicate": _duplicate,
    "truncate": _truncate,
    "delete": _delete,
    "number": _number,
    "token": _token,
}
"""What is done to a text; each may also be done to what another has left."""


if __name__ == "__main__":
    main()
