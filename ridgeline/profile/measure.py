"""measure(graph): how long every node takes where it stands, and the whole beside it."""

import contextlib
import copy
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, fx

from ridgeline.graph import Graph
from ridgeline.machines.threads import torch_threads
from ridgeline.machines.timing import FEWEST_CLEAN, Sample, preferred
from ridgeline.profile.clock import (
    Clock,
    Timing,
    clock_of,
    empty_call_s,
    no_collection,
    nothing,
    num_interruptions,
    summarise,
)
from ridgeline.profile.interpret import Interpreter, StepKind
from ridgeline.profile.timeline import MemoryStep, measure_memory, output_bytes

Progress = Callable[[str, float], None]

BUDGET_S = 10.0
FEWEST_REPEATS, MOST_REPEATS = 5, 50
_WARM_UPS = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """Observed times of one node, in the run of all nodes; reading the clock is subtracted."""

    name: str
    time_s: float
    spread_s: float
    num_samples: int
    num_clean: int
    output_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """A graph, measured. whole: the same program called at once, in turns with the node-by-node
    runs; stepped: those runs' own totals.

    glue_s: Python between the nodes of the whole program, measured with every op emptied.
    release_s: giving memory back. state_s: writing new state into its buffers. empty_call_s: what
    was subtracted from every sample. is_preferred: whether the system let this process go first.
    """

    graph: str
    digest: str
    device: str
    num_threads: int
    repeats: int
    nodes: tuple[Measurement, ...]
    whole: Timing
    stepped: Timing
    glue_s: float
    release_s: float
    state_s: float
    empty_call_s: float
    is_preferred: bool
    memory: tuple[MemoryStep, ...]

    @property
    def nodes_s(self) -> float:
        """All nodes together."""
        return sum(node.time_s for node in self.nodes)

    @property
    def parts_s(self) -> float:
        """Everything that was seen by itself: nodes, Python between them, freeing, new state."""
        return self.nodes_s + self.glue_s + self.release_s + self.state_s

    @property
    def interruptions_s(self) -> float:
        """What disturbances cost the whole, where its own samples were disturbed: at most by how
        much a node-by-node run exceeds the sum of its undisturbed parts.
        """
        if self.whole.num_clean >= FEWEST_CLEAN:
            return 0.0
        excess_s = self.stepped.time_s - (self.parts_s - self.glue_s)
        return max(0.0, min(excess_s, self.whole.time_s - self.parts_s))

    @property
    def time_s(self) -> float:
        """The whole, less what disturbances cost it."""
        return self.whole.time_s - self.interruptions_s

    @property
    def unexplained_s(self) -> float:
        """What is left of the whole; negative if the parts took longer than it."""
        return self.time_s - self.parts_s

    @property
    def coverage(self) -> float:
        """The nodes' share of the whole as it was measured, disturbances included."""
        return self.nodes_s / self.whole.time_s


@dataclass(frozen=True, slots=True)
class _Pass:
    """One node-by-node run: per step, its call and the freeing after it."""

    calls: tuple[Sample, ...]
    releases: tuple[Sample, ...]

    @property
    def total(self) -> Sample:
        time_s = sum(s.time_s for s in (*self.calls, *self.releases))
        return Sample(
            time_s=time_s, is_clean=all(s.is_clean for s in (*self.calls, *self.releases))
        )


def measure(
    graph: Graph,
    inputs: Sequence[Tensor] | None = None,
    *,
    threads: int | None = None,
    repeats: int | None = None,
    progress: Progress | None = None,
) -> Run:
    """Runs `graph` on its example inputs (or `inputs`) where its weights are, whole and node by
    node in turns.

    threads: of torch on the CPU, restored afterwards. repeats: of both; by default as many as take
    ten seconds, 5 to 50. The graph's own state is left as it was. Raises GraphError for a graph
    that cannot run, MachineError for a number of threads that makes no sense here.
    """
    if repeats is not None and repeats < 1:
        raise ValueError(f"repeats is {repeats}; it must be at least 1")
    tell = progress or (lambda what, share: None)
    interpreter = Interpreter(graph, inputs)
    device = _device(interpreter)
    with (
        torch_threads(threads) as used,
        no_collection(),
        torch.inference_mode(),
        preferred() as is_preferred,
    ):
        tell("warming up", 0.0)
        sizes = _output_bytes(interpreter)
        clock = clock_of(device)
        empty_s = empty_call_s(clock)
        count = repeats or _affordable_repeats(interpreter, clock, empty_s)
        wholes, passes = _rounds(interpreter, clock, empty_s, count, tell)
        glue_s = _glue_s(interpreter, clock)
        memory = measure_memory(interpreter)
    tell("done", 1.0)
    return Run(
        graph=graph.name,
        digest=graph.digest,
        device=str(device),
        num_threads=used,
        repeats=count,
        nodes=_measurements(interpreter, passes, sizes),
        whole=summarise(wholes),
        stepped=summarise([p.total for p in passes]),
        glue_s=glue_s,
        release_s=sum(summarise(s).time_s for s in zip(*(p.releases for p in passes), strict=True)),
        state_s=_state_s(interpreter, passes),
        empty_call_s=empty_s,
        is_preferred=is_preferred,
        memory=memory,
    )


def _device(interpreter: Interpreter) -> torch.device:
    tensors = [*interpreter.module.state_dict().values(), *interpreter.inputs]
    return next((t.device for t in tensors), torch.device("cpu"))


def _output_bytes(interpreter: Interpreter) -> dict[str, int]:
    """Bytes each step makes; this run is the first warm-up."""
    values, sizes = interpreter.start(), {}
    for step in interpreter.steps:
        args, kwargs = step.bind(values)
        values[step.node] = step.call(*args, **kwargs)
        del args, kwargs
        sizes[step.name] = output_bytes(values[step.node])
        step.free(values)
    return sizes


def _affordable_repeats(interpreter: Interpreter, clock: Clock, empty_s: float) -> int:
    """So many rounds as the budget allows, judged by the last of the warm-ups."""
    round_s = BUDGET_S
    for _ in range(_WARM_UPS):
        start_s = time.perf_counter()
        _time_whole(interpreter, clock)
        _time_steps(interpreter, clock, empty_s)
        round_s = time.perf_counter() - start_s
    return max(FEWEST_REPEATS, min(MOST_REPEATS, int(BUDGET_S / round_s)))


def _rounds(
    interpreter: Interpreter, clock: Clock, empty_s: float, count: int, tell: Progress
) -> tuple[list[Sample], list[_Pass]]:
    """Whole and node by node in turns, so that a slow spell of the machine falls on both."""
    wholes: list[Sample] = []
    passes: list[_Pass] = []
    _time_whole(interpreter, clock)
    for done in range(count):
        tell("measuring", done / count)
        with contextlib.ExitStack() as order:
            if done % 2:
                order.callback(lambda: wholes.append(_time_whole(interpreter, clock)))
            else:
                wholes.append(_time_whole(interpreter, clock))
            passes.append(_time_steps(interpreter, clock, empty_s))
    return wholes, passes


def _time_whole(interpreter: Interpreter, clock: Clock) -> Sample:
    before = num_interruptions()
    start = clock.mark()
    results = interpreter.module(*interpreter.inputs)
    end = clock.mark()
    clock.finish()
    is_clean = before == num_interruptions()
    del results
    return Sample(time_s=clock.between_s(start, end), is_clean=is_clean)


def _time_steps(interpreter: Interpreter, clock: Clock, empty_s: float) -> _Pass:
    values = interpreter.start()
    marks = []
    for step in interpreter.steps:
        args, kwargs = step.bind(values)
        call = step.call
        before = num_interruptions()
        start = clock.mark()
        value = call(*args, **kwargs)
        end = clock.mark()
        values[step.node] = value
        del args, kwargs, value
        middle = num_interruptions()
        freeing = clock.mark()
        step.free(values)
        freed = clock.mark()
        marks.append((start, end, before == middle, freeing, freed, middle == num_interruptions()))
    clock.finish()
    return _Pass(
        tuple(_sample(clock, m[0], m[1], m[2], empty_s) for m in marks),
        tuple(_sample(clock, m[3], m[4], m[5], empty_s) for m in marks),
    )


def _sample(clock: Clock, start: object, end: object, is_clean: bool, empty_s: float) -> Sample:
    time_s = max(0.0, clock.between_s(start, end) - empty_s)
    return Sample(time_s=time_s, is_clean=is_clean)


def _glue_s(interpreter: Interpreter, clock: Clock) -> float:
    """Time of the whole program with every op emptied."""
    hollow = fx.GraphModule(interpreter.module, copy.deepcopy(interpreter.module.graph))
    for node in hollow.graph.nodes:
        if node.op == "call_function":
            node.target = nothing
    hollow.recompile()
    times_s = []
    for _ in range(MOST_REPEATS):
        start = clock.mark()
        hollow(*interpreter.inputs)
        end = clock.mark()
        clock.finish()
        times_s.append(clock.between_s(start, end))
    return statistics.median(times_s)


def _measurements(
    interpreter: Interpreter, passes: Sequence[_Pass], sizes: dict[str, int]
) -> tuple[Measurement, ...]:
    return tuple(_of_kind(StepKind.NODE, interpreter, passes, sizes))


def _state_s(interpreter: Interpreter, passes: Sequence[_Pass]) -> float:
    """Writing new state into its buffers, and arithmetic on sizes."""
    others = (StepKind.STATE, StepKind.SIZE)
    return sum(m.time_s for kind in others for m in _of_kind(kind, interpreter, passes, {}))


def _of_kind(
    kind: StepKind, interpreter: Interpreter, passes: Sequence[_Pass], sizes: dict[str, int]
) -> Iterator[Measurement]:
    for index, step in enumerate(interpreter.steps):
        if step.kind is not kind:
            continue
        timing = summarise([p.calls[index] for p in passes])
        yield Measurement(
            name=step.name,
            time_s=timing.time_s,
            spread_s=timing.spread_s,
            num_samples=timing.num_samples,
            num_clean=timing.num_clean,
            output_bytes=sizes.get(step.name, 0),
        )
