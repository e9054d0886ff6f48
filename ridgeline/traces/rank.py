"""What one rank's recording says, as values: no columns, so that processes can hand it over."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path as FilePath

from ridgeline.traces.beside import operands_beside
from ridgeline.traces.collectives import Collective, collectives
from ridgeline.traces.columns import ABSENT, Device, Kind, Recording
from ridgeline.traces.fixes import Fix, fixes
from ridgeline.traces.host import HOST_NOTE, is_host_only
from ridgeline.traces.host_operators import HostOperator, host_operators
from ridgeline.traces.idle import Cause, Gap, Gaps, gaps
from ridgeline.traces.launches import LaunchStatistics, launch_statistics, launches
from ridgeline.traces.matrix_time import on_matrix_units
from ridgeline.traces.memory_timeline import MemoryTimeline, memory_events, memory_timeline
from ridgeline.traces.operands import OperandUses
from ridgeline.traces.paths import Path, paths
from ridgeline.traces.split import Split, activity, split
from ridgeline.traces.stacks import Stacks
from ridgeline.traces.stage import StageStep, stage_steps
from ridgeline.traces.steps import host_steps, steps
from ridgeline.traces.timeline import Timeline, timeline
from ridgeline.traces.usage import KernelUse, OperatorUse, kernel_uses, modules_of, operator_uses
from ridgeline.units import counted

NUM_GAPS = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class StepSplit:
    """One step and how its time went on the device. matrix_ns: of kernels that by their names run
    on tensor or matrix cores, added up over streams.
    """

    name: str
    split: Split
    matrix_ns: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class IdleCause:
    """All idle time of one cause. share: of all idle time."""

    cause: Cause
    idle_ns: int
    num_gaps: int
    share: float


@dataclass(frozen=True, slots=True, kw_only=True)
class NamedGap:
    """A gap and what stood around it. start_ns: after the first event on the device. previous,
    next: what ran before and after; op: the operator that launched the latter; call: the call that
    blocked the host or, if none did, that launched; line: of the program. "" where not recorded.
    """

    start_ns: int
    duration_ns: int
    cause: Cause
    previous: str
    next: str
    op: str
    call: str
    line: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RankTrace:
    """What one rank did. rank: None where the recording does not say. host_operators: only where no
    device took part; then there are no kernels, causes of idle time and fixes.
    """

    source: str
    rank: int | None
    world_size: int | None
    base_time_ns: int
    devices: tuple[Device, ...]
    num_recorded: int
    split: Split
    steps: tuple[StepSplit, ...]
    timeline: Timeline
    kernels: tuple[KernelUse, ...]
    paths: tuple[Path, ...]
    operators: tuple[OperatorUse, ...]
    launches: LaunchStatistics | None
    idle_causes: tuple[IdleCause, ...]
    gaps: tuple[NamedGap, ...]
    fixes: tuple[Fix, ...]
    notes: tuple[str, ...]
    collectives: tuple[Collective, ...] = ()
    stage_steps: tuple[StageStep, ...] = ()
    process_groups: tuple[tuple[int, ...], ...] = ()
    memory: MemoryTimeline | None = None
    host_operators: tuple[HostOperator, ...] = ()
    operands: OperandUses | None = None
    after_communication: tuple[tuple[int, int], ...] = ()


def analyse(
    recording: Recording,
    *,
    num_gaps: int = NUM_GAPS,
    execution_traces: Sequence[FilePath] = (),
) -> RankTrace:
    """Where the time of one rank went, and why its device was idle. execution_traces: those that
    may be of the same process. Raises TraceError where nothing ran on a device.
    """
    is_host = is_host_only(recording)
    found, active = launches(recording), activity(recording)
    whole = split(active)
    # without launches nothing says what the host itself waited for
    idle = gaps(recording, active.busy - active.busy if is_host else active.busy, found)
    modules, devices = modules_of(recording, found), used_devices(recording)
    memory = memory_events(recording)
    meta = recording.metadata
    capability = devices[0].compute_capability if devices else None
    kernels = () if is_host else kernel_uses(recording, found, modules, capability)
    matrix = on_matrix_units(recording, found.rows, kernels)
    marked = host_steps(recording) if is_host else steps(recording, found)
    return RankTrace(
        source=recording.source,
        rank=meta.rank,
        world_size=meta.world_size,
        base_time_ns=meta.base_time_ns,
        devices=devices,
        num_recorded=meta.num_recorded,
        split=whole,
        steps=tuple(
            StepSplit(
                name=step.name,
                split=split(active, step.start_ns, step.end_ns),
                matrix_ns=matrix.between(step.start_ns, step.end_ns),
            )
            for step in marked
        ),
        timeline=timeline(active, idle),
        kernels=kernels,
        paths=paths(recording, found, modules),
        operators=() if is_host else operator_uses(recording, found, marked),
        launches=launch_statistics(recording.events, found),
        idle_causes=idle_causes(idle, whole.idle_ns),
        gaps=_named(recording, idle.longest(num_gaps), whole.start_ns),
        fixes=() if is_host else fixes(recording, found),
        notes=(*recording.notes, *_remarks(recording), *[HOST_NOTE] * is_host),
        collectives=collectives(recording, found),
        stage_steps=stage_steps(recording, active.compute, memory),
        process_groups=meta.process_groups,
        memory=memory_timeline(recording, memory),
        host_operators=host_operators(recording) if is_host else (),
        after_communication=_after_communication(idle, meta.base_time_ns),
        operands=operands_beside(recording, found, execution_traces),
    )


def used_devices(recording: Recording) -> tuple[Device, ...]:
    """The devices that something ran on; all that the file describes where it does not say."""
    events = recording.events
    used = {*events.device[events.where(Kind.KERNEL, Kind.MEMCPY, Kind.MEMSET)].tolist()}
    described = recording.metadata.devices
    return tuple(device for device in described if device.id in used) or described


def idle_causes(idle: Gaps, idle_ns: int) -> tuple[IdleCause, ...]:
    """All idle time by cause, the longest first."""
    return tuple(
        IdleCause(cause=cause, idle_ns=time_ns, num_gaps=num, share=time_ns / max(1, idle_ns))
        for cause, (time_ns, num) in idle.causes().items()
    )


def _after_communication(idle: Gaps, zero_ns: int) -> tuple[tuple[int, int], ...]:
    mine = idle.of(Cause.COMMUNICATION)
    return tuple(
        zip((mine.start + zero_ns).tolist(), (mine.end - mine.start).tolist(), strict=True)
    )


def _named(recording: Recording, longest: tuple[Gap, ...], zero_ns: int) -> tuple[NamedGap, ...]:
    stacks = Stacks(recording)
    return tuple(_name(recording, stacks, gap, zero_ns) for gap in longest)


def _name(recording: Recording, stacks: Stacks, gap: Gap, zero_ns: int) -> NamedGap:
    events = recording.events
    call = gap.call_row if gap.blocking_row == ABSENT else gap.blocking_row
    # while the host was late: in the call that blocked it, or half-way to the launch
    if gap.blocking_row != ABSENT:
        at_ns = int(events.start_ns[gap.blocking_row])
    elif gap.call_row != ABSENT:
        at_ns = (gap.start_ns + max(gap.start_ns, int(events.start_ns[gap.call_row]))) // 2
    else:
        at_ns = gap.start_ns
    return NamedGap(
        start_ns=gap.start_ns - zero_ns,
        duration_ns=gap.duration_ns,
        cause=gap.cause,
        previous=_text(recording, gap.previous_row),
        next=_text(recording, gap.next_row),
        op=_text(recording, gap.op_row),
        call=_text(recording, call),
        line=stacks.line(gap.call_row, at_ns),
    )


def _text(recording: Recording, row: int) -> str:
    return "" if row == ABSENT else recording.name_of(row)


def _remarks(recording: Recording) -> tuple[str, ...]:
    left_out = recording.metadata.num_python
    if not left_out:
        return ()
    return (f"{counted(left_out, 'call')} of Python functions left out.",)
