"""Files that are written whole or not at all."""

import os
from collections.abc import Iterable
from pathlib import Path

from ridgeline.errors import RidgelineError


def write_pieces(path: str | os.PathLike[str], pieces: Iterable[bytes | memoryview]) -> Path:
    """Writes a file that need never be whole in memory, in one step; what was there before stays
    until then. It is written beside what a link points to and renamed into place, but straight into
    a device or a pipe, which a rename would replace.

    Raises RidgelineError where the folder is missing or not writable.
    """
    given = Path(path)
    target = Path(os.path.realpath(given))
    is_stream = target.exists() and not target.is_file() and not target.is_dir()
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        with (target if is_stream else temporary).open("wb") as file:
            file.writelines(pieces)
        if not is_stream:
            temporary.replace(target)
    except OSError as error:
        raise RidgelineError(f"cannot write {target}: {error.strerror or error}.") from error
    finally:
        temporary.unlink(missing_ok=True)
    return given
