"""Linear algebra: products as torch's own composites, so that they cost and fuse like torch's."""

from math import prod

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ridgeline.frontends.onnx import fuse
from ridgeline.frontends.onnx.call import Call, Value
from ridgeline.frontends.onnx.table import Row, rows


def _matmul(call: Call) -> Value:
    """A linear where the right side is a matrix of weights, else a product."""
    x = call.tensor(0)
    if call.rank(1) == 2 and x.dim() > 1 and x.is_floating_point():
        weight = transposed(call, 1)
        if weight is not None:
            return F.linear(x, weight)
    y = call.tensor(1)
    if not x.is_floating_point():
        return integer_matmul(x, y, x.dtype)
    return torch.matmul(x, y)


def transposed(call: Call, index: int) -> Tensor | None:
    """A matrix of weights with its dimensions swapped, as torch's linear has it."""
    rows_, columns = call.shape(index)
    return call.derived(index, "transposed", (columns, rows_), np.transpose)


def _linear(call: Call) -> Value:
    """What `fuse` made of a product by weights and a bias."""
    weight = transposed(call, 1)
    x, bias = call.tensor(0), call.tensor(2)
    return F.linear(x, call.tensor(1).t() if weight is None else weight, bias)


def integer_matmul(x: Tensor, y: Tensor, dtype: torch.dtype) -> Tensor:
    """A product of integers, each sum exact in 64 bits."""
    return torch.matmul(x.long(), y.long()).to(dtype)


def _gemm(call: Call) -> Value:
    """alpha * op(A) op(B) + beta * C; a linear where it is one."""
    x, c = call.tensor(0), call.optional(2)
    alpha, beta = call.number("alpha"), call.number("beta")
    if not x.is_floating_point():
        return _integer_gemm(call, x, call.tensor(1), c)
    x = x.t() if call.flag("transA") else x
    has_bias = (
        c is not None
        and beta == 1.0
        and c.shape == (call.shape(1)[0 if call.flag("transB") else 1],)
    )
    if alpha == 1.0 and (c is None or has_bias):
        weight = call.tensor(1) if call.flag("transB") else transposed(call, 1)
        return F.linear(x, call.tensor(1).t() if weight is None else weight, c)
    y = call.tensor(1).t() if call.flag("transB") else call.tensor(1)
    if c is None:
        return torch.matmul(x, y) * alpha
    return torch.addmm(c, x, y, beta=beta, alpha=alpha)


def _integer_gemm(call: Call, x: Tensor, y: Tensor, c: Tensor | None) -> Value:
    x = x.t() if call.flag("transA") else x
    y = y.t() if call.flag("transB") else y
    result = torch.matmul(x.long(), y.long()) * int(call.number("alpha"))
    return (result if c is None else result + c * int(call.number("beta"))).to(call.dtype(0))


def _einsum(call: Call) -> Value:
    call.require_size([prod(call.shape(i)) for i in range(len(call.inputs))])
    return torch.einsum(call.text("equation").replace(" ", ""), *call.tensors())


ROWS: tuple[Row, ...] = (
    *rows(
        {
            "MatMul": _matmul,
            "Gemm": _gemm,
            "Einsum": _einsum,
            "Det": lambda call: torch.linalg.det(call.tensor(0)),
        }
    ),
    Row(op="Linear", domain=fuse.DOMAIN, run=_linear),
)
