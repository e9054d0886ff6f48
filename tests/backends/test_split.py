"""Graphs in parts on two backends: cut where it is cheap, equal to the whole, saved and refused."""

import re
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import fakes
import msgspec
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from results import chosen
from small_models import MODELS
from tiny_zoo import ZOO
from torch import Tensor, nn

from ridgeline.backends import registry
from ridgeline.backends.agreement import compare
from ridgeline.backends.artifact import load, save
from ridgeline.backends.backend import Backend, Runnable
from ridgeline.backends.choose import optimize
from ridgeline.backends.eager import Eager
from ridgeline.backends.measure import Limits, Timing
from ridgeline.backends.race import Plan, Race
from ridgeline.backends.reference import Reference
from ridgeline.backends.split import backend as splits
from ridgeline.backends.split.backend import PLAN, NativeOnnxRuntime, Split
from ridgeline.backends.split.cut import Pieces, values_of
from ridgeline.backends.split.ways import Stretch, Way, Ways, stretches
from ridgeline.errors import BackendError
from ridgeline.frontends.torch_export import capture
from ridgeline.graph import Graph
from ridgeline.graph.flat import example_inputs
from ridgeline.native.library import Library, library_path

QUICK = Limits(compile_s=600.0, turn_s=20.0, patience_s=0.5)
needs_kernels = pytest.mark.skipif(library_path() is None, reason="needs the kernels")


def graph_of(name: str) -> tuple[Graph, tuple[Tensor, ...]]:
    model, inputs = MODELS[name]()
    return capture(model, inputs, is_trusted=True), inputs


def in_parts(pieces: Pieces, cuts: Sequence[int], inputs: Sequence[Tensor]) -> list[Tensor]:
    """The graph's outputs, part by part."""
    values = values_of(pieces.parts(cuts), [n.name for n in pieces.inputs], inputs)
    values |= pieces.fixed_outputs()
    return [values[node.name] for node in pieces.outputs]


@pytest.mark.parametrize("name", sorted(MODELS))
def test_every_cut_gives_what_the_whole_gives(name: str) -> None:
    graph, inputs = graph_of(name)
    expected = Reference().compile(graph)(*inputs)
    pieces = Pieces(graph)
    possible = [c for c in range(len(pieces.calls) - 1) if pieces.crossing(c) is not None]
    assert possible
    for cut in possible:
        assert compare(expected, in_parts(pieces, [cut], inputs)).max_error == 0
    thirds = possible[:: max(1, len(possible) // 3)]
    assert compare(expected, in_parts(pieces, thirds, inputs)).max_error == 0


@pytest.mark.parametrize("name", sorted(ZOO))
def test_the_zoo_in_parts_gives_what_it_gives_whole(name: str) -> None:
    model, inputs = ZOO[name]()
    graph = capture(model, inputs, is_trusted=True)
    pieces = Pieces(graph)
    cuts = pieces.cheap_cuts(4)
    assert list(cuts) == sorted(set(cuts))
    expected = Reference().compile(graph)(*inputs)
    assert compare(expected, in_parts(pieces, cuts, inputs)).max_error == 0


def test_a_cut_is_where_least_is_copied() -> None:
    wide = nn.Sequential(nn.Linear(64, 512), nn.ReLU(), nn.Linear(512, 8), nn.Linear(8, 512),
                         nn.ReLU(), nn.Linear(512, 64))  # fmt: skip
    pieces = Pieces(capture(wide.eval(), (torch.randn(64, 64),), is_trusted=True))
    (cut,) = pieces.cheap_cuts(2)
    (value,) = pieces.crossing(cut) or ()
    assert tuple(value.meta["val"].shape) == (64, 8)


class Counts(nn.Module):
    """Writes its own buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("count", torch.zeros(2))

    def forward(self, x: Tensor) -> Tensor:
        self.count.add_(1)
        return x + self.count


def test_what_cannot_be_cut_says_why() -> None:
    x = torch.randn(2)
    with pytest.raises(BackendError, match="it keeps a state"):
        Pieces(capture(Counts().eval(), (x,), is_trusted=True))
    batch = torch.export.Dim("batch", min=2, max=9)
    dynamic = capture(nn.Linear(3, 3).eval(), (torch.randn(4, 3),), dynamic=({0: batch},))
    with pytest.raises(BackendError, match="dynamic shapes"):
        Pieces(dynamic)
    pieces = Pieces(graph_of("conv_net")[0])
    for cuts in ([3, 2], [-1], [len(pieces.calls) - 1], [10**6]):
        with pytest.raises(BackendError, match="cannot be cut after its calls"):
            pieces.parts(cuts)


@given(st.lists(st.integers(0, 1), min_size=1, max_size=6))
def test_stretches_are_the_way_again(way: list[int]) -> None:
    found = stretches(tuple(way))
    assert [s.backend for s in found for _ in range(s.first, s.last + 1)] == way
    assert all(a.backend != b.backend for a, b in pairwise(found))
    assert stretches((0, 0, 1))[1] == Stretch(backend=1, first=2, last=2)


@pytest.mark.parametrize(
    ("mixed_s", "refusal"),
    [
        (0.009, None),
        (
            0.0099,
            "no mixture is enough faster: one alone 10.0 ms, two alone 11.0 ms, "
            "one 1 then two 1 9.90 ms.",
        ),
    ],
)
def test_a_mixture_has_to_gain_two_percent(mixed_s: float, refusal: str | None) -> None:
    times = {(0, 0): 0.010, (1, 1): 0.011, (0, 1): mixed_s, (1, 0): 0.02}
    ways = Ways(names=("one", "two"), times_s=times)
    assert ways.refusal() == refusal
    assert ways.fastest_mixed() == (0, 1)


def test_backends_that_run_no_part_leave_no_mixture() -> None:
    ways = Ways(names=("one", "two"), times_s={(0, 0): 0.010})
    assert ways.refusal() == "no part runs on the other."
    only_mixed = Ways(names=("one", "two"), times_s={(0, 1): 0.010})
    assert only_mixed.refusal() is None


def slow_on(op: str) -> type[Eager]:
    """Eager, but every graph with that op takes long."""

    class SlowOn(Eager):
        def build(self, graph: Graph, setting: splits.Setting) -> Runnable:
            run = super().build(graph, setting)
            count = sum(node.op == op for node in graph.nodes)

            def late(*inputs: Tensor) -> tuple[Tensor, ...]:
                for _ in range(300 * count):
                    run(*inputs)
                return run(*inputs)

            return late

    SlowOn.name = f"slow on {op}"
    return SlowOn


class Twice(nn.Module):
    """Convolutions, then products: each half is for another backend."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3))
        self.second = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 8))

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.first(x).flatten(1))


def test_each_half_goes_to_the_backend_that_is_faster_there() -> None:
    class Pair(Split):
        pair = (slow_on("convolution"), slow_on("linear"))

    x = torch.randn(1, 3, 8, 8)
    graph = capture(Twice().eval(), (x,), is_trusted=True)
    pieces = Pieces(graph)
    trial = splits._Trial(Pair(), pieces, pieces.cheap_cuts(4), splits.Setting(), graph)
    ways = trial.timed()
    way = ways.fastest_mixed()
    assert way is not None
    assert ways.refusal() is None
    first, second = stretches(way)
    assert (first.backend, second.backend) == (1, 0)
    expected = Reference().compile(graph)(x)
    assert compare(expected, Pair().compile(graph)(x)).max_error < 1e-5


class Masked(nn.Module):
    """A bias as wide as a view makes it is read by both layers."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(64, 64) for _ in range(4))

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        wide = bias.unsqueeze(1).expand(8, 8, 64)
        for layer in self.layers:
            x = torch.relu(layer(x) + wide)
        return x


class Alike(Split):
    """Two that are one and the same."""

    pair = (Eager, Eager)


def test_values_whose_elements_share_memory_go_from_part_to_part(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("ridgeline.backends.split.cut._LARGEST_SHARE", 1.0)
    inputs = (torch.randn(8, 8, 64), torch.randn(8, 64))
    graph = capture(Masked().eval(), inputs, is_trusted=True)
    pieces = Pieces(graph)
    cuts = pieces.cheap_cuts(4)
    crossing = pieces.crossing(cuts[0]) or ()
    assert any(0 in value.meta["val"].stride() for value in crossing)
    expected = Reference().compile(graph)(*inputs)
    assert compare(expected, Alike().compile(graph)(*inputs)).max_error < 1e-5


def test_sets_of_other_strides_calibrate() -> None:
    model, (x,) = MODELS["conv_net"]()
    graph = capture(model, (x,), is_trusted=True)
    strange = x.to(memory_format=torch.channels_last)
    run = Alike().compile(graph, calibration=[[strange]])
    assert compare(Reference().compile(graph)(x), run(x)).max_error < 1e-5


def test_a_late_one_has_to_gain_on_each_rival_turn_by_turn() -> None:
    def timing(*times_s: float) -> Timing:
        return Timing(times_s=times_s, is_clean=(True,) * len(times_s))

    def plan(kind: type[Backend]) -> Plan:
        return Plan(backend=kind, dtype="fp32", graph=Path(), refusal=None)

    race = Race(
        plans=[plan(Eager), plan(fakes.Wrong), plan(Alike)],
        jobs=[],
        expected=(),
        limits=QUICK,
        tell=lambda stage, fraction: None,
    )
    first, second = timing(9.0, 1.0, 2.0, 4.0), timing(3.0, 6.0, 12.0)
    won = race._weighed([first, second, timing(0.9, 1.8, 3.6)], 2, [0, 1])
    assert won.skipped is None
    lost = race._weighed([first, second, timing(0.99, 1.98, 3.96)], 2, [0, 1])
    assert lost.skipped == "not 2% faster than eager fp32, turn by turn (+1.0%)"


def mixed_first(runs: Mapping[Way, Runnable], inputs: Sequence[Tensor]) -> dict[Way, float]:
    """As if the way that changes most often were the fastest."""
    return {way: 1.0 - 0.1 * len(stretches(way)) for way in runs}


@needs_kernels
@pytest.mark.parametrize("dtype", ["fp32", "int8"])
def test_what_was_split_is_saved_and_loaded(
    dtype: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if dtype == "int8" and not Library().has_int8:
        pytest.skip("needs products in eight bits")
    monkeypatch.setattr(splits, "_timed_in_turns", mixed_first)
    result = chosen("conv_net", "native+onnxruntime")
    graph, inputs = result.graph, example_inputs(result.graph)
    keep = tmp_path / "keep"
    keep.mkdir()
    run = NativeOnnxRuntime().compile(graph, dtype, keep=keep, calibration=[inputs])
    expected = run(*inputs)
    whole = Reference().compile(graph)(*inputs)
    assert compare(whole, expected).max_error < registry.TOLERANCES[dtype]
    files = {
        name: (keep / name).read_bytes()
        for name in NativeOnnxRuntime.files
        if (keep / name).is_file()
    }
    plan = msgspec.json.decode(files[PLAN])
    assert {s["backend"] for s in plan} == {"native", "onnxruntime"}
    path = tmp_path / "model.ridge"
    best = replace(result.best, dtype=dtype)
    save(replace(result, files=files, best=best, candidates=(best,)), path)
    loaded = load(path)
    assert (loaded.backend, loaded.dtype, loaded.note) == ("native+onnxruntime", dtype, None)
    assert compare(expected, loaded(*inputs)).max_error < 1e-6


def plan_of(*parts: tuple[str, int]) -> bytes:
    """A saved plan of these backends and last calls, for graphs that are not these parts."""
    return msgspec.json.encode([{"backend": b, "last": n, "digest": ""} for b, n in parts])


@needs_kernels
@pytest.mark.parametrize(
    "plan",
    [
        b"",
        b"\xff",
        b"[]",
        b'{"a": 1}',
        b"[" + b" " * 2**17 + b"]",
        plan_of(("native", 1)),
        plan_of(("aoti", 1), ("native", 3)),
        plan_of(("native", 99), ("native", 3)),
        plan_of(("native", -5), ("native", 3)),
    ],
)
def test_a_plan_of_a_stranger_is_refused(plan: bytes, tmp_path: Path) -> None:
    path = tmp_path / "model.ridge"
    save(chosen("conv_net", "native+onnxruntime", {PLAN: plan}), path)
    with pytest.raises(BackendError, match="is refused"):
        load(path)


@needs_kernels
def test_parts_of_another_version_are_compiled_anew(tmp_path: Path) -> None:
    path = tmp_path / "model.ridge"
    result = chosen("conv_net", "native+onnxruntime", {PLAN: plan_of(("native", 1), ("native", 3))})
    save(result, path)
    loaded = load(path)
    assert loaded.note is not None
    assert "part 0 is not the one that split.json names" in loaded.note
    assert (loaded.backend, loaded.dtype) == ("native+onnxruntime", "fp32")
    inputs = example_inputs(result.graph)
    expected = Reference().compile(result.graph)(*inputs)
    assert compare(expected, loaded(*inputs)).max_error < 1e-4


@needs_kernels
def test_int8_is_not_calibrated_on_nothing() -> None:
    if not Library().has_int8:
        pytest.skip("needs products in eight bits")
    with pytest.raises(BackendError, match="there are none"):
        NativeOnnxRuntime().compile(graph_of("conv_net")[0], "int8")


def test_files_of_parts_are_members_and_nothing_else_is(tmp_path: Path) -> None:
    path = tmp_path / "model.ridge"
    save(chosen("conv_net"), path)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("part-9.openvino.xml", "")
    with pytest.raises(BackendError, match=r"it holds 'part-9\.openvino\.xml'"):
        load(path)


def test_the_pair_is_found_either_way_round() -> None:
    for split in registry.SPLITS.values():
        first, second = split.pair
        assert registry.split_of(first, second) is registry.split_of(second, first) is split
        assert split.name == f"{first.name}+{second.name}"
        assert not any(backend.is_native for backend in split.pair)
        assert {*split.dtypes} == {*first.dtypes} & {*second.dtypes}
    assert registry.split_of(Eager, Eager) is None


@needs_kernels
def test_the_two_that_come_close_are_split_after_the_race(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("ridgeline.backends.choose._LEAST_SPLIT_S", 0.0)
    monkeypatch.setattr("ridgeline.backends.choose._CLOSE_ENOUGH", 1e9)
    graph, inputs = graph_of("conv_net")

    def raced(may_split: bool, skip: Sequence[str] = ()) -> list[tuple[str, str | None]]:
        result = optimize(
            graph,
            inputs,
            backends=["native", "onnxruntime", fakes.Wrong],
            dtypes=["fp32"],
            repeats=2,
            threads=1,
            limits=QUICK,
            skip=skip,
            may_split=may_split,
        )
        return [(c.backend, c.skipped) for c in result.candidates]

    *others, (late, skipped) = raced(may_split=True)
    assert [name for name, _ in others] == ["native", "onnxruntime", "wrong"]
    assert late == "native+onnxruntime"
    assert skipped is None or re.search("cut into|not 2% faster", skipped)
    assert len(raced(may_split=False)) == 3
    assert len(raced(may_split=True, skip=["join_linears"])) == 3
