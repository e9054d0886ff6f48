"""What an order of actions costs: run again with given durations, on links that take no time."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from ridgeline.traces.actions import Action, Work

Key = tuple[int, Work, int]
"""Stage, work and microbatch."""
Durations = Callable[[int, Work], float]
"""Nanoseconds of one piece of work on one stage."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ActionOrder:
    """The actions of one step, a row per rank, in the order in which they ran."""

    ranks: tuple[tuple[Key, ...], ...]

    @property
    def num_stages(self) -> int:
        """Stages, on however many ranks."""
        return 1 + max(stage for rank in self.ranks for stage, _, _ in rank)

    @property
    def num_microbatches(self) -> int:
        """Parts into which the batch is split."""
        return 1 + max(microbatch for rank in self.ranks for _, _, microbatch in rank)

    def has(self, work: Work) -> bool:
        """Whether any rank does such work."""
        return any(one is work for rank in self.ranks for _, one, _ in rank)

    def stages_of(self, rank: int) -> tuple[int, ...]:
        """The stages that a rank holds, in ascending order."""
        return tuple(sorted({stage for stage, _, _ in self.ranks[rank]}))

    def idle_share(self, durations: Durations) -> float | None:
        """The share of all ranks' time in which they stand still; None where the order cannot run
        to its end: actions wait for what nobody recorded.
        """
        end_ns = self._ends_ns(durations)
        if end_ns is None or not max(end_ns.values()):
            return None
        span_ns = max(end_ns.values())
        busy_ns = sum(durations(stage, work) for stage, work, _ in end_ns)
        return 1 - busy_ns / (len(self.ranks) * span_ns)

    def _ends_ns(self, durations: Durations) -> Mapping[Key, float] | None:
        """When each action ends, each rank doing its own one after the other."""
        last, end_ns = self.num_stages - 1, dict[Key, float]()
        places, clocks_ns = [0] * len(self.ranks), [0.0] * len(self.ranks)
        is_moving = True
        while is_moving:
            is_moving = False
            for rank, order in enumerate(self.ranks):
                while places[rank] < len(order):
                    key = order[places[rank]]
                    ready_ns = _ready_ns(key, end_ns, last)
                    if ready_ns is None:
                        break
                    clocks_ns[rank] = max(clocks_ns[rank], ready_ns) + durations(*key[:2])
                    end_ns[key] = clocks_ns[rank]
                    places[rank] += 1
                    is_moving = True
        return end_ns if len(end_ns) == sum(map(len, self.ranks)) else None


def order_of(ranks: Sequence[Sequence[Action]]) -> ActionOrder | None:
    """The order of a step of which every rank marked all its actions, once each, else None."""
    rows = tuple(tuple((one.stage, one.work, one.microbatch) for one in rank) for rank in ranks)
    flat = [key for row in rows for key in row]
    if not all(rows) or len(set(flat)) != len(flat):
        return None
    found = ActionOrder(ranks=rows)
    count = Counter(work for _, work, _ in flat)
    expected = found.num_stages * found.num_microbatches
    is_whole = (
        count[Work.FORWARD] == expected
        and count[Work.BACKWARD] + count[Work.INPUT] in (0, expected)
        and count[Work.INPUT] == count[Work.WEIGHT]
    )
    return found if is_whole else None


def _ready_ns(key: Key, end_ns: Mapping[Key, float], last: int) -> float | None:
    """When what an action waits for is done; None where it is not yet."""
    stage, work, microbatch = key
    if work is Work.FORWARD:
        return 0.0 if stage == 0 else end_ns.get((stage - 1, work, microbatch))
    if work is Work.WEIGHT:
        return end_ns.get((stage, Work.INPUT, microbatch))
    own = end_ns.get((stage, Work.FORWARD, microbatch))
    if stage == last or own is None:
        return own
    after = (end_ns.get((stage + 1, one, microbatch)) for one in (Work.BACKWARD, Work.INPUT))
    gradient = next((time_ns for time_ns in after if time_ns is not None), None)
    return None if gradient is None else max(own, gradient)
