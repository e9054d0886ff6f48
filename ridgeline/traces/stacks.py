"""The line of the program that ran on a thread at a time, where stacks were recorded."""

import re
import sys

import numpy as np

from ridgeline.traces.columns import ABSENT, Kind, Recording
from ridgeline.traces.nesting import Nesting, nesting

_LINE = re.compile(r".+\(\d+\): .+")
_LIBRARY = re.compile(r"(?:^|/)(?:torch|site-packages|dist-packages|lib/python[\d.]+)/|^<")
_MODULE = re.compile(r"^(\w+)(?:\.py|/)")


class Stacks:
    """Looks up lines of the program. Empty texts where no stack was recorded."""

    def __init__(self, recording: Recording) -> None:
        self._recording = recording
        self._calls = recording.events.where(Kind.PYTHON)
        self._threads: dict[int, Nesting] = {}

    def line(self, row: int, at_ns: int) -> str:
        """The innermost line that ran at that time on the thread of the event in `row`: of the
        user's own files where there is one, else of a library's.
        """
        if row == ABSENT or not len(self._calls):
            return ""
        names = [self._recording.name_of(r) for r in self._thread(row).stack(at_ns)]
        lines = [name for name in names if _LINE.fullmatch(name)]
        own = (name for name in lines if not _is_library(name))
        return next(own, lines[0] if lines else "")

    def _thread(self, row: int) -> Nesting:
        events = self._recording.events
        thread = int(events.thread[row])
        if thread not in self._threads:
            mine = self._calls[np.equal(events.thread[self._calls], thread)]
            self._threads[thread] = nesting(events, mine)
        return self._threads[thread]


def _is_library(line: str) -> bool:
    """Whether a line is torch's or the standard library's, whose paths recorders shorten."""
    module = _MODULE.match(line)
    is_standard = module is not None and module[1] in sys.stdlib_module_names
    return is_standard or _LIBRARY.search(line) is not None
