"""Attention, written out as two products and a softmax."""

from math import sqrt

import torch
from torch import Tensor

from ridgeline.backends.mlir.call import Call, shape_of
from ridgeline.backends.mlir.row import Lowering
from ridgeline.backends.mlir.rows.norms import softmax
from ridgeline.backends.mlir.rows.products import matmul
from ridgeline.backends.mlir.value import Operand, Value
from ridgeline.backends.mlir.views import permuted
from ridgeline.errors import UnsupportedOp


def _attention(call: Call) -> Value:
    """softmax(q k^T * scale + mask) v. Rows whose keys are all masked average the values."""
    if call.flag("enable_gqa"):
        raise UnsupportedOp("its heads share keys and values")
    if call.number("dropout_p"):
        raise UnsupportedOp("it drops scores at random")
    a, query, key = call.algebra, call.value("query"), call.value("key")
    scale = call.number("scale") if call.has("scale") else 1 / sqrt(query.logical[-1])
    rank = key.rank
    across = permuted(key, [*range(rank - 2), rank - 1, rank - 2])
    scores = a.mul(matmul(a, query, across), scale)
    if call.flag("is_causal"):
        ones = torch.ones(scores.logical[-2:], dtype=torch.bool).tril()
        scores = _masked(call, scores, ones)
    if call.has("attn_mask"):
        scores = _masked(call, scores, call.operand("attn_mask"))
    weights = softmax(call.writer, scores, scores.rank - 1)
    return matmul(a, weights, call.value("value"))


def _masked(call: Call, scores: Value, mask: Operand) -> Value:
    """Scores with a mask added; where it is one of truths, the others are as low as can be."""
    lowest = torch.finfo(scores.dtype).min
    if mask.dtype is not torch.bool:
        return call.algebra.add(scores, mask)
    if isinstance(mask, Tensor):
        added = torch.zeros(shape_of(mask), dtype=scores.dtype).masked_fill(~mask, lowest)
        return call.algebra.add(scores, added)
    return call.algebra.select(mask, scores, lowest, scores.logical)


ROWS: dict[str, Lowering] = {"aten.scaled_dot_product_attention": _attention}
