"""Which reader takes a file: a table of formats, the first that claims it reads it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ridgeline.errors import TraceError
from ridgeline.traces.columns import Recording

_HEAD_BYTES = 16
_SUFFIXES = (".json", ".json.gz", ".sqlite", ".sqlite.gz", ".pb")


@dataclass(frozen=True, slots=True, kw_only=True)
class Format:
    """One kind of recording. claims: whether a file of that name with those first bytes is one;
    read: its recordings, one per rank, with calls of Python functions or without.
    """

    name: str
    claims: Callable[[str, bytes], bool]
    read: Callable[[Path, bool], Sequence[Recording]]


def _read_kineto(path: Path, has_stacks: bool) -> Sequence[Recording]:
    from ridgeline.traces.kineto import read_kineto

    return (read_kineto(path, keeps_python=has_stacks),)


FORMATS: tuple[Format, ...] = (
    Format(name="torch.profiler", claims=lambda name, head: True, read=_read_kineto),
)
"""The last one takes what no other claims, and says what is wrong with it."""


def read(path: Path, *, has_stacks: bool) -> Sequence[Recording]:
    """The recordings in a file, one per rank. Raises TraceError where it is none."""
    if path.is_dir():
        raise TraceError(f"{path} is a folder, not a recording.")
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD_BYTES)
    except OSError as error:
        raise TraceError(f"cannot read {path}: {error.strerror}.") from None
    chosen = next(f for f in FORMATS if f.claims(path.name.lower(), head))
    return chosen.read(path, has_stacks)


def is_recording(path: Path) -> bool:
    """Whether a file in a folder is named like a recording."""
    return path.is_file() and path.name.lower().endswith(_SUFFIXES)
