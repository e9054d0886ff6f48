"""What a device kernel can be: its op type, the unit that runs it, and one rule that says so."""

import re
from dataclasses import dataclass
from enum import Enum


class KernelOp(Enum):
    """The work a kernel does. COPY moves data within the device as a kernel; MEMCPY and MEMSET are
    the copy engine's; FILL writes one value."""

    GEMM = "gemm"
    CONVOLUTION = "convolution"
    ATTENTION = "attention"
    COMMUNICATION = "communication"
    MEMCPY = "memcpy"
    MEMSET = "memset"
    COPY = "copy"
    FILL = "fill"
    ELEMENTWISE = "elementwise"
    REDUCTION = "reduction"
    NORM = "norm"
    SOFTMAX = "softmax"
    EMBEDDING = "embedding"
    OPTIMIZER = "optimizer"
    GATHER = "gather"
    SORT = "sort"
    POOL = "pool"
    RESAMPLE = "resample"
    RANDOM = "random"
    ROTARY = "rotary"
    QUANTIZE = "quantize"
    ROUTING = "routing"
    RECURRENT = "recurrent"
    LOSS = "loss"
    SCAN = "scan"
    FFT = "fft"
    UNKNOWN = "unknown"


MATRIX_OPS = frozenset(
    {KernelOp.GEMM, KernelOp.CONVOLUTION, KernelOp.ATTENTION, KernelOp.RECURRENT}
)
"""Ops whose work is products of matrices: what a tensor core is for."""


class Unit(Enum):
    """The hardware that does the work. NONE: a copy engine or a link, no arithmetic to speak of."""

    TENSOR_CORE = "tensor core"
    MATRIX_CORE = "matrix core"
    CUDA_CORE = "CUDA core"
    NONE = "none"
    UNKNOWN = "unknown"

    @property
    def is_matrix(self) -> bool:
        """Whether it multiplies matrices: NVIDIA's tensor core or AMD's matrix core."""
        return self in (Unit.TENSOR_CORE, Unit.MATRIX_CORE)


class Scope(Enum):
    """The part of a name a rule looks at. HEAD: the function's own name, without return type,
    template arguments and parameters; WHOLE: everything."""

    HEAD = "head"
    WHOLE = "whole"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """One line of the table: names that match `pattern` in `scope` are `op` on `unit`, for
    `reason`."""

    pattern: re.Pattern[str]
    op: KernelOp
    unit: Unit
    reason: str
    scope: Scope


Block = tuple[KernelOp, Unit, str]
"""Rules of one op and unit as text: lines of `pattern  # reason`."""
