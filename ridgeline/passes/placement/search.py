"""Better than HEFT: a genetic search whose mutations act on what the end waits for.

A candidate says where each task runs and in which order tasks are taken. Only its critical path
decides how long it takes, so only that is mutated: a task of it, or a run of them, moves to another
device; or a task that waited for a busy device goes before the one that kept it. SPHINX (named in
the issue's notes) states the idea; the operators here are our own.
"""

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice, pairwise

from ridgeline.passes.placement.exact import MAX_TASKS, exact
from ridgeline.passes.placement.schedule import Schedule, evaluate, heft, priority
from ridgeline.passes.placement.tasks import TaskGraph

POPULATION = 4
MAX_EVALUATIONS = 2_000
# Shares of mutations: taking a waiting task earlier; changing anything at all, for what the path
# does not show (a link kept busy by others).
HURRY, BLIND = 0.25, 0.25
# Without a better schedule for this many evaluations the search ends.
PATIENCE = 400


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """The best schedule, HEFT's, and how often the makespan was computed until each new best."""

    best: Schedule
    heft: Schedule
    evaluations: int
    improvements: tuple[tuple[int, float], ...]


def search(
    tasks: TaskGraph,
    *,
    seed: int = 0,
    max_evaluations: int = MAX_EVALUATIONS,
    patience: int = PATIENCE,
    progress: Callable[[float], None] | None = None,
) -> Found:
    """The best schedule of a few tasks, or the best that `max_evaluations` find; never worse than
    HEFT's or than one device for all that it can run.
    """
    first = heft(tasks, priority(tasks))
    run = _Run(tasks=tasks, draw=random.Random(seed), population=[first])
    run.note(first)
    for start in _starts(tasks):
        run.offer(evaluate(tasks, start, priority(tasks)))
    if len(tasks.names) <= MAX_TASKS:
        run.offer(exact(tasks, run.population[0]))
        return run.found(first)
    last_better = run.evaluations
    while run.evaluations < max_evaluations and run.evaluations - last_better < patience:
        before = run.improvements[-1][0]
        if not run.step():
            break
        if run.improvements[-1][0] != before:
            last_better = run.evaluations
        if progress:
            progress(run.evaluations / max_evaluations)
    return run.found(first)


def _starts(tasks: TaskGraph) -> Iterator[tuple[int, ...]]:
    """All that can on one device, the rest where it is fastest; for each device."""
    for device in range(tasks.num_devices):
        yield tuple(
            device if device in choices else min(choices, key=lambda d: tasks.times_s[task][d])
            for task, choices in enumerate(tasks.choices)
        )


@dataclass(slots=True, kw_only=True)
class _Run:
    """A search in progress. population: best first; seen: candidates that need no second look."""

    tasks: TaskGraph
    draw: random.Random
    population: list[Schedule]
    evaluations: int = 0
    improvements: list[tuple[int, float]] = field(default_factory=list)
    seen: set[tuple[tuple[int, ...], tuple[int, ...]]] = field(default_factory=set)

    def note(self, schedule: Schedule) -> None:
        """Counts an evaluation, and a new best."""
        self.evaluations += 1
        self.seen.add((schedule.assignment, schedule.order))
        if not self.improvements or schedule.makespan_s < self.improvements[-1][1]:
            self.improvements.append((self.evaluations, schedule.makespan_s))

    def offer(self, schedule: Schedule) -> None:
        """Takes a schedule into the population if it is among the best."""
        self.note(schedule)
        # two that take equally long are mostly one and the same but for what does not matter
        if any(schedule.makespan_s == other.makespan_s for other in self.population):
            return
        self.population.append(schedule)
        self.population.sort(key=lambda s: s.makespan_s)
        del self.population[POPULATION:]

    def found(self, first: Schedule) -> Found:
        """The best so far."""
        return Found(
            best=self.population[0],
            heft=first,
            evaluations=self.evaluations,
            improvements=tuple(self.improvements),
        )

    def step(self) -> bool:
        """One new candidate, made from one of the population; False when none is left."""
        for candidate in islice(self._candidates(), 64):
            if candidate in self.seen:
                continue
            self.offer(evaluate(self.tasks, *candidate))
            return True
        return False

    def _candidates(self) -> Iterator[tuple[tuple[int, ...], tuple[int, ...]]]:
        while True:
            # the better half is asked twice as often: min of two draws
            place = min(self.draw.randrange(len(self.population)) for _ in range(2))
            parent = self.population[place]
            if len(self.population) > 1 and self.draw.random() < 0.2:
                parent = self._crossed(parent, self.draw.choice(self.population))
            yield self._mutated(parent)

    def _crossed(self, one: Schedule, other: Schedule) -> Schedule:
        """The devices of `one`, but for a range of the order those of `other`."""
        low, high = sorted(self.draw.randrange(len(one.order) + 1) for _ in range(2))
        assignment = list(one.assignment)
        for task in one.order[low:high]:
            assignment[task] = other.assignment[task]
        return replace(one, assignment=tuple(assignment))

    def _mutated(self, parent: Schedule) -> tuple[tuple[int, ...], tuple[int, ...]]:
        if self.draw.random() < BLIND:
            return self._anywhere(parent)
        path = parent.critical_path()
        if self.draw.random() < HURRY:
            order = self._hurried(parent, path)
            if order is not None:
                return parent.assignment, order
        movable = [i for i, task in enumerate(path) if len(self.tasks.choices[task]) > 1]
        if not movable:
            return parent.assignment, parent.order
        first = self.draw.choice(movable)
        device = parent.assignment[path[first]]
        target = self.draw.choice([d for d in self.tasks.choices[path[first]] if d != device])
        assignment = list(parent.assignment)
        for task in self._moved(parent, path, first):
            if target in self.tasks.choices[task]:
                assignment[task] = target
        return tuple(assignment), parent.order

    def _anywhere(self, parent: Schedule) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """One task on any device, or in front of any other."""
        task = self.draw.randrange(len(parent.order))
        if self.draw.random() < 0.5:
            device = self.draw.choice(self.tasks.choices[task])
            assignment = (*parent.assignment[:task], device, *parent.assignment[task + 1 :])
            return assignment, parent.order
        sooner = parent.order[: parent.order.index(task)]
        if not sooner:
            return parent.assignment, parent.order
        return parent.assignment, _earlier(self.tasks, parent.order, task, self.draw.choice(sooner))

    def _moved(self, parent: Schedule, path: Sequence[int], first: int) -> Sequence[int]:
        """One task of the path, or those from it on that run on its device: moved together they
        need no copies between them.
        """
        if self.draw.random() < 0.5:
            return path[first : first + 1]
        device = parent.assignment[path[first]]
        end = first
        while end < len(path) and parent.assignment[path[end]] == device:
            end += 1
        return path[first : self.draw.randint(first + 1, end)]

    def _hurried(self, parent: Schedule, path: Sequence[int]) -> tuple[int, ...] | None:
        """The order with one task of the path taken before the one whose device it waited for."""
        waiting = [
            (before, task)
            for before, task in pairwise(path)
            if parent.assignment[before] == parent.assignment[task]
            and all(edge.source != before for edge in self.tasks.inputs[task])
        ]
        if not waiting:
            return None
        before, task = self.draw.choice(waiting)
        return _earlier(self.tasks, parent.order, task, before)


def _earlier(tasks: TaskGraph, order: Sequence[int], task: int, before: int) -> tuple[int, ...]:
    """`order` with `task`, and those it reads from, directly in front of `before`."""
    position = {t: i for i, t in enumerate(order)}
    start = position[before]
    needed, todo = {task}, [task]
    while todo:
        for edge in tasks.inputs[todo.pop()]:
            if position[edge.source] > start and edge.source not in needed:
                needed.add(edge.source)
                todo.append(edge.source)
    if before in {edge.source for t in needed for edge in tasks.inputs[t]}:
        return tuple(order)
    ahead = [t for t in order[start:] if t in needed]
    rest = [t for t in order[start:] if t not in needed]
    return (*order[:start], *ahead, *rest)
