"""com.microsoft: what onnxruntime's optimisers fuse, and what its exporters of transformers write.

Semantics: onnxruntime's docs/ContribOperators.md. Shapes as in `attention`; P past keys.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from ridgeline.frontends.onnx.call import Call, Result, Value, several
from ridgeline.frontends.onnx.ops.attention import attend, heads, joined, rotary, rotated
from ridgeline.frontends.onnx.ops.convolution import conv
from ridgeline.frontends.onnx.ops.linear import transposed
from ridgeline.frontends.onnx.ops.normalisation import rms_norm
from ridgeline.frontends.onnx.table import Row, rows

DOMAIN = "com.microsoft"
_ACTIVATIONS = {
    "Relu": torch.relu,
    "Tanh": torch.tanh,
    "Sigmoid": torch.sigmoid,
    "Softplus": F.softplus,
    "Softsign": F.softsign,
}


# activations


def _biased_gelu(approximate: str, call: Call) -> Value:
    x, bias = call.tensor(0), call.optional(1)
    return F.gelu(x if bias is None else x + bias, approximate=approximate)


def _quick_gelu(call: Call) -> Value:
    x = call.tensor(0)
    return x * torch.sigmoid(call.number("alpha", 1.702) * x)


def _bias_split_gelu(call: Call) -> Value:
    value, gate = (call.tensor(0) + call.tensor(1)).chunk(2, -1)
    return value * F.gelu(gate)


# norms


def _skip_layer_norm(call: Call) -> Result:
    """Outputs 1 and 2, mean and deviation, are for training and never made."""
    scale, shift = call.tensor(2), call.optional(3)
    total = _skipped(call, 4)
    y = F.layer_norm(total, list(scale.shape), scale, shift, call.number("epsilon", 1e-12))
    return several(y, None, None, total)[: max(call.num_outputs, 1)]


def _skip_rms_norm(call: Call) -> Result:
    total = _skipped(call, 3)
    y = rms_norm(total, call.tensor(2), total.dim() - 1, call.number("epsilon", 1e-5))
    return several(y, None, None, total)[: max(call.num_outputs, 1)]


def _skipped(call: Call, bias: int) -> Tensor:
    total = call.tensor(0) + call.tensor(1)
    return total + call.tensor(bias) if call.has(bias) else total


def _embed_layer_norm(call: Call) -> Result:
    """Words, positions and segments summed and normalised; the second output counts the mask."""
    ids, segments = call.tensor(0).long(), call.optional(1)
    words, places, kinds = call.tensor(2), call.tensor(3), call.optional(4)
    at = call.tensor(8).long() if call.has(8) else torch.arange(ids.shape[1], device=ids.device)
    total = F.embedding(ids, words) + F.embedding(at, places)
    if segments is not None and kinds is not None:
        total = total + F.embedding(segments.long(), kinds)
    scale, shift = call.tensor(5), call.tensor(6)
    y = F.layer_norm(total, list(scale.shape), scale, shift, call.number("epsilon", 1e-12))
    mask = call.optional(7)
    zeros = torch.zeros(ids.shape[0], dtype=torch.int32, device=ids.device)
    lengths = zeros if mask is None else mask.sum(1).to(torch.int32)
    return several(y, lengths, total)[: max(call.num_outputs, 1)]


def _group_norm(call: Call) -> Value:
    """Channels come last, unless the attribute says otherwise."""
    x, scale, shift = (call.tensor(i) for i in range(3))
    is_last = bool(call.integer("channels_last", 1))
    x = x.movedim(-1, 1) if is_last else x
    y = F.group_norm(x, call.integer("groups"), scale, shift, call.number("epsilon", 1e-5))
    y = F.silu(y) if call.integer("activation") else y
    return y.movedim(1, -1) if is_last else y


# attention


def _attention(call: Call) -> Result:
    """One product makes queries, keys and values of all heads."""
    x, bias, count = call.tensor(0), call.optional(2), call.integer("num_heads")
    weight = transposed(call, 1)
    projected = F.linear(x, call.tensor(1).t() if weight is None else weight, bias)
    width = projected.shape[-1] // 3
    parts = torch.split(projected, call.integers("qkv_hidden_sizes", (width,) * 3), -1)
    q, k, v = (heads(p, count) for p in parts)
    past = call.optional(4)
    if past is not None:
        k, v = torch.cat((past[0], k), 2), torch.cat((past[1], v), 2)
    y = _attended(call, q, k, v, mask=call.optional(3), extra=call.optional(5))
    return several(joined(y), torch.stack((k, v)))[: max(call.num_outputs, 1)]


def _multi_head_attention(call: Call) -> Result:
    count = call.integer("num_heads")
    if call.rank(0) != 3 or not call.has(1) or not call.has(2):
        raise call.error("queries, keys and values packed in one tensor are not taken")
    q, k, v = (call.tensor(i) for i in range(3))
    bias = call.optional(3)
    if bias is not None:
        shift = torch.split(bias, [q.shape[-1], k.shape[-1], v.shape[-1]])
        q, k, v = q + shift[0], k + shift[1], v + shift[2]
    q = heads(q, count)
    k, v = (t if t.dim() == 4 else heads(t, count) for t in (k, v))
    if call.has(6):
        k, v = torch.cat((call.tensor(6), k), 2), torch.cat((call.tensor(7), v), 2)
    y = _attended(call, q, k, v, mask=call.optional(4), extra=call.optional(5))
    return several(joined(y), k, v)[: max(call.num_outputs, 1)]


def _attended(
    call: Call, q: Tensor, k: Tensor, v: Tensor, *, mask: Tensor | None, extra: Tensor | None
) -> Tensor:
    scale = call.number("scale", 0.0) or q.shape[-1] ** -0.5
    is_causal = bool(call.integer("unidirectional", 0))
    if mask is None and extra is None and (not is_causal or q.shape[2] == k.shape[2]):
        return attend(q, k, v, None, scale, is_causal=is_causal)
    bias = torch.zeros((), dtype=q.dtype, device=q.device) if extra is None else extra
    if mask is not None:
        hidden = call.number("mask_filter_value", -10000.0)
        bias = bias + (1 - _visible(call, mask, k).to(q.dtype)) * hidden
    if is_causal:
        bias = torch.where(_before(q, k), bias, -torch.inf)
    bias = bias.expand(*bias.shape[:-2], q.shape[2], k.shape[2]) if bias.dim() > 1 else bias
    return attend(q, k, v, bias, scale)


def _visible(call: Call, mask: Tensor, k: Tensor) -> Tensor:
    """1 where a key may be seen: of a mask of keys, of queries and keys, or of lengths."""
    samples, length = k.shape[0], k.shape[2]
    if mask.dim() == 1 and mask.shape[0] == samples:
        return torch.arange(length, device=k.device) < mask.reshape(-1, 1, 1, 1)
    if mask.dim() == 2:
        return mask.reshape(samples, 1, 1, length)
    if mask.dim() == 3:
        return mask.unsqueeze(1)
    raise call.error(f"a mask of shape {list(mask.shape)} is not taken")


def _before(q: Tensor, k: Tensor) -> Tensor:
    """Which keys come no later than each query; the queries are the last of the keys."""
    i = torch.arange(q.shape[2], device=q.device).unsqueeze(1) + (k.shape[2] - q.shape[2])
    return torch.arange(k.shape[2], device=q.device) <= i


def _group_query_attention(call: Call) -> Result:
    """Causal, keys shared by groups of query heads. Samples are taken to be of one length: that of
    the past that the shapes say plus the new tokens.
    """
    count, shared = call.integer("num_heads"), call.integer("kv_num_heads")
    if call.number("softcap", 0.0) or call.integer("smooth_softmax", 0):
        raise call.error("softcap and smooth_softmax are not taken")
    q, k, v = _unpacked(call, count, shared)
    past = call.shape(3)[2] if call.has(3) else 0
    if call.integer("do_rotary", 0):
        q, k = (_turned(call, t, past) for t in (q, k))
    if past:
        k, v = torch.cat((call.tensor(3), k), 2), torch.cat((call.tensor(4), v), 2)
    scale = call.number("scale", 0.0) or q.shape[-1] ** -0.5
    window = call.integer("local_window_size", -1)
    if past == 0 and window < 0:
        y = attend(q, k, v, None, scale, is_causal=True)
    else:
        seen = _before(q, k)
        if window >= 0:
            seen = seen & _within(q, k, window)
        y = attend(q, k, v, seen, scale)
    return several(joined(y), k, v)[: max(call.num_outputs, 1)]


def _within(q: Tensor, k: Tensor, window: int) -> Tensor:
    """Which keys are among the latest `window` that a query may see."""
    i = torch.arange(q.shape[2], device=q.device).unsqueeze(1) + (k.shape[2] - q.shape[2])
    return i - torch.arange(k.shape[2], device=q.device) < window


def _unpacked(call: Call, count: int, shared: int) -> tuple[Tensor, Tensor, Tensor]:
    q = call.tensor(0)
    if call.has(1):
        return heads(q, count), heads(call.tensor(1), shared), heads(call.tensor(2), shared)
    size = q.shape[-1] // (count + 2 * shared)
    parts = torch.split(q, [count * size, shared * size, shared * size], -1)
    return heads(parts[0], count), heads(parts[1], shared), heads(parts[2], shared)


def _turned(call: Call, x_BHTd: Tensor, past: int) -> Tensor:
    steps = slice(past, past + x_BHTd.shape[2])
    cos, sin = (call.tensor(i)[steps].unsqueeze(0) for i in (7, 8))
    return _rotated(x_BHTd, cos, sin, is_interleaved=bool(call.integer("rotary_interleaved", 0)))


def _rotated(x_BHTd: Tensor, cos: Tensor, sin: Tensor, *, is_interleaved: bool) -> Tensor:
    width = 2 * cos.shape[-1]
    x_BTHd = x_BHTd.transpose(1, 2)
    turned = rotated(
        x_BTHd[..., :width], cos.unsqueeze(2), sin.unsqueeze(2), is_interleaved=is_interleaved
    )
    if width < x_BTHd.shape[-1]:
        turned = torch.cat((turned, x_BTHd[..., width:]), -1)
    return turned.transpose(1, 2)


def _rotary(call: Call) -> Value:
    """One position is that of the first token; else there is one for each."""
    x, places, cos, sin = (call.tensor(i) for i in range(4))
    tokens = x.shape[1] if x.dim() == 3 else x.shape[2]
    if places.numel() == 1:
        places = places.reshape(1, 1) + torch.arange(tokens, device=x.device)
    count = call.integer("num_heads", 0)
    if x.dim() == 3 and not count:
        count = x.shape[-1] // (call.integer("rotary_embedding_dim", 0) or 2 * cos.shape[-1])
    return rotary(call, x, F.embedding(places.long(), cos), F.embedding(places.long(), sin), count)


# products


def _fused_matmul(call: Call) -> Value:
    x, y = call.tensor(0), call.tensor(1)
    x = x.transpose(-1, -2) if call.integer("transA", 0) else x
    y = y.transpose(-1, -2) if call.integer("transB", 0) else y
    alpha = call.number("alpha", 1.0)
    product = torch.matmul(x, y)
    return product if alpha == 1.0 else product * alpha


def _activated(call: Call, x: Tensor) -> Tensor:
    name = call.text("activation", "")
    parameters = call.numbers("activation_params", ())
    match name:
        case "":
            return x
        case "LeakyRelu":
            return F.leaky_relu(x, parameters[0] if parameters else 0.01)
        case "Clip":
            return x.clamp(*parameters)
        case "HardSigmoid":
            return (x * parameters[0] + parameters[1]).clamp(0, 1)
    if name not in _ACTIVATIONS:
        raise call.error(f"the activation {name} is not taken")
    return _ACTIVATIONS[name](x)


def _fused_conv(call: Call) -> Value:
    y = conv(call, call.tensor(0), call.tensor(1), call.optional(2))
    return _activated(call, y + call.tensor(3) if call.has(3) else y)


def _fused_gemm(call: Call) -> Value:
    x, y, c = call.tensor(0), call.tensor(1), call.optional(2)
    x = x.t() if call.integer("transA", 0) else x
    y = y.t() if call.integer("transB", 0) else y
    product = torch.matmul(x, y) * call.number("alpha", 1.0)
    return _activated(call, product if c is None else product + call.number("beta", 1.0) * c)


def _matmul_nbits(call: Call) -> Value:
    """A linear whose weights are 4 or 8 bits with a scale per block along the inputs."""
    x, packed, scales = call.tensor(0), call.tensor(1), call.tensor(2)
    inputs, outputs = call.integer("K"), call.integer("N")
    bits, block = call.integer("bits", 4), call.integer("block_size")
    if bits not in (4, 8):
        raise call.error(f"weights of {bits} bits are not taken")
    codes = _codes(packed, bits).reshape(outputs, -1, block)
    blocks = codes.shape[1]
    if call.has(3) and not call.tensor(3).is_floating_point():
        zero = _codes(call.tensor(3).reshape(outputs, -1), bits)[:, :blocks].unsqueeze(-1)
    else:
        middle = torch.full((outputs, blocks), 2 ** (bits - 1), device=x.device)
        zero = (call.tensor(3).reshape(outputs, blocks) if call.has(3) else middle).unsqueeze(-1)
    weight = (codes.to(x.dtype) - zero.to(x.dtype)) * scales.reshape(outputs, blocks, 1)
    return F.linear(x, weight.reshape(outputs, -1)[:, :inputs], call.optional(5))


def _codes(packed: Tensor, bits: int) -> Tensor:
    """Bytes as the numbers they hold, the low half first."""
    if bits == 8:
        return packed
    return torch.stack((packed & 15, packed >> 4), -1).flatten(-2)


ROWS: tuple[Row, ...] = rows(
    {
        "Gelu": lambda call: F.gelu(call.tensor(0)),
        "FastGelu": lambda call: _biased_gelu("tanh", call),
        "BiasGelu": lambda call: _biased_gelu("none", call),
        "QuickGelu": _quick_gelu,
        "BiasSplitGelu": _bias_split_gelu,
        "BiasAdd": lambda call: call.tensor(0) + call.tensor(1) + call.tensor(2),
        "SkipLayerNormalization": _skip_layer_norm,
        "SkipSimplifiedLayerNormalization": _skip_rms_norm,
        "EmbedLayerNormalization": _embed_layer_norm,
        "GroupNorm": _group_norm,
        "Attention": _attention,
        "MultiHeadAttention": _multi_head_attention,
        "GroupQueryAttention": _group_query_attention,
        "RotaryEmbedding": _rotary,
        "FusedMatMul": _fused_matmul,
        "FusedConv": _fused_conv,
        "FusedGemm": _fused_gemm,
        "MatMulNBits": _matmul_nbits,
    },
    domain=DOMAIN,
)
