"""Calibration of a CUDA or ROCm device: the shipped description where there is one, with what was
measured in it."""

import re
import time
from collections.abc import Callable
from dataclasses import replace

from ridgeline.errors import MachineError
from ridgeline.machines.calibrate import (
    Progress,
    Timings,
    best_rate,
    kernels_of,
    memory_from,
    raised_rate,
    time_probes,
)
from ridgeline.machines.machine import Cache, Machine, Memory, Rate
from ridgeline.machines.probes import eager_probes
from ridgeline.machines.registry import match_device
from ridgeline.units import GIB

_DTYPES = ("fp32", "fp16", "bf16", "int8")


def calibrate_gpu(*, end_s: float, progress: Progress) -> Machine:
    """The current CUDA device as measured; rates no probe covers stay as its datasheet has them."""
    import torch

    device = torch.device("cuda", torch.cuda.current_device())
    with torch.inference_mode():
        probes = eager_probes(device, uncached_nbytes=2 * GIB)
        dispatch_s, launch_s = _overheads()
        timings, left_out = time_probes(
            probes, end_s=end_s, progress=progress, wait=torch.cuda.synchronize
        )
    base = _datasheet(torch.cuda.get_device_name(device), timings)
    notes = [base.notes, f"torch {torch.__version__}", *(f"not measured: {n}" for n in left_out)]
    return replace(
        base,
        id="this",
        matrix={**base.matrix, **_matrix(base, timings)},
        memory=_memory(base.memory, timings),
        launch_overhead_s=launch_s,
        dispatch_overhead_s=dispatch_s,
        overhead_source="measured here: launch = one node of a CUDA graph of tiny adds,"
        " dispatch = one eager tiny add",
        confidence="measured",
        source=f"{base.source}; achievable rates from ridgeline machines calibrate",
        notes="; ".join(filter(None, notes)),
        kernels=kernels_of(timings),
    )


def _matrix(base: Machine, timings: Timings) -> dict[str, Rate]:
    rates = {}
    for dtype in _DTYPES:
        measured, source = best_rate(timings, ("gemm",), dtype)
        if measured:
            known = base.matrix.get(dtype) or base.vector.get(dtype)
            peak = known.flops_per_s if known else measured
            words = known.source if known else "no datasheet rate: as measured"
            rates[dtype] = raised_rate(peak, words, measured, source)
    return rates


def _memory(known: Memory, timings: Timings) -> Memory:
    measured = memory_from(timings, known.name, known.capacity_bytes)
    achievable = measured.achievable_bandwidth_bytes_per_s or 0.0
    return replace(
        known,
        bandwidth_bytes_per_s=max(known.bandwidth_bytes_per_s, achievable),
        achievable_bandwidth_bytes_per_s=achievable,
        achievable_source=measured.achievable_source,
    )


def _datasheet(device_name: str, timings: Timings) -> Machine:
    try:
        return match_device(device_name)
    except MachineError:
        return _undocumented(device_name, timings)


def _undocumented(device_name: str, timings: Timings) -> Machine:
    """A device without a shipped description: its properties, and its measured rates as its only
    ceilings."""
    import torch

    properties = torch.cuda.get_device_properties(torch.cuda.current_device())
    source = "torch.cuda.get_device_properties"
    return Machine(
        id="this",
        name=device_name,
        vendor="AMD" if torch.version.hip else "NVIDIA",
        arch=f"compute capability {properties.major}.{properties.minor}",
        kind="gpu",
        match=re.escape(device_name),
        num_units=properties.multi_processor_count,
        memory=memory_from(timings, "device memory", properties.total_memory),
        caches=(Cache(name="L2", capacity_bytes=properties.L2_cache_size, source=source),),
        launch_overhead_s=1e-6,
        dispatch_overhead_s=1e-6,
        overhead_source="placeholder until measured",
        confidence="measured",
        source=source,
    )


def _overheads() -> tuple[float, float]:
    """Host time of one eager op, and device time of one node in a captured graph."""
    import torch

    tiny, num_ops = torch.ones(8, device="cuda"), 200

    def adds() -> None:
        for _ in range(num_ops):
            tiny.add_(1.0)

    adds()
    torch.cuda.synchronize()
    dispatch_s = _seconds(adds) / num_ops
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        adds()
    graph.replay()
    torch.cuda.synchronize()

    def replay() -> None:
        graph.replay()
        torch.cuda.synchronize()

    launch_s = _seconds(replay) / num_ops
    return float(f"{dispatch_s:.3g}"), float(f"{launch_s:.3g}")


def _seconds(call: Callable[[], object]) -> float:
    times_s = []
    for _ in range(10):
        start_s = time.perf_counter()
        call()
        times_s.append(time.perf_counter() - start_s)
    return min(times_s)
