"""The JSON record of samples; without what prints tables."""

from collections.abc import Sequence
from dataclasses import asdict

from ridgeline.report.plain import Json
from ridgeline.traces.sampled import RankSamples


def samples_record(found: Sequence[RankSamples]) -> list[Json]:
    """The key `dcgm` of the record."""
    return [asdict(rank) for rank in found]
