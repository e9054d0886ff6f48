"""Timed samples of a callable, each with whether the system left it alone meanwhile."""

import resource
import time
from collections.abc import Sequence
from math import ceil

from torch import Tensor

from ridgeline.backends.backend import Runnable

# One sample lasts at least this long: shorter runs are repeated within it.
_LEAST_SAMPLE_S = 1e-3


def take_samples(
    run: Runnable, inputs: Sequence[Tensor], samples: int
) -> tuple[list[float], list[bool]]:
    """One untimed run, then `samples` timed ones: seconds per run, and whether each was clean, that
    is without an involuntary context switch.
    """
    start = time.perf_counter()
    run(*inputs)
    calls = max(1, ceil(_LEAST_SAMPLE_S / max(time.perf_counter() - start, 1e-7)))
    times_s, is_clean = [], []
    for _ in range(samples):
        switches = _involuntary_switches()
        start = time.perf_counter()
        for _ in range(calls):
            run(*inputs)
        times_s.append((time.perf_counter() - start) / calls)
        is_clean.append(_involuntary_switches() == switches)
    return times_s, is_clean


def _involuntary_switches() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw
