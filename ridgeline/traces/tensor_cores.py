"""Products that a tensor core could have done and a CUDA core did, and why."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum

from ridgeline.traces.kernel_kinds import KernelOp, Unit
from ridgeline.traces.kernels import Kernel
from ridgeline.traces.precision import ITEM_BITS, Precision, precision_of_types

Shape = tuple[int, ...]


class Reason(Enum):
    """Why a kernel is or is not on a tensor core. Those from FP32_WITHOUT_TF32 on are eligible: a
    change of the program would move them there."""

    ON_TENSOR_CORE = "runs on tensor cores"
    NO_PRODUCT = "multiplies no matrices"
    VECTOR = "a matrix times a vector: bound by memory, a tensor core would not help"
    DEPTHWISE = "a depthwise convolution: each channel is a product of its own"
    FORMAT = "no tensor core multiplies this format"
    FP32_WITHOUT_TF32 = "fp32 without TF32"
    FP32_NO_TF32_UNIT = "fp32 on a device whose tensor cores take fp16 only"
    UNALIGNED = "dimensions are not multiples of 16 bytes"
    LIBRARY_CHOICE = "the library chose a CUDA-core kernel"

    @property
    def is_eligible(self) -> bool:
        """Whether a change of the program would move it to tensor cores."""
        return self in _ELIGIBLE


_ELIGIBLE = frozenset(
    {Reason.FP32_WITHOUT_TF32, Reason.FP32_NO_TF32_UNIT, Reason.UNALIGNED, Reason.LIBRARY_CHOICE}
)

FIXES: Mapping[Reason, str] = {
    Reason.FP32_WITHOUT_TF32: 'torch.set_float32_matmul_precision("high") or autocast to bf16',
    Reason.FP32_NO_TF32_UNIT: "autocast to fp16",
    Reason.UNALIGNED: "pad the named dimensions",
    Reason.LIBRARY_CHOICE: "try torch.backends.cudnn.benchmark = True or torch.compile",
}
"""What to do about each eligible reason."""

_SM_OF_FIRST_TF32 = (8, 0)  # NVIDIA A100 whitepaper 2020: TF32, bf16 and fp64 tensor cores
_SM_OF_FIRST_TENSOR_CORE = (7, 0)
_ALIGNED_BYTES = 16  # NVIDIA deep learning performance guide, matrix multiplication, section 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Eligibility:
    """The verdict on one kernel. why: a sentence, which names the dimensions that do not align."""

    reason: Reason
    why: str


def _pair(first: Shape, second: Shape) -> dict[str, int]:
    """M, N and K of (..., M, K) @ (..., K, N); a vector on either side is one row or column."""
    rows = first if len(first) > 1 else (1, *first)
    columns = second if len(second) > 1 else (*second, 1)
    return {"M": rows[-2], "N": columns[-1], "K": rows[-1]}


def _linear(shapes: Sequence[Shape]) -> dict[str, int]:
    """M, N and K of x (..., K) times the transpose of a weight (N, K)."""
    x, weight = shapes[0], shapes[1]
    num_rows = 1
    for size in x[:-1]:
        num_rows *= size
    return {"M": num_rows, "N": weight[0], "K": weight[-1]}


def _convolution(shapes: Sequence[Shape]) -> dict[str, int]:
    """Output channels and input channels per group of a weight (K, C / groups, *R)."""
    return {"output channels": shapes[1][0], "input channels": shapes[1][1]}


def _convolution_backward(shapes: Sequence[Shape]) -> dict[str, int]:
    return _convolution(shapes[1:])


# operator -> its dimensions; those of one operator are all that must align.
_DIMENSIONS: Mapping[str, Callable[[Sequence[Shape]], dict[str, int]]] = {
    "aten::mm": lambda shapes: _pair(shapes[0], shapes[1]),
    "aten::bmm": lambda shapes: _pair(shapes[0], shapes[1]),
    "aten::mv": lambda shapes: _pair(shapes[0], shapes[1]),
    "aten::dot": lambda shapes: _pair(shapes[0], shapes[1]),
    "aten::matmul": lambda shapes: _pair(shapes[0], shapes[1]),
    "aten::_scaled_mm": lambda shapes: _pair(shapes[0], shapes[1]),
    "aten::_int_mm": lambda shapes: _pair(shapes[0], shapes[1]),
    "aten::addmm": lambda shapes: _pair(shapes[1], shapes[2]),
    "aten::_addmm_activation": lambda shapes: _pair(shapes[1], shapes[2]),
    "aten::addmv": lambda shapes: _pair(shapes[1], shapes[2]),
    "aten::baddbmm": lambda shapes: _pair(shapes[1], shapes[2]),
    "aten::linear": _linear,
    "aten::conv1d": _convolution,
    "aten::conv2d": _convolution,
    "aten::conv3d": _convolution,
    "aten::convolution": _convolution,
    "aten::_convolution": _convolution,
    "aten::cudnn_convolution": _convolution,
    "aten::miopen_convolution": _convolution,
    "aten::convolution_backward": _convolution_backward,
}


def dimensions(operator: str, shapes: Sequence[Shape]) -> dict[str, int]:
    """The dimensions of an operator's product by name, as {"M": 64, "N": 30, "K": 512}; empty for
    an operator that has no row here or whose recorded shapes do not fit it."""
    rule = _DIMENSIONS.get(operator)
    try:
        return rule(shapes) if rule else {}
    except IndexError:
        return {}


def _misaligned(found: Mapping[str, int], precision: Precision) -> str:
    """The dimensions that are no multiple of 16 bytes, in words; "" where all are. M, the rows,
    are not contiguous in memory in any layout that matters, so they need not be."""
    multiple = 8 * _ALIGNED_BYTES // ITEM_BITS[precision]
    wrong = [f"{name} = {size}" for name, size in found.items() if name != "M" and size % multiple]
    return f"{' and '.join(wrong)}: no multiple of {multiple}" if wrong else ""


def _of_fp32(capability: tuple[int, int] | None) -> Reason:
    if capability is None or capability >= _SM_OF_FIRST_TF32:
        return Reason.FP32_WITHOUT_TF32
    has_any = capability >= _SM_OF_FIRST_TENSOR_CORE
    return Reason.FP32_NO_TF32_UNIT if has_any else Reason.FORMAT


def _is_vector(kernel: Kernel, found: Mapping[str, int]) -> bool:
    return "gemv" in kernel.name.lower() or 1 in (found.get("M"), found.get("N"))


def _no_candidate(kernel: Kernel, found: Mapping[str, int]) -> Reason | None:
    """Why a tensor core is out of the question whatever the format; None if it is not."""
    if kernel.unit.is_matrix:
        return Reason.ON_TENSOR_CORE
    if kernel.op not in (KernelOp.GEMM, KernelOp.CONVOLUTION) or kernel.unit is not Unit.CUDA_CORE:
        return Reason.NO_PRODUCT
    if found.get("input channels") == 1 or "depthwise" in kernel.name.lower():
        return Reason.DEPTHWISE
    return Reason.VECTOR if _is_vector(kernel, found) else None


def eligibility(
    kernel: Kernel,
    *,
    operator: str = "",
    shapes: Sequence[Shape] = (),
    input_types: Sequence[str] = (),
    capability: tuple[int, int] | None = None,
) -> Eligibility:
    """Whether a tensor core could have done this kernel's work, and why it did not.

    operator, shapes, input_types: of the operator that launched it, as recorded (`aten::addmm`).
    capability: the device's compute capability; None is taken for a device that has TF32.
    """
    found = dimensions(operator, shapes)
    if reason := _no_candidate(kernel, found):
        return Eligibility(reason=reason, why=reason.value)
    by_type = precision_of_types(input_types)
    precision = kernel.precision if by_type is Precision.UNKNOWN else by_type
    if precision is Precision.FP32:
        reason = _of_fp32(capability)
        return Eligibility(reason=reason, why=reason.value)
    if precision not in _TENSOR_FORMATS:
        return Eligibility(reason=Reason.FORMAT, why=f"{Reason.FORMAT.value}: {precision.value}")
    if wrong := _misaligned(found, precision):
        return Eligibility(reason=Reason.UNALIGNED, why=f"{Reason.UNALIGNED.value}: {wrong}")
    return Eligibility(reason=Reason.LIBRARY_CHOICE, why=Reason.LIBRARY_CHOICE.value)


_TENSOR_FORMATS = frozenset(
    {
        Precision.FP64,
        Precision.TF32,
        Precision.FP16,
        Precision.BF16,
        Precision.FP8,
        Precision.FP4,
        Precision.INT8,
        Precision.INT4,
    }
)
