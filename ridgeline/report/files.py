"""Writing a report: whole or not at all."""

import os
from pathlib import Path

from ridgeline.errors import RidgelineError
from ridgeline.writing import write_pieces


def write_text(path: str | os.PathLike[str], text: str) -> Path:
    """Writes `text` to `path` in one step; what was there before stays until then. Parts
    of a file's name that are no text are spelled out, as \\udcff.

    Raises RidgelineError where the folder is missing or not writable.
    """
    return write_pieces(path, (text.encode("utf-8", "backslashreplace"),))


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
