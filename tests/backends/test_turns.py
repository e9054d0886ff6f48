"""Turns of measuring, against children that answer at once with a given time."""

import queue
from dataclasses import dataclass, field
from typing import cast

from ridgeline.backends.child import Nursery
from ridgeline.backends.measure import Limits, Timing, measure_in_turn, measure_the_close
from ridgeline.backends.protocol import Reply, Turn

QUIET = Limits(patience_s=5.0)


@dataclass(slots=True)
class Instant:
    """A child whose every sample takes `time_s`; it fails at its turn number `ends`."""

    time_s: float
    ends: int | None = None
    is_clean: bool = True
    turns: int = 0
    replies: queue.Queue[Reply] = field(default_factory=queue.Queue)

    def ask(self, turn: Turn) -> None:
        self.turns += 1
        if self.turns == self.ends:
            self.replies.put(Reply(kind="failed", reason="gone"))
            return
        times, clean = [self.time_s] * turn.samples, [self.is_clean] * turn.samples
        self.replies.put(Reply(kind="timed", times_s=times, is_clean=clean))

    def wait(self, deadline: float) -> Reply:
        return self.replies.get_nowait()


class Crowd:
    """What `measure` needs of a nursery."""

    def __init__(self, *children: Instant) -> None:
        self.started = dict(enumerate(children))


def nursery(*children: Instant) -> Nursery:
    return cast(Nursery, Crowd(*children))


def counts(timings: list[Timing]) -> list[int]:
    return [len(t.times_s) for t in timings]


def measured(*children: Instant) -> tuple[Nursery, list[Timing]]:
    crowd = nursery(*children)
    blank = [Timing() for _ in children]
    return crowd, measure_in_turn(crowd, blank, 10, QUIET, lambda f: None)


def test_everyone_gets_as_many_samples_as_asked_for() -> None:
    _, timings = measured(Instant(1.0), Instant(2.0))
    assert counts(timings) == [10, 10]


def test_the_close_get_three_times_as_many_and_the_rest_none() -> None:
    crowd, timings = measured(Instant(1.0), Instant(1.09), Instant(1.2), Instant(3.0))
    said: list[float] = []
    again = measure_the_close(crowd, timings, [[0, 1, 2, 3]], 10, QUIET, said.append)
    assert counts(again) == [30, 30, 10, 10]
    assert said[-1] == 1.0


def test_the_close_are_sought_group_by_group() -> None:
    crowd, timings = measured(Instant(1.0), Instant(1.05), Instant(3.0), Instant(3.1), Instant(9.0))
    again = measure_the_close(crowd, timings, [[0, 1], [2, 3], [4]], 10, QUIET, lambda f: None)
    assert counts(again) == [30, 30, 30, 30, 10]


def test_a_clear_winner_is_not_measured_again() -> None:
    crowd, timings = measured(Instant(1.0), Instant(1.2))
    said: list[float] = []
    assert measure_the_close(crowd, timings, [[0, 1]], 10, QUIET, said.append) == timings
    assert said == [1.0]


def test_one_that_fails_when_measured_again_is_out() -> None:
    crowd, timings = measured(Instant(1.0), Instant(1.05, ends=6))
    again = measure_the_close(crowd, timings, [[0, 1]], 10, QUIET, lambda f: None)
    assert again[1].skipped == "gone"
    assert counts(again) == [30, 10]


def test_on_a_noisy_machine_patience_ends_it() -> None:
    noisy = Instant(1.0, is_clean=False), Instant(1.0, is_clean=False)
    crowd = nursery(*noisy)
    hasty = Limits(patience_s=0.0)
    timings = measure_in_turn(crowd, [Timing(), Timing()], 10, hasty, lambda f: None)
    assert counts(timings) == [10, 10]  # these everyone gets
    again = measure_the_close(crowd, timings, [[0, 1]], 10, hasty, lambda f: None)
    assert counts(again) == [12, 12]
