"""What causal language models share: the phases, an attention that keeps its KV cache in buffers,
and the forms.

Shapes: B batch, T tokens of this call, L tokens of the cache, H query heads, K key-value heads, d
head size, D model size, V vocabulary.

The cache is a pair of buffers in every attention module, so it is counted with the layer it belongs
to and torch.export reports it as mutated. It is written with `index_copy_`: eager execution touches
the written rows only, and functionalisation leaves one `aten.index_copy` node instead of a slice, a
copy and a slice_scatter.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ridgeline.zoo.workload import Form, Sizes


class Phase(Enum):
    """What a call does with the KV cache: nothing, fill it from position 0, or extend it by one
    token and read it.
    """

    FORWARD = "forward"
    PREFILL = "prefill"
    DECODE = "decode"


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """The tokens of one call: `positions_T` counts from `start`, the number of tokens already in
    the cache.
    """

    phase: Phase
    start: int
    positions_T: Tensor

    @property
    def end(self) -> int:
        """The sequence length after this call."""
        return self.start + self.positions_T.shape[0]


class CausalAttention(nn.Module):
    """Causal attention over this call's keys, or over the cache when decoding. Subclasses project,
    then call `attend`.

    window: how many latest tokens a query sees; `None` means all of them.
    """

    k_cache: Tensor | None
    v_cache: Tensor | None

    def __init__(self, *, num_kv_heads: int, head_dim: int, window: int | None = None) -> None:
        super().__init__()
        self.num_kv_heads, self.head_dim, self.window = num_kv_heads, head_dim, window
        self.register_buffer("k_cache", None, persistent=False)
        self.register_buffer("v_cache", None, persistent=False)

    def make_cache(self, batch: int, length: int) -> None:
        """Registers an empty cache of `length` tokens, of the weights' dtype, on their device."""
        shape = (batch, self.num_kv_heads, length, self.head_dim)
        weight = next(self.parameters())
        self.k_cache, self.v_cache = weight.new_zeros(shape), weight.new_zeros(shape)

    def attend(self, q_BHTd: Tensor, k_BKTd: Tensor, v_BKTd: Tensor, span: Span) -> Tensor:
        """The attention's output, (B, T, H * d). Fewer key-value heads than query heads are shared,
        never copied.
        """
        if span.phase is not Phase.FORWARD:
            self._write(k_BKTd, v_BKTd, span)
        mask_TT = None
        if span.phase is Phase.DECODE:
            k_BKTd, v_BKTd = self._read(span)
        elif self.window is not None and span.end > self.window:
            mask_TT = sliding_mask(span.positions_T, self.window)
        out_BHTd = F.scaled_dot_product_attention(
            q_BHTd,
            k_BKTd,
            v_BKTd,
            attn_mask=mask_TT,
            is_causal=mask_TT is None and span.phase is not Phase.DECODE,
            enable_gqa=q_BHTd.shape[1] != self.num_kv_heads,
        )
        return out_BHTd.transpose(1, 2).flatten(2)

    def _write(self, k_BKTd: Tensor, v_BKTd: Tensor, span: Span) -> None:
        k_cache, v_cache = self._cache(span)
        k_cache.index_copy_(2, span.positions_T, k_BKTd)
        v_cache.index_copy_(2, span.positions_T, v_BKTd)

    def _read(self, span: Span) -> tuple[Tensor, Tensor]:
        k_BKLd, v_BKLd = self._cache(span)
        first = 0 if self.window is None else max(0, span.end - self.window)
        if first == 0 and span.end == k_BKLd.shape[2]:
            return k_BKLd, v_BKLd
        return k_BKLd[:, :, first : span.end], v_BKLd[:, :, first : span.end]

    def _cache(self, span: Span) -> tuple[Tensor, Tensor]:
        if self.k_cache is None or self.v_cache is None:
            raise ValueError(f"no KV cache for {span.phase.value}; call make_cache(batch, length)")
        if span.end > self.k_cache.shape[2]:
            raise ValueError(f"{span.end} tokens in a KV cache made for {self.k_cache.shape[2]}")
        return self.k_cache, self.v_cache


def sliding_mask(positions_T: Tensor, window: int) -> Tensor:
    """True where a query (row) sees a key (column): the token itself and the `window - 1` before
    it.
    """
    distance_TT = positions_T[:, None] - positions_T
    return (distance_TT >= 0) & (distance_TT < window)


class CausalLM(nn.Module):
    """A language model in three phases; a subclass gives `hidden` and the attribute `lm_head`."""

    lm_head: nn.Linear

    def hidden(self, ids_BT: Tensor, span: Span) -> Tensor:
        """The normalised last hidden states, (B, T, D)."""
        raise NotImplementedError

    def forward(self, ids_BT: Tensor) -> Tensor:
        """Logits of every position, (B, T, V); the cache is not touched."""
        logits: Tensor = self.lm_head(self.hidden(ids_BT, _span(Phase.FORWARD, ids_BT, 0)))
        return logits

    def prefill(self, ids_BT: Tensor) -> Tensor:
        """Logits of the last position, (B, 1, V); fills the cache from position 0."""
        x_BTD = self.hidden(ids_BT, _span(Phase.PREFILL, ids_BT, 0))
        logits: Tensor = self.lm_head(x_BTD[:, -1:])
        return logits

    def decode(self, ids_B1: Tensor, position: int) -> Tensor:
        """Logits after one more token at `position`, (B, 1, V); the cache holds the tokens before
        it.
        """
        if ids_B1.shape[1] != 1:
            raise ValueError(f"decode takes one token per sample, not {ids_B1.shape[1]}")
        logits: Tensor = self.lm_head(self.hidden(ids_B1, _span(Phase.DECODE, ids_B1, position)))
        return logits

    def make_cache(self, batch: int, length: int) -> None:
        """Registers an empty KV cache in every attention module this model has."""
        for module in self.modules():
            if isinstance(module, CausalAttention):
                module.make_cache(batch, length)


def _span(phase: Phase, ids_BT: Tensor, start: int) -> Span:
    end = start + ids_BT.shape[1]
    return Span(
        phase=phase, start=start, positions_T=torch.arange(start, end, device=ids_BT.device)
    )


class Prefill(nn.Module):
    """The model's prefill as a module: ids (B, T) -> logits (B, 1, V)."""

    def __init__(self, lm: CausalLM) -> None:
        super().__init__()
        self.lm = lm

    def forward(self, ids_BT: Tensor) -> Tensor:
        return self.lm.prefill(ids_BT)


class Decode(nn.Module):
    """The model's decode step at a fixed position as a module: ids (B, 1) -> logits (B, 1, V)."""

    def __init__(self, lm: CausalLM, position: int) -> None:
        super().__init__()
        self.lm, self.position = lm, position

    def forward(self, ids_B1: Tensor) -> Tensor:
        return self.lm.decode(ids_B1, self.position)


def causal_forms(*, seq: int, cache: int) -> Mapping[str, Form]:
    """The forms of a causal language model whose default sizes are one sample of `seq` tokens,
    `cache` in the cache.
    """

    def forward(model: nn.Module, sizes: Sizes) -> tuple[nn.Module, tuple[Tensor, ...]]:
        lm = _causal(model)
        return lm, (_ids(lm, sizes, sizes.seq or seq),)

    def prefill(model: nn.Module, sizes: Sizes) -> tuple[nn.Module, tuple[Tensor, ...]]:
        lm, tokens = _causal(model), sizes.seq or seq
        lm.make_cache(sizes.batch or 1, tokens)
        return Prefill(lm).eval(), (_ids(lm, sizes, tokens),)

    def decode(model: nn.Module, sizes: Sizes) -> tuple[nn.Module, tuple[Tensor, ...]]:
        lm, past = _causal(model), sizes.cache or cache
        lm.make_cache(sizes.batch or 1, past + 1)
        for buffer in lm.buffers():
            if not buffer.is_meta:  # there, 252 empty draws would take longer than the trace
                buffer.normal_()  # the cache's content is arbitrary, but zeros would hide mistakes
        return Decode(lm, past).eval(), (_ids(lm, sizes, 1),)

    return {"forward": forward, "prefill": prefill, "decode": decode}


def _causal(model: nn.Module) -> CausalLM:
    if not isinstance(model, CausalLM):
        raise TypeError(f"this form takes a CausalLM, not {type(model).__name__}")
    return model


def _ids(lm: CausalLM, sizes: Sizes, tokens: int) -> Tensor:
    return torch.randint(lm.lm_head.out_features, (sizes.batch or 1, tokens))
