"""Attention and rotary positions.

Shapes: B samples, H query heads, K key heads, T queries, S keys, d head size.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from ridgeline.frontends.onnx.call import Call, Result, Value, dtype_of, several
from ridgeline.frontends.onnx.dtypes import element_type
from ridgeline.frontends.onnx.table import Row, rows


def heads(x_BTD: Tensor, count: int) -> Tensor:
    """(B, T, H*d) as (B, H, T, d)."""
    batch, tokens, width = x_BTD.shape
    return x_BTD.reshape(batch, tokens, count, width // count).transpose(1, 2)


def joined(x_BHTd: Tensor) -> Tensor:
    """(B, H, T, d) as (B, T, H*d)."""
    return x_BHTd.transpose(1, 2).flatten(2)


def _attention(call: Call) -> Result:
    q, k, v = (call.tensor(i) for i in range(3))
    is_flat = q.dim() == 3
    if is_flat:
        q = heads(q, call.integer("q_num_heads"))
        k, v = (heads(t, call.integer("kv_num_heads")) for t in (k, v))
    if call.has(4):
        k, v = torch.cat((call.tensor(4), k), 2), torch.cat((call.tensor(5), v), 2)
    scale = call.number("scale") if call.given("scale") else q.shape[-1] ** -0.5
    is_causal, bias = _bias(call, q, k)
    softcap = call.number("softcap", 0.0)
    if call.wants(3) or softcap or call.given("softmax_precision"):
        y, scores = _spelt_out(call, q, k, v, bias, scale, softcap)
    else:
        y, scores = attend(q, k, v, bias, scale, is_causal=is_causal), None
    return several(joined(y) if is_flat else y, k, v, scores)[: max(call.num_outputs, 1)]


def attend(
    q_BHTd: Tensor,
    k_BKSd: Tensor,
    v_BKSd: Tensor,
    bias: Tensor | None,
    scale: float,
    *,
    is_causal: bool = False,
) -> Tensor:
    """torch's attention; key heads fewer than query heads are shared."""
    is_shared = q_BHTd.shape[1] != k_BKSd.shape[1]
    return F.scaled_dot_product_attention(
        q_BHTd, k_BKSd, v_BKSd, bias, 0.0, is_causal, scale=scale, enable_gqa=is_shared
    )


def _bias(call: Call, q: Tensor, k: Tensor) -> tuple[bool, Tensor | None]:
    """(whether a plain causal flag says it all, else what is added to the scores)."""
    tokens, length = q.shape[2], k.shape[2]
    mask, is_causal = call.optional(3), call.flag("is_causal")
    left, right = call.integer("left_window_size", -1), call.integer("right_window_size", -1)
    has_window = left >= 0 or right >= 0
    filled = call.optional(6)
    is_plain = mask is None and filled is None and not has_window and not call.has(4)
    spelt = call.wants(3) or call.number("softcap", 0.0) or call.given("softmax_precision")
    if is_plain and (not is_causal or not spelt):
        return is_causal, None
    allowed: Tensor | None = None
    if is_causal or has_window:
        allowed = _allowed(call, q, k, is_causal=is_causal, left=left, right=right)
    if filled is not None:
        is_filled = torch.arange(length, device=q.device) < filled.reshape(-1, 1, 1, 1)
        allowed = is_filled if allowed is None else allowed & is_filled
    if mask is not None and mask.shape[-1] < length:
        lacking = length - mask.shape[-1]
        mask = F.pad(mask, (0, lacking), value=False if mask.dtype is torch.bool else -torch.inf)
    if mask is None or allowed is None:
        whole = allowed if mask is None else mask
    elif mask.dtype is torch.bool:
        whole = mask & allowed
    else:
        whole = torch.where(allowed, mask, -torch.inf).to(q.dtype)
    assert whole is not None
    return False, whole.expand(*whole.shape[:-2], tokens, length) if whole.dim() > 1 else whole


def _allowed(call: Call, q: Tensor, k: Tensor, *, is_causal: bool, left: int, right: int) -> Tensor:
    """Which keys each query sees; queries come after the keys that were there before."""
    i = torch.arange(q.shape[2], device=q.device).unsqueeze(1)
    j = torch.arange(k.shape[2], device=q.device)
    if call.has(4):
        i = i + (k.shape[2] - call.tensor(2).shape[-2])
    elif call.has(6):
        i = i + (call.tensor(6).reshape(-1, 1, 1, 1) - q.shape[2])
    allowed = torch.ones_like(j <= i) if not is_causal else j <= i
    if left >= 0:
        allowed = allowed & (i - j <= left)
    return allowed & (j - i <= right) if right >= 0 else allowed


def _spelt_out(
    call: Call,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    bias: Tensor | None,
    scale: float,
    softcap: float,
) -> tuple[Tensor, Tensor]:
    """(output, the scores that `qk_matmul_output_mode` names)."""
    shares = q.shape[1] // k.shape[1]
    if shares > 1:
        k, v = k.repeat_interleave(shares, 1), v.repeat_interleave(shares, 1)
    part = scale**0.5
    scores = torch.matmul(q * part, k.transpose(-1, -2) * part)
    shown = [scores]
    scores = torch.tanh(scores / softcap) * softcap if softcap else scores
    shown.append(scores)
    if bias is not None and bias.dtype is torch.bool:
        bias = torch.zeros_like(bias, dtype=q.dtype).masked_fill(~bias, -torch.inf)
    scores = scores if bias is None else scores + bias
    shown.append(scores)
    if call.given("softmax_precision"):
        scores = scores.to(dtype_of(element_type(call.integer("softmax_precision"))))
    parts = torch.softmax(scores, -1)
    if bias is not None:
        parts = parts.masked_fill(bias.amax(-1, True) == -torch.inf, 0.0)
    parts = parts.to(q.dtype)
    mode = call.integer("qk_matmul_output_mode", 0)
    return torch.matmul(parts, v), (*shown, parts)[mode]


def rotated(x_BTHd: Tensor, cos: Tensor, sin: Tensor, *, is_interleaved: bool) -> Tensor:
    """Pairs of features turned by their angles; cos and sin are (B, T, 1, d/2)."""
    if is_interleaved:
        a, b = x_BTHd[..., 0::2], x_BTHd[..., 1::2]
        return torch.stack((cos * a - sin * b, sin * a + cos * b), -1).flatten(-2)
    a, b = x_BTHd.chunk(2, -1)
    return torch.cat((cos * a - sin * b, sin * a + cos * b), -1)


def rotary(call: Call, x: Tensor, cos: Tensor, sin: Tensor, count: int) -> Tensor:
    """Rotary positions on (B, H, T, d) or (B, T, H*d); angles are (B, T, d/2)."""
    is_flat = x.dim() == 3
    x_BTHd = x.reshape(*x.shape[:2], count, -1) if is_flat else x.transpose(1, 2)
    width = call.integer("rotary_embedding_dim", 0) or x_BTHd.shape[-1]
    turned = rotated(
        x_BTHd[..., :width],
        cos.unsqueeze(2),
        sin.unsqueeze(2),
        is_interleaved=bool(call.integer("interleaved", 0)),
    )
    if width < x_BTHd.shape[-1]:
        turned = torch.cat((turned, x_BTHd[..., width:]), -1)
    return turned.reshape(x.shape) if is_flat else turned.transpose(1, 2)


def _rotary(call: Call) -> Value:
    x, cos, sin = (call.tensor(i) for i in range(3))
    if call.has(3):
        positions = call.tensor(3).long()
        cos, sin = F.embedding(positions, cos), F.embedding(positions, sin)
    return rotary(call, x, cos, sin, call.integer("num_heads", 0))


ROWS: tuple[Row, ...] = rows({"Attention": _attention, "RotaryEmbedding": _rotary})
