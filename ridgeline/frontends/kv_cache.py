"""A KV cache for transformers models that lives in buffers of the attention modules.

So the cache is counted with the layer it belongs to, torch.export reports it as mutated, and its
size follows the number of key-value heads. Shapes: B batch, K key-value heads, T tokens of this
call, L cache length, d head size.
"""

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel
from transformers.cache_utils import Cache, CacheLayerMixin

from ridgeline.errors import TargetError


class BufferLayer(CacheLayerMixin):  # type: ignore[no-untyped-call]
    """One layer's part of the cache. past: tokens it has seen; window: how many it keeps."""

    is_compileable = True

    def __init__(self, attention: nn.Module, *, past: int, window: int | None) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.attention, self.past = attention, past
        self.window, self.is_sliding = window, window is not None

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Nothing to do: the buffers are there."""

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: object, **kwargs: object
    ) -> tuple[Tensor, Tensor]:
        """Writes the new tokens in place; returns what they attend to."""
        k_BKLd, v_BKLd = self.attention.k_cache, self.attention.v_cache
        assert isinstance(k_BKLd, Tensor)
        assert isinstance(v_BKLd, Tensor)
        for new, buffer in ((key_states, k_BKLd), (value_states, v_BKLd)):
            if new.shape[1] != buffer.shape[1] or new.shape[3] != buffer.shape[3]:
                raise ValueError(f"keys or values {tuple(new.shape)} for a cache {buffer.shape}")
        length, tokens = k_BKLd.shape[2], key_states.shape[2]
        kept = min(tokens, length)
        slots_T = torch.arange(self.past + tokens - kept, self.past + tokens) % length
        slots_T = slots_T.to(key_states.device)
        k_BKLd.index_copy_(2, slots_T, key_states[:, :, tokens - kept :])
        v_BKLd.index_copy_(2, slots_T, value_states[:, :, tokens - kept :])
        return (key_states, value_states) if self.past == 0 else (k_BKLd, v_BKLd)

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """(length, offset) of the keys that `update` returns."""
        total = self.past + query_length
        length = query_length if self.past == 0 else min(total, self.window or total)
        return length, total - length

    def get_seq_length(self) -> int:
        """Tokens seen before this call."""
        return self.past

    def get_max_length(self) -> int:
        """Tokens it can hold; -1 says no limit of its own."""
        return self.window or -1


class BufferCache(Cache):
    """The layers' buffers as transformers' cache; `update` looks the layer up by its number."""

    def __init__(self, layers: list[BufferLayer]) -> None:
        super().__init__(layers=[*layers])
        self.parts = layers

    def update(
        self,
        key_states: Tensor,
        value_states: Tensor,
        layer_idx: int,
        *args: object,
        **kwargs: object,
    ) -> tuple[Tensor, Tensor]:
        """Writes into layer `layer_idx`; returns what its queries attend to."""
        return self.parts[layer_idx].update(key_states, value_states)


def make_cache(model: PreTrainedModel, *, batch: int, past: int, tokens: int) -> BufferCache:
    """Registers buffers for `past + tokens` tokens in every attention module, holding `past`.

    Raises TargetError if the model's attention modules are not recognised.
    """
    config = model.config.get_text_config(decoder=True)
    modules = _attentions(model)
    if len(modules) != config.num_hidden_layers:
        raise TargetError(
            f"{type(model).__name__} has no phase prefill or decode: {len(modules)} of its "
            f"{config.num_hidden_layers} layers have an attention module with a KV cache."
        )
    layers = []
    for number, attention in enumerate(modules):
        window = _window(config, number)
        length = min(past + tokens, window or past + tokens)
        shape = (batch, _kv_heads(config, attention), length, _head_dim(config, attention))
        weight = next(attention.parameters())
        for name in ("k_cache", "v_cache"):
            attention.register_buffer(name, weight.new_zeros(shape), persistent=False)
        layers.append(BufferLayer(attention, past=past, window=window))
    return BufferCache(layers)


def _attentions(model: nn.Module) -> list[nn.Module]:
    """The self-attention modules in the order of their layers."""
    found = {
        module.layer_idx: module
        for module in model.modules()
        if "Attention" in type(module).__name__
        and isinstance(getattr(module, "layer_idx", None), int)
    }
    return [found[number] for number in sorted(found)]  # type: ignore[type-var]


def _window(config: PretrainedConfig, number: int) -> int | None:
    window = getattr(config, "sliding_window", None)
    kinds = getattr(config, "layer_types", None)
    if window is None or (kinds and kinds[number] != "sliding_attention"):
        return None
    return int(window) if getattr(config, "use_sliding_window", True) else None


def _kv_heads(config: PretrainedConfig, attention: nn.Module) -> int:
    for owner in (attention, config):
        for name in ("num_key_value_heads", "num_kv_heads"):
            value = getattr(owner, name, None)
            if isinstance(value, int):
                return value
    return int(config.num_attention_heads)


def _head_dim(config: PretrainedConfig, attention: nn.Module) -> int:
    for owner in (attention, config):
        value = getattr(owner, "head_dim", None)
        if isinstance(value, int):
            return value
    return int(config.hidden_size) // int(config.num_attention_heads)
