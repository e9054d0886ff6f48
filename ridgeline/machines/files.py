"""The small text files that describe machines and fleets, and the folder for what is made here."""

import os
from pathlib import Path

from ridgeline.errors import MachineError

# The largest description there is, a calibrated machine with its kernels, has some 60 kB.
MAX_BYTES = 2**21


def read_text(path: Path, what: str, way_out: str = "") -> str:
    """The text of a file. Raises MachineError, naming `what` it should be, for what is no regular
    file, has more than `MAX_BYTES`, or is not text.
    """
    try:
        if path.exists() and not path.is_file():
            raise MachineError(f"cannot read {what} {path}: it is no regular file.")
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
        if len(content) > MAX_BYTES:
            raise MachineError(f"cannot read {what} {path}: it has more than {MAX_BYTES:,} bytes.")
        return content.decode("utf-8")
    except (OSError, UnicodeDecodeError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise MachineError(f"cannot read {what} {path}: {reason}. {way_out}".rstrip()) from None


def user_cache() -> Path:
    """Where Ridgeline keeps what it can make anew: `ridgeline` in `$XDG_CACHE_HOME`, or in ~/.cache
    where that is unset or, as its specification asks, not absolute.
    """
    folder = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return (folder if folder.is_absolute() else Path.home() / ".cache") / "ridgeline"
