"""Timing one call among noisy neighbours: which samples were disturbed is counted, not guessed."""

import contextlib
import math
import os
import resource
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ridgeline.machines.probe import InTurn

SHORTEST_SAMPLE_S = 50e-6
"""Calls shorter than this are timed in a row, so that reading the clock (about 0.1 us) is not what
is seen."""

FEWEST_CLEAN = 3
PREFERRED_NICENESS = -15
_TASKS = Path("/proc/self/task")
_AUTOGROUP = Path("/proc/self/autogroup")
MOST_SAMPLES = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """The time of one call. Clean: the operating system took no core from this process
    meanwhile."""

    time_s: float
    is_clean: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """What many samples say: the time to believe, the fastest seen, and how many were clean."""

    time_s: float
    fastest_s: float
    num_samples: int
    num_clean: int


def take_samples(
    call: Callable[[], object], *, budget_s: float, wait: Callable[[], None]
) -> list[Sample]:
    """Warms `call` up, then times it for `budget_s` (at least twice); calls on cold operands are
    made ready meanwhile. `wait` blocks until the device is done."""
    call()
    wait()
    first = [_sample(call, 1, wait)]
    deadline_s = time.perf_counter() + budget_s
    first.append(_sample(call, 1, wait))
    num_calls = max(1, math.ceil(SHORTEST_SAMPLE_S / min(s.time_s for s in first)))
    samples = first if num_calls == 1 else [_sample(call, num_calls, wait)]
    while time.perf_counter() < deadline_s and len(samples) < MOST_SAMPLES:
        samples.append(_sample(call, num_calls, wait))
    return samples


def summarise(samples: Sequence[Sample]) -> Timing:
    """Median of the clean samples; of fewer than three clean ones the fastest of all, for noise
    only adds time."""
    clean_s = [sample.time_s for sample in samples if sample.is_clean]
    fastest_s = min(sample.time_s for sample in samples)
    return Timing(
        time_s=statistics.median(clean_s) if len(clean_s) >= FEWEST_CLEAN else fastest_s,
        fastest_s=fastest_s,
        num_samples=len(samples),
        num_clean=len(clean_s),
    )


def _sample(call: Callable[[], object], num_calls: int, wait: Callable[[], None]) -> Sample:
    if isinstance(call, InTurn):
        call.ready(num_calls)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw
    start_s = time.perf_counter()
    for _ in range(num_calls):
        call()
    wait()
    time_s = (time.perf_counter() - start_s) / num_calls
    after = resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw
    return Sample(time_s=time_s, is_clean=before == after)


@contextlib.contextmanager
def preferred() -> Iterator[bool]:
    """Asks the scheduler to prefer this process's threads, and says whether it may: where other
    programs want the cores, a parallel loop otherwise waits a time slice for its last thread."""
    before, group_before = os.getpriority(os.PRIO_PROCESS, 0), _autogroup_niceness()
    is_preferred = _set_niceness(PREFERRED_NICENESS)
    if is_preferred:
        _set_autogroup_niceness(PREFERRED_NICENESS)
    try:
        yield is_preferred
    finally:
        if is_preferred:
            _set_niceness(before)
            _set_autogroup_niceness(group_before)


def _set_niceness(niceness: int) -> bool:
    tasks = [int(task.name) for task in _TASKS.iterdir()] if _TASKS.is_dir() else [0]
    try:
        for task in tasks:
            os.setpriority(os.PRIO_PROCESS, task, niceness)
    except OSError:
        return False
    return True


def _autogroup_niceness() -> int:
    """Linux shares cores among sessions first, and niceness counts within one; 0 elsewhere."""
    words = _AUTOGROUP.read_text(encoding="ascii").split() if _AUTOGROUP.is_file() else []
    return int(words[-1]) if words else 0


def _set_autogroup_niceness(niceness: int) -> None:
    """Best effort: a system without sessions' shares, or one that says no, goes by niceness."""
    if _AUTOGROUP.is_file():
        with contextlib.suppress(OSError):
            _AUTOGROUP.write_text(str(niceness), encoding="ascii")
