"""A graph in parts on two backends in turns, where together they beat either alone."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from math import sqrt
from pathlib import Path
from typing import ClassVar

import msgspec
from torch import Tensor

from ridgeline.backends.backend import Backend, Dtype, Runnable, Setting, aligned
from ridgeline.backends.measure import Timing
from ridgeline.backends.native.backend import Native
from ridgeline.backends.onnxruntime import OnnxRuntime
from ridgeline.backends.openvino import OpenVino
from ridgeline.backends.sample import take_samples
from ridgeline.backends.split.cut import Part, Pieces, values_of
from ridgeline.backends.split.ways import Way, Ways, stretches
from ridgeline.errors import BackendError, GraphError, RidgelineError
from ridgeline.frontends.torch_export import capture
from ridgeline.graph import Graph
from ridgeline.graph.flat import align_inputs, example_inputs
from ridgeline.native.large_pages import enlarge, regions
from ridgeline.passes.manager import DEFAULT_PASSES, run_passes

PLAN = "split.json"
# All ways through so many parts are timed, twice as many with each more.
MOST_PARTS = 4
# The errors of as many parts add up as noise does.
_ERRORS_ADD_TO = sqrt(MOST_PARTS)
_SAMPLES_PER_TURN = 2
# How many mixtures get more samples, and how many rounds forth and back.
_FINALISTS, _FINAL_ROUNDS = 3, 4
_MAX_PLAN_BYTES = 2**16


class _Stretch(msgspec.Struct, forbid_unknown_fields=True):
    """What is saved of one part. last: the number of its last call. digest: of its graph."""

    backend: str
    last: int
    digest: str


class Split(Backend):
    """Cuts a graph where little is copied, times every way through the parts with what really goes
    through them, and builds the fastest where that takes both backends of its pair.

    A pair is of backends whose files are data; all else that a backend says of itself is theirs.
    """

    pair: ClassVar[tuple[type[Backend], type[Backend]]]

    def __init_subclass__(cls) -> None:
        """Derives from the pair what it is called, computes in, needs, leaves and declines."""
        first, second = cls.pair
        names = (*first.files, *second.files)
        cls.name = f"{first.name}+{second.name}"
        cls.dtypes = tuple(dtype for dtype in first.dtypes if dtype in second.dtypes)
        cls.modules = tuple(dict.fromkeys((*first.modules, *second.modules)))
        cls.declines = tuple(dict.fromkeys((*first.declines, *second.declines)))
        cls.files = (PLAN, *(_file(n, name) for n in range(MOST_PARTS) for name in names))

    @classmethod
    def require(cls, dtype: Dtype) -> None:
        """Also raises what either of the pair does."""
        for backend in cls.pair:
            backend.require(dtype)
        super().require(dtype)

    def lower(self, graph: Graph, dtype: Dtype) -> Graph:
        """The graph as it is: each backend lowers its own parts."""
        return graph

    def build(self, graph: Graph, setting: Setting) -> Runnable:
        """The fastest mixture, for a file to keep it in; without one, the fastest way, though it be
        one backend alone. Raises BackendError, with the times, where no mixture is worth a file.
        """
        if setting.dtype == "int8" and not setting.calibration:
            raise BackendError("int8 takes its ranges from calibration inputs; there are none.")
        pieces = Pieces(graph)
        cuts = pieces.cheap_cuts(MOST_PARTS)
        if not cuts:
            raise BackendError("there is no place where it can be cut cheaply.")
        trial = _Trial(self, pieces, cuts, setting, graph)
        ways = trial.timed()
        way, reason = ways.fastest_mixed(), ways.refusal()
        if setting.keep is None:
            way, reason = ways.fastest(), None if ways.times_s else "a part runs on neither."
        if reason is not None or way is None:
            raise BackendError(f"cut into {len(cuts) + 1}, {reason}")
        return self._built(trial, way, setting)

    def _built(self, trial: "_Trial", way: Way, setting: Setting) -> Runnable:
        """The stretches of a way, each as one part, whose files are kept."""
        pieces, runs = trial.pieces, stretches(way)
        ends = [*trial.cuts, len(pieces.calls) - 1]
        lasts = [ends[run.last] for run in runs]
        parts = pieces.parts(lasts[:-1])
        sets = [values_of(parts, trial.names, given) for given in trial.sets]
        example = values_of(parts, trial.names, trial.example)
        built: list[Runnable] = []
        saved: list[_Stretch] = []
        for number, (run, part) in enumerate(zip(runs, parts, strict=True)):
            backend = self.pair[run.backend]
            graph = self.graph_of(part, example, backend)
            folder = _folder(setting.keep, number)
            built.append(_compiled(backend, graph, part, sets, setting, folder))
            if folder is not None and setting.keep is not None:
                _take_out(folder, setting.keep, number, backend.files)
            saved.append(_Stretch(backend=backend.name, last=lasts[number], digest=graph.digest))
        if setting.keep is not None:
            (setting.keep / PLAN).write_bytes(msgspec.json.encode(saved))
        return _chained(pieces, parts, built)

    def load(self, graph: Graph, folder: Path, dtype: Dtype) -> Runnable:
        """The parts that were saved, each loaded by its backend. Raises BackendError for a plan
        that does not fit the graph, GraphError where this version makes other parts of it.
        """
        saved = self._plan(folder)
        pieces = Pieces(graph)
        parts = pieces.parts([stretch.last for stretch in saved[:-1]])
        example = align_inputs(graph)(example_inputs(graph))
        values = values_of(parts, [n.name for n in pieces.inputs], example)
        backends = {backend.name: backend for backend in self.pair}
        built = []
        for number, (stretch, part) in enumerate(zip(saved, parts, strict=True)):
            backend = backends[stretch.backend]
            own = self.graph_of(part, values, backend)
            if own.digest != stretch.digest:
                raise GraphError(f"part {number} is not the one that {PLAN} names.")
            place = _folder(folder, number)
            assert place is not None
            _put_in(folder, place, number, backend.files)
            built.append(aligned(own, backend().load(own, place, dtype)))
        return _chained(pieces, parts, built)

    def _plan(self, folder: Path) -> list[_Stretch]:
        path = folder / PLAN
        try:
            if path.stat().st_size > _MAX_PLAN_BYTES:
                raise BackendError(f"{PLAN} is too large.")
            saved = msgspec.json.decode(path.read_bytes(), type=list[_Stretch])
        except (OSError, UnicodeDecodeError, msgspec.DecodeError) as error:
            raise BackendError(f"{PLAN} does not say how it is split: {error}") from error
        known = {backend.name for backend in self.pair}
        if not 1 < len(saved) <= MOST_PARTS or any(s.backend not in known for s in saved):
            raise BackendError(f"{PLAN} is not of {self.name}.")
        return saved

    def graph_of(self, part: Part, values: dict[str, Tensor], backend: type[Backend]) -> Graph:
        """A part as a graph, after the passes that one of the pair declines and `backend` takes."""
        inputs = tuple(_apart(values[name]) for name in part.takes)
        graph = capture(part.module.eval(), inputs, name="part", is_trusted=True)
        wanted = set(self.declines) - set(backend.declines)
        steps = run_passes(graph, [p for p in DEFAULT_PASSES if p.__name__ in wanted])
        return steps[-1].graph if steps else graph


@dataclass(slots=True)
class _Trial:
    """Every part on both backends, to be timed in all mixtures."""

    split: Split
    pieces: Pieces
    cuts: tuple[int, ...]
    setting: Setting
    graph: Graph

    @property
    def names(self) -> list[str]:
        """Of the graph's inputs."""
        return [node.name for node in self.pieces.inputs]

    @property
    def example(self) -> tuple[Tensor, ...]:
        """The graph's own inputs, or zeros."""
        return align_inputs(self.graph)(example_inputs(self.graph))

    @property
    def sets(self) -> tuple[tuple[Tensor, ...], ...]:
        """Inputs of the graph: those to calibrate with, or its own."""
        align = align_inputs(self.graph)
        return tuple(map(align, self.setting.calibration)) or (self.example,)

    def timed(self) -> Ways:
        """The seconds of each backend alone and of the fastest mixtures, in large pages as in the
        race to come.
        """
        before = regions()
        parts = self.pieces.parts(self.cuts)
        sets = [values_of(parts, self.names, given) for given in self.sets]
        example = values_of(parts, self.names, self.example)
        on_each = [
            [self._tried(part, example, sets, backend) for backend in self.split.pair]
            for part in parts
        ]
        runs = {
            way: _chained(self.pieces, parts, [r for r in chosen if r])
            for way in product((0, 1), repeat=len(parts))
            if all(chosen := [row[b] for row, b in zip(on_each, way, strict=True)])
        }
        runs = {way: run for way, run in runs.items() if _does_run(run, self.sets[0])}
        enlarge(before)
        names = [backend.name for backend in self.split.pair]
        return Ways(names=names, times_s=_timed_in_turns(runs, self.sets[0]))

    def _tried(
        self,
        part: Part,
        example: dict[str, Tensor],
        sets: Sequence[dict[str, Tensor]],
        backend: type[Backend],
    ) -> Runnable | None:
        """The part on a backend; None where that does not take it."""
        try:
            graph = self.split.graph_of(part, example, backend)
            return _compiled(backend, graph, part, sets, self.setting, None)
        except RidgelineError:
            return None


def _apart(value: Tensor) -> Tensor:
    """The value, or where elements of it share their memory, as of an expanded one, a copy."""
    is_shared = any(s == 0 and n > 1 for s, n in zip(value.stride(), value.shape, strict=True))
    return value.contiguous() if is_shared else value


def _does_run(run: Runnable, inputs: Sequence[Tensor]) -> bool:
    try:
        run(*inputs)
    except Exception:  # runtimes raise every kind of exception
        return False
    return True


def _compiled(
    backend: type[Backend],
    graph: Graph,
    part: Part,
    sets: Sequence[dict[str, Tensor]],
    setting: Setting,
    folder: Path | None,
) -> Runnable:
    return backend().compile(
        graph,
        setting.dtype,
        keep=folder,
        calibration=[[values[name] for name in part.takes] for values in sets],
        tolerance=None if setting.tolerance is None else setting.tolerance / _ERRORS_ADD_TO,
    )


def _timed_in_turns(runs: Mapping[Way, Runnable], inputs: Sequence[Tensor]) -> dict[Way, float]:
    """Seconds of every way: a few samples of each, then more of those that came out best; of those
    left behind, only that they are slower counts.
    """
    timings = _in_turns(runs, inputs, dict.fromkeys(runs, Timing()))
    rank = sorted(runs, key=lambda way: _seconds(timings[way]))
    alone = [way for way in rank if len(set(way)) == 1]
    mixed = [way for way in rank if len(set(way)) > 1][:_FINALISTS]
    finalists = {way: runs[way] for way in (*alone, *mixed)}
    for _ in range(_FINAL_ROUNDS):
        timings |= _in_turns(finalists, inputs, timings)
    return {way: _seconds(timings[way]) for way in finalists}


def _in_turns(
    runs: Mapping[Way, Runnable], inputs: Sequence[Tensor], timings: Mapping[Way, Timing]
) -> dict[Way, Timing]:
    """The timings with two more turns of each run, one forth, one back."""
    found = dict(timings)
    for way in (*runs, *reversed(list(runs))):
        times_s, is_clean = take_samples(runs[way], inputs, _SAMPLES_PER_TURN)
        before = found[way]
        found[way] = Timing(
            times_s=(*before.times_s, *times_s), is_clean=(*before.is_clean, *is_clean)
        )
    return found


def _seconds(timing: Timing) -> float:
    assert timing.time_s is not None
    return timing.time_s


def _chained(pieces: Pieces, parts: Sequence[Part], runs: Sequence[Runnable]) -> Runnable:
    """The graph's own callable from those of its parts."""
    names = [node.name for node in pieces.inputs]
    fixed = pieces.fixed_outputs()
    steps = [(run, part.takes, part.gives) for run, part in zip(runs, parts, strict=True)]
    returned = [(node.name, node.op != "call_function") for node in pieces.outputs]

    def run(*inputs: Tensor) -> tuple[Tensor, ...]:
        values = fixed | dict(zip(names, inputs, strict=True))
        for call, takes, gives in steps:
            values |= zip(gives, call(*[values[n] for n in takes]), strict=True)
        return tuple(values[n].clone() if is_kept else values[n] for n, is_kept in returned)

    return run


def _folder(keep: Path | None, number: int) -> Path | None:
    """A folder of its own for a part's files: their names are each backend's own."""
    if keep is None:
        return None
    folder = keep / f"part-{number}"
    folder.mkdir(exist_ok=True)
    return folder


def _file(number: int, name: str) -> str:
    return f"part-{number}.{name}"


def _take_out(folder: Path, keep: Path, number: int, names: Sequence[str]) -> None:
    for name in names:
        if (folder / name).is_file():
            (folder / name).rename(keep / _file(number, name))


def _put_in(keep: Path, folder: Path, number: int, names: Sequence[str]) -> None:
    for name in names:
        if (keep / _file(number, name)).is_file():
            (keep / _file(number, name)).rename(folder / name)


class NativeOpenVino(Split):
    """Our kernels and OpenVINO's."""

    pair = (Native, OpenVino)


class NativeOnnxRuntime(Split):
    """Our kernels and onnxruntime's."""

    pair = (Native, OnnxRuntime)


class OpenVinoOnnxRuntime(Split):
    """OpenVINO's kernels and onnxruntime's."""

    pair = (OpenVino, OnnxRuntime)
