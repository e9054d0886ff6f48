"""Compiles candidates side by side, then times them one at a time, taking turns."""

import os
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field, replace
from math import ceil
from statistics import median, quantiles

from ridgeline.backends.agreement import Agreement
from ridgeline.backends.child import Child, Nursery
from ridgeline.backends.protocol import Reply, Turn

_SAMPLES_PER_TURN = 2
# Where fewer samples than this are clean, all are looked at, and the report says so.
ENOUGH_CLEAN = 5
# Those within this factor of the fastest of their dtype are too close to tell apart by the samples
# that sort out the rest, so they get this many times as many.
CLOSE, _MORE = 1.1, 3
_POLL_S = 0.02


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What one candidate may use. compile_s: wall time until its first outputs; turn_s: for one
    turn of measuring; memory_bytes: address space; 0 takes the machine's physical memory.

    patience_s: how long a noisy machine is measured on, all candidates together, for want of clean
    samples.
    """

    compile_s: float = 900.0
    turn_s: float = 300.0
    patience_s: float = 30.0
    memory_bytes: int = 0

    def __post_init__(self) -> None:
        if self.memory_bytes == 0:
            physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
            object.__setattr__(self, "memory_bytes", physical)


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """What became of one candidate. skipped: why it is out, if it is."""

    times_s: tuple[float, ...] = ()
    is_clean: tuple[bool, ...] = ()
    agreement: Agreement | None = None
    skipped: str | None = None

    @property
    def used(self) -> tuple[float, ...]:
        """The samples that count: the clean ones where there are enough, else the faster half of
        all, because other programs only ever add time.
        """
        clean = tuple(t for t, c in zip(self.times_s, self.is_clean, strict=True) if c)
        if len(clean) >= ENOUGH_CLEAN:
            return clean
        return tuple(sorted(self.times_s)[: ceil(len(self.times_s) / 2)])

    @property
    def time_s(self) -> float | None:
        """Median of the samples that count."""
        return median(self.used) if self.used else None

    @property
    def spread_s(self) -> float | None:
        """Interquartile range of the samples that count."""
        if len(self.used) < 2:
            return None
        low, _, high = quantiles(self.used, n=4, method="inclusive")
        return high - low


@dataclass(slots=True)
class _Compiling:
    waiting: list[int]
    running: dict[int, tuple[Child, float]] = field(default_factory=dict)


def compile_all(
    nursery: Nursery, numbers: Sequence[int], limits: Limits, progress: Callable[[float], None]
) -> dict[int, Timing]:
    """Starts a child for each of these jobs, as many at a time as there are cores; returns when
    each is ready or out.
    """
    total = len(numbers)
    timings = dict.fromkeys(numbers, Timing())
    work = _Compiling(waiting=list(numbers))
    while work.waiting or work.running:
        while work.waiting and len(work.running) < (os.cpu_count() or 1):
            number = work.waiting.pop(0)
            work.running[number] = (nursery.start(number), time.monotonic() + limits.compile_s)
        for number, (child, deadline) in list(work.running.items()):
            if child.replies.empty() and time.monotonic() < deadline:
                continue
            timings[number] = _after(timings[number], child.wait(deadline))
            del work.running[number]
            progress((total - len(work.waiting) - len(work.running)) / total)
        time.sleep(_POLL_S)
    return timings


def measure_in_turn(
    nursery: Nursery,
    timings: Sequence[Timing],
    repeats: int,
    limits: Limits,
    progress: Callable[[float], None],
    *,
    only: Collection[int] | None = None,
    least: int = 1,
) -> list[Timing]:
    """Rounds in which each candidate that has started and is still in takes its turn, the order
    reversed every time, until each has `repeats` clean samples or patience ends.

    only: the numbers of those that take turns, and who have had enough after `least` rounds should
    patience end; all unless told, and then each gets `repeats` samples however long that takes.
    """
    results = list(timings)
    playing = [n for n in nursery.started if only is None or n in only]
    aim = ceil(repeats / _SAMPLES_PER_TURN)
    least = aim if only is None else least
    end = time.monotonic() + limits.patience_s
    rounds = 0
    while rounds < least or (time.monotonic() < end and _lacks_samples(results, playing, repeats)):
        alive = [n for n in playing if results[n].skipped is None]
        for number in alive if rounds % 2 == 0 else reversed(alive):
            child = nursery.started[number]
            child.ask(Turn(samples=_SAMPLES_PER_TURN))
            reply = child.wait(time.monotonic() + limits.turn_s)
            results[number] = _after(results[number], reply)
        rounds += 1
        progress(min(1.0, rounds / aim))
    progress(1.0)
    return results


def measure_the_close(
    nursery: Nursery,
    timings: Sequence[Timing],
    groups: Iterable[Collection[int]],
    repeats: int,
    limits: Limits,
    progress: Callable[[float], None],
) -> list[Timing]:
    """The timings, with more samples of those that are nearly as fast as the fastest of their
    group, taken in turns again.
    """
    close = {n for group in groups for n in _close(timings, group)}
    if not close:
        progress(1.0)
        return list(timings)
    return measure_in_turn(nursery, timings, _MORE * repeats, limits, progress, only=close)


def _close(timings: Sequence[Timing], group: Collection[int]) -> list[int]:
    """The members within `CLOSE` of the fastest; none where that is the fastest alone."""
    times = {n: t for n in group if timings[n].skipped is None and (t := timings[n].time_s)}
    close = [n for n, t in times.items() if t <= CLOSE * min(times.values())]
    return close if len(close) > 1 else []


def _lacks_samples(timings: Sequence[Timing], playing: Iterable[int], repeats: int) -> bool:
    return any(timings[n].skipped is None and sum(timings[n].is_clean) < repeats for n in playing)


def _after(timing: Timing, reply: Reply) -> Timing:
    if reply.kind == "failed":
        return replace(timing, skipped=reply.reason)
    return replace(
        timing,
        times_s=(*timing.times_s, *reply.times_s),
        is_clean=(*timing.is_clean, *reply.is_clean),
    )
