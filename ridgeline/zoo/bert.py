"""BERT-base, uncased, with its pooler.

Architecture: post-norm transformer encoder over the sum of token, position (at most 512) and
  segment embeddings; exact GELU; the pooler is a linear layer and tanh on the first token. Module
  and parameter names are those of transformers.
Source: Devlin et al., "BERT: Pre-training of Deep Bidirectional Transformers", 2018.
Input: token ids and segment ids (0 or 1), both (B, T), T <= 512, unpadded.
Output: last hidden states (B, T, 768) and the pooled first token (B, 768).
Loss: masked-token cross-entropy in pre-training; cross-entropy on the pooled vector in
  classification.
Facts: 109,482,240 parameters. With D = 768, N = 12 layers, per sample: FLOPs = N * (24*T*D^2 +
  4*D*T^2) + 2*D^2.

Shapes: B batch, T tokens, H heads, d head size, D model size.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ridgeline.zoo.blank import Embedding, Linear, draw_weights
from ridgeline.zoo.workload import Facts, Sizes, Workload


@dataclass(frozen=True, slots=True, kw_only=True)
class BertConfig:
    """The shape of a BERT; the defaults are base uncased's."""

    vocab_size: int = 30_522
    num_positions: int = 512
    num_segments: int = 2
    hidden_size: int = 768
    intermediate_size: int = 3072
    num_layers: int = 12
    num_heads: int = 12
    norm_eps: float = 1e-12

    def __post_init__(self) -> None:
        if self.hidden_size % self.num_heads:
            raise ValueError(
                f"hidden_size {self.hidden_size} is not a multiple of num_heads {self.num_heads}"
            )


class Embeddings(nn.Module):
    """The normalised sum of token, position and segment embeddings."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        dim = config.hidden_size
        self.word_embeddings = Embedding(config.vocab_size, dim)
        self.position_embeddings = Embedding(config.num_positions, dim)
        self.token_type_embeddings = Embedding(config.num_segments, dim)
        self.LayerNorm = nn.LayerNorm(dim, eps=config.norm_eps)

    def forward(self, ids_BT: Tensor, segments_BT: Tensor) -> Tensor:
        tokens, limit = ids_BT.shape[1], self.position_embeddings.num_embeddings
        if tokens > limit:
            raise ValueError(f"{tokens} tokens exceed the {limit} positions")
        positions_T = torch.arange(tokens, device=ids_BT.device)
        x = self.word_embeddings(ids_BT) + self.token_type_embeddings(segments_BT)
        out: Tensor = self.LayerNorm(x + self.position_embeddings(positions_T))
        return out


class SelfAttention(nn.Module):
    """Multi-head attention of every token to every token, before the output projection."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.num_heads = config.num_heads
        self.query = Linear(config.hidden_size, config.hidden_size)
        self.key = Linear(config.hidden_size, config.hidden_size)
        self.value = Linear(config.hidden_size, config.hidden_size)

    def forward(self, x_BTD: Tensor) -> Tensor:
        heads = (*x_BTD.shape[:2], self.num_heads, -1)
        q, k, v = (
            part(x_BTD).view(heads).transpose(1, 2) for part in (self.query, self.key, self.value)
        )
        return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)


class AddNorm(nn.Module):
    """A projection, the residual and the norm after it."""

    def __init__(self, in_dim: int, config: BertConfig) -> None:
        super().__init__()
        self.dense = Linear(in_dim, config.hidden_size)
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=config.norm_eps)

    def forward(self, x: Tensor, residual: Tensor) -> Tensor:
        out: Tensor = self.LayerNorm(self.dense(x) + residual)
        return out


class Attention(nn.Module):
    """Self-attention with its projection, residual and norm."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.self = SelfAttention(config)
        self.output = AddNorm(config.hidden_size, config)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.output(self.self(x), x)
        return out


class Intermediate(nn.Module):
    """The widening half of the feed-forward."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.dense = Linear(config.hidden_size, config.intermediate_size)

    def forward(self, x: Tensor) -> Tensor:
        return F.gelu(self.dense(x))


class Layer(nn.Module):
    """Attention, then the feed-forward."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.attention = Attention(config)
        self.intermediate = Intermediate(config)
        self.output = AddNorm(config.intermediate_size, config)

    def forward(self, x: Tensor) -> Tensor:
        x = self.attention(x)
        out: Tensor = self.output(self.intermediate(x), x)
        return out


class Encoder(nn.Module):
    """The layers."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.layer = nn.ModuleList(Layer(config) for _ in range(config.num_layers))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layer:
            x = layer(x)
        return x


class Pooler(nn.Module):
    """One vector per sample, from its first token."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.dense = Linear(config.hidden_size, config.hidden_size)

    def forward(self, x_BTD: Tensor) -> Tensor:
        out: Tensor = self.dense(x_BTD[:, 0]).tanh()
        return out


class Bert(nn.Module):
    """A BERT encoder with random weights, on the ambient device and of the default dtype."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.embeddings = Embeddings(config)
        self.encoder = Encoder(config)
        self.pooler = Pooler(config)
        draw_weights(self)

    def forward(self, ids_BT: Tensor, segments_BT: Tensor) -> tuple[Tensor, Tensor]:
        """Last hidden states (B, T, D) and the pooled vector (B, D)."""
        x_BTD = self.encoder(self.embeddings(ids_BT, segments_BT))
        return x_BTD, self.pooler(x_BTD)


def _forward(model: nn.Module, sizes: Sizes) -> tuple[nn.Module, tuple[Tensor, ...]]:
    if not isinstance(model, Bert):
        raise TypeError(f"this form takes a Bert, not {type(model).__name__}")
    shape, tables = (sizes.batch or 1, sizes.seq or 128), model.embeddings
    ids_BT = torch.randint(tables.word_embeddings.num_embeddings, shape)
    return model, (ids_BT, torch.randint(tables.token_type_embeddings.num_embeddings, shape))


WORKLOAD = Workload(
    name="bert-base",
    build=lambda: Bert(BertConfig()).eval(),
    forms={"forward": _forward},
    facts=Facts(
        parameters=109_482_240,
        flops=22_348_431_360,
        sizes=Sizes(batch=1, seq=128),
        source="Devlin et al. 2018 and the published checkpoint; FLOPs by this file's docstring",
    ),
)
