"""The tables behind `machine.py`: conversions, confidence, kernel kinds, assumed shares."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from ridgeline.units import MIB

Kind = Literal["gpu", "cpu", "accelerator"]
Route = Literal["eager", "compiled"]
Limit = Literal["matrix", "vector", "memory"]
DTYPES = ("fp64", "fp32", "tf32", "fp16", "bf16", "fp8", "int8", "fp4")

MATRIX_FALLBACK: Mapping[str, tuple[str, ...]] = {
    "fp64": (),
    "fp32": ("bf16",),
    "tf32": ("fp32",),
    "fp16": ("bf16", "fp32"),
    "bf16": ("fp32",),
    "fp8": ("bf16", "fp16", "fp32"),
    "int8": ("bf16", "fp16", "fp32"),
    "fp4": ("bf16", "fp16", "fp32"),
}
"""The dtypes a matrix product is converted to, in order, where neither the matrix nor the vector
unit has the dtype itself.

fp32 never becomes tf32 by itself (torch's default): it runs on the vector unit, and only where no
vector rate is published (TPU, Gaudi 2) as one bf16 pass, XLA's default precision. fp16 becomes bf16
before fp32 because our legaliser casts fp16 so on machines without it. Narrow dtypes a machine
lacks are dequantised to 16 bits (Marlin-style weight-only kernels).
"""

VECTOR_FALLBACK: Mapping[str, tuple[str, ...]] = {
    dtype: () if dtype in ("fp64", "fp32") else ("fp32",) for dtype in DTYPES
}
"""Pointwise work in a dtype without a rate of its own is computed in fp32, as every framework's
kernels do."""

CONFIDENCE: Mapping[str, bool] = {
    "read": False,
    "mixed": False,
    "measured": False,
    "user": False,
    "read-secondary": True,
    "read-conflict": True,
    "derived": True,
    "memory": True,
    "low": True,
    "announced": True,
}
"""How a description came to be -> whether output must label it. read: in the named source; mixed:
part read, part recalled; measured: by `calibrate`; user: the user's own file; read-secondary: not
the vendor's page; read-conflict: sources disagree; derived: computed from clocks; memory: recalled
datasheet; low: unverified; announced: not yet released."""

KERNEL_FEATURES: Mapping[str, tuple[str, ...]] = {
    "gemm": ("m", "n", "k"),
    "gemm_cold": ("m", "n", "k"),
    "convolution": ("m", "n", "k", "groups", "spatial_dims"),
    "convolution_cold": ("m", "n", "k", "groups", "spatial_dims"),
    "attention": ("batch_heads", "q", "kv", "head_dim"),
    "lstm": ("seq", "batch", "input", "hidden"),
    "stream_read": ("nbytes",),
    "stream_copy": ("nbytes",),
    "stream_triad": ("nbytes",),
    "permute": ("nbytes",),
    "embedding": ("rows", "row_nbytes"),
    "elementwise": ("numel",),
    "exp": ("numel",),
    "erf": ("numel",),
    "tanh": ("numel",),
    "gelu": ("numel",),
    "silu": ("numel",),
    "softmax": ("rows", "cols"),
    "layer_norm": ("rows", "cols"),
    "batch_norm": ("numel",),
    "max_pool": ("numel", "taps"),
    "avg_pool": ("numel", "taps"),
}
"""What describes one call of a kernel kind. gemm: (m, k) @ (k, n), called again and
again; gemm_cold: the same input with other weights each time, from behind the machine's
cold_nbytes; convolution_cold likewise. convolution: m = batch * output
positions, n = output channels per group, k = input channels per group * taps. attention:
batch_heads = batch * heads. stream_*: nbytes = the whole working set, all arrays together.
embedding: rows gathered and bytes per row. Pools: numel = output elements, taps = window size.
Eager kernels allocate their output, page faults of large ones included, as a user's code does."""

COLD_NBYTES = 64 * MIB
"""What a cold kind's weights lay behind in calibrations that do not say how much it was."""

_FLOPS = ("gemm", "gemm_cold", "convolution", "convolution_cold", "attention", "lstm")
_BYTES = ("stream_read", "stream_copy", "stream_triad", "permute", "embedding")
KERNEL_UNITS: Mapping[str, str] = {
    kind: "FLOP/s" if kind in _FLOPS else "bytes/s" if kind in _BYTES else "elements/s"
    for kind in KERNEL_FEATURES
}
"""Unit of the rate that ends each sample. FLOP/s: a multiply and an add are two, attention is
counted full (4 * bh * q * kv * d), lstm 8 * seq * batch * hidden * (input + hidden). bytes/s: bytes
read plus bytes written. elements/s: output elements."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Assumption:
    """A number used where a machine's description has none, and why that number."""

    value: float
    source: str


DEFAULT_ACHIEVABLE: Mapping[tuple[Kind, Limit], Assumption] = {
    ("gpu", "matrix"): Assumption(
        value=0.80,
        source="ASSUMED: median of measured/datasheet bf16 matmul over the shipped GPUs that have"
        " both (A100 0.87, H100 and H200 0.80, B200 0.78)",
    ),
    ("gpu", "vector"): Assumption(
        value=0.9,
        source="ASSUMED: pointwise FMA streams lose little but clock under load; rarely the bound",
    ),
    ("gpu", "memory"): Assumption(
        value=0.9, source="ASSUMED: H200 copy reaches 4.3 of 4.8 TB/s (measured, see h200-sxm)"
    ),
    ("accelerator", "matrix"): Assumption(
        value=0.75,
        source=(
            "ASSUMED: between Gaudi 3 (0.74) and Gaudi 2 (0.97), the shipped accelerators with a "
            "measured matmul"
        ),
    ),
    ("accelerator", "vector"): Assumption(value=0.9, source="ASSUMED: as for GPUs"),
    ("accelerator", "memory"): Assumption(
        value=0.85, source="ASSUMED: between CPUs and GPUs; nothing public"
    ),
    ("cpu", "matrix"): Assumption(
        value=0.8,
        source="ASSUMED: oneDNN fp32 GEMM against cores x clock x FMA width; calibrate instead",
    ),
    ("cpu", "vector"): Assumption(
        value=0.8, source="ASSUMED: as the CPU matrix rate, the same units do both"
    ),
    ("cpu", "memory"): Assumption(
        value=0.8, source="ASSUMED: STREAM triad on full-channel servers is usually 75-85% of peak"
    ),
}
"""Share of the datasheet ceiling taken as achievable where nothing was measured. Assumptions, and
labelled so in `source`."""

AMD_GPU_MATRIX = Assumption(
    value=0.60,
    source="ASSUMED: as for GPUs, over AMD's alone (MI300X 0.51, MI325X 0.60, MI355X 0.62)",
)
"""AMD's GPUs throttle further below their datasheet than others: their own median."""

ASSUMED_VECTOR_SHARE = Assumption(
    value=1 / 32,
    source="ASSUMED: fp32 vector = 1/32 of the bf16 matrix rate, the ratio of TPU v5p's VPU"
    " (2 cores x 8 x 128 lanes x 4 ALUs x 1.75 GHz = 14.3e12/s) to its 459e12;"
    " the vendor prints no vector rate",
)
