"""Placement: schedules hardware could run, never worse than HEFT, optimal where that is known."""

import random
import statistics
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from random_tasks import best_by_brute_force, plain_genetic, random_tasks
from torch import nn

from ridgeline import machines
from ridgeline.errors import GraphError, MachineError
from ridgeline.frontends.torch_export import capture
from ridgeline.graph import Graph
from ridgeline.machines.files import MAX_BYTES
from ridgeline.machines.fleet import Device, Fleet, Wire, load_fleet
from ridgeline.passes.placement import place
from ridgeline.passes.placement.coarsen import coarsen
from ridgeline.passes.placement.place import task_graph
from ridgeline.passes.placement.schedule import evaluate, faults, heft, priority
from ridgeline.passes.placement.search import search

NO_TIME = 1e-9


def wire(a: str, b: str, bandwidth: float = 25e9, latency_s: float = 10e-6) -> Wire:
    return Wire(
        between=(a, b), bandwidth_bytes_per_s=bandwidth, latency_s=latency_s, source="a test"
    )


def fleet(*unsupported: str, bandwidth: float = 25e9, latency_s: float = 10e-6) -> Fleet:
    cpu = Device(name="cpu", machine=machines.load("cpu-epyc-9654"))
    gpu = Device(name="gpu", machine=machines.load("l4"), unsupported=frozenset(unsupported))
    return Fleet(devices=(cpu, gpu), links=(wire("cpu", "gpu", bandwidth, latency_s),))


class TwoPaths(nn.Module):
    """Two branches that could run at once, then one."""

    def __init__(self) -> None:
        super().__init__()
        self.left = nn.Sequential(*[nn.Linear(256, 256) for _ in range(4)])
        self.right = nn.Sequential(*[nn.Linear(256, 256) for _ in range(4)])
        self.norm = nn.LayerNorm(256)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(self.left(x) + self.right(x).softmax(-1))


def two_paths() -> Graph:
    return capture(TwoPaths().eval(), (torch.randn(64, 256),))


@given(seed=st.integers(0, 2**32), count=st.integers(1, 30), devices=st.integers(1, 4))
def test_every_schedule_could_run_and_none_is_worse_than_heft(
    seed: int, count: int, devices: int
) -> None:
    tasks = random_tasks(random.Random(seed), count, devices)
    order = priority(tasks)
    assert faults(tasks, heft(tasks, order)) == []
    found = search(tasks, max_evaluations=150)
    assert faults(tasks, found.best) == []
    assert found.best.makespan_s <= found.heft.makespan_s
    again = evaluate(tasks, found.best.assignment, found.best.order)
    assert again == found.best


@pytest.mark.parametrize("seed", range(25))
def test_on_small_graphs_nothing_beats_it(seed: int) -> None:
    tasks = random_tasks(random.Random(seed), 6, 2)
    best_s = best_by_brute_force(tasks)
    found = search(tasks, max_evaluations=2_000, patience=1_000)
    assert found.best.makespan_s == pytest.approx(best_s, abs=NO_TIME)


def test_it_ends_lower_than_a_plain_genetic_search_and_is_there_sooner() -> None:
    ours, plain, shares = [], [], []
    for seed in range(6):
        tasks = random_tasks(random.Random(seed), 60, 3, density=0.06)
        run = search(tasks, max_evaluations=1_500, patience=1_500)
        other = plain_genetic(tasks, seed=seed, max_evaluations=1_500)
        goal_s = 1.01 * other[-1][1]
        ours.append(_reached(run.improvements, goal_s, 1_500))
        plain.append(_reached(other, goal_s, 1_500))
        shares.append(run.best.makespan_s / other[-1][1])
    assert 1.5 * sum(ours) <= sum(plain)
    assert statistics.median(shares) < 0.95


def _reached(improvements: Sequence[tuple[int, float]], goal_s: float, never: int) -> int:
    return next((n for n, makespan_s in improvements if makespan_s <= goal_s), never)


@given(seed=st.integers(0, 2**32), count=st.integers(1, 12))
def test_coarsening_keeps_every_task_and_the_makespan_of_one_device(seed: int, count: int) -> None:
    tasks = random_tasks(random.Random(seed), count, 2, density=0.2)
    coarse, groups = coarsen(tasks)
    assert sorted(t for group in groups for t in group) == list(range(count))
    for device in range(2):
        fits = all(device in choices for choices in tasks.choices)
        assert fits == all(device in choices for choices in coarse.choices) or not fits
        if fits:
            whole = evaluate(coarse, [device] * len(groups), range(len(groups)))
            assert whole.makespan_s == pytest.approx(sum(row[device] for row in tasks.times_s))


def test_values_are_where_they_are_read() -> None:
    """The graph run in the schedule's order, with a store of values per device that only the
    schedule's copies fill, gives what it gives in its own order.
    """
    graph = two_paths()
    placement = place(graph, fleet("softmax", "layer_norm", bandwidth=1e12, latency_s=1e-9))
    assert len(set(placement.schedule.assignment)) == 2
    tasks, schedule = placement.tasks, placement.schedule
    for task in schedule.order:
        for edge in tasks.inputs[task]:
            device, home = schedule.assignment[task], schedule.assignment[edge.source]
            arrivals = [
                copy.end_s
                for copy in schedule.copies
                if (copy.value, copy.target) == (edge.value, device)
            ]
            assert home == device or min(arrivals) <= schedule.start_s[task]
    names = [n for task in schedule.order for n in placement.members[task]]
    inputs = (torch.randn(64, 256),)
    assert torch.equal(_run_in_order(graph, names, inputs), graph.program.module()(*inputs))


def _run_in_order(graph: Graph, names: list[str], inputs: tuple[torch.Tensor, ...]) -> torch.Tensor:
    """Runs the nodes in the order named; views run when they are asked for."""
    program = graph.program
    state = {**program.state_dict, **program.constants}
    values: dict[str, object] = {}
    given_inputs = iter(inputs)
    for item, spec in zip(
        [n for n in program.graph.nodes if n.op == "placeholder"],
        program.graph_signature.input_specs,
        strict=True,
    ):
        values[item.name] = next(given_inputs) if spec.target is None else state[spec.target]
    nodes = {n.name: n for n in program.graph.nodes}

    def value(node: torch.fx.Node, *, may_compute: bool) -> object:
        if node.name not in values:
            assert may_compute, f"{node.name} is read before it is made"
            compute(node)
        return values[node.name]

    def compute(node: torch.fx.Node) -> None:
        is_made = {m.name for m in graph.nodes if not m.row.is_free}
        args, kwargs = torch.fx.node.map_arg(
            (node.args, node.kwargs), lambda n: value(n, may_compute=n.name not in is_made)
        )
        values[node.name] = node.target(*args, **kwargs)

    for name in names:
        compute(nodes[name])
    (output,) = next(n for n in program.graph.nodes if n.op == "output").args[0]
    result = value(output, may_compute=True)
    assert isinstance(result, torch.Tensor)
    return result


def test_what_a_device_cannot_run_falls_back() -> None:
    placement = place(two_paths(), fleet("linear", "softmax", "layer_norm", "add"))
    assert set(placement.devices_of_nodes().values()) == {"cpu"}
    assert set(placement.single_s) == {"cpu"}


def test_a_slow_link_keeps_all_on_the_host_and_a_fast_one_does_not() -> None:
    slow = place(two_paths(), fleet(bandwidth=1e3, latency_s=1.0))
    assert set(slow.devices_of_nodes().values()) == {"cpu"}
    assert slow.makespan_s == pytest.approx(slow.single_s["cpu"])
    fast = place(two_paths(), fleet(bandwidth=1e12, latency_s=1e-9))
    assert fast.makespan_s < min(fast.single_s.values())


def test_an_op_that_runs_nowhere_is_named() -> None:
    only = fleet("linear").devices[1]
    with pytest.raises(GraphError, match="runs on no device of the fleet"):
        place(two_paths(), Fleet(devices=(only,), links=()))


def test_times_are_the_cost_models() -> None:
    graph = two_paths()
    tasks, members = task_graph(graph, fleet())
    assert {n for names in members for n in names} == {
        n.name for n in graph.nodes if not n.row.is_free
    }
    assert tasks.names[0] == "inputs"
    assert tasks.names[-1] == "outputs"


FILE = """
[[devices]]
name = "cpu"
machine = "cpu-epyc-9654"
[[devices]]
name = "gpu"
machine = "l4"
unsupported = ["lstm"]
[[links]]
between = ["cpu", "gpu"]
bandwidth_bytes_per_s = 25e9
latency_s = 1e-5
source = "PCIe 4.0 x16"
"""


def test_a_fleet_is_read_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "fleet.toml"
    path.write_text(FILE)
    loaded = load_fleet(path)
    assert [device.name for device in loaded.devices] == ["cpu", "gpu"]
    assert loaded.devices[1].unsupported == {"lstm"}
    assert loaded.copy_s(1, 0, 25_000_000) == pytest.approx(1.01e-3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("25e9", "0.0"), "bandwidth_bytes_per_s must be"),
        (("1e-5", "-1.0"), "latency_s must be"),
        (('"PCIe 4.0 x16"', '""'), "source is empty"),
        (('between = ["cpu", "gpu"]', 'between = ["cpu", "tpu"]'), "ends at 'tpu'"),
        (('name = "gpu"', 'name = "cpu"'), "one name"),
        (('machine = "l4"', 'machine = "no-such"'), "no-such"),
        (("latency_s", "latency"), "latency"),
        (("[[links]]", "[links"), "is not TOML"),
        (('machine = "l4"', 'machine = "/dev/zero"'), "no regular file"),
    ],
)
def test_a_wrong_fleet_is_one_sentence(
    tmp_path: Path, change: tuple[str, str], message: str
) -> None:
    path = tmp_path / "fleet.toml"
    path.write_text(FILE.replace(*change))
    with pytest.raises(MachineError, match=message):
        load_fleet(path)


def test_one_device_needs_no_link_and_two_do(tmp_path: Path) -> None:
    path = tmp_path / "fleet.toml"
    path.write_text(FILE[: FILE.index("[[links]]")])
    with pytest.raises(MachineError, match="one link between cpu and gpu, not no link"):
        load_fleet(path)
    path.write_text('[[devices]]\nname = "cpu"\nmachine = "cpu-epyc-9654"\n')
    placement = place(two_paths(), load_fleet(path))
    assert placement.makespan_s == pytest.approx(placement.single_s["cpu"])


@pytest.mark.parametrize("size", [None, MAX_BYTES + 1])
def test_what_is_no_small_file_is_refused_at_once(tmp_path: Path, size: int | None) -> None:
    path = Path("/dev/zero") if size is None else tmp_path / "large.toml"
    if size is not None:
        path.write_bytes(b"#" * size)
    with pytest.raises(MachineError, match=r"no regular file|more than"):
        load_fleet(path)


def test_a_misspelt_op_kind_is_named() -> None:
    with pytest.raises(GraphError, match="no op kind 'linaer'; did you mean linear"):
        place(two_paths(), fleet("linaer"))


def test_devices_that_nothing_joins_are_refused() -> None:
    devices = fleet().devices
    with pytest.raises(MachineError, match="one link between cpu and gpu, not no link"):
        Fleet(devices=devices, links=())
