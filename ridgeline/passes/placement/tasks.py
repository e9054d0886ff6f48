"""The graph as tasks: groups that run as one, what each takes on each device, what flows between.

Scheduling needs no more of a graph than this, so everything above it is free of torch.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

INFEASIBLE = float("inf")


@dataclass(frozen=True, slots=True, kw_only=True)
class Edge:
    """A value that `source` makes and `target` reads. value: equal for edges that carry the same
    one, which then travels to a device once.
    """

    source: int
    target: int
    nbytes: int
    value: int


@dataclass(frozen=True, kw_only=True)
class TaskGraph:
    """Tasks in an order in which each stands behind those it reads from.

    times_s[t][d]: task t on device d, INFEASIBLE where it cannot run. copy_s[a][b]: (latency_s,
    s_per_byte) from device a to b. homes[t]: the only device a task may run on (inputs and outputs
    live with the host), else None. names: what people know each task by.
    """

    names: tuple[str, ...]
    times_s: tuple[tuple[float, ...], ...]
    edges: tuple[Edge, ...]
    copies: tuple[tuple[tuple[float, float], ...], ...]
    homes: tuple[int | None, ...] = ()

    def __post_init__(self) -> None:
        count, devices = len(self.names), len(self.copies)
        if len(self.times_s) != count or any(len(row) != devices for row in self.times_s):
            raise ValueError(f"times_s must be {count} x {devices}.")
        for edge in self.edges:
            if not 0 <= edge.source < edge.target < count:
                raise ValueError(f"edge {edge.source} -> {edge.target} runs against the order.")

    @property
    def num_devices(self) -> int:
        """How many devices there are."""
        return len(self.copies)

    @cached_property
    def inputs(self) -> tuple[tuple[Edge, ...], ...]:
        """Per task, the edges that it reads."""
        return _grouped(self.edges, len(self.names), by_target=True)

    @cached_property
    def outputs(self) -> tuple[tuple[Edge, ...], ...]:
        """Per task, the edges that leave it."""
        return _grouped(self.edges, len(self.names), by_target=False)

    @cached_property
    def choices(self) -> tuple[tuple[int, ...], ...]:
        """Per task, the devices that can run it."""
        homes = self.homes or (None,) * len(self.names)
        return tuple(
            tuple(
                device
                for device, time_s in enumerate(row)
                if time_s < INFEASIBLE and home in (None, device)
            )
            for row, home in zip(self.times_s, homes, strict=True)
        )

    def copy_s(self, source: int, target: int, nbytes: int) -> float:
        """How long so many bytes take from one device to another."""
        if source == target:
            return 0.0
        latency_s, s_per_byte = self.copies[source][target]
        return latency_s + nbytes * s_per_byte


def _grouped(edges: Sequence[Edge], count: int, *, by_target: bool) -> tuple[tuple[Edge, ...], ...]:
    found: list[list[Edge]] = [[] for _ in range(count)]
    for edge in edges:
        found[edge.target if by_target else edge.source].append(edge)
    return tuple(tuple(row) for row in found)
