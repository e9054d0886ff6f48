"""Ctrl-C that is heard while libraries load."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

# While these load, code of theirs catches whatever is raised, a KeyboardInterrupt among it, and
# goes on: 2 interrupts of 17 were lost so.
_LIBRARIES = ("torch", "transformers")


@contextmanager
def heard_while_loading(code: int) -> Iterator[None]:
    """Within the block, an interrupt while a library loads ends the process with `code`, which it
    may, for nothing is open then; at any other time it raises KeyboardInterrupt as ever.

    Where interrupts are ignored (a background job), or somebody else's, all stays as it is.
    """
    process_id = os.getpid()

    def stop(number: int, frame: FrameType | None) -> None:
        if not _is_loading(frame):
            raise KeyboardInterrupt
        if os.getpid() == process_id:  # a forked child has the same terminal
            os.write(2, b"ridgeline: stopped.\n")
        os._exit(code)

    if signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield
        return
    signal.signal(signal.SIGINT, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _is_loading(frame: FrameType | None) -> bool:
    """Whether a module of a library is being executed for the first time, in this or an outer
    frame.
    """
    while frame is not None:
        library = str(frame.f_globals.get("__name__")).partition(".")[0]
        if frame.f_code.co_name == "<module>" and library in _LIBRARIES:
            return True
        frame = frame.f_back
    return False
