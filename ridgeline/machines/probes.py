"""What `calibrate` runs: a probe per kernel, shape, dtype and route, knowing its work.

Operands are reused from call to call, so they are as warm as the caches keep them: a small
product's rate is that of the kernel, not of the memory. Whoever predicts a cold one takes the
larger of the two times.
"""

from typing import TYPE_CHECKING

from ridgeline.machines.matrix_probes import cold_probes, matrix_probes, packed_probes
from ridgeline.machines.memory_probes import memory_probes, packed_pools
from ridgeline.machines.probe import Flush, Probe

if TYPE_CHECKING:
    import torch


def cpu_probes(*, uncached_nbytes: int) -> list[Probe]:
    """Every probe this CPU's torch can run, cheapest first; `uncached_nbytes` fits in no cache."""
    import torch

    flush = Flush(uncached_nbytes)
    probes = eager_probes(torch.device("cpu"), uncached_nbytes=uncached_nbytes)
    probes += cold_probes(flush)
    if torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        probes += [*packed_probes(flush), *packed_pools()]
    return sorted(probes, key=lambda probe: probe.work)


def eager_probes(device: "torch.device", *, uncached_nbytes: int) -> list[Probe]:
    """The probes that run as a user's eager code does, on any device, cheapest first."""
    probes = [*matrix_probes(device), *memory_probes(device, uncached_nbytes=uncached_nbytes)]
    return sorted(probes, key=lambda probe: probe.work)
