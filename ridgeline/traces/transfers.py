"""What one rank sent to and received from single other ranks (send, recv), as its host saw it."""

import re
from dataclasses import dataclass
from enum import Enum

from ridgeline.traces.columns import ABSENT, Json, Kind, Recording
from ridgeline.traces.host import named
from ridgeline.traces.nesting import Rows, innermost


class Direction(Enum):
    """Which way a transfer went."""

    SEND = "send"
    RECEIVE = "receive"


_RANGES = {
    Direction.SEND: re.compile(r"(?:gloo|mpi|ucc|nccl|xccl):i?send\b"),
    Direction.RECEIVE: re.compile(r"(?:gloo|mpi|ucc|nccl|xccl):i?recv\b"),
}
_OPERATORS = re.compile(r"c10d::(?:send|recv_)$")
_IN_NAME = re.compile(r"(?:->|<-)\s*(\d{1,6})")  # nccl:send 0->1, nccl:recv 0<-1


@dataclass(frozen=True, slots=True, kw_only=True)
class Transfer:
    """One send or receive. start_ns: when it was asked for; end_ns: when it was complete, in the
    recording's time; peer: the other rank, by its place in the process group, None where it was
    not recorded.
    """

    direction: Direction
    start_ns: int
    end_ns: int
    peer: int | None


def transfers(recording: Recording) -> tuple[Transfer, ...]:
    """Every send and receive, in the order in which they were asked for."""
    events = recording.events
    operators = events.where(Kind.CPU_OP)
    operators = operators[named(recording, _OPERATORS)[events.name[operators]]]
    found: list[Transfer] = []
    for direction, pattern in _RANGES.items():
        # the device's ranges say when it was done; without a device those of the host do
        for kind in (Kind.DEVICE_ANNOTATION, Kind.ANNOTATION):
            rows = events.where(kind)
            rows = rows[named(recording, pattern)[events.name[rows]]]
            if len(rows):
                found += _of_rows(recording, direction, rows, operators)
                break
    return tuple(sorted(found, key=lambda one: (one.start_ns, one.end_ns)))


def _of_rows(
    recording: Recording, direction: Direction, rows: Rows, operators: Rows
) -> list[Transfer]:
    events = recording.events
    around = innermost(events, operators, rows)
    return [
        Transfer(
            direction=direction,
            start_ns=int(events.start_ns[row]),
            end_ns=int(events.end_ns[row]),
            peer=_peer(recording, int(row), int(op)),
        )
        for row, op in zip(rows.tolist(), around.tolist(), strict=True)
    ]


def _peer(recording: Recording, row: int, operator: int) -> int | None:
    """The other rank: in the range's name, or the third input of the operator around it."""
    in_name = _IN_NAME.search(recording.name_of(row))
    if in_name:
        return int(in_name[1])
    if operator == ABSENT:
        return None
    values: Json = recording.args_of(operator).get("Concrete Inputs")
    peer = values[2] if isinstance(values, list) and len(values) > 2 else None
    return int(peer) if isinstance(peer, str) and peer.isdigit() else None


def received_from(found: tuple[Transfer, ...], start_ns: int, end_ns: int) -> Transfer | None:
    """Of the receives that were awaited for most of a stretch of time, the last to complete."""
    awaited = [
        one
        for one in found
        if one.direction is Direction.RECEIVE
        and 2 * (min(one.end_ns, end_ns) - max(one.start_ns, start_ns)) > end_ns - start_ns
    ]
    return max(awaited, key=lambda one: one.end_ns, default=None)
