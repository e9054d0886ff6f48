"""The best schedule there is, by branch and bound, for graphs of a handful of tasks."""

from ridgeline.passes.placement.schedule import Board, Schedule
from ridgeline.passes.placement.tasks import TaskGraph

# Beyond this many tasks the tree grows past a second.
MAX_TASKS = 7


def exact(tasks: TaskGraph, known: Schedule) -> Schedule:
    """The shortest schedule over every order and assignment; `known` if nothing is shorter."""
    return _Tree(tasks, known).best()


class _Tree:
    def __init__(self, tasks: TaskGraph, known: Schedule) -> None:
        self._tasks = tasks
        self._best = known
        self._left_s = _shortest_ways(tasks)

    def best(self) -> Schedule:
        self._grow(Board(self._tasks), frozenset(range(len(self._tasks.names))))
        return self._best

    def _grow(self, board: Board, left: frozenset[int]) -> None:
        if not left:
            self._best = min(self._best, board.schedule(), key=lambda s: s.makespan_s)
            return
        ready = (t for t in left if not any(e.source in left for e in self._tasks.inputs[t]))
        branches = [(board.end_if(t, d), t, d) for t in ready for d in self._tasks.choices[t]]
        for end_s, task, device in sorted(branches):
            if end_s + self._left_s[task] < self._best.makespan_s:
                longer = board.copy()
                longer.put(task, device)
                self._grow(longer, left - {task})


def _shortest_ways(tasks: TaskGraph) -> tuple[float, ...]:
    """Per task, the least time from its end to the end of all, copies free."""
    after = [0.0] * len(tasks.names)
    for task in reversed(range(len(tasks.names))):
        after[task] = max(
            (
                after[e.target] + min(tasks.times_s[e.target][d] for d in tasks.choices[e.target])
                for e in tasks.outputs[task]
            ),
            default=0.0,
        )
    return tuple(after)
