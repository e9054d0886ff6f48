"""The bytes of a file: mapped, or inflated as far as it goes."""

import mmap
import os
import stat
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, cast

from ridgeline.errors import TraceError
from ridgeline.machines.cpu import free_memory_bytes
from ridgeline.native.scan import Text
from ridgeline.units import format_bytes

_GZIP = b"\x1f\x8b"
_CHUNK_BYTES = 4 * 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class FileText:
    """What is in a file. notes: what is not, because the file is cut off or damaged."""

    data: Text
    notes: tuple[str, ...] = ()


_KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


def require_file(path: Path) -> None:
    """Raises TraceError where there is no plain file: opening a pipe waits for who writes to it,
    and a device may never end.
    """
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError) as error:
        raise TraceError(f"cannot read {path}: {getattr(error, 'strerror', error)}.") from None
    for is_kind, kind in _KINDS:
        if is_kind(mode):
            raise TraceError(f"cannot read {path}: it is {kind}, not a file.")


def read_file(path: Path, *, free_bytes: int | None = None) -> FileText:
    """The content of the file at `path`, inflated where it is compressed. free_bytes: of
    memory; None: as many as the system says. Raises TraceError where it is missing, no plain file,
    empty, or inflates to more than half of them.
    """
    require_file(path)
    free_bytes = free_memory_bytes() if free_bytes is None else free_bytes
    try:
        with path.open("rb") as file:
            if not os.fstat(file.fileno()).st_size:
                raise TraceError(f"{path} is empty.")
            text = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except (OSError, ValueError) as error:
        raise TraceError(f"cannot read {path}: {getattr(error, 'strerror', error)}.") from None
    return _inflated(path, text, free_bytes) if text[:2] == _GZIP else FileText(data=text)


def require_memory(path: Path, nbytes: int) -> None:
    """Raises TraceError where the events in so much JSON, which take about as much memory as it
    (measured: docs/trace-speed.md), would not fit into what is free. A mapped file takes none.
    """
    free_bytes = free_memory_bytes()
    if free_bytes is not None and nbytes > free_bytes:
        raise _too_much(path, f"holds {format_bytes(nbytes)}, more than", free_bytes)


def _too_much(path: Path, what: str, free_bytes: int) -> TraceError:
    return TraceError(
        f"{path} {what} the {format_bytes(free_bytes)} of memory that are free here; read it "
        "on a machine with more, or record fewer steps."
    )


def _inflated(path: Path, packed: mmap.mmap, free_bytes: int | None) -> FileText:
    content, at, notes = bytearray(), 0, []
    try:
        while packed[at : at + 2] == _GZIP:  # there may be several members
            at += _inflate_member(path, packed, at, content, free_bytes)
    except EOFError:
        notes.append("the compressed file is cut off")
    except zlib.error as error:
        notes.append(f"the compressed file is damaged ({error})")
    if not content:
        raise TraceError(f"{path} holds nothing: {notes[0] if notes else 'it is empty'}.")
    return FileText(data=content, notes=tuple(notes))


def _inflate_member(
    path: Path, packed: mmap.mmap, start: int, content: bytearray, free_bytes: int | None
) -> int:
    """Appends what the member at `start` holds; bytes that it took. Raises EOFError where it is
    cut off.
    """
    (stream, failure), at = decompressor(), start
    while not stream.eof:
        chunk = packed[at : at + _CHUNK_BYTES]
        if not chunk:
            raise EOFError
        at += len(chunk)
        # bounded: a megabyte of zeros a thousand times over takes a kilobyte
        while chunk and not stream.eof:
            try:
                content += stream.decompress(chunk, _CHUNK_BYTES)
            except failure as error:
                raise zlib.error(str(error)) from None
            chunk = stream.unconsumed_tail
            # the other half is for what is read from it
            if free_bytes is not None and len(content) > free_bytes // 2:
                raise _too_much(path, "inflates to more than half of", free_bytes)
    return at - len(stream.unused_data) - start


class Decompressor(Protocol):
    """What `zlib.decompressobj` gives."""

    @property
    def eof(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    @property
    def unconsumed_tail(self) -> bytes: ...
    def decompress(self, data: bytes, max_length: int, /) -> bytes: ...


def decompressor() -> tuple[Decompressor, type[Exception]]:
    """What inflates gzip, and what it raises; ISA-L's where it is installed, twice as fast."""
    try:
        from isal import isal_zlib
    except ImportError:
        return zlib.decompressobj(31), zlib.error
    return isal_zlib.decompressobj(31), cast(type[Exception], isal_zlib.error)  # as it is
