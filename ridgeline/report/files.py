"""Writing a report: whole or not at all."""

import os
import tempfile
from pathlib import Path

from ridgeline.errors import RidgelineError


def write_text(path: str | os.PathLike[str], text: str) -> Path:
    """Writes `text` to `path` in one step; what was there before stays until then.

    Raises RidgelineError where the folder is missing or not writable.
    """
    target = Path(path)
    partial = ""
    try:
        handle, partial = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}-")
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        os.chmod(partial, 0o644)
        os.replace(partial, target)
    except OSError as error:
        if partial:
            Path(partial).unlink(missing_ok=True)
        raise RidgelineError(f"cannot write {target}: {error.strerror}.") from None
    return target
