"""List scheduling: from "which device" to "when", and what the end waited for.

Tasks are taken by decreasing upward rank (the longest way to the end, at average speed: Topcuoglu,
Hariri and Wu, "Performance-effective and low-complexity task scheduling for heterogeneous
computing", TPDS 2002). A device runs one task at a time; a link carries one copy at a time in each
direction; copies run beside computation; a value travels to a device once.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from ridgeline.passes.placement.tasks import Edge, TaskGraph

Assignment = tuple[int, ...]  # task -> device


@dataclass(frozen=True, slots=True, kw_only=True)
class Copy:
    """A value on its way."""

    value: int
    source: int
    target: int
    nbytes: int
    start_s: float
    end_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """When every task runs. order: the tasks as they were placed; cause[t]: the task whose end or
    value t waited for, None where it started at once.
    """

    assignment: Assignment
    order: tuple[int, ...]
    start_s: tuple[float, ...]
    end_s: tuple[float, ...]
    copies: tuple[Copy, ...]
    cause: tuple[int | None, ...]

    @property
    def makespan_s(self) -> float:
        """From the first start to the last end."""
        return max(self.end_s, default=0.0)

    def critical_path(self) -> tuple[int, ...]:
        """The chain of tasks, each waiting for the one before, that ends last; first task first."""
        if not self.end_s:
            return ()
        task: int | None = max(range(len(self.end_s)), key=lambda t: self.end_s[t])
        path: list[int] = []
        while task is not None:
            path.append(task)
            task = self.cause[task]
        return tuple(reversed(path))


def ranks(tasks: TaskGraph) -> tuple[float, ...]:
    """Upward rank of every task: the longest way from its start to the end, times and copies
    averaged over devices.
    """
    pairs = [(a, b) for a in range(tasks.num_devices) for b in range(tasks.num_devices) if a != b]
    found = [0.0] * len(tasks.names)
    for task in reversed(range(len(tasks.names))):
        after = 0.0
        for edge in tasks.outputs[task]:
            copy_s = sum(tasks.copy_s(a, b, edge.nbytes) for a, b in pairs) / max(1, len(pairs))
            after = max(after, copy_s + found[edge.target])
        possible = [tasks.times_s[task][d] for d in tasks.choices[task]]
        found[task] = sum(possible) / max(1, len(possible)) + after
    return tuple(found)


def priority(tasks: TaskGraph) -> tuple[int, ...]:
    """The order in which tasks are placed: by rank, each behind those it reads from."""
    rank = ranks(tasks)
    # ranks never grow along an edge; equal ones (tasks of no time) keep the graph's own order
    return tuple(sorted(range(len(tasks.names)), key=lambda t: (-rank[t], t)))


class Board:
    """A schedule in the making: the one place where the rules of time are written down."""

    def __init__(self, tasks: TaskGraph) -> None:
        self._tasks = tasks
        count = len(tasks.names)
        self._device_free_s = [0.0] * tasks.num_devices
        self._device_last: list[int | None] = [None] * tasks.num_devices
        self._link_free_s: dict[tuple[int, int], float] = {}
        self._arrived: dict[tuple[int, int], float] = {}
        self._copies: list[Copy] = []
        self._order: list[int] = []
        self.device = [-1] * count
        self.start_s = [0.0] * count
        self.end_s = [0.0] * count
        self._cause: list[int | None] = [None] * count

    def copy(self) -> "Board":
        """A board of its own with the same tasks placed."""
        other = copy.copy(self)
        for name, value in vars(self).items():
            if isinstance(value, (list, dict)):
                setattr(other, name, value.copy())
        return other

    def end_if(self, task: int, device: int) -> float:
        """When `task` would end on `device`, nothing being changed."""
        ready_s, _, _ = self._ready(task, device)
        return max(ready_s, self._device_free_s[device]) + self._tasks.times_s[task][device]

    def put(self, task: int, device: int) -> None:
        """Places `task` on `device` behind what is there, with the copies that it needs."""
        ready_s, giver, copies = self._ready(task, device)
        for new in copies:
            self._link_free_s[new.source, new.target] = new.end_s
            self._arrived[new.value, new.target] = new.end_s
        self._copies += copies
        free_s = self._device_free_s[device]
        self.device[task] = device
        self.start_s[task] = max(ready_s, free_s)
        self.end_s[task] = self.start_s[task] + self._tasks.times_s[task][device]
        self._cause[task] = giver if ready_s >= free_s else self._device_last[device]
        self._device_free_s[device] = self.end_s[task]
        self._device_last[device] = task
        self._order.append(task)

    def schedule(self) -> Schedule:
        """What has been placed."""
        return Schedule(
            assignment=tuple(self.device),
            order=tuple(self._order),
            start_s=tuple(self.start_s),
            end_s=tuple(self.end_s),
            copies=tuple(self._copies),
            cause=tuple(self._cause),
        )

    def _ready(self, task: int, device: int) -> tuple[float, int | None, list[Copy]]:
        """When all that `task` reads is on `device`, who gave the last of it, and new copies."""
        ready_s, giver = 0.0, None
        copies: list[Copy] = []
        busy: dict[tuple[int, int], float] = {}
        arriving: dict[int, float] = {}
        for edge in self._tasks.inputs[task]:
            at_s = self._arrival(edge, device, busy, arriving, copies)
            if giver is None or at_s > ready_s:
                ready_s, giver = at_s, edge.source
        return ready_s, giver, copies

    def _arrival(
        self,
        edge: Edge,
        device: int,
        busy: dict[tuple[int, int], float],
        arriving: dict[int, float],
        copies: list[Copy],
    ) -> float:
        source = self.device[edge.source]
        made_s = self.end_s[edge.source]
        if source == device:
            return made_s
        known = self._arrived.get((edge.value, device), arriving.get(edge.value))
        if known is not None:
            return known
        link = (source, device)
        start_s = max(made_s, busy.get(link, self._link_free_s.get(link, 0.0)))
        end_s = start_s + self._tasks.copy_s(source, device, edge.nbytes)
        busy[link] = arriving[edge.value] = end_s
        copies.append(
            Copy(
                value=edge.value,
                source=source,
                target=device,
                nbytes=edge.nbytes,
                start_s=start_s,
                end_s=end_s,
            )
        )
        return end_s


def evaluate(tasks: TaskGraph, assignment: Sequence[int], order: Sequence[int]) -> Schedule:
    """The schedule of an assignment, tasks placed in `order`."""
    board = Board(tasks)
    for task in order:
        board.put(task, assignment[task])
    return board.schedule()


def heft(tasks: TaskGraph, order: Sequence[int]) -> Schedule:
    """Each task, in `order`, where it ends first (HEFT, without insertion into gaps)."""
    board = Board(tasks)
    for task in order:
        board.put(task, min(tasks.choices[task], key=lambda d: (board.end_if(task, d), d)))
    return board.schedule()


Verdict = Literal["late copy", "two at once", "wrong device"]


def faults(tasks: TaskGraph, schedule: Schedule) -> list[tuple[int, Verdict]]:
    """What a schedule does that no hardware could, found without the code that made it."""
    found: list[tuple[int, Verdict]] = []
    arrivals = {(c.value, c.target): c.end_s for c in schedule.copies}
    for task, device in enumerate(schedule.assignment):
        if device not in tasks.choices[task]:
            found.append((task, "wrong device"))
        for edge in tasks.inputs[task]:
            here = schedule.assignment[edge.source] == device
            given_s = (
                schedule.end_s[edge.source]
                if here
                else arrivals.get((edge.value, device), float("inf"))
            )
            if schedule.start_s[task] < given_s - 1e-12:
                found.append((task, "late copy"))
    for device in range(tasks.num_devices):
        mine = sorted(
            (schedule.start_s[t], schedule.end_s[t], t)
            for t, d in enumerate(schedule.assignment)
            if d == device
        )
        found += [
            (later[2], "two at once")
            for sooner, later in pairwise(mine)
            if later[0] < sooner[1] - 1e-12
        ]
    return found
