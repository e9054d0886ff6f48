"""Where the device's time went by what its kernels are: op type, number format, unit."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ridgeline.traces.columns import DEVICE_KINDS, Kind, Recording
from ridgeline.traces.kernel_kinds import MATRIX_OPS
from ridgeline.traces.kernels import Kernel, classify, ran_on_amd


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelTime:
    """All events of one name: what they are, how many, and their time together."""

    kernel: Kernel
    count: int
    time_ns: int


def kernel_times(recording: Recording) -> tuple[KernelTime, ...]:
    """Every name of a kernel, copy or fill, the longest first. Time is added up over streams, so
    it can be more than the time in which the device was busy."""
    rows = recording.events.where(*DEVICE_KINDS)
    number_of, duration = recording.events.name[rows], recording.events.duration_ns[rows]
    kept, inverse, counts = np.unique(number_of, return_inverse=True, return_counts=True)
    times = np.zeros(len(kept), np.int64)
    np.add.at(times, inverse, duration)
    names = [recording.names[number] for number in kept.tolist()]
    is_amd = is_amd_device(recording, names)
    found = (
        KernelTime(kernel=classify(name, is_amd=is_amd), count=count, time_ns=time)
        for name, count, time in zip(names, counts.tolist(), times.tolist(), strict=True)
    )
    return tuple(sorted(found, key=lambda one: (-one.time_ns, one.kernel.name)))


def is_amd_device(recording: Recording, names: Sequence[str]) -> bool:
    """Whether the kernels of these names ran on a device of AMD's."""
    devices = recording.metadata.devices
    calls = recording.events.name[recording.events.where(Kind.RUNTIME)]
    is_hip = any(recording.names[number].startswith("hip") for number in np.unique(calls).tolist())
    return is_hip or ran_on_amd(names, devices[0].name if devices else "")


def time_by(times: tuple[KernelTime, ...], what: Callable[[Kernel], str]) -> Mapping[str, int]:
    """Time in ns by a property of the kernel, the most first: `lambda k: k.op.value`."""
    found: dict[str, int] = {}
    for one in times:
        key = what(one.kernel)
        found[key] = found.get(key, 0) + one.time_ns
    return dict(sorted(found.items(), key=lambda pair: -pair[1]))


def matrix_unit_share(times: tuple[KernelTime, ...]) -> float:
    """The part of the time of matrix products (GEMM, convolution, attention, recurrent layers) that
    ran on tensor or matrix cores; nan where there is no such kernel."""
    products = [one for one in times if one.kernel.op in MATRIX_OPS]
    total = sum(one.time_ns for one in products)
    on_unit = sum(one.time_ns for one in products if one.kernel.unit.is_matrix)
    return on_unit / total if total else float("nan")
