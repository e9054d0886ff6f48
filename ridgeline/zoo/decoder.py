"""Decoder-only language models of the LLaMA family, dense and mixture-of-experts.

Architecture: pre-norm transformer decoder with RMSNorm, rotary positions, grouped-query attention
  and a SwiGLU feed-forward or, in Mixtral, a router and top-k experts; options cover Mistral, Qwen2
  and Qwen3. Module and parameter names are those of transformers 5.
Sources: Touvron et al., "Llama 2", 2023; Grattafiori et al., "The Llama 3 Herd of Models", 2024
  (table 3); Jiang et al., "Mistral 7B", 2023; Jiang et al., "Mixtral of Experts", 2024 (table 1);
  the published config.json files. llama-small and the tiny ones are ours.
Input: token ids (B, T).
Output: logits (B, T, V); only the last token's, (B, 1, V), when prefilling and decoding.
Loss: cross-entropy of the next token.
Facts: with D model size, H x d query heads, K key-value heads, F feed-forward size, N layers, E
  experts of which k are chosen, per sample: dense FLOPs = N * (4*T*D*(H*d + K*d) + 6*T*D*F +
  4*H*d*T^2) + 2*T*D*V; dense parameters = N * (2*D*(H*d + K*d) + 3*D*F + 2*D) + D + 2*V*D, less V*D
  if tied; experts: 2*T*D*E + 6*k*T*D*F for 6*T*D*F, and D*E + 3*E*D*F for 3*D*F; causal FLOPs count
  half of the T^2 term.

Shapes: B batch, T tokens, H query heads, K key-value heads, d head size, D model size, V
  vocabulary.
"""

from dataclasses import dataclass, replace

import torch.nn.functional as F
from torch import Tensor, nn

from ridgeline.zoo.blank import Embedding, Linear, draw_weights
from ridgeline.zoo.causal import CausalAttention, CausalLM, Span, causal_forms
from ridgeline.zoo.experts import MixtureOfExperts
from ridgeline.zoo.rotary import RopeScaling, Rotation, rotation
from ridgeline.zoo.workload import Facts, Sizes, Workload


@dataclass(frozen=True, slots=True, kw_only=True)
class DecoderConfig:
    """The shape of a decoder. Field names follow config.json where it has the field.

    attention_bias: on the query, key and value projections; attention_out_bias: on the output
    projection; qk_norm: RMSNorm of each head's queries and keys (Qwen3); sliding_window: latest
    tokens a query sees, None = all; num_experts = 0 is a dense model; norm_topk_prob: the chosen
    experts' scores are scaled to sum to 1. Raises ValueError if the sizes do not fit together.
    """

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    rope_theta: float = 10_000.0
    rope_scaling: RopeScaling | None = None
    norm_eps: float = 1e-5
    tie_word_embeddings: bool = False
    attention_bias: bool = False
    attention_out_bias: bool = False
    mlp_bias: bool = False
    qk_norm: bool = False
    sliding_window: int | None = None
    num_experts: int = 0
    experts_per_token: int = 0
    moe_intermediate_size: int = 0
    norm_topk_prob: bool = True

    def __post_init__(self) -> None:
        self._check_sizes()
        if self.num_heads % self.num_kv_heads:
            raise ValueError(
                f"num_heads {self.num_heads} is not a multiple of num_kv_heads {self.num_kv_heads}"
            )
        if self.head_dim % 2:
            raise ValueError(f"head_dim is {self.head_dim}; rotary positions need it even")
        if self.rope_theta <= 0 or self.norm_eps <= 0:
            raise ValueError(
                f"rope_theta {self.rope_theta} and norm_eps {self.norm_eps} must be positive"
            )
        if self.num_experts:
            self._check_experts()

    def _check_sizes(self) -> None:
        names = ["vocab_size", "hidden_size", "num_layers", "num_heads", "num_kv_heads", "head_dim"]
        names += [] if self.num_experts else ["intermediate_size"]
        names += [] if self.sliding_window is None else ["sliding_window"]
        for name in names:
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1")

    def _check_experts(self) -> None:
        if not 1 <= self.experts_per_token <= self.num_experts:
            raise ValueError(
                f"experts_per_token is {self.experts_per_token}; it must be 1 to {self.num_experts}"
            )
        if self.moe_intermediate_size < 1:
            raise ValueError(
                f"moe_intermediate_size is {self.moe_intermediate_size}; it must be at least 1"
            )
        if self.mlp_bias:
            raise ValueError("mlp_bias is set, but experts have no bias")


class Attention(CausalAttention):
    """Grouped-query attention with rotary positions and a KV cache."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__(
            num_kv_heads=config.num_kv_heads, head_dim=config.head_dim, window=config.sliding_window
        )
        dim, bias = config.hidden_size, config.attention_bias
        q_dim, kv_dim = config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim
        self.q_proj = Linear(dim, q_dim, bias=bias)
        self.k_proj = Linear(dim, kv_dim, bias=bias)
        self.v_proj = Linear(dim, kv_dim, bias=bias)
        self.o_proj = Linear(q_dim, dim, bias=config.attention_out_bias)
        self.q_norm = _head_norm(config)
        self.k_norm = _head_norm(config)

    def forward(self, x_BTD: Tensor, table: Rotation, span: Span) -> Tensor:
        q_BHTd = table.turn(self.q_norm(self._heads(self.q_proj(x_BTD))).transpose(1, 2))
        k_BKTd = table.turn(self.k_norm(self._heads(self.k_proj(x_BTD))).transpose(1, 2))
        v_BKTd = self._heads(self.v_proj(x_BTD)).transpose(1, 2)
        out: Tensor = self.o_proj(self.attend(q_BHTd, k_BKTd, v_BKTd, span))
        return out

    def _heads(self, x: Tensor) -> Tensor:
        return x.view(*x.shape[:-1], -1, self.head_dim)


def _head_norm(config: DecoderConfig) -> nn.Module:
    return nn.RMSNorm(config.head_dim, eps=config.norm_eps) if config.qk_norm else nn.Identity()


class MLP(nn.Module):
    """SwiGLU feed-forward. Source: Shazeer, "GLU Variants Improve Transformer", 2020."""

    def __init__(self, dim: int, hidden_dim: int, *, bias: bool) -> None:
        super().__init__()
        self.gate_proj = Linear(dim, hidden_dim, bias=bias)
        self.up_proj = Linear(dim, hidden_dim, bias=bias)
        self.down_proj = Linear(hidden_dim, dim, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))
        return out


class Layer(nn.Module):
    """Attention and feed-forward, each on the normalised residual stream."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        dim = config.hidden_size
        self.self_attn = Attention(config)
        self.mlp = _feed_forward(config)
        self.input_layernorm = nn.RMSNorm(dim, eps=config.norm_eps)
        self.post_attention_layernorm = nn.RMSNorm(dim, eps=config.norm_eps)

    def forward(self, x: Tensor, table: Rotation, span: Span) -> Tensor:
        x = x + self.self_attn(self.input_layernorm(x), table, span)
        out: Tensor = x + self.mlp(self.post_attention_layernorm(x))
        return out


def _feed_forward(config: DecoderConfig) -> nn.Module:
    if not config.num_experts:
        return MLP(config.hidden_size, config.intermediate_size, bias=config.mlp_bias)
    return MixtureOfExperts(
        config.hidden_size,
        hidden_dim=config.moe_intermediate_size,
        num_experts=config.num_experts,
        top_k=config.experts_per_token,
        is_normalised=config.norm_topk_prob,
    )


class Backbone(nn.Module):
    """Embedding, layers and the last norm."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.config = config
        self.embed_tokens = Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.num_layers))
        self.norm = nn.RMSNorm(config.hidden_size, eps=config.norm_eps)

    def forward(self, ids_BT: Tensor, span: Span) -> Tensor:
        x = self.embed_tokens(ids_BT)
        table = rotation(
            span.positions_T,
            head_dim=self.config.head_dim,
            theta=self.config.rope_theta,
            scaling=self.config.rope_scaling,
            dtype=x.dtype,
        )
        for layer in self.layers:
            x = layer(x, table, span)
        out: Tensor = self.norm(x)
        return out


class Decoder(CausalLM):
    """A decoder of the LLaMA family with random weights, on the ambient device and of the default
    dtype.
    """

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.model = Backbone(config)
        self.lm_head = Linear(config.hidden_size, config.vocab_size, bias=False)
        if config.tie_word_embeddings:
            self.lm_head.weight = self.model.embed_tokens.weight
        draw_weights(self)

    def hidden(self, ids_BT: Tensor, span: Span) -> Tensor:
        x_BTD: Tensor = self.model(ids_BT, span)
        return x_BTD


LLAMA_2_7B = DecoderConfig(
    vocab_size=32_000,
    hidden_size=4096,
    intermediate_size=11_008,
    num_layers=32,
    num_heads=32,
    num_kv_heads=32,
    head_dim=128,
)

LLAMA_31_8B = replace(
    LLAMA_2_7B,
    vocab_size=128_256,
    intermediate_size=14_336,
    num_kv_heads=8,
    rope_theta=500_000.0,
    rope_scaling=RopeScaling(
        factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_length=8192
    ),
)

LLAMA_31_70B = replace(
    LLAMA_31_8B, hidden_size=8192, intermediate_size=28_672, num_layers=80, num_heads=64
)

LLAMA_31_405B = replace(
    LLAMA_31_8B, hidden_size=16_384, intermediate_size=53_248, num_layers=126, num_heads=128
)

LLAMA_SMALL = DecoderConfig(
    vocab_size=8192,
    hidden_size=1024,
    intermediate_size=2816,
    num_layers=8,
    num_heads=16,
    num_kv_heads=16,
    head_dim=64,
    tie_word_embeddings=True,
)

LLAMA_TINY = DecoderConfig(
    vocab_size=512,
    hidden_size=256,
    intermediate_size=704,
    num_layers=4,
    num_heads=8,
    num_kv_heads=4,
    head_dim=32,
)

MIXTRAL_8X7B = replace(
    LLAMA_2_7B,
    intermediate_size=14_336,
    num_kv_heads=8,
    rope_theta=1_000_000.0,
    num_experts=8,
    experts_per_token=2,
    moe_intermediate_size=14_336,
)

MIXTRAL_TINY = replace(LLAMA_TINY, num_experts=8, experts_per_token=2, moe_intermediate_size=512)


def _workload(name: str, config: DecoderConfig, facts: Facts, *, runs_here: bool) -> Workload:
    seq = facts.sizes.seq or 128
    return Workload(
        name=name,
        build=lambda: Decoder(config).eval(),
        forms=causal_forms(seq=seq, cache=seq),
        facts=facts,
        runs_here=runs_here,
    )


def _facts(parameters: int, flops: int, causal_flops: int, seq: int, source: str) -> Facts:
    return Facts(
        parameters=parameters,
        flops=flops,
        causal_flops=causal_flops,
        sizes=Sizes(batch=1, seq=seq, cache=seq),
        source=f"{source}; FLOPs by the formula in this file's docstring",
    )


WORKLOADS: tuple[Workload, ...] = (
    _workload(
        "llama-2-7b",
        LLAMA_2_7B,
        _facts(
            6_738_415_616,
            29_261_612_187_648,
            28_162_100_559_872,
            2048,
            "Llama 2 checkpoint",
        ),
        runs_here=False,
    ),
    _workload(
        "llama-3.1-8b",
        LLAMA_31_8B,
        _facts(
            8_030_261_248,
            32_938_104_193_024,
            31_838_592_565_248,
            2048,
            "Llama 3.1 checkpoint",
        ),
        runs_here=False,
    ),
    _workload(
        "llama-3.1-70b",
        LLAMA_31_70B,
        _facts(
            70_553_706_496,
            295_674_138_591_232,
            290_176_580_452_352,
            2048,
            "Llama 3.1 checkpoint",
        ),
        runs_here=False,
    ),
    _workload(
        "llama-3.1-405b",
        LLAMA_31_405B,
        _facts(
            405_853_388_800,
            1_688_386_003_795_968,
            1_671_068_695_658_496,
            2048,
            "Llama 3.1 checkpoint",
        ),
        runs_here=False,
    ),
    _workload(
        "llama-small",
        LLAMA_SMALL,
        _facts(111_166_464, 28_991_029_248, 28_722_593_792, 128, "ours"),
        runs_here=True,
    ),
    _workload(
        "llama-tiny",
        LLAMA_TINY,
        _facts(3_213_568, 855_638_016, 822_083_584, 128, "ours"),
        runs_here=True,
    ),
    _workload(
        "mixtral-8x7b",
        MIXTRAL_8X7B,
        _facts(
            46_702_792_704,
            54_417_235_640_320,
            53_317_724_012_544,
            2048,
            "Mixtral checkpoint",
        ),
        runs_here=False,
    ),
    _workload(
        "mixtral-tiny",
        MIXTRAL_TINY,
        _facts(13_641_984, 1_109_393_408, 1_075_838_976, 128, "ours"),
        runs_here=True,
    ),
)
