"""Which ranks are one pipeline, and in which order: from who sends to whom, and who starts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from ridgeline.traces.process_groups import Group, groups_of_transfers
from ridgeline.traces.rank import RankTrace
from ridgeline.traces.stage import StageStep
from ridgeline.traces.transfers import Direction, Transfer


@dataclass(frozen=True, slots=True, kw_only=True)
class Pipeline:
    """The ranks of one pipeline by the stage that each does first, None of the only one that does
    not say which it is. steps: of each, with the ranks of the world as peers. is_whole: the
    transfers say that order, and nobody has one with a rank that was not recorded.
    """

    ranks: tuple[int | None, ...]
    steps: tuple[tuple[StageStep, ...], ...]
    is_whole: bool


def pipelines(ranks: Sequence[RankTrace]) -> tuple[Pipeline, ...]:
    """Every pipeline of two ranks and more, in the order of their first ranks. Ranks that all send
    before they receive pass something around a ring: those are none.
    """
    stages = {-1 if one.rank is None else one.rank: one for one in ranks if one.stage_steps}
    groups = groups_of_transfers(
        {rank: one.stage_steps for rank, one in stages.items()},
        {rank: one.process_groups for rank, one in stages.items()},
    )
    steps = {
        rank: tuple(_in_world(step, groups[rank]) for step in one.stage_steps)
        for rank, one in stages.items()
    }
    found = [_pipeline(members, steps) for members in _connected(steps)]
    return tuple(one for one in found if one is not None)


def _in_world(step: StageStep, group: Group | None) -> StageStep:
    """The step with ranks of the world as peers."""
    if group is None:
        return step

    def rank_of(peer: int | None) -> int | None:
        return None if peer is None else group[peer]

    return replace(
        step,
        transfers=tuple(replace(one, peer=rank_of(one.peer)) for one in step.transfers),
        still=tuple(replace(one, peer=rank_of(one.peer)) for one in step.still),
    )


def _connected(steps: Mapping[int, Sequence[StageStep]]) -> list[tuple[int, ...]]:
    """The ranks that reach each other by transfers; those without a known peer are one more."""
    peers = {rank: {one.peer for one in _all(mine)} for rank, mine in steps.items()}
    unknown = tuple(rank for rank in sorted(steps) if peers[rank] <= {None})
    found, is_open = [unknown] if unknown else [], set(steps) - set(unknown)
    while is_open:
        reached, edge = set[int](), {min(is_open)}
        while edge:
            reached |= edge
            near = {rank for rank in is_open if not reached.isdisjoint(peers[rank])}
            near |= {peer for rank in edge for peer in peers[rank] if peer in is_open}
            edge = near - reached
        found.append(tuple(sorted(reached)))
        is_open -= reached
    return sorted(found)


def _pipeline(
    members: Sequence[int], steps: Mapping[int, tuple[StageStep, ...]]
) -> Pipeline | None:
    """None where these ranks are no pipeline."""
    firsts = {rank: _first(_all(steps[rank])) for rank in members}
    heads = [rank for rank, one in firsts.items() if one.direction is Direction.SEND]
    if len(members) < 2 or len(heads) == len(members):
        return None
    order = _chain(heads, firsts)
    recorded = {None, *members}
    is_closed = all(one.peer in recorded for rank in members for one in _all(steps[rank]))
    is_unknown = all(one.peer is None for one in firsts.values())
    ranks = tuple(order) if len(order) == len(members) else tuple(members)
    return Pipeline(
        ranks=tuple(None if rank < 0 else rank for rank in ranks),
        steps=tuple(steps[rank] for rank in ranks),
        is_whole=is_closed and (is_unknown or len(order) == len(members)),
    )


def _chain(heads: Sequence[int], firsts: Mapping[int, Transfer]) -> list[int]:
    """From the one rank that starts by sending to the one that first hears of it, and so on."""
    order = [*heads] if len(heads) == 1 else []
    after: dict[int | None, list[int]] = {}
    for rank, one in firsts.items():
        if one.direction is Direction.RECEIVE:
            after.setdefault(one.peer, []).append(rank)
    while order and len(nexts := after.pop(order[-1], [])) == 1:
        order += nexts
    return order


def _all(steps: Sequence[StageStep]) -> list[Transfer]:
    return [one for step in steps for one in step.transfers]


def _first(found: Sequence[Transfer]) -> Transfer:
    """The transfer that shows first what a rank had: one that it asked to send, or had received."""
    return min(
        found, key=lambda one: one.start_ns if one.direction is Direction.SEND else one.end_ns
    )
