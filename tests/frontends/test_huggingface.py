"""Hugging Face configs: the short way and transformers agree; every task captures on meta."""

import json
from pathlib import Path

import pytest
import torch

from ridgeline.errors import TargetError
from ridgeline.frontends import Request, capture_target, huggingface, load_model
from ridgeline.frontends.decoders import decoder_config, is_decoder
from ridgeline.graph import Graph, InputKind, Phase

transformers = pytest.importorskip("transformers", reason="needs the extra hf")

DECODER: dict[str, object] = {
    "vocab_size": 100,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
}
MOE = {"num_local_experts": 4, "num_experts_per_tok": 2}
QWEN_MOE = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
FAMILIES: dict[str, dict[str, object]] = {
    "llama": {"attention_bias": True, "tie_word_embeddings": True},
    "mistral": {"sliding_window": 8},
    "qwen2": {"use_sliding_window": False},
    "qwen3": {"head_dim": 32},
    "mixtral": MOE,
    "qwen3_moe": QWEN_MOE | {"head_dim": 16},
}


def write(folder: Path, model_type: str, **keys: object) -> str:
    """A folder with a config; returns its path."""
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps({"model_type": model_type, **keys}))
    return str(folder)


def matmul_flops(graph: Graph) -> int:
    """2 per MAC of linear, grouped and attention nodes, attention in full."""
    total = 0
    for node in graph.nodes:
        specs = [node.specs[ref] for ref in node.operands]
        if node.op == "linear":
            total += 2 * node.repeat * node.out.numel * specs[1].shape[-1]
        elif node.op == "grouped_mm":
            total += 2 * node.repeat * node.out.numel * specs[0].shape[-1]
        elif node.op == "sdpa":
            query, key, value = specs[:3]
            scores = query.numel // query.shape[-1] * key.shape[-2]
            total += 2 * node.repeat * scores * (query.shape[-1] + value.shape[-1])
    return total


def both_ways(
    monkeypatch: pytest.MonkeyPatch, folder: Path, family: str, phase: Phase
) -> tuple[Graph, Graph]:
    """The graph by the short way and by transformers."""
    target = write(folder, family, **(DECODER | FAMILIES[family]))
    request = Request(
        target=target, phase=phase, batch=2, seq=16, cache=16 if phase is Phase.DECODE else None
    )
    short = capture_target(request)
    with monkeypatch.context() as patch:
        patch.setattr(huggingface, "is_decoder", lambda config: False)
        long = capture_target(request)
    return short, long


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("phase", [Phase.FORWARD, Phase.PREFILL, Phase.DECODE])
def test_short_and_long_way_agree(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, family: str, phase: Phase
) -> None:
    short, long = both_ways(monkeypatch, tmp_path, family, phase)
    assert short.parameters == long.parameters
    if (family, phase) != ("mistral", Phase.DECODE):  # the window is tested below
        assert matmul_flops(short) == matmul_flops(long)
    if family != "mistral":
        assert cache_bytes(short) == cache_bytes(long)
    assert set(long.repeats.values()) == {4}


def cache_bytes(graph: Graph) -> int:
    """Bytes of the KV cache."""
    return sum(i.nbytes for i in graph.of_kind(InputKind.BUFFER) if "cache" in i.path)


def test_decode_reads_and_keeps_only_the_window(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    short, long = both_ways(monkeypatch, tmp_path, "mistral", Phase.DECODE)
    for graph in (short, long):
        (sdpa,) = (n for n in graph.nodes if n.op == "sdpa")
        assert sdpa.spec("key").shape == (2, 2, 8, 16)
    assert cache_bytes(long) == 4 * 2 * (2 * 2 * 8 * 16) * 4
    assert cache_bytes(short) == 4 * 2 * (2 * 2 * 17 * 16) * 4


def test_experts_count_routed_tokens(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for graph in both_ways(monkeypatch, tmp_path, "mixtral", Phase.FORWARD):
        rows = [n.out.shape for n in graph.nodes if n.op == "grouped_mm"]
        assert rows == [(2 * 16 * 2, 2 * 128), (2 * 16 * 2, 64)]


@pytest.mark.parametrize(
    "extra",
    [
        {"hidden_act": "gelu"},
        {"attention_dropout": 0.1},
        {"something_new": 3},
        {"architectures": ["LlamaForSequenceClassification"]},
        {"layer_types": ["full_attention", "sliding_attention"] * 2},
    ],
)
def test_keys_that_could_change_the_cost_take_the_long_way(extra: dict[str, object]) -> None:
    config = {"model_type": "llama", **DECODER}
    assert is_decoder(config)
    assert not is_decoder({**config, **extra})
    assert not is_decoder({**config, "model_type": "gemma2"})


def test_published_configs_become_the_known_shapes() -> None:
    config = {
        "architectures": ["LlamaForCausalLM"],
        "attention_bias": False,
        "attention_dropout": 0.0,
        "bos_token_id": 128000,
        "eos_token_id": 128001,
        "hidden_act": "silu",
        "hidden_size": 16384,
        "initializer_range": 0.02,
        "intermediate_size": 53248,
        "max_position_embeddings": 131072,
        "mlp_bias": False,
        "model_type": "llama",
        "num_attention_heads": 128,
        "num_hidden_layers": 126,
        "num_key_value_heads": 8,
        "pretraining_tp": 1,
        "rms_norm_eps": 1e-05,
        "rope_scaling": {
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192,
            "rope_type": "llama3",
        },
        "rope_theta": 500000.0,
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
        "transformers_version": "4.42.3",
        "use_cache": True,
        "vocab_size": 128256,
    }
    from ridgeline.zoo.decoder import LLAMA_31_405B

    assert is_decoder(config)
    assert decoder_config(config, "405B") == LLAMA_31_405B


def small(model_type: str) -> dict[str, object]:
    """Keys of a tiny model."""
    names = {"vocab_size": 100, "hidden_size": 64, "intermediate_size": 128}
    encoder = {**names, "num_hidden_layers": 4, "num_attention_heads": 4}
    sizes = {"vocab_size": 100, "d_model": 64, "max_position_embeddings": 64}
    halves = {f"{h}_layers": 4 for h in ("encoder", "decoder")}
    heads = {f"{h}_attention_heads": 4 for h in ("encoder", "decoder")}
    ffns = {f"{h}_ffn_dim": 128 for h in ("encoder", "decoder")}
    return {
        "bert": encoder,
        "vit": {**encoder, "image_size": 32, "patch_size": 8},
        "resnet": {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [3, 3]},
        "t5": {"vocab_size": 100, "d_model": 64, "d_kv": 16, "d_ff": 128, "num_layers": 4,
               "num_heads": 4},
        "bart": sizes | halves | heads | ffns,
        "gpt2": {"vocab_size": 100, "n_embd": 64, "n_layer": 4, "n_head": 4, "n_positions": 64},
    }[model_type]  # fmt: skip


@pytest.mark.parametrize(
    ("model_type", "inputs", "folds"),
    [
        ("bert", ["input_ids", "attention_mask"], [4]),
        ("vit", ["pixel_values"], [4]),
        ("resnet", ["pixel_values"], [3, 2]),
        ("t5", ["input_ids", "attention_mask", "decoder_input_ids"], [3, 3]),
        ("bart", ["input_ids", "attention_mask", "decoder_input_ids"], [4, 4]),
        ("gpt2", ["input_ids"], [4]),
    ],
)
def test_every_task_captures_on_meta(
    tmp_path: Path, model_type: str, inputs: list[str], folds: list[int]
) -> None:
    target = write(tmp_path, model_type, **small(model_type))
    graph = capture_target(Request(target=target))
    assert [i.path for i in graph.of_kind(InputKind.INPUT)] == inputs
    assert list(graph.repeats.values()) == folds
    auto = transformers.AutoConfig.from_pretrained(target)
    loaded = load_model(Request(target=target))
    assert graph.parameters == sum(p.numel() for p in loaded.module.parameters())
    assert auto.model_type == model_type


def test_class_named_in_the_config_is_taken(tmp_path: Path) -> None:
    target = write(tmp_path, "bert", architectures=["BertModel"], **small("bert"))
    graph = capture_target(Request(target=target, batch=3, seq=7))
    assert (3, 7, 64) in {s.shape for r, s in graph.specs.items() if r in graph.outputs}


def test_real_weights_are_loaded(tmp_path: Path) -> None:
    config = transformers.LlamaConfig(**DECODER)
    model = transformers.LlamaForCausalLM(config).eval()
    model.save_pretrained(tmp_path)
    loaded = load_model(Request(target=str(tmp_path), seq=8))
    with torch.no_grad():
        mine, theirs = loaded.module(*loaded.inputs), model(*loaded.inputs, use_cache=False).logits
    torch.testing.assert_close(mine, theirs)


def test_decode_after_prefill_equals_one_forward(tmp_path: Path) -> None:
    transformers.LlamaForCausalLM(transformers.LlamaConfig(**DECODER)).save_pretrained(tmp_path)
    forward, prefill, decode = (
        load_model(
            Request(target=str(tmp_path), phase=p, seq=s, cache=8 if p is Phase.DECODE else None)
        ).module
        for p, s in ((Phase.FORWARD, 9), (Phase.PREFILL, 8), (Phase.DECODE, None))
    )
    ids = torch.randint(100, (1, 9))
    with torch.no_grad():
        expected = forward(ids)
        torch.testing.assert_close(prefill(ids[:, :8]), expected[:, 7:8])
        filled = dict(prefill.named_buffers())
        for name, buffer in decode.named_buffers():
            if "cache" in name:
                buffer[:, :, :8] = filled[name]
        torch.testing.assert_close(decode(ids[:, 8:]), expected[:, 8:])


def test_an_index_that_names_files_elsewhere_is_refused(tmp_path: Path) -> None:
    target = write(tmp_path, "bert", **small("bert"))
    (tmp_path / "model.safetensors").write_bytes(b"")
    (tmp_path / "model.safetensors.index.json").write_text(
        json.dumps({"weight_map": {"a": "../secret.safetensors"}})
    )
    with pytest.raises(TargetError, match=r"names '\.\./secret\.safetensors'"):
        load_model(Request(target=target))


def test_damaged_weights_are_one_sentence(tmp_path: Path) -> None:
    target = write(tmp_path, "bert", **small("bert"))
    (tmp_path / "model.safetensors").write_bytes(b"not safetensors")
    with pytest.raises(TargetError, match="cannot read the weights"):
        load_model(Request(target=target))


def test_weights_of_another_class_are_refused(tmp_path: Path) -> None:
    config = transformers.BertConfig(**small("bert"))
    transformers.BertModel(config).save_pretrained(tmp_path)
    named = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(
        json.dumps({**named, "architectures": ["BertForMaskedLM"]})
    )
    with pytest.raises(TargetError, match=r"lack cls\..* of BertForMaskedLM"):
        load_model(Request(target=str(tmp_path)))


@pytest.mark.parametrize("dtype", ["bf16", "fp16"])
def test_dtype_casts_parameters_and_pixels(tmp_path: Path, dtype: str) -> None:
    graph = capture_target(Request(target=write(tmp_path, "vit", **small("vit")), dtype=dtype))
    assert {i.spec.dtype for i in graph.inputs} == {dtype}


def test_image_side_is_fixed_by_the_patches(tmp_path: Path) -> None:
    target = write(tmp_path, "vit", **small("vit"))
    with pytest.raises(TargetError, match="takes images of 32 x 32 pixels"):
        capture_target(Request(target=target, seq=64))


TINY = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "vocab_size": 100}
TABLES: dict[str, dict[str, object]] = {
    "gpt2": {"n_positions": 64, "n_embd": 32, "n_layer": 2, "n_head": 2, "vocab_size": 100},
    "bert": TINY | {"intermediate_size": 64, "max_position_embeddings": 64},
    # the rows of padding and before it are no positions
    "roberta": TINY | {"intermediate_size": 64, "max_position_embeddings": 66, "pad_token_id": 1},
    "opt": TINY | {"ffn_dim": 64, "word_embed_proj_dim": 32, "max_position_embeddings": 64},
}


@pytest.mark.parametrize("family", TABLES)
def test_tokens_beyond_the_learned_positions_are_refused(family: str, tmp_path: Path) -> None:
    target = write(tmp_path / family, family, **TABLES[family])
    ids, *_ = capture_target(Request(target=target, seq=64)).of_kind(InputKind.INPUT)
    assert ids.spec.shape == (1, 64)
    with pytest.raises(
        TargetError, match=r"--seq 65 needs 65 positions; .* has 64\. Ask for fewer"
    ):
        capture_target(Request(target=target, seq=65))


@pytest.mark.parametrize("key", ["torch_dtype", "dtype"])
@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_an_unknown_dtype_is_named(tmp_path: Path, key: str, family: str) -> None:
    keys = DECODER if family == "llama" else {"n_embd": 64, "n_layer": 1, "n_head": 4}
    target = write(tmp_path / "net", family, **keys, **{key: "float99"})
    with pytest.raises(TargetError, match=f"net: {key} is 'float99'; it must be one of float64"):
        capture_target(Request(target=target, seq=8))
    asked = capture_target(Request(target=target, seq=8, dtype="bf16"))
    assert {i.spec.dtype for i in asked.of_kind(InputKind.PARAMETER)} == {"bf16"}


@pytest.mark.parametrize(
    ("word", "dtype"), [("torch.float16", "fp16"), ("auto", "fp32"), (None, "fp32")]
)
def test_dtypes_of_configs(tmp_path: Path, word: str | None, dtype: str) -> None:
    graph = capture_target(
        Request(target=write(tmp_path, "llama", **DECODER, torch_dtype=word), seq=8)
    )
    assert {i.spec.dtype for i in graph.of_kind(InputKind.PARAMETER)} == {dtype}


def test_a_million_layers_are_refused(tmp_path: Path) -> None:
    deep = write(tmp_path / "deep", "llama", **DECODER | {"num_hidden_layers": 10**6})
    with pytest.raises(TargetError, match="deep: num_hidden_layers is 1000000; more than 4096 are"):
        capture_target(Request(target=deep))
    part = write(tmp_path / "parts", "t5gemma", decoder={"num_hidden_layers": 10**6})
    with pytest.raises(TargetError, match=r"parts \(decoder\): num_hidden_layers is 1000000"):
        capture_target(Request(target=part))
