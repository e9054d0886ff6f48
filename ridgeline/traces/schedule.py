"""Which schedule a pipeline ran, and what that costs: from its runtime's marks, else from its
transfers.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from statistics import median

from ridgeline.errors import TraceError
from ridgeline.traces.action_order import ActionOrder, order_of
from ridgeline.traces.actions import Work
from ridgeline.traces.stage import StageStep
from ridgeline.traces.transfers import Direction


class ScheduleKind(Enum):
    """The schedules that are told apart."""

    FORWARD_ONLY = "forward only"
    GPIPE = "GPipe"
    ONE_F_ONE_B = "1F1B"
    LOOPED = "looped, all forwards first"
    INTERLEAVED = "interleaved 1F1B"
    ZERO_BUBBLE = "zero bubble"
    FOLDED = "folded (V)"
    FOLDED_ZERO_BUBBLE = "zero bubble, folded (V)"


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """What a pipeline ran. num_virtual: stages of each rank; share: of all ranks' time that the
    schedule stands still when its stages are equal and its links free; uneven_share: the same with
    what every stage took, None where the recording does not mark actions.
    """

    kind: ScheduleKind
    num_ranks: int
    num_virtual: int
    num_microbatches: int
    share: float
    uneven_share: float | None

    def __post_init__(self) -> None:
        if self.num_ranks < 1 or self.num_virtual < 1 or self.num_microbatches < 1:
            raise TraceError(
                f"no pipeline has {self.num_ranks} ranks of {self.num_virtual} stages and "
                f"{self.num_microbatches} microbatches."
            )


def schedule_share(num_ranks: int, num_microbatches: int, num_virtual: int = 1) -> float:
    """(p-1)/(v m + p-1): the share of a step that each rank of a GPipe or 1F1B schedule stands
    still, of an interleaved one with v stages per rank. Source: Huang et al., GPipe, 2019, section
    2.3, and Narayanan et al., Efficient large-scale training with Megatron-LM, 2021, section 2.2,
    both as a share of the whole.
    """
    if num_ranks < 1 or num_microbatches < 1 or num_virtual < 1:
        raise TraceError(
            f"no pipeline has {num_ranks} stages and {num_microbatches} microbatches, "
            f"{num_virtual} of the stages on a rank."
        )
    return (num_ranks - 1) / (num_virtual * num_microbatches + num_ranks - 1)


def schedule_of(steps: Sequence[StageStep]) -> Schedule | None:
    """The schedule of one step, given by rank in the order of the first stages; peers are ranks of
    the world, as places in `steps`. None where neither marks nor transfers say.
    """
    order = order_of([step.actions for step in steps])
    if order is not None:
        return _of_order(order, steps)
    if any(one.peer is not None for step in steps for one in step.transfers):
        return _of_transfers(steps)
    return _of_totals(steps)


def _of_order(order: ActionOrder, steps: Sequence[StageStep]) -> Schedule | None:
    """By the marks; the share is of their order, run again."""
    spent: dict[tuple[int, Work], list[int]] = {}
    for step in steps:
        for one in step.actions:
            spent.setdefault((one.stage, one.work), []).append(one.compute_ns)
    own = {key: float(median(times)) for key, times in spent.items()}
    of_work = {
        work: float(
            median([time for (_, one), times in spent.items() if one is work for time in times])
        )
        for work in {work for _, work in spent}
    }
    num_virtual = order.num_stages // len(steps)
    share = order.idle_share(lambda stage, work: of_work[work])
    kind = _kind_of(order)
    if share is None or kind is None:
        return None
    return Schedule(
        kind=kind,
        num_ranks=len(steps),
        num_virtual=num_virtual,
        num_microbatches=order.num_microbatches,
        share=share,
        uneven_share=order.idle_share(lambda stage, work: own[stage, work]),
    )


_PLACED: Mapping[tuple[bool, bool], ScheduleKind] = {
    (False, False): ScheduleKind.INTERLEAVED,
    (False, True): ScheduleKind.LOOPED,
    (True, False): ScheduleKind.FOLDED,
    (True, True): ScheduleKind.FOLDED,
}
"""(is folded, all forwards come first) -> schedule, of several stages per rank."""


def _kind_of(order: ActionOrder) -> ScheduleKind | None:
    """None where stages are placed as no known schedule places them."""
    num_ranks, num_stages = len(order.ranks), order.num_stages
    held = [order.stages_of(rank) for rank in range(num_ranks)]
    looped = [tuple(range(rank, num_stages, num_ranks)) for rank in range(num_ranks)]
    folded = [(rank, num_stages - 1 - rank) for rank in range(num_ranks)]
    is_folded = held == folded and num_stages == 2 * num_ranks
    if num_stages % num_ranks or not (held == looped or is_folded):
        return None
    if order.has(Work.WEIGHT):
        return ScheduleKind.FOLDED_ZERO_BUBBLE if is_folded else ScheduleKind.ZERO_BUBBLE
    if not order.has(Work.BACKWARD):
        return ScheduleKind.FORWARD_ONLY
    first = [work for _, work, _ in order.ranks[-1]]
    is_forward_first = Work.FORWARD not in first[first.index(Work.BACKWARD) :]
    if num_stages > num_ranks:
        return _PLACED[is_folded, is_forward_first]
    return ScheduleKind.GPIPE if is_forward_first else ScheduleKind.ONE_F_ONE_B


def _of_transfers(steps: Sequence[StageStep]) -> Schedule | None:
    """By how often each rank sends to the next and to the one before; two ranks of several stages
    each look like two of one."""
    num_ranks = len(steps)
    sent = {
        (a, b): steps[a].num_to(b, Direction.SEND)
        for a in range(num_ranks)
        for b in range(num_ranks)
    }
    got = {(a, b): steps[b].num_to(a, Direction.RECEIVE) for a, b in sent}
    last = num_ranks - 1
    forward = {sent[a, a + 1] for a in range(last)}
    backward = {sent[a + 1, a] for a in range(last)}
    around = {sent[last, 0], sent[0, last]} if num_ranks > 2 else {0}
    beside = sum(count for (a, b), count in sent.items() if abs(a - b) not in (1, last))
    total = sum(sent.values())
    is_known = total == sum(len(step.sends) for step in steps)
    if sent != got or beside or not is_known or len(forward) != 1 or len(around) != 1:
        return None
    (there,), (round_trips,) = forward, around
    return _of_counts(num_ranks, there, backward, round_trips, steps[-1])


def _of_totals(steps: Sequence[StageStep]) -> Schedule | None:
    """By how often each rank sends and receives, where nobody recorded with whom."""
    sent = [len(step.sends) for step in steps]
    received = [len(step.transfers) - num for step, num in zip(steps, sent, strict=True)]
    number = sent[0]
    if not number or not sent == received == [number, *[2 * number] * (len(steps) - 2), number]:
        return None
    return _of_counts(len(steps), number, {number}, 0, steps[-1])


def _of_counts(
    num_ranks: int, there: int, backward: set[int], around: int, last: StageStep
) -> Schedule | None:
    """there: v m, the forwards that cross every link; around: (v-1) m, from the last rank to the
    first."""
    num_microbatches = there - around
    if num_microbatches < 1 or there % num_microbatches:
        return None
    num_virtual = there // num_microbatches
    if backward == {0} and not around:
        kind = ScheduleKind.FORWARD_ONLY
    elif backward != {there}:
        return None
    elif num_virtual > 1:
        kind = ScheduleKind.INTERLEAVED
    else:
        kind = ScheduleKind.GPIPE if _is_forward_first(last) else ScheduleKind.ONE_F_ONE_B
    return Schedule(
        kind=kind,
        num_ranks=num_ranks,
        num_virtual=num_virtual,
        num_microbatches=num_microbatches,
        share=schedule_share(num_ranks, num_microbatches, num_virtual),
        uneven_share=None,
    )


def _is_forward_first(last: StageStep) -> bool:
    """Whether the last stage had received all that it received before it first sent."""
    received = [one.end_ns for one in last.transfers if one.direction is Direction.RECEIVE]
    return max(received) <= min(one.start_ns for one in last.sends)
