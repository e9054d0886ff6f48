"""Where on its way through the program the device's time was launched: module, operator, kernel."""

from dataclasses import dataclass

import numpy as np

from ridgeline.traces.columns import ABSENT, Recording
from ridgeline.traces.launches import Launches
from ridgeline.traces.nesting import Rows
from ridgeline.traces.steps import STEP
from ridgeline.traces.usage import module_name


@dataclass(frozen=True, slots=True, kw_only=True)
class Path:
    """All runs of one kernel that one operator of one module launched. "" where not recorded, as
    where only a step is around it.
    """

    module: str
    op: str
    kernel: str
    count: int
    total_ns: int


def paths(recording: Recording, found: Launches, modules: Rows) -> tuple[Path, ...]:
    """Every path that occurs, the one that took longest first; their times add up to that of all
    events on the device. modules: the row of the module around each launch.
    """
    if not len(found.rows):
        return ()
    names = recording.events.name
    kernel = names[found.rows].astype(np.int64)
    is_step = np.array([STEP.fullmatch(name) is not None for name in recording.names], bool)
    ops = np.where(is_step[names[found.ops]], ABSENT, found.ops)
    op, module = (np.where(rows == ABSENT, ABSENT, names[rows]) for rows in (ops, modules))
    pairs, pair = np.unique((op + 1) * len(recording.names) + kernel, return_inverse=True)
    keys, first, place = np.unique(
        (module + 1) * len(pairs) + pair, return_index=True, return_inverse=True
    )
    totals = np.zeros(len(keys), np.int64)
    np.add.at(totals, place, recording.events.duration_ns[found.rows])
    counts = np.bincount(place, minlength=len(keys))
    rows = (
        Path(
            module=module_name(recording, int(modules[at])),
            op="" if ops[at] == ABSENT else recording.name_of(int(ops[at])),
            kernel=recording.name_of(int(found.rows[at])),
            count=count,
            total_ns=total_ns,
        )
        for at, count, total_ns in zip(
            first.tolist(), counts.tolist(), totals.tolist(), strict=True
        )
    )
    return tuple(sorted(rows, key=lambda row: -row.total_ns))
