"""Matrix products: by a packed weight, or of two computed operands."""

from math import prod

import torch
from torch import Tensor

from ridgeline.backends.native import cycles
from ridgeline.backends.native.builder import Builder, Size, applied
from ridgeline.backends.native.call import Call, Operand, Result, floating
from ridgeline.backends.native.cycles import Work
from ridgeline.backends.native.tree import Fields, Host, Tree
from ridgeline.backends.native.value import Place, Value, as_matrix, joined
from ridgeline.errors import UnsupportedOp

_MOST_DEPTH = 2**16  # so that sums of 255 x 127 stay within 32 bits


def gemm(call: Call, x: Value, ldx: int, weight: Tensor, bias: Place | None, spec: Tensor) -> Host:
    """x (..., k) times a known (n, k), a host."""
    n, k = weight.shape
    m = prod(spec.shape) // n
    lean, wide = (cycles.product(m, n, k, item_nbytes=nbytes) for nbytes in (1, 2))
    is_int8 = is_in_eight_bits(call.builder, (m, n, k), lean, wide)
    own = _by_int8(call, x, ldx, weight, m) if is_int8 else _by_floats(call, x, ldx, weight)
    return Host(
        name="gemm_int8" if is_int8 else "gemm",
        fields={**own, "bias_ref": bias, "m": m, "n": n, "k": k},
        spec=spec,
        axes=(tuple(range(spec.dim() - 1)), (spec.dim() - 1,)),
        flops=2 * m * n * k,
        finish=_into,
    )


def is_in_eight_bits(builder: Builder, size: Size, lean: Work, wide: Work) -> bool:
    """Whether a product is done in eight bits; where that pays, its operations are noted. lean,
    wide: what it takes in eight bits and in bf16.
    """
    if lean.cycles >= wide.cycles or size[2] > _MOST_DEPTH:
        return False
    builder.work[size] = builder.work.get(size, 0.0) + 2.0 * prod(size)
    return size in builder.rounded


def _by_floats(call: Call, x: Value, ldx: int, weight: Tensor) -> Fields:
    packed = call.builder.packed(weight.to(x.dtype))
    return {"x_ref": x.place, "x_type": x.type, "ldx": ldx, "w_ref": packed}


def _by_int8(call: Call, x: Value, ldx: int, weight: Tensor, rows: int) -> Fields:
    rounded = call.builder.quantized(x, ldx, rows, weight.shape[1])
    return {**rounded, **call.builder.packed_int8(weight)}


def _into(target: Value) -> Fields:
    return {
        "y_ref": target.place,
        "y_type": target.type,
        "ldy": as_matrix(target.spec) or target.shape[-1],
    }


def _linear(call: Call) -> Result:
    weight = call.operand("weight")
    if not isinstance(weight, Tensor):
        return _computed(call, call.operand("input"), weight, is_transposed=True)
    if weight.dim() != 2:
        raise UnsupportedOp("its weight is a vector")
    floating(call.out)
    x, ldx = call.matrix("input")
    return call.hosted(gemm(call, x, ldx, weight, call.vector("bias"), call.out))


def _matrix_product(call: Call) -> Result:
    second = call.operand("mat2" if call.has("mat2") else "other")
    return _product(call, call.operand("self"), second)


def _product(call: Call, x: Operand, w: Operand) -> Result:
    floating(call.out)
    if isinstance(w, Tensor) and w.dim() == 2 and _rank(x) >= 2:
        left, ldx = call.as_matrix(call.settled(x))
        return call.hosted(gemm(call, left, ldx, w.t(), None, call.out))
    return _computed(call, x, w, is_transposed=False)


def _rank(operand: Operand) -> int:
    return operand.dim() if isinstance(operand, Tensor) else operand.spec.dim()


def _computed(call: Call, x: Operand, w: Operand, *, is_transposed: bool) -> Result:
    """x (*batch, m, k) @ w (*batch, k, n), or w (*batch, n, k) transposed."""
    floating(call.out)
    left, right = call.settled(x), call.settled(w)
    if min(left.spec.dim(), right.spec.dim()) < 2:
        raise UnsupportedOp("it is a product with a vector")
    if is_transposed:
        right = right.like(right.spec.transpose(-1, -2))
    left, right = _dense_rows(call, left), _dense_either(call, right)
    batch = call.out.shape[:-2]
    lefts = left.spec.expand(*batch, *left.shape[-2:])
    rights = right.spec.expand(*batch, *right.shape[-2:])
    groups, strides = _batches(batch, (lefts, rights))
    sizes = (prod(batch[d] for d in groups[0]), prod(batch[d] for d in groups[1]))
    m, k, n = lefts.shape[-2], lefts.shape[-1], rights.shape[-1]
    by_column = rights.stride(-1) != 1 and n != 1
    host = Host(
        name="bmm",
        fields={
            "x_ref": left.place,
            "w_ref": right.place,
            "x_type": left.type,
            "w_type": right.type,
            "outer": sizes[0],
            "inner": sizes[1],
            "m": m,
            "n": n,
            "k": k,
            "x_outer": strides[0][0],
            "x_inner": strides[1][0],
            "ldx": lefts.stride(-2),
            "w_outer": strides[0][1],
            "w_inner": strides[1][1],
            "ldw": rights.stride(-1 if by_column else -2),
            "is_transposed": by_column,
            "alpha_bits": 1.0,
        },
        spec=call.out,
        axes=(*groups, (call.out.dim() - 2,), (call.out.dim() - 1,)),
        flops=2 * prod(call.out.shape) * k,
        finish=lambda target: _stacked(target, sizes),
    )
    return call.hosted(host)


def _stacked(target: Value, sizes: tuple[int, int]) -> Fields:
    m, n = target.shape[-2:]
    ldy = as_matrix(target.spec) or n
    return {
        "y_ref": target.place,
        "y_type": target.type,
        "y_outer": ldy * m * sizes[1],
        "y_inner": ldy * m,
        "ldy": ldy,
    }


def _dense_rows(call: Call, value: Value) -> Value:
    return value if value.spec.stride(-1) == 1 or value.shape[-1] == 1 else call.dense(value)


def _dense_either(call: Call, value: Value) -> Value:
    return value if 1 in value.spec.stride()[-2:] else call.dense(value)


_Pair = tuple[tuple[int, ...], tuple[int, ...]]


def _batches(batch: torch.Size, specs: tuple[Tensor, ...]) -> tuple[_Pair, _Pair]:
    """Batch dimensions in two groups, and per group the strides of each tensor."""
    for cut in range(len(batch) + 1):
        groups = tuple(range(cut)), tuple(range(cut, len(batch)))
        strides = [[joined(spec, dims) for spec in specs] for dims in groups]
        if all(s is not None for group in strides for s in group):
            outer, inner = (tuple(s or 0 for s in group) for group in strides)
            return groups, (outer, inner)
    raise UnsupportedOp("its batches lie in more than two dimensions")


def _product_and_sum(call: Call) -> Result:
    """beta * self + alpha * mat1 @ mat2."""
    names = ("mat1", "mat2") if call.has("mat1") else ("batch1", "batch2")
    first, second = (call.operand(n) for n in names)
    alpha, beta = call.number("alpha"), call.number("beta")
    found = _product(call, first, second)
    tree: Tree = call.tree(found)
    if alpha != 1:
        tree = applied("AFFINE", tree, p=alpha)
    if beta == 0:
        return call.pending(tree)
    start = call.tree(call.operand("self"))
    if beta != 1:
        start = applied("AFFINE", start, p=beta)
    return call.pending(applied("ADD", tree, start))


ROWS = {
    "aten.linear": _linear,
    "aten.matmul": _matrix_product,
    "aten.mm": _matrix_product,
    "aten.bmm": _matrix_product,
    "aten.addmm": _product_and_sum,
    "aten.baddbmm": _product_and_sum,
}
