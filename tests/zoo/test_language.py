"""The language and diffusion models: facts, phases and exports, with transformers as the oracle."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.export.graph_signature import OutputKind
from torch.utils.flop_counter import FlopCounterMode

from ridgeline.zoo import bert, decoder, gpt2, sd_unet
from ridgeline.zoo.causal import CausalLM
from ridgeline.zoo.decoder import Decoder, DecoderConfig
from ridgeline.zoo.experts import Experts, MixtureOfExperts, grouped_mm
from ridgeline.zoo.rotary import RopeScaling
from ridgeline.zoo.workload import Sizes, Workload

WORKLOADS = {
    workload.name: workload
    for workload in (
        *decoder.WORKLOADS,
        bert.WORKLOAD,
        gpt2.WORKLOAD,
        *sd_unet.WORKLOADS,
    )
}
DENSE = sorted(name for name in WORKLOADS if "mixtral" not in name)
CAUSAL = sorted(name for name, workload in WORKLOADS.items() if "decode" in workload.forms)

TINY = replace(decoder.LLAMA_TINY, num_layers=2, hidden_size=64, intermediate_size=96, head_dim=8)
TINY_MOE = replace(TINY, num_experts=4, experts_per_token=2, moe_intermediate_size=48)
VARIANTS = {
    "llama": TINY,
    "multi-head": replace(TINY, num_kv_heads=8),
    "tied": replace(TINY, tie_word_embeddings=True),
    "biases": replace(TINY, attention_bias=True, attention_out_bias=True, mlp_bias=True),
    "qk-norm": replace(TINY, qk_norm=True),
    "window": replace(TINY, sliding_window=5),
    "mixtral": TINY_MOE,
    "experts-unnormalised": replace(TINY_MOE, norm_topk_prob=False, experts_per_token=3),
}


@pytest.fixture(autouse=True)
def _seeded() -> Iterator[None]:
    torch.manual_seed(0)
    with torch.no_grad():
        yield


def on_meta(name: str) -> tuple[nn.Module, Workload]:
    with torch.device("meta"):
        return WORKLOADS[name].build(), WORKLOADS[name]


def collapse(model: nn.Module) -> nn.Module:
    """Keeps one layer of every run of layers, as the frontend does before capture."""
    for module in model.modules():
        for name in ("layers", "h", "layer"):
            if isinstance(getattr(module, name, None), nn.ModuleList):
                setattr(module, name, getattr(module, name)[:1])
    return model


def exported(module: nn.Module, inputs: tuple[Tensor, ...]) -> ExportedProgram:
    captured = torch.export.export(module, inputs, strict=False)
    program: ExportedProgram = captured.run_decompositions({})
    return program


def ops(program: ExportedProgram) -> list[str]:
    return [str(node.target) for node in program.graph.nodes if node.op == "call_function"]


def mutated(program: ExportedProgram) -> list[str | None]:
    specs = program.graph_signature.output_specs
    return [spec.target for spec in specs if spec.kind is OutputKind.BUFFER_MUTATION]


# --- facts ---------------------------------------------------------------------------------------


def test_names() -> None:
    assert sorted(WORKLOADS) == [
        "bert-base",
        "gpt2",
        "llama-2-7b",
        "llama-3.1-405b",
        "llama-3.1-70b",
        "llama-3.1-8b",
        "llama-small",
        "llama-tiny",
        "mixtral-8x7b",
        "mixtral-tiny",
        "sd-v1-block",
        "sd-v1-unet",
    ]


@pytest.mark.parametrize("name", sorted(WORKLOADS))
def test_parameters(name: str) -> None:
    model, workload = on_meta(name)
    assert sum(weight.numel() for weight in model.parameters()) == workload.facts.parameters


def counted(name: str, dtype: torch.dtype | None = None) -> tuple[int, int]:
    """FLOPs by torch's counter on meta: all, and those of attention."""
    model, workload = on_meta(name)
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        module, inputs = workload.forms["forward"](model.to(dtype), Sizes())
        module(*inputs)
    by_op = counter.get_flop_counts()["Global"]
    return counter.get_total_flops(), by_op[torch.ops.aten.bmm]  # attention is two bmm on meta


@pytest.mark.parametrize("name", DENSE)
def test_flops_are_the_counters(name: str) -> None:
    total, attention = counted(name)
    facts = WORKLOADS[name].facts
    assert facts.flops == total
    assert attention > 0
    assert facts.causal_flops == (total - attention // 2 if name in CAUSAL else None)


@pytest.mark.parametrize(
    ("name", "config"),
    [("mixtral-8x7b", decoder.MIXTRAL_8X7B), ("mixtral-tiny", decoder.MIXTRAL_TINY)],
)
def test_flops_of_experts_are_the_routed_ones(name: str, config: DecoderConfig) -> None:
    total, attention = counted(name, torch.bfloat16)  # the counter has no formula for _grouped_mm
    facts = WORKLOADS[name].facts
    rows = (facts.sizes.seq or 0) * config.experts_per_token
    routed = 6 * rows * config.hidden_size * config.moe_intermediate_size * config.num_layers
    assert facts.flops == total + routed
    assert facts.causal_flops == total + routed - attention // 2


def test_published_totals() -> None:
    """GFLOP at 2048 tokens, as published figures round them."""
    rounded = {name: (WORKLOADS[name].facts.flops or 0) / 1e9 for name in WORKLOADS}
    assert rounded["llama-2-7b"] == pytest.approx(29_261.6, abs=0.05)
    assert rounded["llama-3.1-405b"] == pytest.approx(1_688_386, abs=0.5)
    assert rounded["mixtral-8x7b"] == pytest.approx(54_417, abs=0.5)
    assert (WORKLOADS["llama-2-7b"].facts.causal_flops or 0) / 1e9 == pytest.approx(28_162, abs=0.5)


def test_unet_flops_by_hand() -> None:
    """The docstring's rule summed over the layers, without building the model."""

    def res(before: int, width: int, side: int) -> int:
        shortcut = 2 * before * width * side**2 if before != width else 0
        return 18 * (before + width) * width * side**2 + 2 * 1280 * width + shortcut

    def transformer(width: int, side: int) -> int:
        tokens = side**2
        projections = tokens * 2 * width**2 * (2 + 4 + 2 + 8 + 4) + 2 * 2 * 768 * width * 77
        return projections + 4 * width * tokens * (tokens + 77)

    down = 18 * 4 * 320 * 64**2 * 2 + 2 * 320 * 1280 + 2 * 1280**2
    for before, width, side in ((320, 320, 64), (320, 640, 32), (640, 1280, 16)):
        down += res(before, width, side) + res(width, width, side) + 2 * transformer(width, side)
        down += 18 * width**2 * (side // 2) ** 2
    down += 2 * res(1280, 1280, 8)
    mid = 2 * res(1280, 1280, 8) + transformer(1280, 8)
    up = sum(res(before, 1280, 8) for before in (2560, 2560, 2560)) + 18 * 1280**2 * 16**2
    for width, side, inputs in (
        (1280, 16, (2560, 2560, 1920)),
        (640, 32, (1920, 1280, 960)),
        (320, 64, (960, 640, 640)),
    ):
        up += sum(res(before, width, side) for before in inputs) + 3 * transformer(width, side)
        up += 18 * width**2 * (2 * side) ** 2 if side < 64 else 0
    unet, block = (workload.facts for workload in sd_unet.WORKLOADS)
    assert unet.flops == down + mid + up
    assert block.flops == res(640, 640, 32) + transformer(640, 32)


# --- export --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["bert-base", "gpt2", "llama-2-7b", "llama-3.1-405b", "mixtral-8x7b", "mixtral-tiny"]
)
def test_export_on_meta(name: str) -> None:
    model, workload = on_meta(name)
    collapse(model)
    for phase, form in workload.forms.items():
        with torch.device("meta"):
            program = exported(*form(model, Sizes()))
        kinds = ops(program)
        assert kinds.count("aten.scaled_dot_product_attention.default") == 1
        assert kinds.count("aten.index_copy.default") == (0 if phase == "forward" else 2)
        assert len(mutated(program)) == (0 if phase == "forward" else 2)
        assert not any("aten.sym" in kind or "aten.item" in kind for kind in kinds)  # all static
        assert len(kinds) < (80 if "mixtral" in name else 60)


def test_ops_of_one_layer() -> None:
    """What a layer is made of, written out: 7 projections, 2 norms, 2 rotations, one attention."""
    model, workload = on_meta("llama-tiny")
    with torch.device("meta"):
        program = exported(*workload.forms["decode"](collapse(model), Sizes()))
    counts = Counter(op.removeprefix("aten.") for op in ops(program) if "_assert" not in op)
    tables = {"arange.start": 1, "arange.start_step": 1, "div.Tensor": 1, "pow.Scalar": 1}
    tables |= {"unsqueeze.default": 1, "cos.default": 1, "sin.default": 1, "neg.default": 1}
    tables |= {"cat.default": 2}
    rotations = {"roll.default": 2, "mul.Tensor": 1 + 4 + 1, "add.Tensor": 2 + 2}
    assert counts == tables | rotations | {
        "embedding.default": 1,
        "rms_norm.default": 2 + 1,
        "linear.default": 7 + 1,
        "view.default": 3 + 1,
        "transpose.int": 3 + 1,
        "index_copy.default": 2,
        "scaled_dot_product_attention.default": 1,
        "silu.default": 1,
    }


@pytest.mark.slow
def test_export_of_the_unet_on_meta() -> None:
    model, workload = on_meta("sd-v1-unet")
    with torch.device("meta"):
        kinds = ops(exported(*workload.forms["forward"](model, Sizes())))
    assert kinds.count("aten.scaled_dot_product_attention.default") == 2 * 16
    assert kinds.count("aten.group_norm.default") == 2 * 22 + 16 + 1


def test_cache_buffers_are_reported_per_layer() -> None:
    model = Decoder(TINY).eval()
    program = exported(*decoder.WORKLOADS[0].forms["decode"](model, Sizes(cache=4)))
    assert mutated(program) == [
        f"lm.model.layers.{layer}.self_attn.{part}_cache" for layer in (0, 1) for part in "kv"
    ]


def test_decode_sizes() -> None:
    model = collapse(Decoder(TINY).eval())
    module, (ids,) = decoder.WORKLOADS[0].forms["decode"](model, Sizes(batch=3, cache=9))
    assert ids.shape == (3, 1)
    assert [tuple(buffer.shape) for buffer in module.buffers()] == [(3, 4, 10, 8)] * 2
    assert module(ids).shape == (3, 1, TINY.vocab_size)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("variant", ["llama", "mixtral", "window"])
def test_exported_program_computes_the_same(variant: str, dtype: torch.dtype) -> None:
    model = Decoder(VARIANTS[variant]).eval().to(dtype)
    for form in decoder.WORKLOADS[0].forms.values():
        module, inputs = form(model, Sizes(batch=2, seq=9, cache=7))
        program = exported(module, inputs)
        torch.testing.assert_close(program.module()(*inputs), module(*inputs))


# --- the phases agree ----------------------------------------------------------------------------


def check_phases(lm: CausalLM, vocab: int) -> None:
    ids = torch.randint(vocab, (2, 12))
    want = lm(ids)
    lm.make_cache(2, 12)
    torch.testing.assert_close(lm.prefill(ids[:, :8]), want[:, 7:8], atol=1e-4, rtol=1e-4)
    for position in range(8, 12):
        got = lm.decode(ids[:, position : position + 1], position)
        torch.testing.assert_close(got, want[:, position : position + 1], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("variant", VARIANTS)
def test_prefill_and_decode_equal_forward(variant: str) -> None:
    check_phases(Decoder(VARIANTS[variant]).eval(), TINY.vocab_size)


@pytest.mark.parametrize("name", ["llama-tiny", "mixtral-tiny"])
def test_tiny_prefill_and_decode_equal_forward(name: str) -> None:
    model = WORKLOADS[name].build()
    assert isinstance(model, CausalLM)
    check_phases(model, 512)


def test_gpt2_prefill_and_decode_equal_forward() -> None:
    config = gpt2.GPT2Config(vocab_size=100, hidden_size=32, num_layers=2, num_heads=4)
    check_phases(gpt2.GPT2(config).eval(), 100)


def test_decode_writes_its_row_only() -> None:
    model = Decoder(TINY).eval()
    module, inputs = decoder.WORKLOADS[0].forms["decode"](model, Sizes(cache=6))
    before = [buffer.clone() for buffer in module.buffers()]
    module(*inputs)
    for old, new in zip(before, module.buffers(), strict=True):
        assert torch.equal(old[:, :, :6], new[:, :, :6])
        assert not torch.equal(old[:, :, 6], new[:, :, 6])


def test_later_tokens_change_no_earlier_logits() -> None:
    model, ids = Decoder(TINY_MOE).eval(), torch.randint(512, (1, 10))
    changed = torch.cat((ids[:, :6], (ids[:, 6:] + 1) % 512), dim=1)
    torch.testing.assert_close(model(ids)[:, :6], model(changed)[:, :6])
    assert not torch.allclose(model(ids)[:, 6:], model(changed)[:, 6:])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", ["llama-tiny", "mixtral-tiny"])
def test_activations_are_neither_dead_nor_exploding(name: str, dtype: torch.dtype) -> None:
    module, inputs = WORKLOADS[name].forms["forward"](WORKLOADS[name].build().to(dtype), Sizes())
    logits = module(*inputs).float()
    assert logits.isfinite().all()
    assert 0.3 < logits.std().item() < 3  # N(0, 1/fan-in) weights keep a normalised stream near 1
    assert logits.std(dim=1).mean() > 0.1  # and tokens stay apart


def test_the_ambient_dtype_and_device_are_kept() -> None:
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.device("meta"):
            model = Decoder(TINY_MOE)
    finally:
        torch.set_default_dtype(torch.float32)
    assert {(p.dtype, p.device.type) for p in model.parameters()} == {(torch.bfloat16, "meta")}


# --- experts -------------------------------------------------------------------------------------


def loop(rows: Tensor, weights: Tensor, ends: Tensor) -> Tensor:
    """The grouped matmul, one group after the other."""
    starts = [0, *ends.tolist()[:-1]]
    return torch.cat(
        [rows[start:end] @ w for start, end, w in zip(starts, ends.tolist(), weights, strict=True)]
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_grouped_mm_is_a_loop_over_groups(dtype: torch.dtype) -> None:
    rows, weights = torch.randn(16, 32, dtype=dtype), torch.randn(4, 32, 24, dtype=dtype)
    ends = torch.tensor([5, 5, 12, 16], dtype=torch.int32)  # the second group is empty
    torch.testing.assert_close(grouped_mm(rows, weights, ends), loop(rows, weights, ends))


def test_grouped_mm_gradients() -> None:
    rows, weights = torch.randn(16, 32, requires_grad=True), torch.randn(4, 32, 24)
    weights.requires_grad_()
    ends = torch.tensor([5, 5, 12, 16], dtype=torch.int32)
    with torch.enable_grad():
        got = grouped_mm(rows, weights, ends).square().sum()
        want = loop(rows, weights, ends).square().sum()
    inputs = (rows, weights)
    torch.testing.assert_close(torch.autograd.grad(got, inputs), torch.autograd.grad(want, inputs))


def test_grouped_mm_operator_is_well_formed() -> None:
    ends = torch.tensor([5, 5, 12, 16], dtype=torch.int32)
    rows, weights = torch.randn(16, 32, requires_grad=True), torch.randn(4, 32, 24)
    torch.library.opcheck(torch.ops.ridgeline.grouped_mm, (rows, weights, ends))


def test_mixture_is_the_weighted_sum_of_all_experts_with_others_at_zero() -> None:
    mixture = MixtureOfExperts(16, hidden_dim=24, num_experts=5, top_k=2, is_normalised=True)
    for weight in mixture.parameters():
        nn.init.normal_(weight, std=0.3)
    x = torch.randn(2, 7, 16)
    scores, chosen = mixture.gate(x.flatten(0, 1))
    dense = torch.zeros(14, 5).scatter(1, chosen, scores)
    torch.testing.assert_close(dense.sum(dim=1), torch.ones(14))
    gate, up = torch.einsum("td,efd->tef", x.flatten(0, 1), mixture.experts.gate_up_proj).chunk(
        2, -1
    )
    each = torch.einsum("tef,edf->ted", nn.functional.silu(gate) * up, mixture.experts.down_proj)
    want = torch.einsum("te,ted->td", dense, each).view_as(x)
    torch.testing.assert_close(mixture(x), want, atol=1e-5, rtol=1e-5)


def test_an_expert_that_no_token_chose_is_skipped() -> None:
    experts = Experts(8, num_experts=4, hidden_dim=16)
    for weight in experts.parameters():
        nn.init.normal_(weight)
    experts.down_proj[3] = torch.nan
    chosen = torch.randint(3, (6, 1))
    assert experts(torch.randn(6, 8), torch.ones(6, 1), chosen).isfinite().all()


# --- bad input -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_layers": 0}, "num_layers is 0"),
        ({"num_kv_heads": 3}, "not a multiple of num_kv_heads 3"),
        ({"head_dim": 7}, "head_dim is 7"),
        ({"sliding_window": 0}, "sliding_window is 0"),
        ({"norm_eps": 0.0}, "norm_eps 0.0"),
        ({"num_experts": 4, "experts_per_token": 5}, "experts_per_token is 5; it must be 1 to 4"),
        ({"num_experts": 4, "experts_per_token": 2}, "moe_intermediate_size is 0"),
    ],
)
def test_a_config_that_does_not_fit_is_refused(change: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(TINY, **change)  # type: ignore[arg-type]


def test_rope_scaling_that_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="must exceed the low one"):
        RopeScaling(factor=8, low_freq_factor=4, high_freq_factor=1, original_length=8192)


def test_phases_without_room_in_the_cache_are_refused() -> None:
    model, ids = Decoder(TINY).eval(), torch.zeros(1, 4, dtype=torch.long)
    with pytest.raises(ValueError, match="no KV cache for prefill; call make_cache"):
        model.prefill(ids)
    model.make_cache(1, 3)
    with pytest.raises(ValueError, match="4 tokens in a KV cache made for 3"):
        model.prefill(ids)
    with pytest.raises(ValueError, match="one token per sample, not 4"):
        model.decode(ids, 0)


def test_sequences_beyond_the_learned_positions_are_refused() -> None:
    for name, limit in (("gpt2", 1024), ("bert-base", 512)):
        model, workload = on_meta(name)
        with torch.device("meta"):
            module, inputs = workload.forms["forward"](model, Sizes(seq=limit + 1))
        with pytest.raises(ValueError, match=f"{limit + 1} tokens exceed the {limit} positions"):
            module(*inputs)


def test_a_unet_side_that_cannot_be_halved_is_refused() -> None:
    model, workload = on_meta("sd-v1-unet")
    with torch.device("meta"):
        module, inputs = workload.forms["forward"](model, Sizes(seq=60))
    with pytest.raises(ValueError, match="side is 60; it must be a multiple of 8"):
        module(*inputs)


# --- transformers as the oracle ------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """A transformers model and the config that should make ours equal to it."""

    family: str
    config: DecoderConfig
    options: dict[str, object]


LLAMA_3_SCALING = RopeScaling(
    factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_length=64
)
MOE_OPTIONS: dict[str, object] = {"num_experts_per_tok": 2, "experts_implementation": "eager"}
PEERS = {
    "llama": Peer(family="Llama", config=TINY, options={}),
    "llama-biases": Peer(
        family="Llama",
        config=VARIANTS["biases"],
        options={"attention_bias": True, "mlp_bias": True},
    ),
    "llama-3.1": Peer(
        family="Llama",
        config=replace(TINY, rope_scaling=LLAMA_3_SCALING, rope_theta=1000.0, head_dim=16),
        options={
            "rope_parameters": {
                "rope_type": "llama3",
                "rope_theta": 1000.0,
                "factor": 8.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 64,
            }
        },
    ),
    "qwen2": Peer(
        family="Qwen2",
        config=replace(TINY, attention_bias=True, tie_word_embeddings=True),
        options={"tie_word_embeddings": True},
    ),
    "qwen3": Peer(family="Qwen3", config=VARIANTS["qk-norm"], options={}),
    "mistral": Peer(
        family="Mistral", config=replace(TINY, sliding_window=5), options={"sliding_window": 5}
    ),
    "mixtral": Peer(
        family="Mixtral",
        config=TINY_MOE,
        options={"num_local_experts": 4, "intermediate_size": 48, **MOE_OPTIONS},
    ),
    "qwen3-moe": Peer(
        family="Qwen3Moe",
        config=replace(TINY_MOE, qk_norm=True, norm_topk_prob=False),
        options={
            "num_experts": 4,
            "moe_intermediate_size": 48,
            "norm_topk_prob": False,
            **MOE_OPTIONS,
        },
    ),
}


def theirs(peer: Peer) -> nn.Module:
    transformers = pytest.importorskip("transformers")
    config, names = peer.config, {"hidden_size", "intermediate_size", "vocab_size", "head_dim"}
    shared = {name: getattr(config, name) for name in names}
    shared |= {"num_hidden_layers": config.num_layers, "num_attention_heads": config.num_heads}
    shared |= {"num_key_value_heads": config.num_kv_heads, "rms_norm_eps": config.norm_eps}
    shared |= {"rope_parameters": {"rope_type": "default", "rope_theta": config.rope_theta}}
    shared |= {"tie_word_embeddings": False, "max_position_embeddings": 512} | peer.options
    made = getattr(transformers, f"{peer.family}Config")(**shared)
    model: nn.Module = getattr(transformers, f"{peer.family}ForCausalLM")(made).eval()
    for name, weight in model.named_parameters():
        if "norm" in name or name.endswith("bias"):
            nn.init.normal_(weight, mean=1.0, std=0.2)
        else:
            nn.init.normal_(weight, std=weight.shape[-1] ** -0.5)
    return model


@pytest.mark.parametrize("name", PEERS)
def test_logits_equal_those_of_transformers(name: str) -> None:
    peer, ids = PEERS[name], torch.randint(512, (2, 100))
    model, want = Decoder(peer.config).eval(), theirs(peer)
    model.load_state_dict(want.state_dict())
    torch.testing.assert_close(model(ids), want(ids).logits, atol=1e-4, rtol=1e-4)


def test_gpt2_equals_that_of_transformers() -> None:
    transformers = pytest.importorskip("transformers")
    made = transformers.GPT2Config(vocab_size=100, n_embd=32, n_layer=2, n_head=4)
    want = transformers.GPT2LMHeadModel(made).eval()
    config = gpt2.GPT2Config(vocab_size=100, hidden_size=32, num_layers=2, num_heads=4)
    model = gpt2.GPT2(config).eval()
    state = {
        name: weight.t() if ".c_" in name and weight.dim() == 2 else weight  # Conv1D is (in, out)
        for name, weight in want.state_dict().items()
    }
    model.load_state_dict(state)
    ids = torch.randint(100, (2, 40))
    torch.testing.assert_close(model(ids), want(ids).logits, atol=1e-4, rtol=1e-4)


def test_bert_equals_that_of_transformers() -> None:
    transformers = pytest.importorskip("transformers")
    sizes = {"vocab_size": 100, "hidden_size": 32, "intermediate_size": 64}
    made = transformers.BertConfig(num_hidden_layers=2, num_attention_heads=4, **sizes)
    want = transformers.BertModel(made).eval()
    model = bert.Bert(bert.BertConfig(num_layers=2, num_heads=4, **sizes)).eval()
    model.load_state_dict(want.state_dict())
    ids, segments = torch.randint(100, (2, 40)), torch.randint(2, (2, 40))
    theirs = want(ids, token_type_ids=segments)
    hidden, pooled = model(ids, segments)
    torch.testing.assert_close(hidden, theirs.last_hidden_state, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(pooled, theirs.pooler_output, atol=1e-4, rtol=1e-4)


def test_a_small_unet_runs_and_listens_to_all_inputs() -> None:
    config = sd_unet.UNetConfig(widths=(32, 64), context_dim=16, num_groups=8)
    model = sd_unet.UNet(config).eval()
    latents, steps, context = torch.randn(2, 4, 8, 8), torch.tensor([3, 800]), torch.randn(2, 5, 16)
    out = model(latents, steps, context)
    assert out.shape == latents.shape
    assert out.isfinite().all()
    for other in ((latents + 1, steps, context), (latents, steps + 9, context)):
        assert not torch.allclose(model(*other), out)
    assert not torch.allclose(model(latents, steps, context + 1), out)
