"""The hardware counters that a recording holds itself, beside its steps: Nsight's GPU_METRICS."""

from collections.abc import Sequence
from pathlib import Path

from ridgeline.traces.nsys_metrics import has_metrics, read_nsys_metrics
from ridgeline.traces.rank import RankTrace
from ridgeline.traces.recognise import Format, format_of
from ridgeline.traces.sampled import RankSamples, averages


def join_counters(ranks: Sequence[RankTrace]) -> tuple[RankSamples, ...]:
    """The average of every counter in every step of the ranks whose recordings hold any; empty
    where none does. Reads those recordings again, each once.
    """
    by_source: dict[str, list[RankTrace]] = {}
    for rank in ranks:
        by_source.setdefault(rank.source, []).append(rank)
    found: list[RankSamples] = []
    for source, of_source in by_source.items():
        path = Path(source)
        if format_of(path) is Format.NSYS and has_metrics(path):
            found += averages(read_nsys_metrics(path), of_source)
    return tuple(rank for rank in found if any(step.means for step in rank.steps))
