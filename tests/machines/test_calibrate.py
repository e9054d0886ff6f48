"""Calibration: probes compute what they say, noise is filtered, the result is a machine."""

import os
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch

from ridgeline.errors import MachineError
from ridgeline.machines import (
    KERNEL_FEATURES,
    KERNEL_UNITS,
    Cache,
    Machine,
    load,
    parse,
    save_this,
    to_toml,
)
from ridgeline.machines import calibrate as calibrate_module
from ridgeline.machines.calibrate import (
    calibrate,
    confidence_of,
    kernels_of,
    raised_rate,
    time_probes,
    uncached_nbytes,
)
from ridgeline.machines.matrix_probes import ConvShape
from ridgeline.machines.probe import Flush, InTurn, Probe
from ridgeline.machines.probes import cpu_probes
from ridgeline.machines.timing import Sample, Timing, preferred, summarise, take_samples
from ridgeline.units import MIB

PROBES = cpu_probes(uncached_nbytes=8 * MIB)
SMALL = [probe for probe in PROBES if probe.work <= 12 * MIB]
cpu_only = pytest.mark.skipif(torch.cuda.is_available(), reason="calibrate would take the GPU")


def named(probe: Probe) -> str:
    return f"{probe.route}-{probe.kind}-{probe.dtype}-{'x'.join(f'{f:g}' for f in probe.features)}"


def toy_probe(kind: str = "elementwise", work: float = 1e3, numel: int = 1000) -> Probe:
    return Probe(
        route="eager",
        kind=kind,
        dtype="fp32",
        features=(numel,),
        work=work,
        build=lambda: lambda: None,
    )


def timing(time_s: float, fastest_s: float | None = None) -> Timing:
    return Timing(time_s=time_s, fastest_s=fastest_s or time_s, num_samples=4, num_clean=3)


def test_probes_span_what_the_tables_name() -> None:
    assert {probe.kind for probe in PROBES} == set(KERNEL_FEATURES)
    assert len({named(probe) for probe in PROBES}) == len(PROBES)
    for probe in PROBES:
        assert len(probe.features) == len(KERNEL_FEATURES[probe.kind])
        assert probe.work > 0
    assert not any(probe.dtype == "fp16" for probe in PROBES)  # 1000 times slower on CPUs


def test_work_is_counted_as_the_table_of_units_says() -> None:
    for probe in PROBES:
        f = probe.features
        match probe.kind:
            case "gemm" | "gemm_cold":
                assert probe.work == 2 * f[0] * f[1] * f[2]
            case "convolution" | "convolution_cold":
                assert probe.work == 2 * f[0] * f[1] * f[2] * f[3]
            case "attention":
                assert probe.work == 4 * f[0] * f[1] * f[2] * f[3]
            case "lstm":
                assert probe.work == 8 * f[0] * f[1] * f[3] * (f[2] + f[3])
            case _:
                assert KERNEL_UNITS[probe.kind] != "FLOP/s"


def test_a_convolutions_shape() -> None:
    stem = ConvShape(inputs=3, outputs=64, size=224, taps=7, stride=2)
    assert stem.features == (112 * 112, 64, 147, 1, 2)  # ResNet's: 118 MMAC
    depthwise = ConvShape(inputs=240, outputs=240, size=28, taps=3, groups=240)
    assert depthwise.features == (784, 1, 9, 240, 2)
    solid = ConvShape(inputs=1, outputs=64, size=48, taps=3, stride=2, dims=3)
    assert solid.features == (24**3, 64, 27, 1, 3)


@pytest.mark.parametrize(
    "probe", [p for p in PROBES if p.kind == "gemm" and p.work < 2e7], ids=named
)
def test_both_routes_multiply_the_matrices_they_name(probe: Probe) -> None:
    m, n, k = (int(value) for value in probe.features)
    out = probe.build()()
    assert isinstance(out, torch.Tensor)
    assert out.shape == (m, n)
    scale = 0.02 if probe.route == "compiled" else 1.0  # of the quantised input
    expected = scale * k if probe.dtype == "int8" else 0.25 * k + 0.5
    assert out.double().mean().item() == pytest.approx(expected, rel=1e-2)


@pytest.mark.parametrize(
    "probe", [p for p in PROBES if p.kind == "convolution" and p.work < 1e8], ids=named
)
def test_both_routes_convolve_the_shapes_they_name(probe: Probe) -> None:
    m, n, k, groups, dims = (int(value) for value in probe.features)
    out = probe.build()()
    assert isinstance(out, torch.Tensor)
    assert out.dim() == dims + 2
    assert out.numel() == m * n * groups
    assert out.double().max().item() == pytest.approx(0.25 * k, rel=1e-2)  # away from the edge


@pytest.mark.parametrize("probe", [p for p in PROBES if p.kind.startswith("stream")], ids=named)
def test_streams_pass_over_the_whole_set_piece_by_piece(probe: Probe) -> None:
    call = probe.build()
    num_pieces = probe.features[0] / probe.work
    assert num_pieces == int(num_pieces)
    for _ in range(int(num_pieces) + 1):
        call()


def test_the_median_is_of_clean_samples() -> None:
    clean = [Sample(time_s=time_s, is_clean=True) for time_s in (1.0, 2.0, 6.0)]
    dirty = [Sample(time_s=time_s, is_clean=False) for time_s in (0.5, 40.0, 50.0, 60.0)]
    assert summarise(clean + dirty) == Timing(time_s=2.0, fastest_s=0.5, num_samples=7, num_clean=3)


def test_of_too_few_clean_samples_the_fastest_counts() -> None:
    clean = [Sample(time_s=7.0, is_clean=True)] * 2
    dirty = [Sample(time_s=time_s, is_clean=False) for time_s in (5.0, 40.0)]
    assert summarise(clean + dirty).time_s == 5.0


def test_sampling_warms_up_and_groups_short_calls() -> None:
    calls: list[None] = []
    samples = take_samples(lambda: calls.append(None), budget_s=0.0, wait=lambda: None)
    assert len(samples) >= 1
    assert len(calls) > 10  # a call far below 50 us is timed many times over
    assert all(0 < sample.time_s < 1e-3 for sample in samples)


def test_a_probe_this_torch_lacks_is_left_out_and_named() -> None:
    def broken() -> None:
        raise NotImplementedError("no such kernel\nmore")

    bad = Probe(
        route="compiled", kind="gelu", dtype="bf16", features=(8,), work=8, build=lambda: broken
    )
    heard: list[tuple[str, float]] = []
    timings, left_out = time_probes(
        [toy_probe(), bad],
        end_s=0.0,
        progress=lambda what, share: heard.append((what, share)),
        wait=lambda: None,
    )
    assert list(timings) == [toy_probe_like(timings)]
    assert left_out == ["compiled gelu bf16 (no such kernel)"]
    assert heard[-1] == ("done", 1.0)
    assert [share for _, share in heard] == sorted(share for _, share in heard)


def toy_probe_like(timings: dict[Probe, Timing]) -> Probe:
    (probe,) = timings
    assert (probe.kind, probe.features) == ("elementwise", (1000,))
    return probe


def test_a_probe_that_would_take_too_long_is_left_out() -> None:
    small, huge = toy_probe(work=1.0), toy_probe(work=1e30, numel=2000)
    timings, left_out = time_probes(
        [small, huge], end_s=0.0, progress=lambda what, share: None, wait=lambda: None
    )
    assert list(timings) == [small]
    assert left_out == ["eager elementwise fp32 (too slow)"]


def test_kernels_are_rates_in_order_of_their_features() -> None:
    many, few = toy_probe(work=4e6, numel=4000), toy_probe(work=1e6, numel=1000)
    (kernel,) = kernels_of({many: timing(1e-3), few: timing(2e-3)})
    assert kernel.samples == ((1000.0, 5e8), (4000.0, 4e9))
    assert "6 of 8 clean" in kernel.source


def test_the_datasheet_ceiling_is_never_below_the_measured_one() -> None:
    assert raised_rate(2e11, "by clock", 1e11, "gemm").flops_per_s == 2e11
    raised = raised_rate(2e11, "by clock", 3e11, "gemm")
    assert raised.flops_per_s == raised.achievable_flops_per_s == 3e11
    assert raised.source.startswith("RAISED to the measured rate, 1.50 times")
    assert raised_rate(2e11, "by clock", 0.0, "").achievable_flops_per_s is None


def test_priority_is_given_back() -> None:
    before = os.getpriority(os.PRIO_PROCESS, 0)
    with preferred() as is_preferred:
        assert (os.getpriority(os.PRIO_PROCESS, 0) < before) == is_preferred
    assert os.getpriority(os.PRIO_PROCESS, 0) == before


@pytest.mark.parametrize(
    ("last_level", "free", "expected"),
    [
        (300 * MIB, None, 1024 * MIB),  # a server's, shared by virtual machines
        (100 * MIB, 16 * 1024 * MIB, 400 * MIB),
        (32 * MIB, None, 256 * MIB),
        (300 * MIB, 2048 * MIB, 256 * MIB),
        (300 * MIB, 0, 4 * MIB),
        (None, None, 256 * MIB),
    ],
)
def test_what_no_cache_keeps(last_level: int | None, free: int | None, expected: int) -> None:
    found = [Cache(name="L2", capacity_bytes=MIB, source="made up")]
    if last_level:
        found.append(Cache(name="L3", capacity_bytes=last_level, source="made up"))
    assert uncached_nbytes(found, free) == expected


def test_cold_operands_lie_behind_as_much_as_no_cache_keeps() -> None:
    cold = [probe for probe in cpu_probes(uncached_nbytes=8 * MIB) if "cold" in probe.kind]
    assert {probe.route for probe in cold} >= {"eager"}
    for probe in cold[:2]:
        call = probe.build()
        assert isinstance(call, InTurn)
        call.ready(1)
        assert isinstance(call._flush, Flush)
        assert call._flush._own is not None
        assert call._flush._own.nbytes == 8 * MIB


def test_no_timed_call_finds_its_operands_in_a_cache() -> None:
    heard: list[str] = []
    calls = [partial(heard.append, name) for name in "abcd"]
    turns = InTurn(calls, lambda: heard.append("flush"))
    turns()  # a warm-up
    for num_calls in (1, 2, 1):
        turns.ready(num_calls)
        heard.append("sample")
        for _ in range(num_calls):
            turns()
    assert " ".join(heard) == "a flush b sample c sample d a flush b sample c"


@pytest.mark.parametrize("seconds", [0.0, -1.0])
def test_impossible_budgets_are_refused(seconds: float) -> None:
    with pytest.raises(MachineError, match="must be above zero"):
        calibrate(seconds=seconds)


@pytest.mark.parametrize("threads", [0, 100_000])
def test_impossible_numbers_of_threads_are_refused(threads: int) -> None:
    with pytest.raises(MachineError, match=f"{threads} threads"):
        calibrate(threads=threads)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> Machine:
    monkeypatch.setattr(calibrate_module, "cpu_probes", lambda uncached_nbytes: SMALL)
    before = torch.get_num_threads()
    machine = calibrate(threads=1, seconds=1.0)
    assert torch.get_num_threads() == before
    return machine


@cpu_only
def test_a_quick_calibration_is_a_machine(
    quick: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert quick.id == "this"
    assert quick.confidence == "measured"
    assert quick.num_units == 1
    assert 4 * MIB <= (quick.cold_nbytes or 0) <= 1024 * MIB
    assert quick.name.endswith("(1 thread)")
    assert quick.notes.startswith("1 thread on ")
    assert parse(to_toml(quick), origin="this") == quick
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    save_this(quick)
    assert load("this") == quick
    assert replace(quick) == quick


@cpu_only
def test_what_it_measures_could_be(quick: Machine) -> None:
    assert 1e9 < quick.matrix_rate("fp32").flops_per_s < 1e12  # one core
    assert 1e8 < quick.memory.bandwidth_bytes_per_s < 1e12
    assert 1e-7 < quick.dispatch_overhead_s < 1e-3
    assert 1e-8 < quick.launch_overhead_s < 1e-1
    assert {k.kind for k in quick.kernels} >= {"gemm", "convolution", "gelu", "stream_read"}
    assert quick.memory.capacity_bytes is None or quick.memory.capacity_bytes > 2**28


@cpu_only
@pytest.mark.slow
def test_a_whole_calibration() -> None:
    heard: list[float] = []
    machine = calibrate(seconds=20.0, progress=lambda what, share: heard.append(share))
    assert heard[-1] == 1.0
    assert {kernel.kind for kernel in machine.kernels} == set(KERNEL_FEATURES)
    for dtype in ("fp32", "bf16", "int8"):
        rate = machine.matrix[dtype]
        assert rate.achievable_flops_per_s is not None
        assert 0.02 * rate.flops_per_s < rate.achievable_flops_per_s <= rate.flops_per_s
    assert parse(to_toml(machine), origin="this") == machine


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu() -> None:
    machine = calibrate(seconds=20.0)
    assert machine.kind == "gpu"
    assert machine.matrix["bf16"].achievable_flops_per_s is not None
    assert 1e-7 < machine.launch_overhead_s < machine.dispatch_overhead_s * 10 < 1e-2
    assert parse(to_toml(machine), origin="this") == machine


@pytest.mark.parametrize(
    ("num_clean", "confidence"), [(10, "measured"), (5, "measured"), (4, "low")]
)
def test_a_disturbed_calibration_says_so(num_clean: int, confidence: str) -> None:
    timing = Timing(time_s=1.0, fastest_s=1.0, num_clean=num_clean, num_samples=10)
    assert confidence_of([timing]) == confidence
