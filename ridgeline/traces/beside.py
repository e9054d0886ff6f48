"""Which execution trace is of the same process as a recording."""

import re
from collections.abc import Sequence
from pathlib import Path

from ridgeline.errors import TraceError
from ridgeline.traces.columns import Kind, Recording
from ridgeline.traces.execution_trace import (
    is_execution_trace,
    process_of,
    read_execution_trace,
)
from ridgeline.traces.launches import Launches
from ridgeline.traces.operands import OperandUses, operand_uses

_SUFFIXES = (".json", ".json.gz", ".et")
_RANK = re.compile(r"rank[-_ ]?(\d{1,6})", re.IGNORECASE)


def execution_traces_in(folders: Sequence[Path]) -> tuple[Path, ...]:
    """The execution traces in folders, by what their first bytes say."""
    return tuple(
        path
        for folder in dict.fromkeys(folders)
        for path in sorted(folder.iterdir())
        if path.is_file() and path.name.endswith(_SUFFIXES) and is_execution_trace(path)
    )


def require_execution_traces(paths: Sequence[Path]) -> None:
    """Raises TraceError where one of the files is none."""
    for path in paths:
        if not path.is_file() or not is_execution_trace(path):
            raise TraceError(
                f"{path} is no execution trace: torch.profiler.ExecutionTraceObserver writes them, "
                'and they begin with {"schema": "...-chakra...".'
            )


def operands_beside(
    recording: Recording, found: Launches, candidates: Sequence[Path]
) -> OperandUses | None:
    """What the execution trace of the recording's process says; None where there is not one."""
    chosen = _of_process(recording, candidates)
    return None if chosen is None else operand_uses(recording, found, read_execution_trace(chosen))


def _of_process(recording: Recording, candidates: Sequence[Path]) -> Path | None:
    """By process; of several machines' by the rank in the name, too."""
    events = recording.events
    used = {int(row) for row in events.thread[events.where(Kind.CPU_OP)]}
    processes = {recording.threads[row].process for row in used}
    alike = [path for path in candidates if str(process_of(path)) in processes]
    if len(alike) > 1:
        rank = str(recording.metadata.rank)
        named = [path for path in alike if (m := _RANK.search(path.name)) and m[1] == rank]
        alike = named if len(named) == 1 else []
    return alike[0] if alike else None
