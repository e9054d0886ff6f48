"""The JSON record of samples; without what prints tables."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict

from ridgeline.traces.sampled import RankSamples

Json = None | bool | int | float | str | Sequence["Json"] | Mapping[str, "Json"]


def samples_record(found: Sequence[RankSamples]) -> list[Json]:
    """The key `dcgm` of the record."""
    return [asdict(rank) for rank in found]
