"""Who spent the host's time: operators by their own time, in recordings without a device."""

from dataclasses import dataclass

import numpy as np

from ridgeline.traces.columns import ABSENT, Kind, Recording
from ridgeline.traces.intervals import Times
from ridgeline.traces.nesting import Nesting, nesting, parents


@dataclass(frozen=True, slots=True, kw_only=True)
class HostOperator:
    """All runs of one operator on the host. total_ns: from start to end; self_ns: of that what it
    did not spend in operators that it called; share: of the own time of all operators.
    """

    name: str
    count: int
    total_ns: int
    self_ns: int
    share: float

    @property
    def mean_self_ns(self) -> float:
        """The own time of one run."""
        return self.self_ns / self.count


def host_operators(recording: Recording) -> tuple[HostOperator, ...]:
    """Every operator of the host by name, the one with the most time of its own first. Threads are
    added up: four that work at once spend four seconds in one.
    """
    events = recording.events
    ops = events.where(Kind.CPU_OP)
    own = np.zeros(len(events), np.int64)
    for thread in np.unique(events.thread[ops]).tolist():
        nested = nesting(events, ops[events.thread[ops] == thread])
        own[nested.rows] = _own_ns(nested, events.duration_ns[nested.rows])
    names, place = np.unique(events.name[ops], return_inverse=True)
    sums = np.zeros((len(names), 3), np.int64)
    np.add.at(
        sums, place, np.stack([np.ones(len(ops), np.int64), events.duration_ns[ops], own[ops]], 1)
    )
    whole_ns = max(1, int(own.sum()))
    found = [
        HostOperator(
            name=recording.names[name],
            count=count,
            total_ns=total_ns,
            self_ns=self_ns,
            share=self_ns / whole_ns,
        )
        for name, (count, total_ns, self_ns) in zip(names.tolist(), sums.tolist(), strict=True)
    ]
    return tuple(sorted(found, key=lambda one: (-one.self_ns, one.name)))


def _own_ns(nested: Nesting, duration_ns: Times) -> Times:
    """Of each range, what none of those directly inside it covers; never less than nothing, though
    rounded times may overlap.
    """
    own = duration_ns.copy()
    around = parents(nested)
    inside = np.flatnonzero(around != ABSENT)
    np.subtract.at(own, around[inside], duration_ns[inside])
    return np.maximum(own, 0)
