"""Reads recordings of any number of ranks and says what they show: the one call of `trace`."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path

from ridgeline.errors import TraceError
from ridgeline.machines.cpu import num_logical_cores
from ridgeline.traces.beside import execution_traces_in, require_execution_traces
from ridgeline.traces.execution_trace import is_execution_trace
from ridgeline.traces.formats import is_recording, read
from ridgeline.traces.rank import RankTrace, analyse
from ridgeline.units import counted, format_bytes

Progress = Callable[[str, float], None]
"""Told what is being done and which fraction of it is; the command line prints that."""

_LONG_READ_BYTES = 16 * 2**20  # of files; others are read before one could tell
_WORTH_A_PROCESS_BYTES = 8 * 2**20  # of a file; smaller ones are read sooner than one starts


@dataclass(frozen=True, slots=True, kw_only=True)
class Trace:
    """What recordings of a program show. ranks: in ascending order, no two the same."""

    ranks: tuple[RankTrace, ...]

    def __post_init__(self) -> None:
        if not self.ranks:
            raise TraceError("a trace has one rank at least.")


def trace(
    paths: Sequence[Path],
    *,
    has_stacks: bool = True,
    execution_traces: Sequence[Path] = (),
    progress: Progress | None = None,
) -> Trace:
    """What the recordings at `paths` show, files or folders of files, one rank each.

    has_stacks: also read the calls of Python functions, for lines and modules. execution_traces:
    of the same processes; those in the folders of recordings are found. progress: told where
    reading takes long. Raises TraceError where a file is none, or two are of one rank.
    """
    files = find_recordings(paths)
    require_execution_traces(execution_traces)
    beside = (*execution_traces, *execution_traces_in([path.absolute().parent for path in files]))
    sizes = [path.stat().st_size if path.is_file() else 0 for path in files]
    is_told = progress is not None and sum(sizes) >= _LONG_READ_BYTES
    stage = f"reading {counted(len(files), 'file')}, {format_bytes(sum(sizes))}"
    found: list[RankTrace] = []
    if progress and is_told:
        progress(stage, 0.0)
    for number, ranks in enumerate(_analyses(files, sizes, has_stacks, beside), 1):
        found += ranks
        if progress and is_told:
            progress(stage, sum(sizes[:number]) / sum(sizes))
    return Trace(ranks=_numbered(found))


def find_recordings(paths: Sequence[Path]) -> tuple[Path, ...]:
    """Every file named, and every recording in the folders named. Raises TraceError where there is
    none.
    """
    files: list[Path] = []
    for path in paths:
        inside = [path]
        if path.is_dir():
            inside = sorted(p for p in path.iterdir() if is_recording(p))
            inside = [p for p in inside if not is_execution_trace(p)]
        if not inside:
            raise TraceError(f"{path} holds no recording (.json, .json.gz, .sqlite, .xplane.pb).")
        files += inside
    if not files:
        raise TraceError("name a recording: a file, or a folder of one file per rank.")
    return tuple(dict.fromkeys(files))


def analyse_file(
    path: Path, has_stacks: bool, beside: Sequence[Path] = ()
) -> tuple[RankTrace, ...]:
    """What every rank recorded in one file shows. beside: execution traces, which may be its."""
    return tuple(
        analyse(recording, execution_traces=beside)
        for recording in read(path, has_stacks=has_stacks)
    )


def _analyses(
    files: Sequence[Path], sizes: Sequence[int], has_stacks: bool, beside: Sequence[Path]
) -> Iterator[tuple[RankTrace, ...]]:
    """The ranks of every file, in order; several at a time where that is worth it."""
    workers = min(len(files), num_logical_cores())
    if workers < 2 or sum(sizes) < 2 * _WORTH_A_PROCESS_BYTES:
        yield from (analyse_file(path, has_stacks, beside) for path in files)
        return
    with _pool(workers) as pool:
        yield from pool.map(analyse_file, files, [has_stacks] * len(files), [beside] * len(files))


@contextmanager
def _pool(workers: int) -> Iterator[ProcessPoolExecutor]:
    """Processes of their own, which hold one recording at a time; none is left behind."""
    pool = ProcessPoolExecutor(workers, mp_context=get_context("spawn"))
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


def _numbered(found: Sequence[RankTrace]) -> tuple[RankTrace, ...]:
    """In order of rank. Raises TraceError where two are of one; where none of several says which
    it is, they are counted.
    """
    if len(found) > 1 and all(rank.rank is None for rank in found):
        note = "no file says of which rank it is; they are counted in the order of their names."
        return tuple(
            replace(rank, rank=number, notes=(*rank.notes, note))
            for number, rank in enumerate(found)
        )
    seen: dict[int | None, RankTrace] = {}
    for rank in found:
        other = seen.setdefault(rank.rank, rank)
        if other is not rank:
            which = "of no rank" if rank.rank is None else f"of rank {rank.rank}"
            raise TraceError(
                f"{other.source} and {rank.source} are both {which}; name one recording of each "
                "rank, in one run."
            )
    return tuple(sorted(found, key=lambda rank: -1 if rank.rank is None else rank.rank))
