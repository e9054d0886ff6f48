"""The terminal report of a graph that can be counted by hand."""

import io
from dataclasses import replace

import pytest
import torch

from ridgeline.cost import Execution, estimate
from ridgeline.cost.advice import Change, advise, predict
from ridgeline.frontends import capture
from ridgeline.graph import Graph, Phase
from ridgeline.machines import KERNEL_FEATURES, Ceiling, Kernel, Machine
from ridgeline.report.console import console_on, line
from ridgeline.report.reading import Reading, by_module, by_op, read
from ridgeline.report.table import print_readings
from ridgeline.report.verdict import advice_line, verdict

# By hand: a product is 2 * 4096 * 1024 * 1024 = 8.59 GFLOP, 0.859 ms at 10 TFLOP/s, and 1 µs to
# start: three take 2.58 ms. It moves 16 + 4 MiB in; the ReLU, fused with the sum and the product,
# writes 16 MiB, 16.8 µs at 1 TB/s.
GOLDEN = """\
forward is compute-bound: 2.63 ms (2.58 ms at the roofline), 98% in matmul, on Round 1

                       forward
machine                Round 1
execution              compiled
inputs                 input fp32[4096,1024]
time                   2.63 ms
throughput             1,556,485 samples/s
at the roofline        2.58 ms
bound                  compute
FLOPs, full attention  25.8 GFLOP
FLOPs, causal          25.8 GFLOP
FLOPs, executed        25.8 GFLOP
MACs                   12.9 GMAC
matrix rate            9.79 TFLOP/s
of the achievable      98% of its fp32 rate
of the datasheet       49% of its fp32 rate
parameters             3.15 M (12.0 MiB)
bytes moved            108 MiB
op by op               348 MiB
peak memory            60.0 MiB
reached at             add
of which               weights 12.0 MiB, inputs 16.0 MiB, activations 32.0 MiB
fits                   yes, in 1.00 GiB
intensity              228 FLOP/byte
ridge                  10.0 FLOP/byte

Times and the ridge use the achievable ceiling, the best rates that kernels were measured to reach.\
 Shares are of the predicted time.

forward on Round 1, by module
module       count     time  share   FLOPs  bytes moved  bound
*.linear        x3  2.58 ms    98%  25.8 G     60.0 MiB  compute
* (own ops)     x3  51.6 µs   2.0%       -     48.0 MiB  memory

forward on Round 1, by op kind
op      count     time  share   FLOPs  bytes moved  bound
linear     x3  2.58 ms    98%  25.8 G     60.0 MiB  compute
relu       x3  50.3 µs   1.9%       -     48.0 MiB  memory
add        x3  1.26 µs   0.0%       -          0 B  compute

forward, the 3 op kinds it needs
op      category     engine  count  of FLOPs  of bytes moved
linear  matmul       matrix     x3      100%             56%
relu    elementwise  vector     x3      0.0%             44%
add     elementwise  vector     x3      0.0%            0.0%

forward on Round 1, what to do next (gains predicted by the same model)
1. run in bf16 (--dtype bf16); check the outputs: 2.00x (1.32 ms a run, peak 30.0 MiB)
"""


def printed(*readings: Reading, has_op_list: bool = False) -> str:
    """What the report prints where there is no terminal, without spaces at the ends of lines."""
    stream = io.StringIO()
    print_readings(console_on(stream), readings, top=14, has_op_list=has_op_list)
    return "\n".join(line.rstrip() for line in stream.getvalue().splitlines()) + "\n"


def test_the_whole_report_of_a_tiny_graph(reading: Reading) -> None:
    assert printed(reading, has_op_list=True) == GOLDEN


def test_a_pipe_gets_no_escape_codes(reading: Reading) -> None:
    assert "\x1b" not in printed(reading)


def test_control_characters_of_names_are_spelled_out(
    reading: Reading, graph: Graph, machine: Machine
) -> None:
    evil = replace(machine, name="\x1b[2J\x9b31mRound 1", id="round-2")
    text = printed(reading, read("tiny", graph, estimate(graph, evil)))
    assert r"\x1b[2J\x9b31mRound 1" in text
    assert text.replace("\n", "").isprintable()


def test_colours_stay_on_a_terminal() -> None:
    stream = io.StringIO()
    stream.isatty = lambda: True  # type: ignore[method-assign]
    console = console_on(stream)
    line(console, "low \x1b[2J", "yellow")
    assert "\x1b[2J" not in stream.getvalue()
    assert r"low \x1b[2J" in stream.getvalue()


def test_names_are_text_not_markup(reading: Reading) -> None:
    run = reading.estimate
    nodes = tuple(replace(n, op="[bold red]x[/]", module="[/nope]") for n in run.nodes)
    text = printed(replace(reading, estimate=replace(run, nodes=nodes)))
    assert "[bold red]x[/]" in text
    assert "[/nope]" in text


def test_a_model_that_does_not_fit_says_by_how_much(graph: Graph, machine: Machine) -> None:
    small = replace(machine, memory=replace(machine.memory, capacity_bytes=25 * 2**20))
    run = estimate(graph, small)
    found = read("tiny", graph, run, advise(graph, run))
    # 60 MiB at the peak on devices of 25 MiB
    assert "does not fit: needs 60.0 MiB, has 25.0 MiB; 3 devices at least" in verdict([found])
    first = found.advice[0]
    assert (first.action, first.speedup, first.peak_memory_bytes) == ("shard", 3.0, 20 * 2**20)


def test_low_confidence_figures_are_labelled(graph: Graph, machine: Machine) -> None:
    guessed = replace(machine, confidence="announced")
    text = printed(read("tiny", graph, estimate(graph, guessed)))
    assert text.splitlines()[1] == (
        "low confidence: the figures of Round 1 are announced, not first-hand"
    )


def test_the_ceiling_is_named(graph: Graph, machine: Machine) -> None:
    run = estimate(graph, machine, ceiling=Ceiling.DATASHEET)
    assert "Times and the ridge use the datasheet ceiling" in printed(read("tiny", graph, run))


def test_several_machines_stand_side_by_side_and_are_ranked(graph: Graph, machine: Machine) -> None:
    half = {
        d: replace(r, flops_per_s=10e12, achievable_flops_per_s=5e12)
        for d, r in machine.matrix.items()
    }
    slow = replace(machine, id="slow", name="Slow 1", matrix=half)
    readings = [read("tiny", graph, estimate(graph, m)) for m in (slow, machine)]
    lines = printed(*readings).splitlines()
    assert lines[0] == (
        "forward: 2.63 ms on Round 1 (compute-bound), 5.21 ms on Slow 1 (compute-bound)"
    )
    assert lines[2].split() == ["forward", "slow", "forward", "round"]


def test_modules_add_up_to_the_whole(reading: Reading) -> None:
    total_s = reading.estimate.totals.time_s
    for groups in (by_module(reading), by_module(reading, 1), by_op(reading)):
        assert abs(sum(g.time_s for g in groups) - total_s) < 1e-12
        assert abs(sum(g.share for g in groups) - 1) < 1e-9


def test_training_is_split_by_part(graph: Graph, machine: Machine) -> None:
    train = in_training(graph)
    text = printed(read("tiny", train, estimate(train, machine)))
    start = text.index("by part")
    rows = text[start : text.index("by module")].splitlines()[2:5]
    assert [row.split()[0] for row in rows] == ["backward", "forward", "optimizer"]


def in_training(graph: Graph) -> Graph:
    """The same program as a training step."""
    return Graph(name="tiny", program=graph.program, phase=Phase.TRAIN, repeats=graph.repeats)


def test_advice_for_eager_is_what_compiling_gains(graph: Graph, machine: Machine) -> None:
    slow_host = replace(machine, dispatch_overhead_s=1e-3)
    eager = estimate(graph, slow_host, execution=Execution.EAGER)
    compiled = estimate(graph, slow_host)
    (advice,) = (a for a in advise(graph, eager) if a.action == "compile")
    assert advice.time_s == compiled.totals.time_s
    assert advice.speedup == eager.totals.time_s / compiled.totals.time_s


def test_a_model_of_views_alone_gains_nothing_from_compiling(machine: Machine) -> None:
    graph = capture(torch.nn.Flatten(), (torch.ones(3, 2, 2),))
    run = estimate(graph, machine, execution=Execution.EAGER)
    assert advise(graph, run) == ()


def test_what_takes_no_time_has_no_throughput(machine: Machine) -> None:
    graph = capture(torch.nn.Flatten(), (torch.ones(3, 2, 2),))
    run = estimate(graph, machine)
    assert "throughput             -" in printed(read("views", graph, run))


def test_advised_bf16_is_what_bf16_is_predicted_to_take(machine: Machine) -> None:
    def graph_in(dtype: torch.dtype) -> Graph:
        with torch.device("meta"):
            linear = torch.nn.Linear(1024, 1024, bias=False).to(dtype)
            x = torch.randn(4096, 1024, dtype=dtype)
        return capture(linear, (x,), is_trusted=True, name="linear")

    full, half = graph_in(torch.float32), graph_in(torch.bfloat16)
    advised = next(a for a in advise(full, estimate(full, machine)) if a.action == "bf16")
    really = estimate(half, machine).totals
    assert abs(advised.time_s / really.time_s - 1) < 1e-6
    assert advised.peak_memory_bytes == really.peak_memory_bytes


def test_advised_batch_is_what_the_batch_is_predicted_to_take(machine: Machine) -> None:
    def graph_of(batch: int) -> Graph:
        with torch.device("meta"):
            linear, x = torch.nn.Linear(4096, 4096, bias=False), torch.randn(batch, 4096)
        return capture(linear, (x,), is_trusted=True, name="linear")

    one = graph_of(1)
    advised = next(a for a in advise(one, estimate(one, machine)) if a.action == "batch")
    factor = round(advised.speedup * advised.time_s / estimate(one, machine).totals.time_s)
    really = estimate(graph_of(factor), machine).totals
    assert factor > 1
    assert abs(advised.time_s / really.time_s - 1) < 1e-6
    assert advised.peak_memory_bytes == really.peak_memory_bytes


@pytest.mark.parametrize(("columns", "width"), [("40", 40), ("1", 40), ("72", 72)])
def test_a_file_is_as_wide_as_columns_says(
    columns: str, width: int, reading: Reading, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    lines = printed(reading).splitlines()
    assert width - 5 <= max(map(len, lines)) <= width
    assert any(line.startswith("*.linear") for line in lines)


def test_columns_without_room_are_named(reading: Reading, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "44")
    text = printed(reading)
    rows = text[text.index("by op kind") :].splitlines()[1:3]
    assert rows[0].split() == ["op", "count", "time", "share", "FLOPs"]
    assert rows[1].split() == ["linear", "x3", "2.58", "ms", "98%", "25.8", "G"]
    assert "No room in 44 columns for: bytes moved," in text


@pytest.mark.parametrize("columns", ["", "wide", "-3"])
def test_columns_that_are_no_number_are_as_if_not_set(
    columns: str, reading: Reading, monkeypatch: pytest.MonkeyPatch
) -> None:
    without = printed(reading)
    monkeypatch.setenv("COLUMNS", columns)
    assert printed(reading) == without


class Cube(torch.nn.Module):
    """Three products of a few numbers, without weights."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x @ x @ x @ x


def test_a_model_of_starts_alone_gains_no_more_than_its_starts(machine: Machine) -> None:
    graph = capture(Cube(), (torch.ones(4, 4),), is_trusted=True, name="cube")
    run = estimate(graph, machine)
    advised = {a.action: a for a in advise(graph, run)}
    assert 2.9 < advised["fuse"].speedup < 3
    assert "at most 3.00x (1.00 µs a run)" in advice_line(advised["fuse"], run)
    assert "64 times the batch, so that each kernel starts once for all" in advised["batch"].text


def test_a_single_start_is_not_advised_against(machine: Machine) -> None:
    graph = capture(torch.nn.ReLU(), (torch.ones(4, 4),), is_trusted=True, name="relu")
    assert "fuse" not in {a.action for a in advise(graph, estimate(graph, machine))}


def test_advised_bf16_follows_the_kernels_of_a_calibrated_machine(machine: Machine) -> None:
    def kernel(dtype: str, rate: float) -> Kernel:
        return Kernel(
            route="compiled",
            kind="gemm",
            dtype=dtype,
            features=KERNEL_FEATURES["gemm"],
            samples=((64.0, 64.0, 64.0, rate), (4096.0, 1024.0, 1024.0, rate)),
            source="test",
        )

    def graph_in(dtype: torch.dtype) -> Graph:
        with torch.device("meta"):
            linear = torch.nn.Linear(1024, 1024, bias=False).to(dtype)
            x = torch.randn(4096, 1024, dtype=dtype)
        return capture(linear, (x,), is_trusted=True, name="linear")

    # the peaks are 1 to 2, the kernels 8 to 10
    here = replace(machine, kernels=(kernel("fp32", 8e12), kernel("bf16", 10e12)))
    full, half = graph_in(torch.float32), graph_in(torch.bfloat16)
    advised = next(a for a in advise(full, estimate(full, here)) if a.action == "bf16")
    assert advised.time_s == pytest.approx(estimate(half, here).totals.time_s, rel=1e-6)


def test_no_change_takes_as_long_as_the_run(machine: Machine) -> None:
    def kernel(kind: str, rate: float) -> Kernel:
        samples = ((64.0, 64.0, 64.0, rate), (4096.0, 1024.0, 1024.0, rate))
        features = KERNEL_FEATURES[kind]
        return Kernel(
            route="compiled",
            kind=kind,
            dtype="fp32",
            features=features,
            samples=samples,
            source="test",
        )

    reading = Kernel(
        route="eager",
        kind="stream_read",
        dtype="fp32",
        features=("nbytes",),
        samples=((2.0**20, 90e9), (2.0**26, 30e9), (2.0**30, 20e9)),
        source="test",
    )
    # weights from far away: a product waits for them
    slow = replace(
        machine.memory, bandwidth_bytes_per_s=80e9, achievable_bandwidth_bytes_per_s=60e9
    )
    kernels = (kernel("gemm", 8e12), kernel("gemm_cold", 4e12), reading)
    here = replace(machine, kernels=kernels, memory=slow)
    with torch.device("meta"):
        linear, x = torch.nn.Linear(1024, 1024, bias=False), torch.randn(2**17, 1024)
    graph = capture(linear, (x,), is_trusted=True, name="linear")
    run = estimate(graph, here)
    (node,) = run.nodes
    assert node.time_s > max(node.compute_s, node.memory_s) + node.overhead_s
    assert predict(graph, run, Change()) == pytest.approx(run.totals.time_s)
