"""Random task graphs, and the schedules that a search must not lose against."""

import random
from collections.abc import Iterator
from itertools import product

from ridgeline.passes.placement.schedule import evaluate, heft, priority
from ridgeline.passes.placement.tasks import INFEASIBLE, Edge, TaskGraph


def random_tasks(draw: random.Random, count: int, devices: int, density: float = 0.4) -> TaskGraph:
    """Tasks of very different speeds, some of which cannot run everywhere; copies that matter."""
    times = []
    for _ in range(count):
        row = [
            draw.choice((0.0, 1.0, 2.0, 5.0, 10.0)) * draw.uniform(0.5, 2) for _ in range(devices)
        ]
        if draw.random() < 0.2:
            row[draw.randrange(devices)] = INFEASIBLE
        times.append(tuple(row) if min(row) < INFEASIBLE else tuple([1.0] * devices))
    edges = [
        Edge(source=a, target=b, nbytes=draw.randrange(0, 8), value=a)
        for b in range(count)
        for a in range(b)
        if draw.random() < density
    ]
    copies = tuple(
        tuple(
            (0.0, 0.0) if a == b else (draw.uniform(0, 1), draw.uniform(0, 1))
            for b in range(devices)
        )
        for a in range(devices)
    )
    return TaskGraph(
        names=tuple(f"t{i}" for i in range(count)),
        times_s=tuple(times),
        edges=tuple(edges),
        copies=copies,
        homes=tuple(None for _ in range(count)),
    )


def best_by_brute_force(tasks: TaskGraph) -> float:
    """The shortest makespan over every assignment and every order."""
    return min(
        evaluate(tasks, assignment, order).makespan_s
        for order in _orders(tasks)
        for assignment in product(*tasks.choices)
    )


def _orders(tasks: TaskGraph, done: tuple[int, ...] = ()) -> Iterator[tuple[int, ...]]:
    if len(done) == len(tasks.names):
        yield done
    for task in range(len(tasks.names)):
        if task not in done and all(edge.source in done for edge in tasks.inputs[task]):
            yield from _orders(tasks, (*done, task))


def plain_genetic(
    tasks: TaskGraph, *, seed: int, max_evaluations: int, size: int = 20
) -> list[tuple[int, float]]:
    """What a textbook genetic search finds and when: random start with HEFT's schedule in it,
    tournaments, uniform crossover, uniform mutation, HEFT's order.
    """
    draw, order = random.Random(seed), priority(tasks)
    first = heft(tasks, order)
    population = [(first.makespan_s, first.assignment)]
    improvements, evaluations = [(1, first.makespan_s)], 1

    def judged(assignment: tuple[int, ...]) -> None:
        nonlocal evaluations
        evaluations += 1
        makespan_s = evaluate(tasks, assignment, order).makespan_s
        if makespan_s < improvements[-1][1]:
            improvements.append((evaluations, makespan_s))
        population.append((makespan_s, assignment))

    while len(population) < size:
        judged(tuple(draw.choice(choices) for choices in tasks.choices))
    while evaluations < max_evaluations:
        one, other = (min(draw.sample(population, 3)) for _ in range(2))
        child = [draw.choice(pair) for pair in zip(one[1], other[1], strict=True)]
        for task, choices in enumerate(tasks.choices):
            if draw.random() < 1 / len(child):
                child[task] = draw.choice(choices)
        judged(tuple(child))
        population.sort()
        del population[size:]
    return improvements
