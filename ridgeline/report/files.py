"""Writing a report: whole or not at all."""

import os
from collections.abc import Iterable
from pathlib import Path

from ridgeline.errors import RidgelineError


def write_text(path: str | os.PathLike[str], text: str) -> Path:
    """Writes `text` to `path` in one step; what was there before stays until then.

    Raises RidgelineError where the folder is missing or not writable.
    """
    return write_pieces(path, (text.encode("utf-8"),))


def write_pieces(path: str | os.PathLike[str], pieces: Iterable[bytes]) -> Path:
    """The same of a file that is never whole in memory. It is written beside what a link points to
    and renamed into place, but straight into a device or a pipe, which a rename would replace.
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


def require_place(path: Path | None) -> None:
    """Raises RidgelineError unless a file can be written to `path`; asked before long work.

    None, where no file is wanted, is fine.
    """
    if path is None:
        return
    folder = Path(os.path.realpath(path)).parent
    if path.is_dir():
        raise RidgelineError(f"cannot write {path}: it is a folder; name a file in it.")
    if not folder.is_dir():
        raise RidgelineError(f"cannot write {path}: there is no folder {folder}.")
    if not os.access(path if path.exists() else folder, os.W_OK):
        raise RidgelineError(f"cannot write {path}: permission denied.")
