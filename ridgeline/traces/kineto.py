"""Reads what torch.profiler (Kineto) writes: Chrome JSON, plain or compressed, of every dialect."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from ridgeline.errors import TraceError
from ridgeline.native.scan import End, Scan, Text, inputs_digests
from ridgeline.traces.columns import (
    DTYPES,
    Device,
    Dialect,
    Json,
    Kind,
    Metadata,
    Recording,
    Thread,
    columns,
)
from ridgeline.traces.files import read_file, require_memory
from ridgeline.traces.process_groups import process_groups
from ridgeline.traces.scan import scan
from ridgeline.units import counted

KINDS: Mapping[str, Kind] = {
    "cpu_op": Kind.CPU_OP,
    "user_annotation": Kind.ANNOTATION,
    "python_function": Kind.PYTHON,
    "cuda_runtime": Kind.RUNTIME,
    "cuda_driver": Kind.RUNTIME,
    "hip_runtime": Kind.RUNTIME,
    "xpu_runtime": Kind.RUNTIME,
    "xpu_driver": Kind.RUNTIME,
    "mtia_runtime": Kind.RUNTIME,
    "privateuse1_runtime": Kind.RUNTIME,
    "privateuse1_driver": Kind.RUNTIME,
    "kernel": Kind.KERNEL,
    "concurrent_kernel": Kind.KERNEL,
    "mtia_ccp_events": Kind.KERNEL,
    "gpu_memcpy": Kind.MEMCPY,
    "gpu_memset": Kind.MEMSET,
    "cuda_sync": Kind.SYNC,
    "gpu_user_annotation": Kind.DEVICE_ANNOTATION,
    "overhead": Kind.OVERHEAD,
    # before torch 1.11
    "operator": Kind.CPU_OP,
    "runtime": Kind.RUNTIME,
    "memcpy": Kind.MEMCPY,
    "memset": Kind.MEMSET,
}
"""Category, in small letters -> what it is. Source: ActivityType.cpp of pytorch/kineto, and the
recordings that tests read."""

_KIND_OF_NAME: Mapping[str, Kind] = {"[memory]": Kind.MEMORY, "dma_request": Kind.MEMCPY}
"""What a name decides whatever the category: MTIA's transfers stand among its kernels."""

_PHASES: Mapping[int, Kind] = {ord("C"): Kind.COUNTER, ord("i"): Kind.INSTANT} | {
    ord("I"): Kind.INSTANT
}
_RANK_IN_NAME = re.compile(r"rank[-_ ]?(\d{1,6})", re.IGNORECASE)
_NO_NUMBER = re.compile(
    rb'("(?:[^"\\]++|\\.)*+")|-?\b(?:inf(?:inity)?|nan)\b', re.DOTALL | re.IGNORECASE
)


@dataclass(frozen=True, slots=True, kw_only=True)
class JsonArguments:
    """The arguments of events, which lie in `data` as JSON objects."""

    data: Text

    def decode(self, start: int, nbytes: int) -> Mapping[str, Json]:
        """The object at that place; empty where it is none."""
        text = bytes(self.data[start : start + nbytes])
        found = parse(text)
        return found if isinstance(found, dict) else {}

    def digests(
        self, start: NDArray[np.int64], nbytes: NDArray[np.int64]
    ) -> NDArray[np.uint64] | None:
        """Numbers that are equal where operators' inputs are; None without the built scanner."""
        return inputs_digests(self.data, start, nbytes)


def parse(text: bytes) -> Json:
    """The value that JSON spells, with null for inf and nan, which some recorders write."""
    try:
        found: Json = msgspec.json.decode(text)
    except (ValueError, RecursionError):
        found = _parse_leniently(text)
    return found


def _parse_leniently(text: bytes) -> Json:
    """None where even so it is no JSON."""
    try:
        found: Json = json.loads(
            _NO_NUMBER.sub(lambda m: m[1] or b"null", text).decode("utf-8", "replace"), strict=False
        )
    except (ValueError, RecursionError):
        found = None
    return found


def read_kineto(path: Path, *, keeps_python: bool = False) -> Recording:
    """The recording at `path`. keeps_python: with calls of Python functions, where it has them.

    A file that is cut off or damaged gives what stands before that, and a note. Raises TraceError
    where that is nothing.
    """
    text = read_file(path)
    require_memory(path, len(text.data))
    found = scan(text.data, keeps_python=keeps_python)
    _require_events(path, found, text.data)
    names, name_of = _distinct([decoded(t) for t in found.tables["names"]])
    header = {decoded(key): parse(value) for key, value in found.header}
    threads, thread = _threads(found)
    same = {name: found.columns[name] for name in _SAME}
    events = columns(
        len(thread),
        name=name_of[found.columns["name"]],
        thread=thread,
        kind=_kinds(found, names, name_of),
        **same,
    )
    return Recording(
        source=str(path),
        metadata=metadata_of(header, path, found),
        events=events,
        names=tuple(names),
        threads=threads,
        arguments=JsonArguments(data=text.data),
        notes=(*_notes(text.notes, found), *_untold(found)),
    )


_SAME = tuple(name for name in DTYPES if name not in ("kind", "name", "thread"))


def _require_events(path: Path, found: Scan, data: Text) -> None:
    if found.num_recorded:
        if len(found.columns["name"]) or found.num_python:
            return
        raise TraceError(f"{path} records no event with a name and a time.")
    if found.end is End.WHOLE:
        what = "has no traceEvents" if found.header else "records no event"
        raise TraceError(f"{path} {what}: it is JSON, but no trace of torch.profiler.")
    if data[:64].lstrip()[:1] not in (b"{", b"["):
        raise TraceError(f"{path} is no trace: it starts with {bytes(data[:12])!r}, not with JSON.")
    how = "ends" if found.end is End.CUT else "is damaged"
    raise TraceError(f"{path} {how} at byte {found.offset:,}, before its first event.")


def _notes(notes: Sequence[str], found: Scan) -> tuple[str, ...]:
    if found.end is End.WHOLE and not notes:
        return ()
    what = "is cut off" if found.end is End.CUT else "is damaged"
    why = f" ({'; '.join(notes)})" if notes else ""
    return (
        f"the file {what} at byte {found.offset:,}{why}: this is of the "
        f"{counted(found.num_recorded, 'event')} before that.",
    )


def _untold(found: Scan) -> tuple[str, ...]:
    counts = {
        "without a name or with no time that can be": found.num_untimed,
        "of a phase that torch.profiler does not write": found.num_unread,
    }
    return tuple(f"{counted(n, 'event')} {what} left out." for what, n in counts.items() if n)


def decoded(text: bytes) -> str:
    """What stands between the quotes of a JSON string."""
    if b"\\" not in text:
        return text.decode("utf-8", "replace")
    found = parse(b'"' + text + b'"')
    return found if isinstance(found, str) else text.decode("utf-8", "replace")


def _distinct(texts: Sequence[str]) -> tuple[list[str], NDArray[np.int32]]:
    """Each text once, and the new number of each: two spellings may be one name."""
    numbers: dict[str, int] = {}
    for text in texts:
        numbers.setdefault(text, len(numbers))
    return list(numbers), np.array([numbers[t] for t in texts], np.int32)


def _kinds(found: Scan, names: Sequence[str], name_of: NDArray[np.int32]) -> NDArray[np.uint8]:
    """What every event is, by its category, its phase, and where they say, its name."""
    categories = [decoded(t).lower() for t in found.tables["categories"]]
    of_category = np.array([KINDS.get(c, Kind.OTHER) for c in categories], np.uint8)
    kinds: NDArray[np.uint8] = of_category[found.columns["category"]]
    for phase, kind in _PHASES.items():
        kinds[found.columns["phase"] == phase] = kind
    for name, kind in _KIND_OF_NAME.items():
        if name in names:
            kinds[name_of[found.columns["name"]] == names.index(name)] = kind
    return kinds


def _threads(found: Scan) -> tuple[tuple[Thread, ...], NDArray[np.int32]]:
    """Every pair of process and thread that occurs, and the number of each event's."""
    processes = [decoded(t) for t in found.tables["processes"]]
    threads = [decoded(t) for t in found.tables["threads"]]
    pairs = found.columns["process"].astype(np.int64) * len(threads)
    pairs += found.columns["thread"].astype(np.int64)
    kept, numbers = np.unique(pairs, return_inverse=True)
    rows = tuple(
        Thread(process=processes[pair // len(threads)], thread=threads[pair % len(threads)])
        for pair in kept.tolist()
    )
    return rows, numbers.astype(np.int32)


def metadata_of(header: Mapping[str, Json], path: Path, found: Scan) -> Metadata:
    """What the keys beside the events say. The rank may stand in the file's name only."""
    distributed = header.get("distributedInfo")
    about = distributed if isinstance(distributed, dict) else {}
    rank = _whole(about.get("rank"), least=0)
    in_name = _RANK_IN_NAME.search(path.name)
    if rank is None and in_name:
        rank = int(in_name[1])
    return Metadata(
        dialect=Dialect.KINETO,
        rank=rank,
        world_size=_whole(about.get("world_size"), least=1),
        base_time_ns=_whole(header.get("baseTimeNanoseconds"), least=0) or 0,
        devices=_devices(header.get("deviceProperties")),
        num_recorded=found.num_recorded,
        num_python=found.num_python,
        process_groups=process_groups(about),
    )


def _whole(value: Json, *, least: int) -> int | None:
    is_whole = isinstance(value, int) and not isinstance(value, bool)
    return value if is_whole and least <= value < 2**62 else None  # type: ignore[operator,return-value]


def _devices(rows: Json) -> tuple[Device, ...]:
    if not isinstance(rows, list):
        return ()
    found = (_device(row) for row in rows if isinstance(row, dict))
    return tuple(device for device in found if device)


def _device(row: Mapping[str, Json]) -> Device | None:
    number = _whole(row.get("id"), least=0)
    if number is None:
        return None
    major, minor = (_whole(row.get(f"compute{part}"), least=0) for part in ("Major", "Minor"))
    return Device(
        id=number,
        name=str(row.get("name") or ""),
        memory_bytes=_whole(row.get("totalGlobalMem"), least=1),
        num_multiprocessors=_whole(row.get("numSms"), least=1),
        compute_capability=None if major is None or minor is None else (major, minor),
    )
