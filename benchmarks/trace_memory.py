"""The memory of a process and of all its children, read while it runs."""

import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

_PAUSE_S = 0.005


def peak_bytes(command: Sequence[str]) -> int:
    """The most that the command and its children held at one moment: the sum of their proportional
    set sizes, in which a page that several share counts once. Raises CalledProcessError.
    """
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    most = 0
    while process.poll() is None:
        most = max(most, sum(_pss_bytes(pid) for pid in family(process.pid)))
        time.sleep(_PAUSE_S)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    return most


def family(pid: int) -> list[int]:
    """A process and all that it started, directly or not."""
    found = [pid]
    for parent in found:  # grows as children are found
        for children in Path(f"/proc/{parent}/task").glob("*/children"):
            found += [int(child) for child in _text(children).split()]
    return found


def _pss_bytes(pid: int) -> int:
    lines = _text(Path(f"/proc/{pid}/smaps_rollup")).splitlines()
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))


def _text(path: Path) -> str:
    """ "" where the process has ended."""
    try:
        return path.read_text()
    except OSError:
        return ""
