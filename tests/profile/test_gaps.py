"""Gaps: they add up, they are computed from the numbers, and the planted one is found."""

import re
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from ridgeline import machines, zoo
from ridgeline.errors import GraphError, MachineError
from ridgeline.frontends import capture
from ridgeline.graph import Graph, Phase
from ridgeline.machines import Ceiling, Kernel, Machine
from ridgeline.machines.tables import Route
from ridgeline.profile import (
    GapKind,
    Profile,
    Run,
    breakdown,
    compare,
    interpret,
    measure,
    median_absolute_error,
)
from ridgeline.profile.compare import ErrorRow, weighted_median
from ridgeline.profile.gaps import unfused_attention
from ridgeline.profile.interpret import Step
from ridgeline.zoo.workload import Sizes


class Naive(nn.Module):
    """Attention spelt out, then a layer norm."""

    def __init__(self) -> None:
        super().__init__()
        self.project = nn.Linear(32, 96)
        self.norm = nn.LayerNorm(32)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.project(x).chunk(3, dim=-1)
        scores = torch.softmax(q @ k.transpose(-1, -2) / 32**0.5, dim=-1)
        found: Tensor = self.norm(scores @ v)
        return found


def naive() -> Graph:
    return capture(Naive().eval(), (torch.randn(2, 64, 32),))


def mlp() -> Graph:
    layers = nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 64)).eval()
    return capture(layers, (torch.randn(128, 64),))


def decode() -> Graph:
    entry = zoo.get("llama-tiny")
    module, inputs = entry.forms["decode"](entry.build(), Sizes())
    return capture(module, inputs, is_trusted=True)


@pytest.fixture
def machine() -> Machine:
    return machines.load("cpu-epyc-9654")


def with_times(run: Run, times_s: dict[str, float], other_s: float) -> Run:
    """The run with node times as given and nothing outside the nodes."""
    nodes = tuple(replace(m, time_s=times_s.get(m.name, other_s)) for m in run.nodes)
    whole = replace(run.whole, time_s=sum(m.time_s for m in nodes), num_clean=9)
    return replace(run, nodes=nodes, whole=whole, glue_s=0.0, release_s=0.0, state_s=0.0)


@pytest.mark.parametrize("make", [naive, mlp, decode])
def test_gaps_add_up(make: Callable[[], Graph], machine: Machine) -> None:
    graph = make()
    profile = breakdown(graph, measure(graph, repeats=3), machine)
    total_s = sum(g.time_s for g in profile.gaps)
    assert total_s == pytest.approx(profile.measured_s - profile.bound_s, rel=1e-9)
    times = [g.time_s for g in profile.gaps]
    assert times == sorted(times, reverse=True)
    assert all(times)


def test_a_planted_slow_node_is_the_largest_loss(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    ordinary = interpret._steps

    def planted(graph: Graph, module: torch.fx.GraphModule) -> list[Step]:
        for node in module.graph.nodes:
            if "relu" in str(node.target):
                node.target = slow_relu  # the program called whole is slow as well
        module.recompile()
        return list(ordinary(graph, module))

    def slow_relu(x: Tensor) -> Tensor:
        for _ in range(500):
            torch.exp(x)
        return torch.relu(x)

    monkeypatch.setattr(interpret, "_steps", planted)
    graph = mlp()
    profile = breakdown(graph, measure(graph, repeats=5), machine)
    largest = profile.gaps[0]
    assert largest.nodes[0] == "relu"
    assert "relu" in largest.what
    assert largest.time_s > 0.5 * profile.measured_s
    assert profile.kinds[0].op == "relu"


def test_slow_matrix_work_names_both_rates(machine: Machine) -> None:
    graph = mlp()
    run = with_times(measure(graph, repeats=1), {"linear": 1.0, "linear_1": 1.0}, 0.0)
    profile = breakdown(graph, run, machine)
    largest = profile.gaps[0]
    assert largest.kind is GapKind.ROUTE
    assert largest.nodes == ("linear", "linear_1")
    flops = 2 * 2 * 128 * 64 * 256
    assert re.search(r"linear in fp32 runs at .* of what this machine reaches", largest.what)
    assert f"{flops / (2.0 - 2e-6) / 1e6:.2f} M" in largest.what
    assert largest.time_s == pytest.approx(2.0, rel=1e-3)


def test_calibrated_routes_are_told_apart(machine: Machine) -> None:
    def kernel(route: Route, rate: float) -> Kernel:
        features = ("m", "n", "k")
        samples = ((64.0, 64.0, 64.0, rate / 2), (512.0, 512.0, 512.0, rate))
        return Kernel(
            route=route, kind="gemm", dtype="fp32", features=features, samples=samples, source="x"
        )

    graph = mlp()
    run = with_times(measure(graph, repeats=1), {"linear": 1.0}, 0.0)
    calibrated = replace(machine, kernels=(kernel("eager", 2e11), kernel("compiled", 5e11)))
    what = breakdown(graph, run, calibrated).gaps[0].what
    assert "200 GFLOP/s as eager calls it, 500 GFLOP/s compiled" in what
    alike = replace(machine, kernels=(kernel("eager", 5e11), kernel("compiled", 5e11)))
    assert "calibrated" not in breakdown(graph, run, alike).gaps[0].what


def test_traffic_is_what_fusion_saves(machine: Machine) -> None:
    graph = mlp()
    run = measure(graph, repeats=1)
    first = breakdown(graph, run, machine)
    relu = next(n for n in first.nodes if n.op == "relu")
    assert relu.fused_bytes < relu.moved_bytes == 2 * 128 * 256 * 4
    # relu takes exactly what moving its own operands takes: all beyond the fused time is traffic
    exact = with_times(run, {"relu": relu.achievable_s + machine.dispatch_overhead_s}, 0.0)
    gaps = {g.kind: g for g in breakdown(graph, exact, machine).gaps}
    assert gaps[GapKind.TRAFFIC].time_s == pytest.approx(relu.achievable_s - relu.fused_s)
    assert gaps[GapKind.TRAFFIC].nodes == ("relu",)
    assert GapKind.SLOW not in gaps


def test_a_node_faster_than_memory_is_a_gain(machine: Machine) -> None:
    graph = mlp()
    run = with_times(measure(graph, repeats=1), {}, machine.dispatch_overhead_s)
    profile = breakdown(graph, run, machine)
    (cache,) = (g for g in profile.gaps if g.kind is GapKind.CACHE)
    fused_s = sum(n.fused_s for n in profile.nodes)
    assert cache.time_s == pytest.approx(-fused_s)
    assert profile.gaps[-1] is cache or profile.gaps[-1].time_s < cache.time_s


def test_attention_spelt_out_is_found_and_fused_is_not(machine: Machine) -> None:
    graph = naive()
    (chain,) = unfused_attention(graph)
    assert [graph.node(name).op for name in chain] == ["div", "softmax"]
    run = with_times(measure(graph, repeats=1), {"softmax": 1.0, "div": 0.5}, 0.0)
    largest = breakdown(graph, run, machine).gaps[0]
    assert largest.kind is GapKind.ATTENTION
    assert largest.time_s == pytest.approx(1.5, rel=1e-3)
    assert "32.0 KiB" in largest.what  # 2 x 64 x 64 scores of 4 bytes
    assert unfused_attention(decode()) == ()
    alone = capture(nn.Softmax(dim=-1), (torch.randn(4, 4),))
    assert unfused_attention(alone) == ()


def test_nodes_join_their_estimates(machine: Machine) -> None:
    graph = mlp()
    run = with_times(measure(graph, repeats=1), {"linear": 2e-3}, 1e-3)
    profile = breakdown(graph, run, machine)
    linear, relu, _ = profile.nodes
    assert (linear.op, linear.module, linear.dtype, linear.flops) == (
        "linear",
        "0",
        "fp32",
        4194304,
    )
    assert linear.share == pytest.approx(0.5)
    assert linear.achieved_flops_per_s == pytest.approx(4194304 / 2e-3)
    assert relu.achieved_bytes_per_s == pytest.approx(2 * 128 * 256 * 4 / 1e-3)
    assert linear.error == pytest.approx(linear.predicted_s / 2e-3 - 1)
    for ceiling in Ceiling:
        peak = machine.matrix_flops_per_s("fp32", ceiling)
        assert linear.percent_of(ceiling) >= 4194304 / 2e-3 / peak * (1 - 1e-9)
    assert linear.percent_of(Ceiling.DATASHEET) < linear.percent_of(Ceiling.ACHIEVABLE)
    assert sum(k.share for k in profile.kinds) == pytest.approx(1.0)
    assert [k.count for k in profile.kinds] == [2, 1]


def test_measured_memory_stands_beside_the_prediction(machine: Machine) -> None:
    graph = mlp()
    profile = breakdown(graph, measure(graph, repeats=1), machine)
    assert [p.measured_bytes for p in profile.memory] == [p.predicted_bytes for p in profile.memory]
    assert [p.name for p in profile.memory] == ["linear", "relu", "linear_1"]


def test_errors(machine: Machine) -> None:
    graph, other = mlp(), naive()
    run = measure(graph, repeats=1)
    with pytest.raises(GraphError, match="the run is of"):
        breakdown(other, run, machine)
    training = replace(graph, phase=Phase.TRAIN)
    with pytest.raises(GraphError, match="phase train"):
        breakdown(training, replace(run, digest=training.digest), machine)
    with pytest.raises(MachineError, match="not calibrated"):
        machines.load("this")


def test_comparison(machine: Machine) -> None:
    graph = mlp()
    profile: Profile = breakdown(graph, measure(graph, repeats=1), machine)
    found = compare(profile)
    assert [row.what for row in found.kinds] == [k.op for k in profile.kinds]
    assert found.total.predicted_s == profile.estimate.totals.time_s
    assert found.total.measured_s == profile.measured_s
    assert found.total.error == pytest.approx(profile.error)


def test_medians_of_errors() -> None:
    rows = [
        ErrorRow(what="x", count=1, predicted_s=p, measured_s=1.0, share=0.3)
        for p in (1.1, 0.5, 1.3)
    ]
    assert median_absolute_error(rows) == pytest.approx(0.3)
    assert weighted_median([(0.1, 1.0), (0.9, 5.0), (0.2, 1.0)]) == 0.9
    assert weighted_median([(0.4, 2.0), (0.1, 3.0)]) == 0.1
    with pytest.raises(ValueError, match="no values"):
        weighted_median([])
