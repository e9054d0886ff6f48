"""What the colours of a trace's page mean: one table for activities and kernels, one for causes."""

from collections.abc import Iterable, Mapping

from ridgeline.report.markup import Html, element
from ridgeline.traces.idle import Cause
from ridgeline.traces.kernel_kinds import MATRIX_OPS, KernelOp
from ridgeline.traces.kernels import Kernel

CAUSES: Mapping[Cause, str] = {
    Cause.HOST: "c-host",
    Cause.SYNC: "c-sync",
    Cause.INPUT: "c-input",
    Cause.ALLOCATOR: "c-alloc",
    Cause.GRAPH: "c-graph",
    Cause.COMMUNICATION: "c-talk",
    Cause.DEVICE: "c-device",
    Cause.LATENCY: "c-latency",
    Cause.UNKNOWN: "c-unknown",
}
"""Why nothing ran -> its CSS class."""

KERNELS: Mapping[str, str] = {
    "compute": "matrix product on tensor or matrix cores",
    "c-input": "matrix product on CUDA cores",
    "overhead": "other kernel",
    "talk": "communication",
    "memory": "copy or fill",
}
"""CSS class of a kernel -> what it is."""

_MOVES = frozenset({KernelOp.MEMCPY, KernelOp.MEMSET})


def kernel_style(kernel: Kernel) -> str:
    """The CSS class of a kernel: a key of KERNELS."""
    if kernel.op is KernelOp.COMMUNICATION:
        return "talk"
    if kernel.op in _MOVES:
        return "memory"
    if kernel.unit.is_matrix:
        return "compute"
    return "c-input" if kernel.op in MATRIX_OPS else "overhead"


def colour_key(entries: Iterable[tuple[str, str]]) -> Html:
    """Classes and what they mean, in a row."""
    return element(
        "div",
        *(element("span", element("i", class_=style), words) for style, words in entries),
        class_="key",
    )
