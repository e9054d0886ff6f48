"""How many threads torch computes with here."""

import contextlib
from collections.abc import Iterator

from ridgeline.errors import MachineError
from ridgeline.machines.cpu import num_logical_cores
from ridgeline.units import counted

MOST_PER_CORE = 4
"""More threads than this wait for each other: some are worth a try on a machine that shares its
cores, and beyond a few thousand the system refuses to start them."""


def require_threads(threads: int | None) -> None:
    """Raises MachineError for fewer threads than one, and for far more than there are cores."""
    if threads is None:
        return
    if threads < 1:
        raise MachineError(f"{threads} threads compute nothing; it must be at least 1.")
    cores = num_logical_cores()
    if threads > MOST_PER_CORE * cores:
        raise MachineError(
            f"{threads} threads are too many: this machine has "
            f"{counted(cores, 'logical core')}; ask for {MOST_PER_CORE * cores} at most."
        )


@contextlib.contextmanager
def torch_threads(threads: int | None) -> Iterator[int]:
    """Within the block torch computes with so many threads (None: as many as before).

    Raises MachineError as `require_threads` does.
    """
    import torch

    require_threads(threads)
    before = torch.get_num_threads()
    torch.set_num_threads(threads or before)
    try:
        yield threads or before
    finally:
        torch.set_num_threads(before)
