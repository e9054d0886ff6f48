"""The process groups that a recording describes, and which one its transfers are of.

A transfer names its other end by its place in the process group, but not which group that is.
"""

from collections import Counter
from collections.abc import Mapping, Sequence

from ridgeline.traces.columns import Json
from ridgeline.traces.stage import StageStep
from ridgeline.traces.transfers import Direction

Group = tuple[int, ...]
"""Ranks of the world by their place in the group."""


def process_groups(distributed: Mapping[str, Json]) -> tuple[Group, ...]:
    """Those of two and more that the rank was a member of; from the header's distributedInfo."""
    rows = distributed.get("pg_config")
    found = (
        [row.get("ranks") for row in rows if isinstance(row, dict)]
        if isinstance(rows, list)
        else []
    )
    whole = (
        tuple(rank for rank in ranks if isinstance(rank, int) and rank >= 0)
        for ranks in found
        if isinstance(ranks, list)
    )
    return tuple(dict.fromkeys(group for group in whole if len(group) > 1))


def groups_of_transfers(
    steps: Mapping[int, Sequence[StageStep]], groups: Mapping[int, Sequence[Group]]
) -> dict[int, Group | None]:
    """Of each rank, the group that its transfers are of; None of the world, which is also taken
    where no group fits. A group fits where what its members sent and received agrees.
    """
    found: dict[int, Group | None] = dict.fromkeys(steps)
    if _agrees(steps, None):
        return found
    known = {group for mine in groups.values() for group in mine}
    is_open = set(steps)
    for group in sorted(known, key=lambda one: (len(one), one)):
        members = {rank: steps[rank] for rank in group if rank in is_open}
        if members and _agrees(members, group):
            found |= dict.fromkeys(members, group)
            is_open -= members.keys()
    return found


def _agrees(steps: Mapping[int, Sequence[StageStep]], group: Group | None) -> bool:
    """Whether each of these ranks received what the others sent it, were the transfers of it."""
    sent, received = Counter[tuple[int, int]](), Counter[tuple[int, int]]()
    for rank, mine in steps.items():
        for one in (transfer for step in mine for transfer in step.transfers):
            if one.peer is None:
                continue
            if group is not None and one.peer >= len(group):
                return False
            peer = one.peer if group is None else group[one.peer]
            if peer == rank:
                return False
            if peer in steps:
                is_send = one.direction is Direction.SEND
                (sent if is_send else received)[(rank, peer) if is_send else (peer, rank)] += 1
    return sent == received
