"""A monitor's samples beside what a recording shows: averages per step and rank, by DCGM's fields
beside the share of the time in which kernels of tensor cores ran."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ridgeline.errors import TraceError
from ridgeline.traces.kernels import classify
from ridgeline.traces.rank import RankTrace
from ridgeline.traces.sample_windows import Averages, average_over
from ridgeline.traces.samples import Clock, Samples

_PERIOD_OF = "the log has no times: say when its first sample was taken with --dcgm-start"


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampled:
    """What was sampled in one step of one rank. means: by "field" or "field [unit]", only those
    that a sample covers; covered_share: of the step, by the field that covers most of it.
    """

    rank: int | None
    device: str
    step: str
    means: dict[str, float]
    covered_share: float


@dataclass(frozen=True, slots=True, kw_only=True)
class RankSamples:
    """The samples of one rank. tensor_core_share: of the rank's span, the time of the kernels that
    by their names run on tensor cores, added up over streams.
    """

    rank: int | None
    tensor_core_share: float
    steps: tuple[Sampled, ...]


def join_samples(samples: Samples, ranks: Sequence[RankTrace]) -> tuple[RankSamples, ...]:
    """The average of every field in every step of every rank; where no steps are marked, in its
    whole span. Raises TraceError where the log has no times, or none of them is in a recording.
    """
    if samples.clock is Clock.START:
        raise TraceError(f"{samples.source}: {_PERIOD_OF}.")
    joined = tuple(_of_rank(samples, rank) for rank in ranks)
    if not any(step.means for rank in joined for step in rank.steps):
        raise TraceError(
            f"{samples.source} has no sample of the devices and the time that were recorded: it "
            f"covers {_span(samples)}, the recordings begin at "
            f"{min(rank.base_time_ns + rank.split.start_ns for rank in ranks) * 1e-9:.3f} s."
        )
    return joined


def _span(samples: Samples) -> str:
    if not len(samples):
        return "nothing"
    first, last = samples.time_ns.min() * 1e-9, samples.time_ns.max() * 1e-9
    return f"{first:.3f} to {last:.3f} s since 1970"


def _of_rank(samples: Samples, rank: RankTrace) -> RankSamples:
    windows = [(step.name, step.split) for step in rank.steps] or [("all", rank.split)]
    starts = np.array([split.start_ns for _, split in windows], np.int64)
    spans = np.array([split.span_ns for _, split in windows], np.int64)
    found = average_over(samples, starts, starts + spans, offset_ns=rank.base_time_ns)
    used = {device.id for device in rank.devices}
    columns = [
        number for number, (entity, _) in enumerate(found.series) if not used or entity.gpu in used
    ]
    return RankSamples(
        rank=rank.rank,
        tensor_core_share=_tensor_core_ns(rank) / max(1, rank.split.span_ns),
        steps=tuple(
            _of_step(rank, name, found, columns, row, int(spans[row]))
            for row, (name, _) in enumerate(windows)
        ),
    )


def _of_step(
    rank: RankTrace, name: str, found: Averages, columns: Sequence[int], row: int, span_ns: int
) -> Sampled:
    known = [number for number in columns if found.covered_ns[row, number] > 0]
    covered_ns = max((int(found.covered_ns[row, number]) for number in known), default=0)
    labels = dict.fromkeys(found.series[number][0].label for number in known)
    return Sampled(
        rank=rank.rank,
        device=", ".join(labels),
        step=name,
        means={_key(found, number): float(found.mean[row, number]) for number in known},
        covered_share=min(1.0, covered_ns / max(1, span_ns)),
    )


def _key(found: Averages, number: int) -> str:
    entity, field = found.series[number]
    where = f" of {entity.label}" if entity.instance else ""
    unit = "" if field.unit in ("", "ratio") else f" [{field.unit}]"
    return f"{field.key}{where}{unit}"


def _tensor_core_ns(rank: RankTrace) -> int:
    return sum(use.total_ns for use in rank.kernels if classify(use.name).unit.is_matrix)
