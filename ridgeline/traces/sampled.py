"""A monitor's samples beside what a recording shows: averages per step and rank, by DCGM's or
Nsight's fields, beside the share of the time in which kernels of tensor cores ran."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ridgeline.errors import TraceError
from ridgeline.traces.rank import RankTrace, StepSplit
from ridgeline.traces.sample_windows import Averages, average_over
from ridgeline.traces.samples import Clock, Samples
from ridgeline.units import format_percent

_TENSOR = "tensor_active"
_ENOUGH = 0.5  # of a step that samples must cover before they may contradict anything
_FAR = 0.1  # of a step: what counts as far apart
_IDLE = 0.02  # of the time of their kernels: pipes that are active less are not in use
_PERIOD_OF = "the log has no times: say when its first sample was taken with --dcgm-start"


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampled:
    """What was sampled in one step of one rank. means: by "field" or "field [unit]", only those
    that a sample covers; covered_share: of the step, by the field that covers most of it.
    tensor_core_share: of the step, the time of kernels that by their names run on tensor cores,
    added up over streams; doubt: where that and the counter cannot both be right, "" elsewhere.
    """

    rank: int | None
    device: str
    step: str
    means: dict[str, float]
    covered_share: float
    tensor_core_share: float
    doubt: str = ""


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
    joined = averages(samples, ranks)
    if not any(step.means for rank in joined for step in rank.steps):
        raise TraceError(
            f"{samples.source} has no sample of the devices and the time that were recorded: it "
            f"covers {_span(samples)}, the recordings begin at "
            f"{min(rank.base_time_ns + rank.split.start_ns for rank in ranks) * 1e-9:.3f} s."
        )
    return joined


def averages(samples: Samples, ranks: Sequence[RankTrace]) -> tuple[RankSamples, ...]:
    """The same of samples whose clock is known; without means where none is in a recording."""
    is_epoch = samples.clock is Clock.EPOCH  # else it is that of the recordings
    return tuple(_of_rank(samples, rank, rank.base_time_ns * is_epoch) for rank in ranks)


def _span(samples: Samples) -> str:
    if not len(samples):
        return "nothing"
    first, last = samples.time_ns.min() * 1e-9, samples.time_ns.max() * 1e-9
    return f"{first:.3f} to {last:.3f} s since 1970"


def _of_rank(samples: Samples, rank: RankTrace, offset_ns: int) -> RankSamples:
    """offset_ns: from the recording's clock to that of the samples."""
    matrix_ns = _matrix_ns(rank)
    windows = rank.steps or (StepSplit(name="all", split=rank.split, matrix_ns=matrix_ns),)
    starts = np.array([step.split.start_ns for step in windows], np.int64)
    spans = np.array([step.split.span_ns for step in windows], np.int64)
    found = average_over(samples, starts, starts + spans, offset_ns=offset_ns)
    used = {device.id for device in rank.devices}
    columns = [
        number for number, (entity, _) in enumerate(found.series) if not used or entity.gpu in used
    ]
    return RankSamples(
        rank=rank.rank,
        tensor_core_share=matrix_ns / max(1, rank.split.span_ns),
        steps=tuple(
            _of_step(rank.rank, step, found, columns, row) for row, step in enumerate(windows)
        ),
    )


def _of_step(
    rank: int | None, step: StepSplit, found: Averages, columns: Sequence[int], row: int
) -> Sampled:
    known = [number for number in columns if found.covered_ns[row, number] > 0]
    covered_ns = max((int(found.covered_ns[row, number]) for number in known), default=0)
    labels = dict.fromkeys(found.series[number][0].label for number in known)
    means = {_key(found, number): float(found.mean[row, number]) for number in known}
    span_ns = max(1, step.split.span_ns)
    covered_share, by_name = min(1.0, covered_ns / span_ns), step.matrix_ns / span_ns
    counted = means.get(_TENSOR) if covered_share >= _ENOUGH else None
    return Sampled(
        rank=rank,
        device=", ".join(labels),
        step=step.name,
        means=means,
        covered_share=covered_share,
        tensor_core_share=by_name,
        doubt="" if counted is None else doubt(by_name, counted),
    )


def doubt(by_name: float, counted: float) -> str:
    """What cannot be right where the share of the time in kernels of tensor cores by their names,
    and the share in which the counter saw tensor pipes active, differ much; "" where they fit.

    Pipes are active for a part of the time of a kernel that uses them, so that the counter is the
    smaller: half of it for a good product, a tenth for one that waits for memory.
    """
    if counted > by_name + _FAR:
        return (
            f"tensor pipes were active {format_percent(counted)} of the time, but kernels that run"
            f" on them by their names take {format_percent(by_name)}: some names mislead"
        )
    if by_name > _FAR and counted < _IDLE * by_name:
        return (
            f"kernels that run on tensor cores by their names take {format_percent(by_name)} of the"
            f" time, but tensor pipes were active {format_percent(counted)}: they hardly use them"
        )
    return ""


def _key(found: Averages, number: int) -> str:
    entity, field = found.series[number]
    where = f" of {entity.label}" if entity.instance else ""
    unit = "" if field.unit in ("", "ratio") else f" [{field.unit}]"
    return f"{field.key}{where}{unit}"


def _matrix_ns(rank: RankTrace) -> int:
    return sum(use.total_ns for use in rank.kernels if use.what.unit.is_matrix)
