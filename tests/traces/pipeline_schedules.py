"""Recordings of pipelines whose every nanosecond is known: the order of actions is that of torch's
own schedules, their times are those of the dependencies, links take no time."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path

from recordings import MAIN, Event, op, write
from torch.distributed.pipelining import schedules

Key = tuple[int, str, int]  # stage, work, microbatch
TORCH: Mapping[str, type] = {
    "GPipe": schedules.ScheduleGPipe,
    # Schedule1F1B's own table numbers the last rank's forwards from 1 in torch 2.13
    "1F1B": schedules.ScheduleInterleaved1F1B,
    "looped, all forwards first": schedules.ScheduleLoopedBFS,
    "interleaved 1F1B": schedules.ScheduleInterleaved1F1B,
    "zero bubble": schedules.ScheduleInterleavedZeroBubble,
    "zero bubble, folded (V)": schedules.ScheduleZBVZeroBubble,
}
"""What we call a schedule -> torch's class."""


class _Stage:
    """As much of a stage as a schedule asks for to lay out its table."""

    def __init__(self, index: int, num_ranks: int, num_stages: int) -> None:
        self.stage_index, self.num_stages = index, num_stages
        self.group_size, self.group_rank, self.group = num_ranks, 0, None
        self.is_first, self.is_last = index == 0, index == num_stages - 1
        self.has_backward, self.device, self.submod = True, "cpu", None
        self.stage_index_to_group_rank = {i: i % num_ranks for i in range(num_stages)}


def table(kind: str, num_ranks: int, num_virtual: int, num_microbatches: int) -> list[list[Key]]:
    """The actions of every rank, in order, as torch lays them out."""
    held = [_Stage(i * num_ranks, num_ranks, num_ranks * num_virtual) for i in range(num_virtual)]
    given = held[0] if kind == "GPipe" else held
    made = TORCH[kind](given, num_microbatches, loss_fn=lambda *_: 0)
    order = getattr(made, "pipeline_order", None) or made._get_pipeline_order()
    return [
        [
            (one.stage_index, one.computation_type.value, one.microbatch_index)
            for one in order[rank]
            if one is not None and one.computation_type.value in "FBIW"
        ]
        for rank in range(num_ranks)
    ]


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """A table with the time at which every action starts and ends, µs."""

    ranks: Sequence[Sequence[Key]]
    start_us: Mapping[Key, int]
    end_us: Mapping[Key, int]

    @property
    def span_us(self) -> int:
        return max(self.end_us.values())

    @property
    def idle_share(self) -> float:
        busy = sum(self.end_us[key] - self.start_us[key] for key in self.end_us)
        return 1 - busy / (self.span_us * len(self.ranks))

    def idle_us(self, rank: int) -> list[tuple[int, int]]:
        """When a rank stands still, from and to."""
        edges = [0, *(t for k in self.ranks[rank] for t in (self.start_us[k], self.end_us[k]))]
        edges.append(self.span_us)
        pairs = zip(edges[::2], edges[1::2], strict=True)
        return [(start, end) for start, end in pairs if end > start]


def needs(key: Key, last_stage: int, keys: Mapping[Key, int]) -> list[Key]:
    """The actions whose results an action takes."""
    stage, work, microbatch = key
    if work == "F":
        return [(stage - 1, "F", microbatch)] if stage else []
    if work == "W":
        return [(stage, "I", microbatch)]
    after = [(stage + 1, w, microbatch) for w in "BI" if stage < last_stage]
    return [(stage, "F", microbatch), *(one for one in after if one in keys)]


def run(ranks: Sequence[Sequence[Key]], duration_us: Callable[[int, str], int]) -> Run:
    """When each action runs if it starts as soon as its rank and its inputs are there."""
    on_rank = {key: rank for rank, keys in enumerate(ranks) for key in keys}
    before = {b: a for keys in ranks for a, b in pairwise(keys)}
    last_stage = max(stage for stage, _, _ in on_rank)

    @cache
    def start(key: Key) -> int:
        earlier = needs(key, last_stage, on_rank) + ([before[key]] if key in before else [])
        return max((start(one) + duration_us(*one[:2]) for one in earlier), default=0)

    starts = {key: start(key) for key in on_rank}
    ends = {key: at + duration_us(*key[:2]) for key, at in starts.items()}
    return Run(ranks=ranks, start_us=starts, end_us=ends)


def events_of(made: Run, place: int, peer_of: Sequence[int], *, is_marked: bool) -> list[Event]:
    """What the rank at one place of the pipeline records. peer_of: how it calls the others."""
    on_place = {key: at for at, keys in enumerate(made.ranks) for key in keys}
    last_stage = max(stage for stage, _, _ in on_place)
    takers: dict[Key, list[Key]] = {}
    for key in on_place:
        for source in needs(key, last_stage, on_place):
            takers.setdefault(source, []).append(key)
    events = [_range("ProfilerStep#0", 0, made.span_us + 10)]
    asked = 0
    for key in made.ranks[place]:
        start, end = made.start_us[key], made.end_us[key]
        for source in needs(key, last_stage, on_place):
            if on_place[source] != place:
                events += _transfer("recv_", peer_of[on_place[source]], asked, start)
        if is_marked:
            events.append(_range(f"PP:{key[0]}{key[1]}{key[2]}", asked, end - asked))
        events.append(op("aten::work", start, end - start))
        for taker in takers.get(key, []):
            if on_place[taker] != place:
                events += _transfer("send", peer_of[on_place[taker]], end, end + 0.2)
        asked = end
    return events


def write_run(
    folder: Path, made: Run, ranks: Sequence[int], *, is_marked: bool, is_grouped: bool = False
) -> None:
    """A recording of each place of a pipeline, as rank `ranks[place]` of the world. is_grouped:
    peers are places in a process group of the pipeline's ranks."""
    group = sorted(ranks)
    peer_of = [group.index(rank) for rank in ranks] if is_grouped else ranks
    config = [{"pg_name": "1", "pg_size": len(group), "ranks": group}] if is_grouped else []
    for place, rank in enumerate(ranks):
        events = events_of(made, place, peer_of, is_marked=is_marked)
        about = {"rank": rank, "pg_config": config}
        write(folder / f"rank-{rank}.json", events, distributedInfo=about)


def _range(name: str, start_us: float, dur_us: float, *, tid: int = MAIN) -> Event:
    return op(name, start_us, dur_us, tid=tid) | {"cat": "user_annotation"}


def _transfer(way: str, peer: int, start_us: float, end_us: float) -> list[Event]:
    """On a thread of its own: what communicates does not compute."""
    tid = {"send": MAIN + 7, "recv_": MAIN + 8}[way]
    around = op(f"c10d::{way}", start_us, 0.1, tid=tid, Concrete_Inputs=["", "", str(peer), "0"])
    return [around, _range(f"gloo:{way.rstrip('_')}", start_us, end_us - start_us, tid=tid)]
