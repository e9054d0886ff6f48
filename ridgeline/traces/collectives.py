"""The collectives of one rank: which, of which group, how many bytes, from when to when."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod

import numpy as np

from ridgeline.traces.columns import ABSENT, Json, Kind, Recording
from ridgeline.traces.communication import is_communication
from ridgeline.traces.launches import Launches
from ridgeline.traces.nesting import Rows

_NAMES: Sequence[tuple[str, re.Pattern[str]]] = tuple(
    (name, re.compile(pattern, re.IGNORECASE))
    for name, pattern in (
        ("all_reduce", r"all_?reduce|cross_device_reduce|(?:one|two)_shot"),
        ("reduce_scatter", r"reduce_?scatter"),
        ("all_gather", r"all_?gather"),
        ("all_to_all", r"all_?to_?all"),
        ("broadcast", r"broadcast"),
        ("barrier", r"barrier"),
        ("point to point", r"send|recv"),
        ("reduce", r"reduce"),
        ("gather", r"gather"),
        ("scatter", r"scatter"),
    )
)
"""How recorders and kernels spell what torch.distributed calls; the first that fits counts."""

_TO_BUS: Mapping[str, tuple[int, bool]] = {
    "all_reduce": (2, True),
    "all_gather": (1, True),
    "reduce_scatter": (1, True),
    "all_to_all": (1, True),
    "gather": (1, True),
    "scatter": (1, True),
    "broadcast": (1, False),
    "reduce": (1, False),
}
"""The bytes that cross a link per byte of the message: a number, times (n-1)/n where so marked.
Source: doc/PERFORMANCE.md of NVIDIA/nccl-tests."""

_ITEM_NBYTES: Mapping[str, int] = {
    "double": 8, "long": 8, "complexfloat": 8, "float": 4, "int": 4, "half": 2, "bfloat16": 2,
    "short": 2, "char": 1, "byte": 1, "bool": 1, "signed char": 1, "unsigned char": 1,
    "float8_e4m3fn": 1, "float8_e5m2": 1, "float8_e4m3fnuz": 1, "float8_e5m2fnuz": 1,
    "long int": 8, "c10::bfloat16": 2, "c10::half": 2,
}  # fmt: skip
_ON_HOST = re.compile(r"(?:gloo|mpi|ucc):(?!i?send|i?recv|barrier)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Collective:
    """One collective as one rank saw it. group: the process group as the recorder names it, ranks:
    its members, size: their number; sequence: its place among the rank's collectives of that group,
    from 0. start_ns, end_ns: since 1970 where the recording says so. nbytes: the larger of what a
    rank gives and gets, which is what nccl-tests calls the size. "" and None where not recorded.
    """

    name: str
    group: str
    ranks: tuple[int, ...]
    size: int | None
    sequence: int
    start_ns: int
    end_ns: int
    nbytes: int | None

    @property
    def duration_ns(self) -> int:
        """From when this rank came to when it was done, waiting for others included."""
        return self.end_ns - self.start_ns


def collectives(recording: Recording, found: Launches) -> tuple[Collective, ...]:
    """Every collective of a rank in the order in which they ran; sends and receives are none."""
    zero_ns, events = recording.metadata.base_time_ns, recording.events
    seen: Counter[tuple[str, tuple[int, ...]]] = Counter()
    made = []
    for row, op in _rows(recording, found):
        args = _args(recording, row, op)
        name = _name(str(args.get("Collective name") or recording.name_of(row)))
        if name == "point to point":
            continue
        group, ranks = str(args.get("Process Group Name") or ""), _members(args)
        start_ns = zero_ns + int(events.start_ns[row])
        made.append(
            Collective(
                name=name,
                group=group,
                ranks=ranks,
                size=_size(args, ranks),
                sequence=seen[group, ranks],
                start_ns=start_ns,
                end_ns=start_ns + int(events.duration_ns[row]),
                nbytes=_nbytes(args),
            )
        )
        seen[group, ranks] += 1
    return tuple(made)


def bus_bytes(name: str, nbytes: int, size: int) -> float | None:
    """What every link carries at least in a collective; None of one that nccl-tests has not."""
    if name not in _TO_BUS or size < 1:
        return None
    times, is_shared = _TO_BUS[name]
    return nbytes * times * ((size - 1) / size if is_shared else 1.0)


def _rows(recording: Recording, found: Launches) -> list[tuple[int, int]]:
    """Kernels of communication and their operators; on the host the ranges of its transport."""
    events = recording.events
    is_talk = np.array([is_communication(name) for name in recording.names], bool)
    on_device = (events.kind[found.rows] == Kind.KERNEL) & is_talk[events.name[found.rows]]
    if len(found.rows):
        return list(zip(found.rows[on_device].tolist(), found.ops[on_device].tolist(), strict=True))
    ranges: Rows = events.where(Kind.ANNOTATION)
    is_host = np.array([_ON_HOST.match(name) is not None for name in recording.names], bool)
    ranges = ranges[is_host[events.name[ranges]]]
    ranges = ranges[np.argsort(events.start_ns[ranges], kind="stable")]
    return [(row, ABSENT) for row in ranges.tolist()]


def _args(recording: Recording, row: int, op: int) -> Mapping[str, Json]:
    """Of the kernel, which NCCL's carry since torch 2.2, else of record_param_comms around it."""
    args = recording.args_of(row)
    return args if "Collective name" in args or op == ABSENT else {**recording.args_of(op), **args}


def _name(text: str) -> str:
    return next((name for name, pattern in _NAMES if pattern.search(text)), text)


def _members(args: Mapping[str, Json]) -> tuple[int, ...]:
    """[0, 1] from "[0, 1]"; empty where the recorder left some out ("[0, ..., 127]")."""
    text = str(args.get("Process Group Ranks") or "")
    return () if "..." in text else tuple(int(number) for number in re.findall(r"\d+", text))


def _size(args: Mapping[str, Json], ranks: Sequence[int]) -> int | None:
    size = args.get("Group size")
    return size if isinstance(size, int) else len(ranks) or None


def _nbytes(args: Mapping[str, Json]) -> int | None:
    counts = [args.get("In msg nelems"), args.get("Out msg nelems")]
    known = [count for count in counts if isinstance(count, int)]
    if known:
        item = _ITEM_NBYTES.get(str(args.get("dtype")).lower())
        return None if item is None else max(known) * item
    return _input_nbytes(args.get("Input Dims"), args.get("Input type"))


def _input_nbytes(dims: Json, types: Json) -> int | None:
    """Of the first input, where it is one tensor: what a transport on the host was given."""
    if not (isinstance(dims, list) and isinstance(types, list) and dims and types):
        return None
    shape, item = dims[0], _ITEM_NBYTES.get(str(types[0]).lower())
    sizes = [size for size in shape if isinstance(size, int)] if isinstance(shape, list) else []
    is_tensor = isinstance(shape, list) and len(sizes) == len(shape) and item is not None
    return prod(sizes) * item if is_tensor and item is not None else None
