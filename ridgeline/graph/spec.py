"""TensorSpec: shape and dtype of one value, without its data."""

from dataclasses import dataclass, field
from functools import cached_property
from math import prod

import torch

from ridgeline.errors import GraphError

DTYPE_NAMES: dict[torch.dtype, str] = {
    torch.float64: "fp64",
    torch.float32: "fp32",
    torch.float16: "fp16",
    torch.bfloat16: "bf16",
    torch.float8_e4m3fn: "fp8_e4m3fn",
    torch.float8_e5m2: "fp8_e5m2",
    torch.float8_e4m3fnuz: "fp8_e4m3fnuz",
    torch.float8_e5m2fnuz: "fp8_e5m2fnuz",
    torch.float8_e8m0fnu: "fp8_e8m0fnu",
    torch.float4_e2m1fn_x2: "fp4_e2m1fn_x2",
    torch.complex64: "complex64",
    torch.complex128: "complex128",
    torch.int64: "int64",
    torch.int32: "int32",
    torch.int16: "int16",
    torch.int8: "int8",
    torch.uint8: "uint8",
    torch.uint16: "uint16",
    torch.uint32: "uint32",
    torch.uint64: "uint64",
    torch.bool: "bool",
}
DTYPES: dict[str, torch.dtype] = {name: dtype for dtype, name in DTYPE_NAMES.items()}
_FLOATING = ("fp", "bf", "complex")


def dtype_name(dtype: torch.dtype) -> str:
    """The short name of a torch dtype, e.g. "bf16". Raises GraphError for an unknown one."""
    try:
        return DTYPE_NAMES[dtype]
    except KeyError:
        raise GraphError(
            f"dtype {dtype} has no short name; add it to DTYPE_NAMES in ridgeline/graph/spec.py."
        ) from None


@dataclass(frozen=True)
class TensorSpec:
    """Shape and dtype of one value. A symbolic dimension is its example size here and its name in
    `symbols`.
    """

    shape: tuple[int, ...]
    dtype: str
    symbols: tuple[str | None, ...] = ()
    # Distinct elements in memory where that is fewer than `numel` (an expanded view reads one many
    # times); a matter of layout, so two specs that differ only here are equal.
    stored: int | None = field(default=None, compare=False)

    @cached_property
    def numel(self) -> int:
        """Number of elements."""
        return prod(self.shape)

    @property
    def itemsize(self) -> int:
        """Bytes per element."""
        return DTYPES[self.dtype].itemsize

    @property
    def nbytes(self) -> int:
        """Bytes of its distinct elements."""
        return (self.numel if self.stored is None else self.stored) * self.itemsize

    @property
    def is_floating(self) -> bool:
        """Whether gradients can flow through it."""
        return self.dtype.startswith(_FLOATING)

    def __str__(self) -> str:
        symbols = self.symbols or (None,) * len(self.shape)
        dims = (f"{s}={d}" if s else str(d) for d, s in zip(self.shape, symbols, strict=True))
        return f"{self.dtype}[{','.join(dims)}]"


def spec_of(value: torch.Tensor) -> TensorSpec:
    """The spec of a tensor; symbolic sizes are resolved to the example's."""
    shape = tuple(size_hint(d) for d in value.shape)
    symbols = tuple(None if isinstance(d, int) else str(d) for d in value.shape)
    stored = None
    if value.layout is torch.strided and 0 in value.stride():
        stored = prod(d for d, stride in zip(shape, value.stride(), strict=True) if stride != 0)
    has_symbols = any(s is not None for s in symbols)
    return TensorSpec(shape, dtype_name(value.dtype), symbols if has_symbols else (), stored)


def size_hint(size: int | torch.SymInt) -> int:
    """The example value of a possibly symbolic size. Raises GraphError where the size depends on
    data.
    """
    if isinstance(size, int):
        return size
    hint = size.node.hint
    if hint is None:
        raise GraphError(
            f"size {size} depends on data, so its cost is unknown; "
            "give the model a static shape there."
        )
    return int(hint)
