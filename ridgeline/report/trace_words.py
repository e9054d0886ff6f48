"""The sentences and cells of a trace's report."""

from collections.abc import Sequence

from ridgeline.traces.fixes import Fix
from ridgeline.traces.host_operators import HostOperator
from ridgeline.traces.kernel_kinds import Unit
from ridgeline.traces.kernels import Kernel
from ridgeline.traces.launches import LaunchStatistics
from ridgeline.traces.matrix_time import MatrixTime
from ridgeline.traces.rank import IdleCause, RankTrace
from ridgeline.traces.skew import match_collectives
from ridgeline.traces.split import Split
from ridgeline.traces.stragglers import Reason, stragglers
from ridgeline.traces.trace import Trace
from ridgeline.units import counted, format_percent, format_time, printable

_NS = 1e-9
_MOST_INPUTS = 6
_LEAST_LATE = 0.01  # of the span


def time_of(ns: float) -> str:
    """Nanoseconds as people read them."""
    return format_time(ns * _NS)


def changed_by(ns: float) -> str:
    """A difference in nanoseconds with its sign: "+1.20 ms"."""
    return f"{'-' if ns < 0 else '+'}{time_of(abs(ns))}"


def share_of(part_ns: int, whole_ns: int) -> str:
    """A share; "-" of nothing."""
    return format_percent(part_ns / whole_ns) if whole_ns else "-"


def verdict(trace: Trace) -> str:
    """How busy the device was, what kept it from being so, and which rank the others wait for."""
    rank = slowest(trace.ranks)
    split = rank.split
    where = f"{counted(len(trace.ranks), 'rank')}, the longest " if len(trace.ranks) > 1 else ""
    parts = [
        f"{where}{time_of(split.span_ns)}: device busy {share_of(split.busy_ns, split.span_ns)}",
        f"compute {share_of(split.compute_ns, split.span_ns)}",
    ]
    if split.communication_ns:
        exposed = share_of(split.exposed_communication_ns, split.span_ns)
        parts.append(f"exposed communication {exposed}")
    idle = f"idle {share_of(split.idle_ns, split.span_ns)}"
    causes = ", ".join(cause_words(cause) for cause in rank.idle_causes[:3] if cause.share >= 0.01)
    busy = f"{', '.join(parts)}; {idle}{f' ({causes})' if causes else ''}."
    return f"{busy} {straggler}" if (straggler := straggler_words(trace)) else busy


def straggler_words(trace: Trace) -> str:
    """A sentence on the rank that the others waited for longest; "" where that is less than a
    percent of the span.
    """
    found = stragglers(trace.ranks, match_collectives(trace.ranks))
    span_ns = slowest(trace.ranks).split.span_ns
    if not found or found[0].late_ns < _LEAST_LATE * span_ns:
        return ""
    one = found[0]
    per_step = "" if one.late_per_step_ns is None else f", {time_of(one.late_per_step_ns)} a step"
    is_known = one.reason is not Reason.UNKNOWN
    why = f"; it {one.reason.value} ({time_of(one.excess_ns)})" if is_known else ""
    return (
        f"Rank {one.rank} comes last to {one.num_last:,} of "
        f"{counted(one.num_collectives, 'collective')}: others wait {time_of(one.late_ns)} "
        f"for it{per_step}{why}."
    )


def cause_words(cause: IdleCause) -> str:
    """ "host-bound launch 61%"."""
    return f"{cause.cause.value} {format_percent(cause.share)}"


def slowest(ranks: Sequence[RankTrace]) -> RankTrace:
    """The rank whose recording spans the longest time."""
    return max(ranks, key=lambda rank: rank.split.span_ns)


def rank_name(rank: RankTrace) -> str:
    """ "3" or, where the recording does not say, "-"."""
    return "-" if rank.rank is None else str(rank.rank)


def device_name(rank: RankTrace) -> str:
    """The devices that the rank used, as the recording names them."""
    if rank.host_operators:
        return "none, the host"
    names = dict.fromkeys(device.name or f"device {device.id}" for device in rank.devices)
    return ", ".join(names) or "a device that the recording does not name"


def split_cells(split: Split) -> list[str]:
    """The cells of a row of `SPLIT_HEADERS`."""
    span = split.span_ns
    overlap = split.overlap_share
    return [
        time_of(span),
        share_of(split.compute_ns, span),
        share_of(split.exposed_communication_ns, span),
        share_of(split.memory_ns, span),
        share_of(split.idle_ns, span),
        time_of(split.communication_ns) if split.communication_ns else "-",
        "-" if overlap is None else format_percent(overlap),
    ]


SPLIT_HEADERS = [
    "span",
    "compute",
    "exposed comm.",
    "memory",
    "idle",
    "communication",
    "overlapped",
]


HOST_HEADERS = ["operator", "calls", "own time", "share", "own, each", "with what it calls"]


def host_cells(one: HostOperator) -> list[str]:
    """The cells of a row of `HOST_HEADERS`."""
    return [
        shortened(one.name, 48),
        f"{one.count:,}",
        time_of(one.self_ns),
        format_percent(one.share),
        time_of(one.mean_self_ns),
        time_of(one.total_ns),
    ]


def span_range(fix: Fix, span_ns: int) -> list[str]:
    """The cells of a fix: gain, its share of the span, and the span that is left."""
    low, high = fix.low_ns, fix.high_ns
    return [
        _range(time_of(low), time_of(high)),
        _range(share_of(low, span_ns), share_of(high, span_ns)),
        _range(time_of(span_ns - high), time_of(span_ns - low)),
    ]


def _range(low: str, high: str) -> str:
    return low if low == high else f"{low} to {high}"


def shortened(text: str, length: int = 72) -> str:
    """Text that a terminal may print, cut to `length`; C++ names keep their beginning, which says
    most.
    """
    text = printable(text)
    return text if len(text) <= length else f"{text[: length - 1]}…"


def shorter_shapes(shapes: str) -> str:
    """The first shapes of an operator's inputs, and how many more there are."""
    parts = shapes.split("] ")
    if len(parts) <= _MOST_INPUTS:
        return shapes
    return f"{'] '.join(parts[:_MOST_INPUTS])}] and {len(parts) - _MOST_INPUTS} more"


def notes(trace: Trace) -> list[str]:
    """What is missing or partial, once each; with the rank where there are several."""
    if len(trace.ranks) == 1:
        return list(trace.ranks[0].notes)
    found: dict[str, list[str]] = {}
    for rank in trace.ranks:
        for note in rank.notes:
            found.setdefault(note, []).append(rank_name(rank))
    return [
        note if len(ranks) == len(trace.ranks) else f"rank {', '.join(ranks)}: {note}"
        for note, ranks in found.items()
    ]


def launch_words(found: LaunchStatistics) -> str:
    """How far ahead of the device the host was."""
    late = share_of(found.num_immediate, found.num_launches)
    text = (
        f"{found.num_launches:,} launches; from call to start {time_of(found.median_latency_ns)} "
        f"median, {time_of(found.p90_latency_ns)} at the 90th percentile, "
        f"{time_of(found.max_latency_ns)} at most; {late} started within 10 µs, that is, were not "
        f"queued. On average {found.mean_queue:.1f} were waiting when another was launched, "
        f"{found.max_queue:,} at most."
    )
    if found.num_unknown:
        text += f" Of {found.num_unknown:,} events on the device the launch was not recorded."
    return text


def unit_words(kernel: Kernel) -> str:
    """ "tensor core"; "-" of what computes nothing, "?" of what nobody knows."""
    return _UNITS.get(kernel.unit, kernel.unit.value)


_UNITS = {Unit.NONE: "-", Unit.UNKNOWN: "?"}


def matrix_words(found: MatrixTime) -> str:
    """How much of the time of matrix products was on tensor cores, and what could move there."""
    if found.unit_share is None:
        return "No kernel is a matrix product by its name."
    text = (
        f"Matrix products take {share_of(found.product_ns, found.device_ns)} of the device's "
        f"time, {format_percent(found.unit_share)} of that on tensor or matrix cores."
    )
    able_ns = sum(one.time_ns for one in found.eligible)
    if able_ns:
        text += f" {time_of(able_ns)} ({share_of(able_ns, found.device_ns)}) could move there."
    return text


DEFINITIONS = (
    "Span: from the first event on the device to the last. Busy: anything runs, on any stream. "
    "Compute: any kernel but communication. Exposed communication: communication while neither "
    "another kernel nor a fill runs. Memory: only copies or fills. Overlapped: the share of "
    "communication during which compute runs."
)
