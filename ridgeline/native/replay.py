"""When points come that wait for one another."""

from collections.abc import Mapping
from functools import cache

import numpy as np
from numpy.typing import NDArray

from ridgeline.native.optional import POINTER, WORD, Signature, functions

_VERSION = 1
_SIGNATURES: Mapping[str, Signature] = {
    "rl_replay": (WORD, (WORD, POINTER, POINTER, POINTER, POINTER))
}
Words = NDArray[np.int64]
_library = cache(lambda: functions(_SIGNATURES, "rl_replay_version", _VERSION))


def has_replay() -> bool:
    """Whether it was built; it works without, slower."""
    return _library() is not None


def earliest(first: Words, target: Words, lag: Words, time: Words) -> Words:
    """When each point comes: not before its own `time`, nor before any point that it waits for has
    come and the lag after that has passed. first: where the edges of each point begin among those
    sorted by source, one more than points. Points that wait in a circle come as far as is known.
    """
    library = _library()
    if library is None:
        return earliest_in_python(first, target, lag, time)
    arrays = [np.ascontiguousarray(a, np.int64) for a in (first, target, lag)]
    come = np.array(time, np.int64)
    found = library.rl_replay(len(come), *(a.ctypes.data for a in arrays), come.ctypes.data)
    if found < 0:
        raise MemoryError
    return come


def earliest_in_python(first: Words, target: Words, lag: Words, time: Words) -> Words:
    """As `earliest`, without the built library."""
    come: list[int] = time.tolist()
    begins, targets, lags = first.tolist(), target.tolist(), lag.tolist()
    waits = np.bincount(target, minlength=len(come)).tolist()
    ready = [point for point, count in enumerate(waits) if not count]
    while ready:
        point = ready.pop()
        for edge in range(begins[point], begins[point + 1]):
            later = targets[edge]
            come[later] = max(come[later], come[point] + lags[edge])
            waits[later] -= 1
            if not waits[later]:
                ready.append(later)
    return np.array(come, np.int64)
