"""Which reader takes a file: a table from what its first bytes say it is."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from ridgeline.errors import TraceError
from ridgeline.traces.columns import Recording
from ridgeline.traces.recognise import Format, format_of

_SUFFIXES = (".json", ".json.gz", ".sqlite", ".sqlite.gz", ".pb", ".pb.gz")
Reader = Callable[[Path, bool], Sequence[Recording]]
"""Gives the recordings in a file, one per rank, with calls of Python functions or without."""


# A reader is imported when a file wants it: `--help` needs none.
def _read_kineto(path: Path, has_stacks: bool) -> Sequence[Recording]:
    from ridgeline.traces.kineto import read_kineto

    return (read_kineto(path, keeps_python=has_stacks),)


def _read_nsys(path: Path, has_stacks: bool) -> Sequence[Recording]:
    from ridgeline.traces.nsys import read_nsys

    return read_nsys(path)


def _read_gpu_trace(path: Path, has_stacks: bool) -> Sequence[Recording]:
    from ridgeline.traces.nsys_stats import read_gpu_trace

    return read_gpu_trace(path)


def _read_xplane(path: Path, has_stacks: bool) -> Sequence[Recording]:
    from ridgeline.traces.xplane import read_xplane

    return read_xplane(path)


READERS: Mapping[Format, Reader] = {
    Format.KINETO: _read_kineto,
    Format.NSYS: _read_nsys,
    Format.NSYS_TRACE: _read_gpu_trace,
    Format.XPLANE: _read_xplane,
}
"""Formats that hold events; the others hold sums or samples."""


def read(path: Path, *, has_stacks: bool) -> Sequence[Recording]:
    """The recordings in a file, one per rank. Raises TraceError where it is none."""
    if path.is_dir():
        raise TraceError(f"{path} is a folder, not a recording.")
    found = format_of(path)
    if found not in READERS:
        what = "samples of a monitor" if found.is_samples else "sums over a recording"
        raise TraceError(f"{path} is {found.value}: {what}, not the events of one.")
    return READERS[found](path, has_stacks)


def is_recording(path: Path) -> bool:
    """Whether a file in a folder is named like a recording."""
    return path.is_file() and path.name.lower().endswith(_SUFFIXES)
