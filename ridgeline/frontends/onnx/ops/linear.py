"""Linear algebra: products as torch's own composites, so that they cost and fuse like torch's."""

import torch
from torch import Tensor
from torch.nn import functional as F

from ridgeline.frontends.onnx.call import Call, Value
from ridgeline.frontends.onnx.table import Row, rows
from ridgeline.frontends.onnx.weights import Known


def _matmul(call: Call) -> Value:
    """A linear where the right side is a matrix of weights, else a product."""
    x, y = call.tensor(0), call.tensor(1)
    if isinstance(call.value(1), Known) and y.dim() == 2 and x.dim() > 1 and x.is_floating_point():
        return F.linear(x, y.t())
    if not x.is_floating_point():
        return integer_matmul(x, y, x.dtype)
    return torch.matmul(x, y)


def integer_matmul(x: Tensor, y: Tensor, dtype: torch.dtype) -> Tensor:
    """A product of integers, each sum exact in 64 bits."""
    return torch.matmul(x.long(), y.long()).to(dtype)


def _gemm(call: Call) -> Value:
    """alpha * op(A) op(B) + beta * C; a linear where it is one."""
    x, y, c = call.tensor(0), call.tensor(1), call.optional(2)
    alpha, beta = call.number("alpha"), call.number("beta")
    if not x.is_floating_point():
        return _integer_gemm(call, x, y, c)
    x = x.t() if call.flag("transA") else x
    has_bias = c is not None and beta == 1.0 and c.shape == (call.shape(1)[0 if call.flag("transB") else 1],)
    if alpha == 1.0 and (c is None or has_bias):
        return F.linear(x, y if call.flag("transB") else y.t(), c)
    y = y.t() if call.flag("transB") else y
    if c is None:
        return torch.matmul(x, y) * alpha
    return torch.addmm(c, x, y, beta=beta, alpha=alpha)


def _integer_gemm(call: Call, x: Tensor, y: Tensor, c: Tensor | None) -> Value:
    x = x.t() if call.flag("transA") else x
    y = y.t() if call.flag("transB") else y
    result = torch.matmul(x.long(), y.long()) * int(call.number("alpha"))
    return (result if c is None else result + c * int(call.number("beta"))).to(call.dtype(0))


def _einsum(call: Call) -> Value:
    return torch.einsum(call.text("equation").replace(" ", ""), *call.tensors())


ROWS: tuple[Row, ...] = rows(
    {
        "MatMul": _matmul,
        "Gemm": _gemm,
        "Einsum": _einsum,
        "Det": lambda call: torch.linalg.det(call.tensor(0)),
    }
)
