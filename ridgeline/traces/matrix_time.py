"""How much of the time of matrix products tensor cores took, and what could move there."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ridgeline.errors import TraceError
from ridgeline.traces.columns import Recording
from ridgeline.traces.intervals import Times
from ridgeline.traces.kernel_kinds import MATRIX_OPS
from ridgeline.traces.nesting import Rows
from ridgeline.traces.tensor_cores import Reason
from ridgeline.traces.usage import KernelUse


@dataclass(frozen=True, slots=True, kw_only=True)
class EligibleTime:
    """Products that a change of the program would move to tensor cores, for one reason. example:
    the kernel among them that took longest.
    """

    reason: Reason
    num_kernels: int
    time_ns: int
    example: KernelUse


@dataclass(frozen=True, slots=True, kw_only=True)
class MatrixTime:
    """Time on the device: device_ns of all, product_ns of matrix products (GEMM, convolution,
    attention, recurrent layers), on_unit_ns of those on tensor or matrix cores. eligible: the
    longest first.
    """

    device_ns: int
    product_ns: int
    on_unit_ns: int
    eligible: tuple[EligibleTime, ...]

    def __post_init__(self) -> None:
        if not 0 <= self.on_unit_ns <= self.product_ns <= self.device_ns:
            raise TraceError("products on tensor cores are products, which are events.")

    @property
    def unit_share(self) -> float | None:
        """The part of the products' time on tensor or matrix cores; None where there is none."""
        return self.on_unit_ns / self.product_ns if self.product_ns else None


def matrix_time(kernels: Sequence[KernelUse]) -> MatrixTime:
    """The sums over kernels. Times are added up over streams."""
    products = [use for use in kernels if use.what.op in MATRIX_OPS]
    by_reason: dict[Reason, list[KernelUse]] = {}
    for use in products:
        if use.tensor_core.reason.is_eligible:
            by_reason.setdefault(use.tensor_core.reason, []).append(use)
    eligible = (
        EligibleTime(
            reason=reason,
            num_kernels=sum(use.count for use in uses),
            time_ns=sum(use.total_ns for use in uses),
            example=max(uses, key=lambda use: use.total_ns),
        )
        for reason, uses in by_reason.items()
    )
    return MatrixTime(
        device_ns=sum(use.total_ns for use in kernels),
        product_ns=sum(use.total_ns for use in products),
        on_unit_ns=sum(use.total_ns for use in products if use.what.unit.is_matrix),
        eligible=tuple(sorted(eligible, key=lambda one: -one.time_ns)),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class RunTime:
    """When some events ran, for sums over windows: their starts and their ends, each sorted."""

    starts: Times
    ends: Times

    def between(self, start_ns: int, end_ns: int) -> int:
        """How long they ran from one time to another; times of several streams add up."""
        return _sum_within(self.ends, start_ns, end_ns) - _sum_within(self.starts, start_ns, end_ns)


def _sum_within(times: Times, start_ns: int, end_ns: int) -> int:
    """The sum of how long after the start each time is, no less than 0 and at most the window."""
    first, last = (int(np.searchsorted(times, at)) for at in (start_ns, end_ns))
    return int((times[first:last] - start_ns).sum()) + (len(times) - last) * (end_ns - start_ns)


def on_matrix_units(recording: Recording, rows: Rows, kernels: Sequence[KernelUse]) -> RunTime:
    """When kernels ran that by their names run on tensor or matrix cores. rows: of all kernels."""
    wanted = {use.name for use in kernels if use.what.unit.is_matrix}
    is_wanted = np.array([name in wanted for name in recording.names], bool)
    mine = rows[is_wanted[recording.events.name[rows]]] if len(rows) else rows
    return RunTime(
        starts=np.sort(recording.events.start_ns[mine]),
        ends=np.sort(recording.events.end_ns[mine]),
    )
