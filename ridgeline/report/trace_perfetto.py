"""Writes recordings with the gaps found in them as a file that Perfetto opens."""

import zlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from ridgeline.traces.columns import Recording
from ridgeline.traces.formats import read
from ridgeline.traces.perfetto import perfetto_document
from ridgeline.traces.trace import find_recordings
from ridgeline.writing import write_pieces

_GZIP = 16 + zlib.MAX_WBITS
_LEVEL = 1  # what is written once and read once


def write_perfetto(path: Path, recordings: Sequence[Path], *, has_stacks: bool) -> None:
    """Reads the recordings, one file at a time, and writes them to `path`; compressed where its
    name ends in .gz.
    """
    pieces = perfetto_document(_each(find_recordings(recordings), has_stacks))
    text = (piece.encode("utf-8", "backslashreplace") for piece in pieces)
    write_pieces(path, _compressed(text) if path.suffix == ".gz" else text)


def _each(files: Sequence[Path], has_stacks: bool) -> Iterator[Recording]:
    for file in files:
        yield from read(file, has_stacks=has_stacks)


def _compressed(pieces: Iterable[bytes]) -> Iterator[bytes]:
    packer = zlib.compressobj(_LEVEL, zlib.DEFLATED, _GZIP)
    for piece in pieces:
        yield packer.compress(piece)
    yield packer.flush()
