"""Timed samples of a callable, each with whether the system left it alone meanwhile."""

import resource
import time
from collections.abc import Sequence
from math import ceil

from torch import Tensor

from ridgeline.backends.backend import Runnable

# One sample lasts at least this long: shorter runs are repeated within it. Before the first, the
# caches that others used meanwhile are filled and the threads awake after as long again.
_LEAST_SAMPLE_S = 3e-3


def take_samples(
    run: Runnable, inputs: Sequence[Tensor], samples: int
) -> tuple[list[float], list[bool]]:
    """Untimed runs, then `samples` timed ones: seconds per run, and whether each was clean, that is
    without an involuntary context switch.
    """
    calls = ceil(_LEAST_SAMPLE_S / _warm_s(run, inputs))
    times_s, is_clean = [], []
    for _ in range(samples):
        switches = _involuntary_switches()
        start = time.perf_counter()
        for _ in range(calls):
            run(*inputs)
        times_s.append((time.perf_counter() - start) / calls)
        is_clean.append(_involuntary_switches() == switches)
    return times_s, is_clean


def _warm_s(run: Runnable, inputs: Sequence[Tensor]) -> float:
    """The seconds of the last of the untimed runs."""
    end = time.perf_counter() + _LEAST_SAMPLE_S
    while True:
        start = time.perf_counter()
        run(*inputs)
        now = time.perf_counter()
        if now >= end:
            return max(now - start, 1e-7)


def _involuntary_switches() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw
