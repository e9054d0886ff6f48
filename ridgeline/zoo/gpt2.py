"""GPT-2, the 124M model.

Architecture: pre-norm transformer decoder with LayerNorm, learned positions (at most 1024), fused
  query-key-value projection, GELU in its tanh form, and a head tied to the token embedding. Module
  and parameter names are those of transformers; matrices are (out, in) as in nn.Linear, so the
  published checkpoint's Conv1D weights are loaded transposed.
Source: Radford et al., "Language Models are Unsupervised Multitask Learners", 2019.
Input: token ids (B, T), T <= 1024.
Output: logits (B, T, V); only the last token's, (B, 1, V), when prefilling and decoding.
Loss: cross-entropy of the next token.
Facts: 124,439,808 parameters. With D = 768, N = 12 layers, V = 50,257, per sample: FLOPs = N *
  (24*T*D^2 + 4*D*T^2) + 2*T*D*V; causal FLOPs count half of the T^2 term.

Shapes: B batch, T tokens, H heads, d head size, D model size, V vocabulary.
"""

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from ridgeline.zoo.blank import Embedding, Linear, draw_weights
from ridgeline.zoo.causal import CausalAttention, CausalLM, Span, causal_forms
from ridgeline.zoo.workload import Facts, Sizes, Workload


@dataclass(frozen=True, slots=True, kw_only=True)
class GPT2Config:
    """The shape of a GPT-2; the defaults are the 124M model's."""

    vocab_size: int = 50_257
    num_positions: int = 1024
    hidden_size: int = 768
    num_layers: int = 12
    num_heads: int = 12
    norm_eps: float = 1e-5

    def __post_init__(self) -> None:
        if self.hidden_size % self.num_heads:
            raise ValueError(
                f"hidden_size {self.hidden_size} is not a multiple of num_heads {self.num_heads}"
            )


class Attention(CausalAttention):
    """Multi-head attention with one projection for queries, keys and values."""

    def __init__(self, config: GPT2Config) -> None:
        dim = config.hidden_size
        super().__init__(num_kv_heads=config.num_heads, head_dim=dim // config.num_heads)
        self.c_attn = Linear(dim, 3 * dim)
        self.c_proj = Linear(dim, dim)

    def forward(self, x_BTD: Tensor, span: Span) -> Tensor:
        heads = (*x_BTD.shape[:2], self.num_kv_heads, self.head_dim)
        q, k, v = (part.view(heads).transpose(1, 2) for part in self.c_attn(x_BTD).chunk(3, dim=-1))
        out: Tensor = self.c_proj(self.attend(q, k, v, span))
        return out


class MLP(nn.Module):
    """Two linear layers, four times as wide between."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.c_fc = Linear(dim, 4 * dim)
        self.c_proj = Linear(4 * dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.c_proj(F.gelu(self.c_fc(x), approximate="tanh"))
        return out


class Layer(nn.Module):
    """Attention and feed-forward, each on the normalised residual stream."""

    def __init__(self, config: GPT2Config) -> None:
        super().__init__()
        self.ln_1 = nn.LayerNorm(config.hidden_size, eps=config.norm_eps)
        self.attn = Attention(config)
        self.ln_2 = nn.LayerNorm(config.hidden_size, eps=config.norm_eps)
        self.mlp = MLP(config.hidden_size)

    def forward(self, x: Tensor, span: Span) -> Tensor:
        x = x + self.attn(self.ln_1(x), span)
        out: Tensor = x + self.mlp(self.ln_2(x))
        return out


class Backbone(nn.Module):
    """Embeddings of tokens and positions, layers and the last norm."""

    def __init__(self, config: GPT2Config) -> None:
        super().__init__()
        self.wte = Embedding(config.vocab_size, config.hidden_size)
        self.wpe = Embedding(config.num_positions, config.hidden_size)
        self.h = nn.ModuleList(Layer(config) for _ in range(config.num_layers))
        self.ln_f = nn.LayerNorm(config.hidden_size, eps=config.norm_eps)

    def forward(self, ids_BT: Tensor, span: Span) -> Tensor:
        if span.end > self.wpe.num_embeddings:
            raise ValueError(f"{span.end} tokens exceed the {self.wpe.num_embeddings} positions")
        x = self.wte(ids_BT) + self.wpe(span.positions_T)
        for layer in self.h:
            x = layer(x, span)
        out: Tensor = self.ln_f(x)
        return out


class GPT2(CausalLM):
    """A GPT-2 with random weights, on the ambient device and of the default dtype."""

    def __init__(self, config: GPT2Config) -> None:
        super().__init__()
        self.transformer = Backbone(config)
        self.lm_head = Linear(config.hidden_size, config.vocab_size, bias=False)
        self.lm_head.weight = self.transformer.wte.weight
        draw_weights(self)

    def hidden(self, ids_BT: Tensor, span: Span) -> Tensor:
        x_BTD: Tensor = self.transformer(ids_BT, span)
        return x_BTD


WORKLOAD = Workload(
    name="gpt2",
    build=lambda: GPT2(GPT2Config()).eval(),
    forms=causal_forms(seq=128, cache=128),
    facts=Facts(
        parameters=124_439_808,
        flops=32_228_179_968,
        causal_flops=31_926_190_080,
        sizes=Sizes(batch=1, seq=128, cache=128),
        source="published checkpoint; FLOPs by the formula in this file's docstring",
    ),
)
