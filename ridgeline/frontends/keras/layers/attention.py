"""Attention as torch has it: one node for scores, softmax and sum.

Shapes: B samples, T queries, S keys, H query heads, K key heads, d head size, D features.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from ridgeline.frontends.keras.call import Call
from ridgeline.frontends.keras.table import Result, Row, rows
from ridgeline.frontends.keras.value import Value

# What Keras's Attention adds to the scores of hidden keys.
_HIDDEN = -1e9


def attend(
    q_BHTd: Tensor,
    k_BKSd: Tensor,
    v_BKSd: Tensor,
    mask: Tensor | None = None,
    *,
    is_causal: bool = False,
    scale: float | None = None,
) -> Tensor:
    """torch's attention; key heads fewer than query heads are shared; the scale is left out where
    it is torch's own.
    """
    is_usual = scale is None or abs(scale - q_BHTd.shape[-1] ** -0.5) < 1e-9
    is_shared = q_BHTd.shape[1] != k_BKSd.shape[1]
    return F.scaled_dot_product_attention(
        q_BHTd,
        k_BKSd,
        v_BKSd,
        mask,
        0.0,
        is_causal,
        scale=None if is_usual else scale,
        enable_gqa=is_shared,
    )


def added(mask: Tensor, like: Tensor, low: float | None = None) -> Tensor:
    """A mask as what is added to the scores. Finite, as Keras has it: a query that sees no key sees
    all alike.
    """
    bottom = -0.7 * torch.finfo(like.dtype).max if low is None else low
    return torch.where(mask, 0.0, bottom).to(like.dtype)


def _part(call: Call, name: str) -> Call:
    """A dense layer inside: what Keras calls it depends on whether the class shows it."""
    is_shown = call.layer.kind == "MultiHeadAttention" and name != "gate"
    return call.within(f"{name}_dense" if is_shown else f"_{name}_dense")


def _into_heads(call: Call, name: str, x_BTD: Tensor, heads: int, size: int) -> Tensor:
    """(B, T, D) times (D, H, d) as (B, H, T, d)."""
    width = x_BTD.shape[-1]
    own = _part(call, name)
    weight = own.weight(0, (width, heads, size), f"{name}.weight", lambda w: w.reshape(width, -1).T)
    bias = None
    if call.flag("use_bias", True):
        bias = own.weight(1, (heads, size), f"{name}.bias", torch.flatten, fill=0.0)
    y = F.linear(x_BTD, weight, bias)
    return y.view(*y.shape[:-1], heads, size).transpose(1, 2)


def _out_of_heads(call: Call, y_BHTd: Tensor, shape: list[int]) -> Tensor:
    """(B, H, T, d) times (H, d, *shape) as (B, T, *shape)."""
    batch, heads, tokens, size = y_BHTd.shape
    flat = y_BHTd.transpose(1, 2).reshape(batch, tokens, heads * size)
    own = _part(call, "output")
    weight = own.weight(
        0, (heads, size, *shape), "output.weight", lambda w: w.reshape(heads * size, -1).T
    )
    bias = None
    if call.flag("use_bias", True):
        bias = own.weight(1, shape, "output.bias", torch.flatten, fill=0.0)
    y = F.linear(flat, weight, bias)
    return y if len(shape) == 1 else y.reshape(batch, tokens, *shape)


def _multi_head(call: Call) -> Result:
    heads, size = call.count("num_heads"), call.count("key_dim")
    value_size = call.count("value_dim") if call.has("value_dim") else size
    query, _, _ = _inputs(call)
    axes = call.integers("attention_axes", [1])
    if query.rank != 3 or axes != [1]:
        raise call.refuse(
            f"attention over the dimensions {axes} of {query.rank}", "reshape to (batch, steps, D)"
        )
    shape = call.integers("output_shape", [query.shape[-1]])
    return _attention(call, heads, heads, size, value_size, shape)


def _grouped_query(call: Call) -> Result:
    heads, shared = call.count("num_query_heads"), call.count("num_key_value_heads")
    size = call.count("head_dim")
    query, _, _ = _inputs(call)
    if query.rank != 3:
        raise call.error(f"its query has {query.rank} dimensions, not 3")
    return _attention(call, heads, shared, size, size, [query.shape[-1]])


def _inputs(call: Call) -> tuple[Value, Value, Value]:
    """(query, value, key)."""
    query, value = call.optional(0, "query"), call.optional(1, "value")
    if query is None or value is None:
        raise call.error("it is called without a query or a value")
    return query, value, call.optional(2, "key") or value


def _attention(
    call: Call, heads: int, shared: int, size: int, value_size: int, shape: list[int]
) -> Result:
    query, value, key = _inputs(call)
    x = query.plain()
    q = _into_heads(call, "query", x, heads, size)
    k = _into_heads(call, "key", key.plain(), shared, size)
    v = _into_heads(call, "value", value.plain(), shared, value_size)
    is_causal, mask = _mask(call, query, value, key)
    scale = size**-0.5
    if call.is_set(7, "return_attention_scores"):
        y, scores = _spelt_out(q, k, v, mask, scale, is_causal=is_causal)
    else:
        # With dropout Keras spells attention out, and a query that sees no key gets nothing.
        is_spelt = call.number("dropout", 0.0) > 0
        mask = mask if mask is None or is_spelt else added(mask, q)
        y, scores = attend(q, k, v, mask, is_causal=is_causal, scale=scale), None
    if call.flag("use_gate"):
        gate = _into_heads(call, "gate", x, heads, value_size)
        y = y * torch.sigmoid(gate)
    output = Value(tensor=_out_of_heads(call, y, shape), mask=query.mask)
    return output if scores is None else (output, scores)


def _mask(call: Call, query: Value, value: Value, key: Value) -> tuple[bool, Tensor | None]:
    """(whether a plain causal flag says it all, else which keys each query sees: (B, 1, T, S))."""
    shown: list[Tensor] = []
    hidden = (
        (query.mask, call.argument(3, "query_mask"), -1),
        (
            value.mask,
            call.argument(4, "value_mask"),
            -2,
        ),
    )
    for own, given, dim in hidden:
        found = call.list_of(given)
        mask = found[0].plain() if found else own
        if mask is not None:
            shown.append(mask.to(torch.bool).unsqueeze(dim))
    own_key = key.mask if key is not value else None
    found = call.list_of(call.argument(5, "key_mask"))
    if found or own_key is not None:
        mask = found[0].plain() if found else own_key
        assert mask is not None
        shown.append(mask.to(torch.bool).unsqueeze(-2))
    explicit = call.optional(6, "attention_mask")
    if explicit is not None:
        shown.append(explicit.plain().to(torch.bool))
    is_causal = call.is_set(9, "use_causal_mask")
    if is_causal and not shown and not call.has("sliding_window"):
        return True, None
    if is_causal or call.has("sliding_window"):
        shown.append(_pattern(call, query, value, is_causal=is_causal))
    if not shown:
        return False, None
    whole = shown[0]
    for mask in shown[1:]:
        whole = whole & mask
    return False, whole.unsqueeze(-3) if whole.dim() < 4 else whole


def _pattern(call: Call, query: Value, value: Value, *, is_causal: bool) -> Tensor:
    """Which keys a query sees by its place: (1, T, S)."""
    device = query.tensor.device
    i = torch.arange(query.shape[1], device=device).unsqueeze(1)
    j = torch.arange(value.shape[1], device=device)
    shown = j <= i if is_causal else torch.ones_like(j <= i)
    if call.has("sliding_window"):
        reach = call.count("sliding_window")
        shown = shown & (i - j < reach) & (j - i < reach)
    return shown.unsqueeze(0)


def _spelt_out(
    q_BHTd: Tensor,
    k_BKSd: Tensor,
    v_BKSd: Tensor,
    mask: Tensor | None,
    scale: float,
    *,
    is_causal: bool,
) -> tuple[Tensor, Tensor]:
    """(output, the shares of the keys), where the shares are asked for."""
    shares = q_BHTd.shape[1] // k_BKSd.shape[1]
    if shares > 1:
        k_BKSd, v_BKSd = (t.repeat_interleave(shares, 1) for t in (k_BKSd, v_BKSd))
    scores = torch.matmul(q_BHTd * scale, k_BKSd.transpose(-1, -2))
    if is_causal:
        mask = torch.ones_like(scores[0, 0], dtype=torch.bool).tril()
    if mask is not None:
        scores = scores.masked_fill(~mask, torch.finfo(scores.dtype).min)
    parts = torch.softmax(scores, -1)
    if mask is not None:
        parts = parts.masked_fill(~mask, 0.0)
    return torch.matmul(parts, v_BKSd), parts


def _dot(call: Call) -> Result:
    """Attention without weights but a scale, on [query, value] or [query, value, key]."""
    values = call.values
    if len(values) not in (2, 3):
        raise call.error(f"it is called with {len(values)} inputs, not 2 or 3")
    query, value, key = values[0], values[1], values[-1] if len(values) == 3 else values[1]
    q, v, k = query.plain(), value.plain(), key.plain()
    is_causal = call.is_set(4, "use_causal_mask")
    mask = _plain_mask(call, value, q, k, is_causal=is_causal)
    scores_wanted = call.is_set(3, "return_attention_scores")
    scores = _scores(call, q, k)
    if scores is None and not scores_wanted and q.dim() == 3:
        whole = None if mask is None else added(mask, q, _HIDDEN).unsqueeze(1)
        heads = [t.unsqueeze(1) for t in (q, k, v)]
        y = attend(heads[0], heads[1], heads[2], whole, scale=1.0).squeeze(1)
        return _hidden(query, y)
    if scores is None:
        scores = torch.matmul(q, k.transpose(-1, -2))
    if mask is not None:
        scores = scores + added(mask, scores, _HIDDEN)
    parts = torch.softmax(scores, -1)
    output = _hidden(query, torch.matmul(parts, v))
    return (output, parts) if scores_wanted else output


def _hidden(query: Value, y: Tensor) -> Value:
    """The output, zero where the query is hidden."""
    if query.mask is None:
        return Value(tensor=y)
    shown = query.mask.unsqueeze(-1)
    return Value(tensor=torch.where(shown, y, torch.zeros_like(y)), mask=query.mask)


def _plain_mask(
    call: Call, value: Value, q: Tensor, k: Tensor, *, is_causal: bool
) -> Tensor | None:
    given = call.argument(1, "mask")
    second = given[1] if isinstance(given, tuple) and len(given) > 1 else None
    found = call.list_of(second)
    mask = found[0].plain() if found else value.mask
    shown = None if mask is None else mask.to(torch.bool).unsqueeze(-2)
    if is_causal:
        square = torch.ones(q.shape[-2], k.shape[-2], dtype=torch.bool, device=q.device).tril()
        shown = square.unsqueeze(0) if shown is None else shown & square
    return shown


def _scores(call: Call, q_BTD: Tensor, k_BSD: Tensor) -> Tensor | None:
    """The scores where they are more than products; None where torch's attention has them."""
    if call.layer.kind == "AdditiveAttention":
        summed = torch.tanh(q_BTD.unsqueeze(-2) + k_BSD.unsqueeze(-3))
        if call.flag("use_scale", True):
            summed = call.weight(0, (q_BTD.shape[-1],), "scale", fill=1.0) * summed
        return summed.sum(-1)
    scale = call.weight(0, (), "scale", fill=1.0) if call.flag("use_scale") else None
    if call.text("score_mode", "dot") == "concat":
        total = q_BTD.unsqueeze(-2) + k_BSD.unsqueeze(-3)
        total = total if scale is None else scale * total
        weight = call.weight(int(scale is not None), (), "concat_score_weight", fill=1.0)
        return weight * torch.tanh(total).sum(-1)
    return None if scale is None else torch.matmul(q_BTD, k_BSD.transpose(-1, -2)) * scale


ROWS: tuple[Row, ...] = rows(
    {
        "MultiHeadAttention": _multi_head,
        "GroupQueryAttention": _grouped_query,
        "GroupedQueryAttention": _grouped_query,
        "Attention": _dot,
        "AdditiveAttention": _dot,
    }
)
