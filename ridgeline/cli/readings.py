"""From the options of `inspect` to readings: targets captured, machines chosen, costs estimated."""

import sys
from dataclasses import dataclass

from ridgeline import machines
from ridgeline.cli.forked import map_forked
from ridgeline.cli.tracer import load_tracer
from ridgeline.cost import Execution, Recompute, estimate
from ridgeline.cost.advice import advise
from ridgeline.errors import MachineError
from ridgeline.frontends import Request, capture_target
from ridgeline.frontends.phases import default_phases
from ridgeline.graph import Graph, Phase
from ridgeline.machines import Ceiling, Machine
from ridgeline.report.reading import Reading, read

FALLBACK_MACHINE = "h100-sxm"
# What one capture is: target, phase, and whether that is the only phase asked for.
Job = tuple[str, Phase, bool]


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What the command line asked for. Empty machine and None: the default. is_alone: this process
    does nothing else.
    """

    targets: tuple[str, ...]
    machine: str = ""
    phase: str | None = None
    batch: int | None = None
    seq: int | None = None
    cache: int | None = None
    dtype: str | None = None
    ceiling: str = Ceiling.ACHIEVABLE.value
    execution: str = Execution.COMPILED.value
    optimizer: str = "adamw"
    recompute: str = Recompute.NONE.value
    allow_uncounted: bool = False
    is_alone: bool = False


def read_all(options: Options) -> tuple[Reading, ...]:
    """One reading per target, phase and machine, in this order."""
    chosen, notes = choose_machines(options.machine)
    jobs = [job for target in options.targets for job in _jobs(target, options)]

    def readings(job: Job) -> tuple[Reading, ...]:
        graph = _graph(*job, options)
        return tuple(_reading(job[0], graph, machine, options) for machine in chosen)

    load_tracer(is_alone=options.is_alone)
    found = tuple(reading for some in map_forked(readings, jobs) for reading in some)
    for note in notes:  # now, for what fails says one sentence and nothing else
        print(note, file=sys.stderr)
    return found


def _reading(target: str, graph: Graph, machine: Machine, options: Options) -> Reading:
    run = estimate(
        graph,
        machine,
        ceiling=Ceiling(options.ceiling),
        execution=Execution(options.execution),
        optimizer=options.optimizer,
        recompute=Recompute(options.recompute),
        allow_uncounted=options.allow_uncounted,
    )
    return read(target, graph, run, advise(graph, run, optimizer=options.optimizer))


def _graph(target: str, phase: Phase, is_only: bool, options: Options) -> Graph:
    return capture_target(
        Request(
            target=target,
            phase=phase,
            batch=options.batch,
            seq=options.seq,
            cache=options.cache if phase is Phase.DECODE or is_only else None,
            dtype=options.dtype,
        )
    )


def _jobs(target: str, options: Options) -> list[Job]:
    phases = _phases(target, options)
    return [(target, phase, len(phases) == 1) for phase in phases]


def _phases(target: str, options: Options) -> tuple[Phase, ...]:
    return (Phase(options.phase),) if options.phase else default_phases(target)


def choose_machines(names: str) -> tuple[tuple[Machine, ...], tuple[str, ...]]:
    """The machines named, with commas between, each once; where none is, the default, and what to
    say of it.
    """
    asked = tuple(name.strip() for name in names.split(",") if name.strip())
    if names and not asked:
        raise MachineError(f"--machine {names!r} names no machine.")
    found: list[Machine] = []
    for machine in map(machines.load, asked):
        if machine not in found:
            found.append(machine)
    if found:
        return tuple(found), ()
    default, notes = _default_machine()
    return (default,), notes


def _default_machine() -> tuple[Machine, tuple[str, ...]]:
    """This machine if calibrated, else the local GPU's description, else a common one, said so."""
    if machines.this_path().is_file():
        return machines.load("this"), ()
    unknown: tuple[str, ...] = ()
    if device := _local_gpu():
        try:
            return machines.match_device(device), ()
        except MachineError as error:
            unknown = (f"ridgeline: {error}",)
    fallback = machines.load(FALLBACK_MACHINE)
    note = (
        f"No --machine given and this one is not calibrated: using {fallback.name}. "
        "`ridgeline machines calibrate` measures this one."
    )
    return fallback, (*unknown, note)


def _local_gpu() -> str:
    """The local GPU's name as its driver prints it; "" without one."""
    import torch

    return str(torch.cuda.get_device_name(0)) if torch.cuda.is_available() else ""
