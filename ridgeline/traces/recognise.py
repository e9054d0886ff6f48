"""Which recorder wrote a file, by its first bytes; its suffix is not asked."""

import re
import zlib
from collections.abc import Callable
from enum import Enum
from pathlib import Path

from ridgeline.errors import TraceError
from ridgeline.traces.dcgm_dmon import HEADER
from ridgeline.traces.files import require_file
from ridgeline.traces.nsys_database import MAGIC
from ridgeline.traces.protobuf import Span, Torn, fields, text

_HEAD_BYTES = 65_536
_GZIP = b"\x1f\x8b"


class Format(Enum):
    """What a file is: the recorder's name for it."""

    KINETO = "Kineto JSON (torch.profiler)"
    NSYS = "Nsight Systems SQLite"
    NSYS_TRACE = "nsys stats cuda_gpu_trace CSV"
    NSYS_KERNELS = "nsys stats cuda_gpu_kern_sum CSV"
    DCGM_DMON = "dcgmi dmon text"
    DCGM_SCRAPE = "dcgm-exporter metrics"
    DCGM_RANGE = "Prometheus JSON"
    XPLANE = "XLA xplane.pb"

    @property
    def is_samples(self) -> bool:
        """Whether it holds samples of a monitor, and not events."""
        return self in (Format.DCGM_DMON, Format.DCGM_SCRAPE, Format.DCGM_RANGE)


# What people have at hand and we do not read: how it starts -> what to do instead.
_OTHERS: tuple[tuple[bytes, str], ...] = (
    (b"PAR1", "it is Parquet; export SQLite: `nsys export --type sqlite`"),
    (b"PK\x03\x04", "it is a zip file; unpack it"),
    (b"\x28\xb5\x2f\xfd", "it is packed by zstd; unpack it"),
    (b"\xfd7zXZ", "it is packed by xz; unpack it"),
    (b"BZh", "it is packed by bzip2; unpack it"),
    (b"\x7fELF", "it is a program"),
)
_HINTS = {
    ".nsys-rep": "export it first: `nsys export --type sqlite report.nsys-rep`",
    ".qdrep": "export it first: `nsys export --type sqlite report.qdrep`",
    ".ncu-rep": "it is of Nsight Compute, which records single kernels, not a timeline",
    ".pftrace": "it is a Perfetto trace; export JSON with the profiler that wrote it",
}
_METRIC = re.compile(r"^(# (HELP|TYPE) )?DCGM_FI_\w+[ {]", re.MULTILINE)
_CSV_TRACE = re.compile(r"^\W*Start \(\w+\).*\bDuration \(\w+\).*\bName\b", re.MULTILINE)
_CSV_SUMS = re.compile(r"^\W*Time ?\(%\).*\bTotal Time \(\w+\).*\bInstances\b", re.MULTILINE)
_PROMETHEUS = re.compile(r'"resultType"\s*:')
_EVENTS = re.compile(r'"(traceEvents|ph|baseTimeNanoseconds|schemaVersion)"\s*:')


def _head(path: Path) -> bytes:
    """The first bytes of a file, unpacked where it is packed by gzip."""
    require_file(path)
    try:
        with path.open("rb") as file:
            data = file.read(_HEAD_BYTES)
        is_packed = data.startswith(_GZIP)
        return zlib.decompressobj(31).decompress(data, _HEAD_BYTES) if is_packed else data
    except (OSError, zlib.error) as error:
        raise TraceError(f"cannot read {path}: {getattr(error, 'strerror', error)}.") from None


def _is_xplane(head: bytes) -> bool:
    """Whether it starts with a plane: a message in field 1 whose name, an absolute one, comes
    before its lines."""
    if not head.startswith(b"\n"):
        return False
    try:
        nbytes_at = next(at for at in range(1, len(head)) if head[at] < 0x80)
        for number, value in fields(head, Span(nbytes_at + 1, len(head))):
            if number == 2 and isinstance(value, Span):
                return text(head, value).startswith(("/host:", "/device:", "Task Environment"))
            if number > 2:
                return False
    except (Torn, StopIteration):
        return False
    return False


def _json(words: str) -> Format:
    """The kind of JSON; one that says nothing of itself so far is left to Kineto's reader."""
    if _PROMETHEUS.search(words) and not _EVENTS.search(words):
        return Format.DCGM_RANGE
    return Format.KINETO


_TEXTS: tuple[tuple[Callable[[str], object], Format], ...] = (
    (HEADER.search, Format.DCGM_DMON),
    (_METRIC.search, Format.DCGM_SCRAPE),
    (_CSV_TRACE.search, Format.NSYS_TRACE),
    (_CSV_SUMS.search, Format.NSYS_KERNELS),
)


def format_of(path: Path) -> Format:
    """Which format a file is in. Raises TraceError for one that is none of them, empty, a folder or
    missing, with what it looks like and what to do."""
    head = _head(path)
    if not head:
        raise TraceError(f"{path} is empty.")
    if head.startswith(MAGIC):
        return Format.NSYS
    if _is_xplane(head):
        return Format.XPLANE
    words = head.decode("utf-8-sig", "replace").lstrip()
    if words.startswith(("{", "[")):
        return _json(words)
    for finds, found in _TEXTS:
        if finds(words):
            return found
    raise TraceError(f"{path} is no trace we know: {_looks_like(path, head)}.")


def _looks_like(path: Path, head: bytes) -> str:
    """What a file that is none of ours may be, and what to do about it."""
    for start, advice in _OTHERS:
        if head.startswith(start):
            return advice
    if hint := _HINTS.get(path.suffix.lower()):
        return hint
    known = ", ".join(one.value for one in Format)
    return f"it starts with {head[:12]!r}; known are {known}"
