"""What NCCL says of its calls in an Nsight export: collective, bytes, communicator, ranks.

NCCL 2.15 and later annotates its API with ranges of the NVTX domain "NCCL", whose payloads hold
what it was asked for. PyTorch groups calls, so that a kernel is launched when the group ends; it
is then of the group's calls, where they are of one kind. Source: nvtx_payload_schemas.h and
collectives.cc of NVIDIA/nccl.
"""

from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from ridgeline.traces.columns import ABSENT, Json
from ridgeline.traces.nsys_database import Database
from ridgeline.traces.nsys_events import nvtx_names, nvtx_table
from ridgeline.traces.nsys_payloads import payload_schemas, payloads
from ridgeline.traces.nsys_tables import NVTX_KINDS

_DOMAIN = "NCCL"
_SIZE, _COMMUNICATOR = "Message size [bytes]", "NCCL communicator ID"
_NUM_RANKS, _RANK, _DEVICE = "No. of ranks", "Rank", "CUDA device"
_START, _END = "ncclGroupStart", "ncclGroupEnd"
_SENDS = ("ncclSend", "ncclRecv")
# NCCL counts what one rank gives or gets of these; the message, as nccl-tests counts, is of all.
_OF_ONE_RANK = ("ncclAllGather", "ncclReduceScatter", "ncclAlltoAll", "ncclGather", "ncclScatter")
_PID_MASK = ~0xFFFFFF  # a globalTid without its thread


@dataclass(frozen=True, slots=True, kw_only=True)
class NcclCall:
    """One call of NCCL's API. numbers: what its payload holds, by NCCL's names."""

    name: str
    thread: int
    start_ns: int
    end_ns: int
    numbers: Mapping[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """The rank that a process has on one of its devices, in the largest group it is in."""

    rank: int
    world_size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Nccl:
    """All that NCCL said. launches: by globalTid, the calls that launch, in their order, each with
    the arguments of the collective that its kernels are of.
    """

    launches: Mapping[int, tuple[tuple[int, int, Mapping[str, Json]], ...]]
    members: Mapping[tuple[int, int], Member]

    def arguments_at(self, thread: int, time_ns: int) -> Mapping[str, Json]:
        """Of the collective that was being launched on a thread at a time; empty for none."""
        calls = self.launches.get(thread, ())
        place = bisect_right(calls, time_ns, key=lambda call: call[0]) - 1
        if place < 0 or calls[place][1] < time_ns:
            return {}
        return calls[place][2]


NOTHING = Nccl(launches={}, members={})


def read_nccl(database: Database, domains: Mapping[tuple[int, int], str]) -> Nccl:
    """What NCCL said. domains: the names of NVTX domains, by globalPid and number."""
    ours = frozenset(number for (_, number), name in domains.items() if name == _DOMAIN)
    schemas = payload_schemas(database, ours)
    if not schemas:
        return NOTHING
    calls = tuple(_calls(database, domains, payloads(database, schemas)))
    sizes = {
        call.numbers[_COMMUNICATOR]: call.numbers[_NUM_RANKS]
        for call in calls
        if {_COMMUNICATOR, _NUM_RANKS} <= set(call.numbers)
    }
    threads: dict[int, list[NcclCall]] = {}
    for call in sorted(calls, key=lambda call: call.start_ns):
        threads.setdefault(call.thread, []).append(call)
    return Nccl(
        launches={thread: tuple(_launches(made, sizes)) for thread, made in threads.items()},
        members=_members(calls),
    )


def _calls(
    database: Database,
    domains: Mapping[tuple[int, int], str],
    numbers: Mapping[int, Mapping[str, int]],
) -> Iterator[NcclCall]:
    table = nvtx_table(database)
    names = nvtx_names(database, table)
    columns = ("rowid", "eventType", "start", "end", "globalTid", "domainId")
    for name, row, kind, start, end, thread, domain in zip(
        names, *(table[column].tolist() for column in columns), strict=True
    ):
        is_ours = domains.get((thread & _PID_MASK, domain)) == _DOMAIN
        if is_ours and kind in NVTX_KINDS and end != ABSENT:
            yield NcclCall(
                name=name,
                thread=thread,
                start_ns=start,
                end_ns=end,
                numbers=numbers.get(row, {}),
            )


def _launches(
    calls: Sequence[NcclCall], sizes: Mapping[int, int]
) -> Iterator[tuple[int, int, Mapping[str, Json]]]:
    """Start, end and arguments of each call of one thread that launches: those outside a group,
    and the ends of groups.
    """
    depth, pending = 0, list[NcclCall]()
    for call in calls:
        if call.name == _START:
            depth += 1
        elif call.name == _END:
            depth = max(0, depth - 1)
        elif _SIZE in call.numbers:
            pending.append(call)
        if depth == 0 and pending:
            if arguments := _arguments(pending, sizes):
                yield call.start_ns, call.end_ns, arguments
            pending = []


def _arguments(calls: Sequence[NcclCall], sizes: Mapping[int, int]) -> dict[str, Json]:
    """What torch.profiler writes of the same collective; empty where calls are not of one kind and
    communicator, or of two ranks only.
    """
    kinds = {(call.name, call.numbers.get(_COMMUNICATOR, ABSENT)) for call in calls}
    ((name, communicator),) = kinds if len(kinds) == 1 else {("", ABSENT)}
    if not name or name in _SENDS:
        return {}
    found: dict[str, Json] = {"Collective name": name}
    size = sizes.get(communicator)
    if communicator != ABSENT:
        found["Process Group Name"] = f"{communicator:#x}"
    if size is not None:
        found["Group size"] = size
    times = size if name in _OF_ONE_RANK else 1
    if times is not None:
        nbytes = times * sum(call.numbers[_SIZE] for call in calls)
        found |= {"In msg nelems": nbytes, "dtype": "Byte"}
    return found


def _members(calls: Sequence[NcclCall]) -> dict[tuple[int, int], Member]:
    """The rank of each process and device, where it joined a communicator while it recorded."""
    found: dict[tuple[int, int], Member] = {}
    for call in calls:
        size, rank = call.numbers.get(_NUM_RANKS, 0), call.numbers.get(_RANK, ABSENT)
        if not 0 <= rank < size:
            continue
        key = (call.thread & _PID_MASK, call.numbers.get(_DEVICE, ABSENT))
        known = found.get(key)
        if known is None or known.world_size < size:
            found[key] = Member(rank=rank, world_size=size)
    return found


def kernel_arguments(
    database: Database, nccl: Nccl, kernels: str, calls: str
) -> dict[int, Mapping[str, Json]]:
    """The arguments of each of NCCL's kernels that were told, by rowid in the table `kernels`;
    `calls` holds those that launched them.
    """
    if not nccl.launches or not {kernels, calls} <= database.tables():
        return {}
    keys = ("correlationId", "globalPid")
    table = database.integers(kernels, (), (*keys, "demangledName"))
    strings = database.texts("StringIds", "id", "value")
    launched = _launch_places(database, calls)
    found: dict[int, Mapping[str, Json]] = {}
    for row, correlation, process, name in zip(
        *(table[column].tolist() for column in ("rowid", *keys, "demangledName")), strict=True
    ):
        place = launched.get((process & _PID_MASK, correlation))
        if place and strings.get(name, "").startswith("nccl"):
            found[row] = nccl.arguments_at(*place)
    return found


def _launch_places(database: Database, calls: str) -> dict[tuple[int, int], tuple[int, int]]:
    """Thread and time of each call, by globalPid and correlation."""
    table = database.integers(calls, ("start",), ("globalTid", "correlationId"))
    columns = (table[name].tolist() for name in ("globalTid", "correlationId", "start"))
    return {
        (thread & _PID_MASK, correlation): (thread, start)
        for thread, correlation, start in zip(*columns, strict=True)
        if correlation > 0
    }
