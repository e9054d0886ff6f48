"""A recording as Chrome's JSON with the gaps found in it, piece by piece: what Perfetto opens."""

import json
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from ridgeline.traces.columns import ABSENT, DEVICE_KINDS, Kind, Recording
from ridgeline.traces.idle import EXPLANATIONS, Gap, gaps
from ridgeline.traces.launches import Launches, launches
from ridgeline.traces.nesting import Rows
from ridgeline.traces.split import activity

_CATEGORIES: Mapping[Kind, str] = {
    Kind.CPU_OP: "cpu_op",
    Kind.ANNOTATION: "user_annotation",
    Kind.PYTHON: "python_function",
    Kind.RUNTIME: "cuda_runtime",
    Kind.KERNEL: "kernel",
    Kind.MEMCPY: "gpu_memcpy",
    Kind.MEMSET: "gpu_memset",
}
"""What is written, by its category."""

_PIECE = 32_768  # events that become text at a time
_IDLE = "idle, by cause"


def perfetto_document(recordings: Iterator[Recording]) -> Iterator[str]:
    """The text of a JSON file, in pieces: every recording with processes of its own for its host
    and its device, which has a track of gaps. Times are of one clock where recordings say when
    they began.
    """
    yield '{"displayTimeUnit":"ns","traceEvents":[\n'
    zero_ns: int | None = None
    for number, recording in enumerate(recordings):
        base_ns = recording.metadata.base_time_ns
        zero_ns = base_ns if zero_ns is None else zero_ns
        yield from _pieces(recording, number, base_ns - zero_ns)
    yield '{"ph":"M","name":"trace_written_by","pid":0,"args":{"name":"ridgeline"}}\n]}\n'


def _pieces(recording: Recording, number: int, shift_ns: int) -> Iterator[str]:
    host, device = 2 * number + 1, 2 * number + 2
    found = launches(recording)
    yield _tracks(recording, number, host, device)
    names = [json.dumps(name) for name in recording.names]
    for rows in _cut(recording.events.where(*_CATEGORIES)):
        yield _events(recording, names, rows, (host, device), shift_ns)
    for rows in _cut(np.flatnonzero(found.calls != ABSENT)):
        yield _flows(recording, found, rows, (host, device), shift_ns)
    idle = gaps(recording, activity(recording).busy, found)
    for rows in _cut(np.arange(len(idle))):
        yield "".join(_gap(recording, gap, device, shift_ns) for gap in idle.at(rows.tolist()))


def _cut(rows: Rows) -> Iterator[Rows]:
    for start in range(0, len(rows), _PIECE):
        yield rows[start : start + _PIECE]


def _tracks(recording: Recording, number: int, host: int, device: int) -> str:
    """What processes and threads are called."""
    rank = recording.metadata.rank
    who = f"rank {number if rank is None else rank}"
    events = recording.events
    is_device = np.isin(events.kind, DEVICE_KINDS)
    lines = [
        _named("process_name", host, 0, f"{who} host"),
        _named("process_name", device, 0, f"{who} device"),
        _named("thread_name", device, len(recording.threads), _IDLE),
    ]
    for process, what, mask in ((host, "thread", ~is_device), (device, "stream", is_device)):
        lines += [
            _named("thread_name", process, thread, f"{what} {recording.threads[thread].thread}")
            for thread in np.unique(events.thread[mask]).tolist()
        ]
    return "".join(lines)


def _named(what: str, process: int, thread: int, name: str) -> str:
    event = {"ph": "M", "name": what, "pid": process, "tid": thread, "args": {"name": name}}
    return f"{json.dumps(event)},\n"


def _events(
    recording: Recording, names: Sequence[str], rows: Rows, pids: tuple[int, int], shift_ns: int
) -> str:
    events = recording.events
    lines = []
    for name, kind, thread, start_ns, duration_ns, correlation in zip(
        events.name[rows].tolist(),
        events.kind[rows].tolist(),
        events.thread[rows].tolist(),
        (events.start_ns[rows] + shift_ns).tolist(),
        events.duration_ns[rows].tolist(),
        events.correlation[rows].tolist(),
        strict=True,
    ):
        args = f',"args":{{"correlation":{correlation}}}' if correlation != ABSENT else ""
        lines.append(
            f'{{"ph":"X","cat":"{_CATEGORIES[kind]}","name":{names[name]},'
            f'"pid":{pids[kind in DEVICE_KINDS]},"tid":{thread},'
            f'"ts":{_us(start_ns)},"dur":{_us(duration_ns)}{args}}},\n'
        )
    return "".join(lines)


def _flows(
    recording: Recording, found: Launches, rows: Rows, pids: tuple[int, int], shift_ns: int
) -> str:
    """Arrows from calls to what they launched."""
    lines = []
    ends = (("s", found.calls[rows], pids[0], ""), ("f", found.rows[rows], pids[1], ',"bp":"e"'))
    for phase, events_rows, process, more in ends:
        threads = recording.events.thread[events_rows].tolist()
        starts = (recording.events.start_ns[events_rows] + shift_ns).tolist()
        for number, thread, start_ns in zip(rows.tolist(), threads, starts, strict=True):
            lines.append(
                f'{{"ph":"{phase}","cat":"ac2g","name":"launch","id":"{process - (phase == "f")}'
                f'.{number}","pid":{process},"tid":{thread},"ts":{_us(start_ns)}{more}}},\n'
            )
    return "".join(lines)


def _gap(recording: Recording, gap: Gap, process: int, shift_ns: int) -> str:
    rows = {"until": gap.next_row, "after": gap.previous_row, "operator": gap.op_row}
    rows["call"] = gap.call_row if gap.blocking_row == ABSENT else gap.blocking_row
    args = {key: recording.name_of(row) for key, row in rows.items() if row != ABSENT}
    args["why"] = EXPLANATIONS[gap.cause]
    return (
        f'{{"ph":"X","cat":"idle","name":{json.dumps(gap.cause.value)},"pid":{process},'
        f'"tid":{len(recording.threads)},"ts":{_us(gap.start_ns + shift_ns)},'
        f'"dur":{_us(gap.duration_ns)},"args":{json.dumps(args)}}},\n'
    )


def _us(ns: int) -> str:
    """Microseconds to the nanosecond, as the format wants them."""
    sign, ns = ("-", -ns) if ns < 0 else ("", ns)
    return f"{sign}{ns // 1000}.{ns % 1000:03d}"
