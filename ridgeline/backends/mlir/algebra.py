"""Arithmetic on values and numbers, element by element, in TOSA's ops."""

from collections.abc import Sequence
from math import prod

import torch
from torch import Tensor

from ridgeline.backends.mlir.value import Operand, Value, element_type, plain, tensor_type
from ridgeline.backends.mlir.writer import Writer, literal

_NO_SHIFT = 0


class Algebra:
    """Element-wise operations. Operands broadcast as in torch, and need not lie alike."""

    def __init__(self, writer: Writer) -> None:
        self.writer = writer

    def add(self, x: Operand | float, y: Operand | float) -> Value:
        """x + y."""
        return self.binary("tosa.add", x, y)

    def sub(self, x: Operand | float, y: Operand | float) -> Value:
        """x - y."""
        return self.binary("tosa.sub", x, y)

    def mul(self, x: Operand | float, y: Operand | float) -> Value:
        """x * y."""
        return self.binary("tosa.mul", x, y)

    def div(self, x: Operand | float, y: Operand | float) -> Value:
        """x / y in floating point: by a number as a product with its inverse."""
        if isinstance(y, int | float):
            return self.mul(x, 1.0 / y)
        (divisor,) = self.aligned([y])
        return self.mul(x, self.unary("tosa.reciprocal", divisor))

    def unary(self, name: str, x: Value) -> Value:
        """One operation of one operand."""
        return self.writer.op(name, [x], x.shape, x.dtype, x.order)

    def negate(self, x: Value) -> Value:
        """-x."""
        zero = self.writer.splat(0, [1], x.dtype)
        return self.writer.op("tosa.negate", [x, zero, zero], x.shape, x.dtype, x.order)

    def clamp(self, x: Value, low: float | None, high: float | None) -> Value:
        """x between two bounds, either of which may be absent."""
        if low is not None and high is not None and x.dtype.is_floating_point:
            kind = element_type(x.dtype)
            given = {"min_val": low, "max_val": high}
            bounds = {k: f"{literal(v, x.dtype)} : {kind}" for k, v in given.items()}
            return self.writer.op("tosa.clamp", [x], x.shape, x.dtype, x.order, **bounds)
        for name, bound in (("tosa.maximum", low), ("tosa.minimum", high)):
            if bound is not None:
                x = self.binary(name, x, bound)
        return x

    def binary(
        self,
        name: str,
        x: Operand | float,
        y: Operand | float,
        dtype: torch.dtype | None = None,
    ) -> Value:
        """One operation of two operands of one type; `dtype` is the result's where that differs."""
        operands: list[Value | str] = list(self.aligned([x, y]))
        left, right = operands[:2]
        assert isinstance(left, Value)
        assert isinstance(right, Value)
        shape = [
            max(a, b) if 0 not in (a, b) else 0
            for a, b in zip(left.shape, right.shape, strict=True)
        ]
        if name == "tosa.mul":
            operands.append(self.writer.splat(_NO_SHIFT, [1], torch.int8))
        return self.writer.op(name, operands, shape, dtype or left.dtype, left.order)

    def select(
        self, condition: Operand, x: Operand | float, y: Operand | float, shape: Sequence[int]
    ) -> Value:
        """x where the condition holds, else y."""
        values = self.aligned([condition, x, y], shape)
        out = [max(sizes) for sizes in zip(*(v.shape for v in values), strict=True)]
        return self.writer.op("tosa.select", values, out, values[1].dtype, values[1].order)

    def cast(self, x: Value, dtype: torch.dtype) -> Value:
        """x in another type, rounded as torch rounds: towards zero for whole numbers."""
        if x.dtype is dtype:
            return x
        if dtype is torch.bool:
            zero = self.writer.splat(0, [1] * x.rank, x.dtype, x.order)
            equal = self.writer.op("tosa.equal", [x, zero], x.shape, torch.bool, x.order)
            return self.unary("tosa.logical_not", equal)
        name = _CASTS.get((x.dtype.is_floating_point, dtype.is_floating_point))
        if name is None or x.dtype is torch.bool:
            return self.writer.op("tosa.cast", [x], x.shape, dtype, x.order)
        target = tensor_type(x.shape, dtype)
        return self.writer.value(f"{name} {x.name} : {x.type} to {target}", x.shape, dtype, x.order)

    def aligned(
        self, operands: Sequence[Operand | float], shape: Sequence[int] | None = None
    ) -> list[Value]:
        """The operands with one rank, lying in one order: that of the largest value."""
        values = [o for o in operands if isinstance(o, Value)]
        tensors = [o for o in operands if isinstance(o, Tensor)]
        rank = max([len(shape or ()), *(v.rank for v in values), *(t.dim() for t in tensors)])
        full = [v for v in values if v.rank == rank]
        leading = max(full, key=lambda v: (v.numel, not v.is_plain), default=None)
        order = leading.order if leading else plain(rank)
        dtypes = [*(v.dtype for v in values), *(t.dtype for t in tensors)]
        kinds = [dtype for dtype in dtypes if dtype is not torch.bool]
        dtype = kinds[0] if kinds else torch.bool
        return [self._placed(o, order, dtype) for o in operands]

    def _placed(
        self, operand: Operand | float, order: tuple[int, ...], dtype: torch.dtype
    ) -> Value:
        rank = len(order)
        if isinstance(operand, int | float):
            return self.writer.splat(operand, [1] * rank, dtype, order)
        if isinstance(operand, Tensor):
            wide = operand.reshape((1,) * (rank - operand.dim()) + tuple(operand.shape))
            return self.writer.constant(wide, order)
        if operand.rank < rank:
            flat = self.writer.move(operand, plain(operand.rank))
            shape = (1,) * (rank - operand.rank) + flat.shape
            operand = self.writer.reshape(flat, shape)
        return self.writer.move(operand, order)

    def reduce(self, name: str, x: Value, dims: Sequence[int]) -> Value:
        """x reduced over dimensions of the graph's tensor, each kept as one."""
        for dim in dims:
            axis = x.order.index(dim)
            shape = [1 if i == axis else size for i, size in enumerate(x.shape)]
            if x.shape[axis] == 1:
                continue
            x = self.writer.op(name, [x], shape, x.dtype, x.order, axis=f"{axis} : i32")
        return x

    def mean(self, x: Value, dims: Sequence[int]) -> Value:
        """The mean over dimensions, each kept as one."""
        count = prod(x.logical[d] for d in dims)
        return self.mul(self.reduce("tosa.reduce_sum", x, dims), 1.0 / count)

    def squeezed(self, x: Value, dims: Sequence[int]) -> Value:
        """x without dimensions of size one."""
        kept = [d for d in x.order if d not in dims]
        ranks = {d: i for i, d in enumerate(sorted(kept))}
        shape = [x.shape[x.order.index(d)] for d in kept]
        return self.writer.reshape(x, shape, tuple(ranks[d] for d in kept))


# (from floating, to floating) -> the cast that TOSA lacks: it knows no 64-bit numbers.
_CASTS = {(False, True): "arith.sitofp", (True, False): "arith.fptosi"}
