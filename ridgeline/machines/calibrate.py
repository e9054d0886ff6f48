"""Measuring this machine in under a minute: what `--machine this` stands for.

Both routes are timed, "eager" as a user's code runs and "compiled" as a frozen graph does (oneDNN
with packed weights), for one library may be half as fast as another on the same core. Every
rate is the median of undisturbed samples.
"""

import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from ridgeline.errors import MachineError
from ridgeline.machines.cpu import Cpu, free_memory_bytes, peak_flops_per_s, read_cpu
from ridgeline.machines.machine import Cache, Kernel, Machine, Memory, Rate
from ridgeline.machines.probe import Call, Probe
from ridgeline.machines.probes import cpu_probes
from ridgeline.machines.tables import KERNEL_FEATURES, KERNEL_UNITS
from ridgeline.machines.threads import require_threads, torch_threads
from ridgeline.machines.timing import Sample, Timing, preferred, summarise, take_samples
from ridgeline.units import GIB, MIB, counted

if TYPE_CHECKING:
    import torch

Progress = Callable[[str, float], None]
Timings = Mapping[Probe, Timing]

ROUNDS = 3
"""Every probe is visited once per round, so that a slow spell of the machine does not fall on one
kernel alone."""

_CLEAN_SHARE = 0.5
"""With fewer undisturbed samples than this the calibration is marked as of low confidence."""

LONGEST_CALL_S = 1.0
"""A probe expected to take longer, from the rate of a smaller one of its kind, is left out and
named in the notes."""

_GRAIN = 32768  # up to so many elements ATen stays on one thread (at::internal::GRAIN_SIZE)
_SETTLING_NBYTES = 31 * MIB  # just below the largest that glibc learns from (mallopt(3): 32 MiB)
# A working set that no cache keeps: of bytes, so many last levels, and of the free memory.
_UNCACHED_NBYTES, _UNCACHED_CACHES, _UNCACHED_SHARE = (256 * MIB, GIB), 4, 8
_PIECE_NBYTES = 4 * MIB
_CHAIN_OPS = 32
_PRODUCTS = ("gemm", "convolution")
_STREAMS = ("stream_read", "stream_copy", "stream_triad")


def calibrate(
    *, threads: int | None = None, seconds: float = 45.0, progress: Progress | None = None
) -> Machine:
    """This machine as measured: the first CUDA device where there is one, else the CPU with
    `threads` threads (default: torch's own choice). Takes about `seconds`. `progress` hears what is
    being timed and the share done.

    Raises MachineError for no budget, and for a number of threads that makes no sense here.
    """
    if seconds <= 0:
        raise MachineError(f"cannot calibrate in {seconds} s; it must be above zero.")
    require_threads(threads)
    end_s = time.perf_counter() + seconds
    import torch

    tell = progress or (lambda what, share: None)
    if torch.cuda.is_available():
        from ridgeline.machines.gpu import calibrate_gpu

        return calibrate_gpu(end_s=end_s, progress=tell)
    with torch_threads(threads) as num_threads, torch.inference_mode(), preferred() as is_preferred:
        machine = _calibrate_cpu(num_threads, end_s, tell)
    if is_preferred:
        return machine
    return replace(machine, notes=f"{machine.notes}; scheduling priority could not be raised")


def time_probes(
    probes: Sequence[Probe], *, end_s: float, progress: Progress, wait: Callable[[], None]
) -> tuple[dict[Probe, Timing], list[str]]:
    """Each probe's timing, and the names of those that could not or should not run here. The first
    round visits every probe, however late; further ones share what is left until `end_s`.
    """
    samples: dict[Probe, list[Sample]] = {}
    left_out: dict[Probe, str] = {}
    for visit in range(num_visits := ROUNDS * len(probes)):
        probe, is_first = probes[visit % len(probes)], visit < len(probes)
        left_s = end_s - time.perf_counter()
        if left_s < 0 and not is_first:
            break
        if probe in left_out:
            continue
        progress(f"{probe.kind} {probe.dtype} {probe.route}", visit / num_visits)
        if is_first and _expected_s(probe, samples) > LONGEST_CALL_S:
            left_out[probe] = "too slow"
            continue
        budget_s = 0.0 if is_first else left_s / (num_visits - visit)
        try:
            samples.setdefault(probe, []).extend(_visit(probe, budget_s, wait))
        except RuntimeError as error:  # this build of torch has no such kernel
            samples.pop(probe, None)
            left_out[probe] = str(error).splitlines()[0][:80]
    progress("done", 1.0)
    names = {f"{p.route} {p.kind} {p.dtype} ({why})": None for p, why in left_out.items()}
    return {probe: summarise(taken) for probe, taken in samples.items()}, list(names)


def kernels_of(timings: Timings) -> tuple[Kernel, ...]:
    """The timings as one Kernel per route, kind and dtype, samples in order of their features."""
    groups: dict[tuple[str, str, str], list[Probe]] = {}
    for probe in timings:
        groups.setdefault((probe.route, probe.kind, probe.dtype), []).append(probe)
    order = list(KERNEL_FEATURES)
    ranked = sorted(groups.values(), key=lambda g: (g[0].route, order.index(g[0].kind), g[0].dtype))
    return tuple(_kernel(probes, timings) for probes in ranked)


def best_rate(timings: Timings, kinds: Sequence[str], dtype: str) -> tuple[float, str]:
    """The highest rate any route and shape reached, and which one it was; (0.0, "") if none ran."""
    found = [(rate_of(p, t), p) for p, t in timings.items() if p.kind in kinds and p.dtype == dtype]
    if not found:
        return 0.0, ""
    rate, probe = max(found, key=lambda pair: pair[0])
    timing = timings[probe]
    shape = ", ".join(
        f"{key} {value:g}"
        for key, value in zip(KERNEL_FEATURES[probe.kind], probe.features, strict=True)
    )
    clean = f"{timing.num_clean} of {timing.num_samples} samples clean"
    return rate, f"measured here: {probe.route} {probe.kind}, {shape}, {clean}"


def rate_of(probe: Probe, timing: Timing) -> float:
    """Work per second, to four digits: more would pretend."""
    return float(f"{probe.work / timing.time_s:.4g}")


def memory_from(timings: Timings, name: str, capacity_bytes: int | None) -> Memory:
    """Main memory from the largest working set: achievable is its best median, the other ceiling
    its fastest sample."""
    largest = max(p.features[0] for p in timings if p.kind in _STREAMS)
    streams = {p: t for p, t in timings.items() if p.kind in _STREAMS and p.features[0] == largest}
    achievable, source = best_rate(streams, _STREAMS, "fp32")
    fastest = max(float(f"{p.work / t.fastest_s:.4g}") for p, t in streams.items())
    return Memory(
        name=name,
        capacity_bytes=capacity_bytes,
        bandwidth_bytes_per_s=max(fastest, achievable),
        achievable_bandwidth_bytes_per_s=achievable,
        achievable_source=source,
        source="fastest single sample measured here, for no datasheet says what a virtual"
        " machine gets; neighbours make it drift",
    )


def raised_rate(peak: float, source: str, measured: float, measured_source: str) -> Rate:
    """A rate whose datasheet ceiling is never below what was measured; where it was, its source
    says so."""
    if not measured:
        return Rate(flops_per_s=peak, source=source)
    if measured > peak:
        source = f"RAISED to the measured rate, {measured / peak:.2f} times this: {source}"
    return Rate(
        flops_per_s=max(peak, measured),
        source=source,
        achievable_flops_per_s=measured,
        achievable_source=measured_source,
    )


def _calibrate_cpu(num_threads: int, end_s: float, progress: Progress) -> Machine:
    import torch

    progress("clock and caches", 0.0)
    _settle_allocator()
    cpu = read_cpu()
    cold_nbytes = uncached_nbytes(cpu.caches, free_memory_bytes())
    probes = cpu_probes(uncached_nbytes=cold_nbytes)
    dispatch_s, launch_s = _overheads(budget_s=0.6)
    timings, left_out = time_probes(probes, end_s=end_s, progress=progress, wait=lambda: None)
    num_cores = min(num_threads, cpu.num_cores)
    return Machine(
        id="this",
        name=f"{cpu.model} ({counted(num_threads, 'thread')})",
        vendor=cpu.vendor,
        arch=f"{cpu.model}, family {cpu.family}" if cpu.family else cpu.model,
        kind="cpu",
        match=re.escape(cpu.model),
        num_units=num_cores,
        cold_nbytes=cold_nbytes,
        matrix={
            dtype: _matrix(cpu, dtype, num_cores, timings) for dtype in ("fp32", "bf16", "int8")
        },
        vector=_vector(cpu, num_cores),
        memory=memory_from(timings, "DRAM", cpu.memory_bytes),
        caches=_caches(cpu, timings),
        launch_overhead_s=launch_s,
        dispatch_overhead_s=dispatch_s,
        overhead_source="measured here: launch = starting and joining the threads of one pointwise"
        " kernel, dispatch = one of a chain of ops on eight elements",
        confidence=confidence_of(timings.values()),
        source="ridgeline machines calibrate",
        notes="; ".join(
            [
                f"{counted(num_threads, 'thread')} on {counted(cpu.num_cores, 'core')}",
                f"torch {torch.__version__}",
                f"{sum(t.num_clean for t in timings.values())} of"
                f" {sum(t.num_samples for t in timings.values())} samples clean",
                *(f"not measured: {name}" for name in left_out),
            ]
        ),
        kernels=kernels_of(timings),
    )


def uncached_nbytes(caches: Sequence[Cache], free_bytes: int | None) -> int:
    """Bytes that pass by no cache: four times the last level and 256 MiB at least, but 1 GiB and an
    eighth of the free memory at most, in whole pieces of a stream.
    """
    last_level = max((cache.capacity_bytes for cache in caches), default=32 * MIB)
    least, most = _UNCACHED_NBYTES
    if free_bytes is not None:
        most = min(most, free_bytes // _UNCACHED_SHARE)
    nbytes = min(most, max(least, _UNCACHED_CACHES * last_level))
    return max(1, nbytes // _PIECE_NBYTES) * _PIECE_NBYTES


def _settle_allocator() -> None:
    """Frees one large block: from then on glibc keeps freed memory up to twice its size instead of
    giving it back and faulting it in again, as in any program that has loaded a model.
    """
    import torch

    torch.ones(_SETTLING_NBYTES // 4)


def confidence_of(timings: Iterable[Timing]) -> str:
    """ "low" where other work took the cores during most samples, for then nothing is certain."""
    counts = [(t.num_clean, t.num_samples) for t in timings]
    clean, samples = sum(c for c, _ in counts), sum(n for _, n in counts)
    return "measured" if clean >= _CLEAN_SHARE * samples else "low"


def _matrix(cpu: Cpu, dtype: str, num_cores: int, timings: Timings) -> Rate:
    peak, source = peak_flops_per_s(cpu, dtype, num_cores=num_cores)
    return raised_rate(float(f"{peak:.4g}"), source, *best_rate(timings, _PRODUCTS, dtype))


def _vector(cpu: Cpu, num_cores: int) -> dict[str, Rate]:
    # Without a tile engine, the vector units are what multiplies matrices; with one, fp32 has none.
    peak, source = peak_flops_per_s(cpu, "fp32", num_cores=num_cores)
    single = Rate(flops_per_s=float(f"{peak:.4g}"), source=source)
    half = Rate(flops_per_s=single.flops_per_s / 2, source=f"half of fp32: {source}")
    return {"fp64": half, "fp32": single}


def _caches(cpu: Cpu, timings: Timings) -> tuple[Cache, ...]:
    measured, below = [], 0
    for cache in cpu.caches:
        fits = {
            p: t
            for p, t in timings.items()
            if p.kind in _STREAMS and below < p.features[0] <= cache.capacity_bytes / 2
        }
        rate, source = best_rate(fits, _STREAMS, "fp32")
        if rate:
            cache = replace(
                cache,
                achievable_bandwidth_bytes_per_s=rate,
                source=f"{cache.source}; bandwidth {source}",
            )
        measured.append(cache)
        below = cache.capacity_bytes
    return tuple(measured)


def _overheads(budget_s: float) -> tuple[float, float]:
    """What one op costs on the host in a chain of several kinds, called as a graph's own code calls
    them; and what a second thread costs a kernel: grains per thread being equal, a parallel loop
    over one grain per thread takes longer than a serial loop over one grain by the fork and the
    join alone. The fastest samples count: a join waits for its last thread, and behind another
    program that is a whole time slice."""
    import torch

    def timed(call: Call) -> float:
        return summarise(take_samples(call, budget_s=budget_s / 3, wait=lambda: None)).fastest_s

    tiny = torch.ones(8)
    a, b = torch.ones(_GRAIN * torch.get_num_threads()), torch.ones(_GRAIN)
    dispatch_s = timed(lambda: _chain(tiny)) / _CHAIN_OPS
    parallel_s = timed(lambda: torch.add(a, a, out=a))
    serial_s = timed(lambda: torch.add(b, b, out=b))
    launch_s = max(parallel_s - serial_s, 0.1 * dispatch_s)  # no kernel is free: at least a call
    return float(f"{dispatch_s:.3g}"), float(f"{launch_s:.3g}")


def _chain(x: "torch.Tensor") -> "torch.Tensor":
    """_CHAIN_OPS ops, each on the result of the one before."""
    import torch

    aten = torch.ops.aten
    for _ in range(_CHAIN_OPS // 4):
        added = aten.add.Tensor(x, x)
        scaled = aten.mul.Tensor(added, 0.5)
        kept = aten.relu.default(scaled)
        x = aten.view.default(kept, [8])
    return x


def _visit(probe: Probe, budget_s: float, wait: Callable[[], None]) -> list[Sample]:
    start_s = time.perf_counter()
    call = probe.build()
    spent_s = time.perf_counter() - start_s
    return take_samples(call, budget_s=max(0.0, budget_s - spent_s), wait=wait)


def _expected_s(probe: Probe, samples: Mapping[Probe, Sequence[Sample]]) -> float:
    """The time of a call at the best rate its kind has shown; 0.0 while nothing is known."""
    rates = (
        p.work / min(s.time_s for s in taken)
        for p, taken in samples.items()
        if (p.route, p.kind, p.dtype) == (probe.route, probe.kind, probe.dtype)
    )
    return probe.work / max(rates, default=float("inf"))


def _kernel(probes: Sequence[Probe], timings: Timings) -> Kernel:
    first = probes[0]
    taken = [timings[probe] for probe in probes]
    rows = sorted((*(float(f) for f in p.features), rate_of(p, timings[p])) for p in probes)
    return Kernel(
        route=first.route,
        kind=first.kind,
        dtype=first.dtype,
        features=KERNEL_FEATURES[first.kind],
        samples=tuple(rows),
        source=f"measured here in {KERNEL_UNITS[first.kind]}: medians of the clean samples,"
        f" {sum(t.num_clean for t in taken)} of {sum(t.num_samples for t in taken)} clean",
    )
