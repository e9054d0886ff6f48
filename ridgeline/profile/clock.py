"""Timing among noisy neighbours: which samples were disturbed is counted, not guessed."""

import contextlib
import gc
import resource
import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

from ridgeline.machines.timing import FEWEST_CLEAN, Sample

_EMPTY_CALLS = 2001


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """What many samples of one thing say. time_s: median of the clean samples; the fastest of all
    where fewer than three are clean, for noise only adds time. spread_s: interquartile range of the
    clean samples, of all where there are too few.
    """

    time_s: float
    spread_s: float
    fastest_s: float
    num_samples: int
    num_clean: int


def summarise(samples: Sequence[Sample]) -> Timing:
    """The samples as one Timing."""
    clean_s = [s.time_s for s in samples if s.is_clean]
    fastest_s = min(s.time_s for s in samples)
    has_clean = len(clean_s) >= FEWEST_CLEAN
    times_s = clean_s if has_clean else [s.time_s for s in samples]
    low_s, _, high_s = statistics.quantiles(times_s, n=4) if len(times_s) > 1 else (0.0, 0.0, 0.0)
    return Timing(
        time_s=statistics.median(clean_s) if has_clean else fastest_s,
        spread_s=high_s - low_s,
        fastest_s=fastest_s,
        num_samples=len(samples),
        num_clean=len(clean_s),
    )


class Clock(Protocol):
    """Marks moments in the stream of work; the time between two is known after `finish`."""

    def mark(self) -> object:
        """This moment."""

    def finish(self) -> None:
        """Waits until all work up to the last mark is done."""

    def between_s(self, start: object, end: object) -> float:
        """Seconds from one mark to another."""


class HostClock:
    """The processor's own clock: ops return when they are done."""

    def mark(self) -> object:
        """This moment, in nanoseconds."""
        return time.perf_counter_ns()

    def finish(self) -> None:
        """Nothing is under way."""

    def between_s(self, start: object, end: object) -> float:
        """Seconds from one mark to another."""
        assert isinstance(start, int)
        assert isinstance(end, int)
        return (end - start) * 1e-9


class CudaClock:
    """Events in the current CUDA stream: the device's own time, launch gaps included."""

    def mark(self) -> object:
        """An event recorded now."""
        event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record()
        return event

    def finish(self) -> None:
        """Waits for the device."""
        torch.cuda.synchronize()

    def between_s(self, start: object, end: object) -> float:
        """Seconds between two events."""
        assert isinstance(start, torch.cuda.Event)
        assert isinstance(end, torch.cuda.Event)
        return float(start.elapsed_time(end)) * 1e-3


def clock_of(device: torch.device) -> Clock:
    """The clock that sees work on `device`."""
    return CudaClock() if device.type == "cuda" else HostClock()


def num_interruptions() -> int:
    """How often the operating system took a core from any thread of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw


def nothing(*args: object, **kwargs: object) -> None:
    """An op that does nothing: what calling costs by itself."""


def empty_call_s(clock: Clock) -> float:
    """What two marks around a call of an empty op show: the part of a sample that is no work."""
    arguments: tuple[object, ...] = (None, None)
    options: dict[str, object] = {}
    marks = []
    for _ in range(_EMPTY_CALLS):
        start = clock.mark()
        nothing(*arguments, **options)
        marks.append((start, clock.mark()))
    clock.finish()
    return statistics.median(clock.between_s(start, end) for start, end in marks)


@contextlib.contextmanager
def no_collection() -> Iterator[None]:
    """Within the block Python collects no garbage, which would fall on whatever op is running."""
    was_enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
