"""The short way from config.json to a decoder: our own definition, without importing transformers.

It takes a config only if it understands every key that could change the cost; any other goes the
long way, through transformers.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from ridgeline.errors import TargetError
from ridgeline.zoo.decoder import DecoderConfig
from ridgeline.zoo.rotary import RopeScaling

Config = Mapping[str, object]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Family:
    """How one model type differs. keys: config keys it reads besides the common ones."""

    keys: frozenset[str] = frozenset()
    attention_bias: bool | None = None  # None: the config says
    attention_out_bias: bool | None = None
    qk_norm: bool = False
    experts_key: str = ""
    experts_size_key: str = ""
    norm_topk_prob: bool | None = True
    # Values that a key must have, or be absent: with any other the model is built differently.
    required: Mapping[str, object] = field(default_factory=dict)


# Source: the modeling and configuration files of transformers 5, one row per model type.
_FAMILIES: Mapping[str, _Family] = {
    "llama": _Family(keys=frozenset({"attention_bias", "mlp_bias"})),
    "mistral": _Family(
        keys=frozenset({"sliding_window"}), attention_bias=False, attention_out_bias=False
    ),
    "qwen2": _Family(
        keys=frozenset({"sliding_window", "max_window_layers"}),
        attention_bias=True,
        attention_out_bias=False,
        required={"use_sliding_window": False},
    ),
    "qwen3": _Family(
        keys=frozenset({"attention_bias", "sliding_window", "max_window_layers"}),
        qk_norm=True,
        required={"use_sliding_window": False},
    ),
    "mixtral": _Family(
        keys=frozenset({"sliding_window", "num_local_experts", "num_experts_per_tok"}),
        attention_bias=False,
        attention_out_bias=False,
        experts_key="num_local_experts",
        experts_size_key="intermediate_size",
    ),
    "qwen3_moe": _Family(
        keys=frozenset(
            {
                "attention_bias",
                "sliding_window",
                "max_window_layers",
                "num_experts",
                "num_experts_per_tok",
                "moe_intermediate_size",
                "norm_topk_prob",
            }
        ),
        qk_norm=True,
        experts_key="num_experts",
        experts_size_key="moe_intermediate_size",
        norm_topk_prob=None,
        required={"use_sliding_window": False, "decoder_sparse_step": 1, "mlp_only_layers": []},
    ),
}
_COMMON = frozenset(
    "vocab_size hidden_size intermediate_size num_hidden_layers num_attention_heads "
    "num_key_value_heads head_dim rms_norm_eps tie_word_embeddings rope_theta rope_scaling "
    "rope_parameters torch_dtype dtype model_type max_position_embeddings".split()
)
# Keys that name, train or sample, and leave the cost of a step alone.
_IRRELEVANT = frozenset(
    "architectures transformers_version _name_or_path bos_token_id eos_token_id pad_token_id "
    "unk_token_id initializer_range use_cache output_router_logits router_aux_loss_coef "
    "router_jitter_noise output_attentions output_hidden_states return_dict max_length".split()
)
_REQUIRED_EVERYWHERE: Mapping[str, object] = {
    "hidden_act": "silu",
    "attention_dropout": 0.0,
    "pretraining_tp": 1,
    "partial_rotary_factor": 1.0,
}


def is_decoder(config: Config) -> bool:
    """Whether the config is of a family we define and holds no key that we do not understand."""
    family = _FAMILIES.get(str(config.get("model_type")))
    if family is None or not _is_causal_lm(config) or not _has_uniform_layers(config):
        return False
    required = {**_REQUIRED_EVERYWHERE, **family.required}
    known = _COMMON | _IRRELEVANT | family.keys | required.keys() | {"layer_types"}
    unknown = {key for key, value in config.items() if value is not None} - known
    return not unknown and all(config.get(key) in (None, value) for key, value in required.items())


def decoder_config(config: Config, name: str) -> DecoderConfig:
    """The shape of the decoder that a config of `is_decoder` describes.

    Raises TargetError naming the first key that is missing or impossible.
    """
    family = _FAMILIES[str(config["model_type"])]
    read = _Reader(config, name)
    heads = read.size("num_attention_heads")
    hidden = read.size("hidden_size")
    experts = read.size(family.experts_key) if family.experts_key else 0
    bias = read.flag("attention_bias", False)
    try:
        return DecoderConfig(
            vocab_size=read.size("vocab_size"),
            hidden_size=hidden,
            intermediate_size=read.size("intermediate_size"),
            num_layers=read.size("num_hidden_layers"),
            num_heads=heads,
            num_kv_heads=_kv_heads(read, heads),
            head_dim=read.size("head_dim", hidden // heads),
            rope_theta=_rope_theta(config),
            rope_scaling=_rope_scaling(config, name),
            norm_eps=read.number("rms_norm_eps", 1e-6),
            tie_word_embeddings=read.flag("tie_word_embeddings", False),
            attention_bias=bias if family.attention_bias is None else family.attention_bias,
            attention_out_bias=(
                bias if family.attention_out_bias is None else family.attention_out_bias
            ),
            mlp_bias=read.flag("mlp_bias", False),
            qk_norm=family.qk_norm,
            sliding_window=_window(read, family),
            num_experts=experts,
            experts_per_token=read.size("num_experts_per_tok") if experts else 0,
            moe_intermediate_size=read.size(family.experts_size_key) if experts else 0,
            norm_topk_prob=(
                read.flag("norm_topk_prob", False)
                if family.norm_topk_prob is None
                else family.norm_topk_prob
            ),
        )
    except ValueError as error:
        if isinstance(error, TargetError):
            raise
        raise TargetError(f"{name}: {error}.") from error


@dataclass(frozen=True, slots=True)
class _Reader:
    """Typed look-ups in a config; a key that is absent or null has its default, if it has one."""

    config: Config
    name: str

    def size(self, key: str, default: int | None = None) -> int:
        """A positive integer."""
        value = self._get(key, default)
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise TargetError(f"{self.name}: {key} is {value!r}; it must be a positive integer.")
        return value

    def number(self, key: str, default: float) -> float:
        """A positive number."""
        value = self._get(key, default)
        if not isinstance(value, int | float) or isinstance(value, bool) or value <= 0:
            raise TargetError(f"{self.name}: {key} is {value!r}; it must be a positive number.")
        return float(value)

    def flag(self, key: str, default: bool) -> bool:
        """True or false."""
        value = self._get(key, default)
        if not isinstance(value, bool):
            raise TargetError(f"{self.name}: {key} is {value!r}; it must be true or false.")
        return value

    def _get(self, key: str, default: object) -> object:
        value = self.config.get(key)
        value = default if value is None else value
        if value is None:
            raise TargetError(f"{self.name} lacks the key {key}; take the model's complete config.")
        return value


def _is_causal_lm(config: Config) -> bool:
    architectures = config.get("architectures")
    if not isinstance(architectures, list) or not architectures:
        return True
    return str(architectures[0]).endswith("ForCausalLM")


def _has_uniform_layers(config: Config) -> bool:
    layers = config.get("layer_types")
    return layers is None or (isinstance(layers, list) and set(layers) == {"full_attention"})


def _kv_heads(read: _Reader, heads: int) -> int:
    """Absent means one per query head in LLaMA; elsewhere its absence is an error."""
    return read.size("num_key_value_heads", heads if read.config["model_type"] == "llama" else None)


def _window(read: _Reader, family: _Family) -> int | None:
    """Qwen's window is off unless `use_sliding_window`; Mistral's absent one is 4096, null is none.

    Source: MistralConfig and MixtralConfig of transformers 5.
    """
    if "sliding_window" not in family.keys or "use_sliding_window" in family.required:
        return None
    if "sliding_window" not in read.config:
        return 4096 if read.config["model_type"] == "mistral" else None
    return None if read.config["sliding_window"] is None else read.size("sliding_window")


def _rope(config: Config) -> Mapping[str, object]:
    for key in ("rope_parameters", "rope_scaling"):
        value = config.get(key)
        if isinstance(value, dict):
            return value
    return {}


def _rope_theta(config: Config) -> float:
    theta = _rope(config).get("rope_theta", config.get("rope_theta", 10_000.0))
    return float(theta) if isinstance(theta, int | float) else 10_000.0


def _rope_scaling(config: Config, name: str) -> RopeScaling | None:
    """LLaMA 3.1's; other kinds change values alone, which a config without weights has not."""
    rope = _rope(config)
    if rope.get("rope_type", rope.get("type")) != "llama3":
        return None
    read = _Reader(rope, f"{name} (rope)")
    return RopeScaling(
        factor=read.number("factor", 8.0),
        low_freq_factor=read.number("low_freq_factor", 1.0),
        high_freq_factor=read.number("high_freq_factor", 4.0),
        original_length=read.size("original_max_position_embeddings", 8192),
    )
