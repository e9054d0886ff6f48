"""Backward ops that torch differentiates no further, spelt so that it does.

No derivative rule is ours: the spelling is torch's own decomposition, or the derivative of the
forward op, taken by torch with a history of its own.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch._decomp import decomposition_table

aten = torch.ops.aten
Form = Callable[..., Any]


def differentiable_form(target: Callable[..., object]) -> Form | None:
    """What to run in place of this op where a gradient flows through it; None for most."""
    if target is aten._scaled_dot_product_flash_attention_for_cpu_backward.default:
        return _attention_backward
    return decomposition_table[target] if target in _DECOMPOSED else None


# torchgen's derivatives.yaml has no entry for these.
_DECOMPOSED = (aten.silu_backward.default, aten.native_group_norm_backward.default)


def _attention_backward(
    grad: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    out: Tensor,
    logsumexp: Tensor,
    dropout_p: float,
    is_causal: bool,
    *,
    attn_mask: Tensor | None = None,
    scale: float | None = None,
) -> tuple[Tensor, ...]:
    """The derivative of attention as products and a softmax; the scores are computed again."""
    inputs = (query, key, value)
    with torch.enable_grad():
        leaves = [x if x.requires_grad else x.detach().requires_grad_() for x in inputs]
        own = [x.view_as(x) for x in leaves]  # so that what made the inputs is not walked
        mixed = aten._scaled_dot_product_attention_math.default(
            *own, attn_mask, dropout_p, is_causal, scale=scale
        )[0]
        return torch.autograd.grad(mixed, own, grad, create_graph=True)
