"""EGC: facts by hand, and its score as an ordinary graph."""

from itertools import pairwise
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from ridgeline import capture, differentiate, named_outputs, train_graph, zoo
from ridgeline.backends.aoti import Aoti
from ridgeline.backends.backend import Backend
from ridgeline.backends.native.backend import Native
from ridgeline.backends.reference import Reference
from ridgeline.errors import CaptureError
from ridgeline.graph import Graph, Phase, load, save, verify
from ridgeline.graph.flat import example_inputs
from ridgeline.passes.autodiff import logsumexp
from ridgeline.passes.manager import run_passes
from ridgeline.zoo import Sizes
from ridgeline.zoo.egc import EGC, TINY, Classify, EGCConfig

LATENTS = "latents_bcss"


def parameters_by_hand(config: EGCConfig) -> int:
    """Every layer's weights and biases, from the architecture as the docstring tells it."""
    widths, context = config.widths, config.context_dim
    first, time = widths[0], 4 * widths[0]

    def conv(ins: int, outs: int, side: int) -> int:
        return ins * outs * side**2 + outs

    def linear(ins: int, outs: int) -> int:
        return ins * outs + outs

    def residual(ins: int, width: int) -> int:
        shortcut = 0 if ins == width else conv(ins, width, 1)
        both = conv(ins, width, 3) + conv(width, width, 3)
        return 2 * ins + 2 * width + both + linear(time, width) + shortcut

    def transformer(width: int) -> int:
        norms = 4 * 2 * width
        own, label = 3 * width**2, width**2 + 2 * context * width
        outs = 2 * linear(width, width) + 2 * conv(width, width, 1)
        return norms + own + label + outs + linear(width, 4 * width) + linear(4 * width, width)

    total = conv(4, first, 3) + linear(first, time) + linear(time, time)
    total += (config.num_classes + 1) * context + 2 * first + conv(first, config.num_classes, 3)
    for width in widths:
        blocks = config.blocks_down + config.blocks_up
        total += residual(2 * width, width) + (blocks - 1) * residual(width, width)
        total += blocks * transformer(width)
    for fine, coarse in pairwise(widths):
        total += conv(fine, coarse, 3) + conv(coarse, fine, 3)
    return total


@pytest.mark.parametrize(
    ("name", "config", "count", "millions"),
    [
        ("egc", EGCConfig(), 516_470_120, "516.5"),
        ("egc-tiny", TINY, 693_850, "0.69"),
    ],
)
def test_parameters(name: str, config: EGCConfig, count: int, millions: str) -> None:
    with torch.device("meta"):
        counted = sum(p.numel() for p in zoo.get(name).build().parameters())
    assert counted == count == parameters_by_hand(config) == zoo.get(name).facts.parameters
    assert f"{count / 1e6:.{len(millions.partition('.')[2])}f}" == millions


def made(form: str, *, is_training: bool = False) -> tuple[EGC, nn.Module, tuple[Tensor, ...]]:
    workload = zoo.get("egc-tiny")
    model = workload.build().train(is_training)
    assert isinstance(model, EGC)
    module, inputs = workload.forms[form](model, Sizes(batch=2))
    return model, module, inputs


def energy_graph(model: EGC, inputs: tuple[Tensor, ...]) -> Graph:
    phase = Phase.TRAIN if model.training else Phase.FORWARD
    return capture(model, inputs, phase=phase, is_trusted=True)


def score_graph(model: EGC, inputs: tuple[Tensor, ...]) -> Graph:
    return differentiate(energy_graph(model, inputs), wrt=[LATENTS], of=logsumexp)


def test_classifying_pools_by_attention_of_the_mean() -> None:
    model, classify, inputs = made("forward")
    assert isinstance(classify, Classify)
    with torch.no_grad():
        logits_BTK = model(*inputs).flatten(2).mT
        weights_B1T = (logits_BTK.mean(1, True) @ logits_BTK.mT / 10**0.5).softmax(-1)
        expected_BK = (weights_B1T @ logits_BTK)[:, 0]
        torch.testing.assert_close(classify(*inputs), expected_BK, rtol=1e-5, atol=1e-6)


def test_every_input_matters() -> None:
    model, _, (latents, steps, labels) = made("score")
    out = model(latents, steps, labels)
    for other in ((latents + 1, steps, labels), (latents, 999 - steps, labels)):
        assert not torch.allclose(model(*other), out)
    assert not torch.allclose(model(latents, steps, labels - 1), out)
    with pytest.raises(ValueError, match="side is 7; it must be a multiple of 2"):
        model(latents[..., :7], steps, labels)


def test_torch_export_refuses_the_score_and_differentiate_takes_it(tmp_path: Path) -> None:
    model, score, inputs = made("score")
    with pytest.raises(CaptureError, match="Score does not export"):
        capture(score, inputs)
    graph = score_graph(model, inputs)
    verify(graph)
    (found,) = Reference().compile(graph)(*inputs)
    torch.testing.assert_close(found, score(*inputs), rtol=0, atol=0)
    save(graph, tmp_path / "score.pt2")
    assert load(tmp_path / "score.pt2").digest == graph.digest


def test_the_score_goes_through_the_passes_and_into_bf16() -> None:
    model, score, inputs = made("score")
    graph, expected = score_graph(model, inputs), score(*inputs)
    folded = run_passes(graph)[-1].graph
    (found,) = Reference().compile(folded)(*inputs)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    (rough,) = Reference().compile(graph, "bf16")(*inputs)
    error = (rough - expected).abs().max() / expected.abs().max()
    assert 0 < error < 5e-2


@pytest.mark.slow
@pytest.mark.parametrize("backend", [Aoti(), Native()], ids=lambda b: b.name)
def test_the_score_compiles(backend: Backend) -> None:
    model, score, inputs = made("score")
    (found,) = backend.compile(score_graph(model, inputs))(*inputs)
    torch.testing.assert_close(found, score(*inputs), rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_the_score_is_trained_by_a_second_derivative() -> None:
    """Against plain torch, which needs attention as products for that: its fused kernels are
    differentiated once only.
    """
    model, score, inputs = made("score", is_training=True)
    noise = torch.randn_like(inputs[0])

    def loss(outputs: dict[str, dict[str, Tensor]], noise: Tensor) -> Tensor:
        return (outputs["gradients"][LATENTS] + noise).square().mean()

    step = train_graph(score_graph(model, inputs), loss, targets=(noise,))
    verify(step)
    found = named_outputs(step, Reference().compile(step)(*example_inputs(step)))
    with sdpa_kernel(SDPBackend.MATH):
        expected = (score(*inputs) + noise).square().mean()
        expected.backward()
    torch.testing.assert_close(found["loss"], expected.detach())
    largest = max(p.grad.abs().max() for p in model.parameters() if p.grad is not None)
    assert largest > 1e-3
    for name, parameter in model.named_parameters():
        gradient = found[f"gradients.{name}"]
        torch.testing.assert_close(gradient, parameter.grad, rtol=1e-3, atol=1e-6 * float(largest))
