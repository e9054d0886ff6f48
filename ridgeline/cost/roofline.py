"""The roofline of one piece of work: time to compute, time to move, time to start."""

from dataclasses import dataclass
from enum import Enum

from ridgeline.cost.op_cost import OpCost
from ridgeline.graph import Node
from ridgeline.machines import Ceiling, Machine


class Bound(Enum):
    """What a piece of work waits for most."""

    COMPUTE = "compute"
    MEMORY = "memory"
    OVERHEAD = "overhead"
    FREE = "free"


class Execution(Enum):
    """How the graph runs: op by op, or fused and compiled."""

    EAGER = "eager"
    COMPILED = "compiled"


# Storage dtypes -> the dtype a machine's tables know.
_MACHINE_DTYPES = {
    "fp8_e4m3fn": "fp8",
    "fp8_e5m2": "fp8",
    "fp8_e4m3fnuz": "fp8",
    "fp8_e5m2fnuz": "fp8",
    "fp4_e2m1fn_x2": "fp4",
    "uint8": "int8",
    "complex64": "fp32",
    "complex128": "fp64",
}
_KNOWN = ("fp64", "fp32", "tf32", "fp16", "bf16", "fp8", "int8", "fp4")


@dataclass(frozen=True, slots=True, kw_only=True)
class Times:
    """Seconds of one run of a node; computing and moving overlap, starting does not.

    exposed_s: what of memory_s no computing hides.
    """

    compute_s: float
    memory_s: float
    overhead_s: float
    exposed_s: float = 0.0

    @property
    def time_s(self) -> float:
        """The roofline's answer (Williams et al. 2009), plus what is exposed, plus the time to
        start.
        """
        return max(self.compute_s + self.exposed_s, self.memory_s) + self.overhead_s

    @property
    def bound(self) -> Bound:
        """What takes longest."""
        if self.time_s == 0:
            return Bound.FREE
        longest = max(self.compute_s, self.memory_s, self.overhead_s)
        if longest == self.overhead_s:
            return Bound.OVERHEAD
        return Bound.COMPUTE if longest == self.compute_s else Bound.MEMORY


def compute_dtype(node: Node | None) -> str:
    """The dtype a node computes in: its first floating operand's, else its result's, else fp32."""
    if node is None:
        return "fp32"
    specs = [*node.tensors, *node.outputs]
    if node.op == "int_mm":
        return "int8"
    for spec in specs:
        name = _MACHINE_DTYPES.get(spec.dtype, spec.dtype)
        if name in _KNOWN and spec.is_floating:
            return name
    return "fp32"


def roofline_times(
    cost: OpCost,
    nbytes: int,
    dtype: str,
    machine: Machine,
    ceiling: Ceiling,
    overhead_s: float,
) -> Times:
    """Times of `cost` when it moves `nbytes`, at the machine's chosen ceiling."""
    compute_s = 0.0
    if cost.executed_flops:
        compute_s += cost.executed_flops / machine.matrix_flops_per_s(dtype, ceiling)
    arithmetic = cost.vector_ops + cost.special_ops
    if arithmetic:
        compute_s += arithmetic / machine.vector_flops_per_s(dtype, ceiling)
    return Times(
        compute_s=compute_s,
        memory_s=nbytes / machine.bandwidth_bytes_per_s(ceiling),
        overhead_s=overhead_s,
    )
