"""Attention, written out as two products and a softmax."""

from math import sqrt

import torch
from torch import Tensor

from ridgeline.backends.mlir.call import Call, shape_of
from ridgeline.backends.mlir.row import Lowering
from ridgeline.backends.mlir.rows.norms import softmax
from ridgeline.backends.mlir.rows.products import product, stacked
from ridgeline.backends.mlir.value import Operand, Value
from ridgeline.errors import UnsupportedOp


def _attention(call: Call) -> Value:
    """softmax(q k^T * scale + mask) v. Rows whose keys are all masked average the values."""
    if call.flag("enable_gqa"):
        raise UnsupportedOp("its heads share keys and values")
    if call.number("dropout_p"):
        raise UnsupportedOp("it drops scores at random")
    a, key = call.algebra, call.value("key")
    scale = call.number("scale") if call.has("scale") else 1 / sqrt(key.logical[-1])
    query = a.mul(call.value("query"), scale)
    *batch, rows, _ = call.shape
    scores = product(a, *(stacked(call.writer, x, batch) for x in (query, key)), by_rows=True)
    scores = _masked(call, scores, (*batch, rows, scores.shape[-1]))
    weights = softmax(call.writer, scores, 2)
    found = product(a, weights, stacked(call.writer, call.operand("value"), batch))
    return call.writer.reshape(found, call.shape)


def _masked(call: Call, stack: Value, shape: tuple[int, ...]) -> Value:
    """The stack of scores, with those that are not to be seen as low as can be."""
    masks: list[Operand] = [call.operand("attn_mask")] if call.has("attn_mask") else []
    if call.flag("is_causal"):
        masks.append(torch.ones(shape[-2:], dtype=torch.bool).tril())
    if not masks:
        return stack
    scores = call.writer.reshape(stack, shape)
    for mask in masks:
        scores = _hidden(call, scores, mask)
    return call.writer.reshape(scores, stack.shape)


def _hidden(call: Call, scores: Value, mask: Operand) -> Value:
    """Scores with a mask added; where it is one of truths, the others are as low as can be."""
    lowest = torch.finfo(scores.dtype).min
    if mask.dtype is not torch.bool:
        return call.algebra.add(scores, mask)
    if isinstance(mask, Tensor):
        added = torch.zeros(shape_of(mask), dtype=scores.dtype).masked_fill(~mask, lowest)
        return call.algebra.add(scores, added)
    return call.algebra.select(mask, scores, lowest, scores.logical)


ROWS: dict[str, Lowering] = {"aten.scaled_dot_product_attention": _attention}
