"""How much of the time of matrix products tensor cores took, and what could move there."""

from collections.abc import Sequence
from dataclasses import dataclass

from ridgeline.errors import TraceError
from ridgeline.traces.kernel_kinds import MATRIX_OPS
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
