"""What a device did over time, in bins: as much as a page can show of any number of events."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate

import numpy as np

from ridgeline.errors import TraceError
from ridgeline.traces.idle import Cause, Gaps
from ridgeline.traces.intervals import Intervals, Times
from ridgeline.traces.split import Activity

NUM_BINS = 480


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeline:
    """A span cut at `edges_ns`, which are after its start, into bins. The others hold, for each
    bin, how much of it anything of that sort ran, whatever else did: compute_ns, communication_ns,
    memory_ns (copies and fills); idle_ns: how much of it nothing ran, by cause.
    """

    edges_ns: tuple[int, ...]
    compute_ns: tuple[int, ...]
    communication_ns: tuple[int, ...]
    memory_ns: tuple[int, ...]
    idle_ns: Mapping[Cause, tuple[int, ...]]

    def __post_init__(self) -> None:
        lanes = (self.compute_ns, self.communication_ns, self.memory_ns, *self.idle_ns.values())
        if any(len(lane) != len(self.edges_ns) - 1 for lane in lanes):
            raise TraceError("a timeline has one number per bin.")

    def __len__(self) -> int:
        return len(self.compute_ns)

    def coarser(self, most: int) -> "Timeline":
        """The same in at most that many bins, of which each is a whole number of these."""
        stride = -(-len(self) // most)
        return Timeline(
            edges_ns=(*self.edges_ns[:-1:stride], self.edges_ns[-1]),
            compute_ns=_summed(self.compute_ns, stride),
            communication_ns=_summed(self.communication_ns, stride),
            memory_ns=_summed(self.memory_ns, stride),
            idle_ns={cause: _summed(lane, stride) for cause, lane in self.idle_ns.items()},
        )


def _summed(lane: Sequence[int], stride: int) -> tuple[int, ...]:
    return tuple(sum(lane[i : i + stride]) for i in range(0, len(lane), stride))


def timeline(found: Activity, idle: Gaps, *, num_bins: int = NUM_BINS) -> Timeline:
    """The time from the first event on the device to the last, in bins of the same length, to a
    nanosecond; fewer of them where the span is shorter than that.
    """
    span_ns = found.end_ns - found.start_ns
    count = min(num_bins, span_ns)
    sizes = (span_ns // count + (i < span_ns % count) for i in range(count))
    edges_ns = tuple(accumulate(sizes, initial=0))
    edges = np.array(edges_ns, np.int64) + found.start_ns
    return Timeline(
        edges_ns=edges_ns,
        compute_ns=_binned(found.compute, edges),
        communication_ns=_binned(found.communication, edges),
        memory_ns=_binned(found.memcpy | found.memset, edges),
        idle_ns={cause: _binned(idle.of(cause), edges) for cause in idle.causes()},
    )


def _binned(lane: Intervals, edges: Times) -> tuple[int, ...]:
    return tuple(lane.overlap_ns(edges[:-1], edges[1:]).tolist())
