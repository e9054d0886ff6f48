"""Every zoo workload, small, through one training graph: its gradients and its cost."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map_only

from ridgeline import named_outputs, train_graph, zoo
from ridgeline.backends.backend import Setting
from ridgeline.backends.reference import Reference
from ridgeline.cost import cost_of, work_of
from ridgeline.cost.memory import memory_profile
from ridgeline.cost.op_cost import total
from ridgeline.cost.work import OPTIMIZERS
from ridgeline.frontends import capture
from ridgeline.graph import Graph, Phase, verify
from ridgeline.graph.flat import example_inputs
from ridgeline.zoo import Sizes, bert, decoder, gpt2, sd_unet

Build = Callable[[], nn.Module]
DECODER = replace(
    decoder.LLAMA_TINY, num_layers=2, hidden_size=64, intermediate_size=96, head_dim=8
)
EXPERTS = replace(DECODER, num_experts=4, experts_per_token=2, moe_intermediate_size=48)
UNET = sd_unet.UNetConfig(widths=(32, 64), context_dim=768, num_groups=8)
GPT = gpt2.GPT2Config(vocab_size=100, hidden_size=32, num_layers=2, num_heads=4)
BERT = bert.BertConfig(
    vocab_size=100, hidden_size=32, intermediate_size=64, num_layers=2, num_heads=4
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Small:
    """A workload at a size that runs in a second. build: its own model where None."""

    workload: str
    sizes: Sizes
    build: Build | None = None


IMAGES, TOKENS = Sizes(batch=2, seq=64), Sizes(batch=2, seq=9)
SMALL = {
    "resnet50": Small(workload="resnet50", sizes=IMAGES),
    "resnext50-32x4d": Small(workload="resnext50-32x4d", sizes=IMAGES),
    "mobilenetv3-large": Small(workload="mobilenetv3-large", sizes=IMAGES),
    "vit-b-16": Small(workload="vit-b-16", sizes=Sizes(batch=2, seq=48)),
    "yolox-s": Small(workload="yolox-s", sizes=IMAGES),
    "covid-mtl": Small(workload="covid-mtl", sizes=Sizes(batch=2, seq=40)),
    "bcnn": Small(workload="bcnn", sizes=IMAGES),
    "deepadipose": Small(workload="deepadipose", sizes=Sizes(batch=2)),
    "crnn": Small(workload="crnn", sizes=Sizes(batch=2, seq=80)),
    "egc": Small(workload="egc-tiny", sizes=Sizes(batch=2)),
    "bert": Small(workload="bert-base", sizes=TOKENS, build=lambda: bert.Bert(BERT)),
    "gpt2": Small(workload="gpt2", sizes=TOKENS, build=lambda: gpt2.GPT2(GPT)),
    "llama": Small(workload="llama-tiny", sizes=TOKENS, build=lambda: decoder.Decoder(DECODER)),
    "mixtral": Small(workload="mixtral-tiny", sizes=TOKENS, build=lambda: decoder.Decoder(EXPERTS)),
    "sd-unet": Small(
        workload="sd-v1-unet", sizes=Sizes(batch=1, seq=8), build=lambda: sd_unet.UNet(UNET)
    ),
}
# Of each of these another member is among the small ones: the same code with other numbers.
OTHER_SIZES = {
    "bert-base", "egc-tiny", "llama-2-7b", "llama-3.1-405b", "llama-3.1-70b", "llama-3.1-8b",
    "llama-small", "llama-tiny", "mixtral-8x7b", "mixtral-tiny", "sd-v1-block", "sd-v1-unet",
}  # fmt: skip
FAST = ("deepadipose", "bert", "gpt2", "llama")
NAMES = [n if n in FAST else pytest.param(n, marks=pytest.mark.slow) for n in SMALL]
# Its kernel on the CPU takes fp32 and bf16 only.
SINGLE_PRECISION = ("mixtral", "crnn")


def test_every_workload_is_here() -> None:
    assert {*SMALL, *OTHER_SIZES} >= {*zoo.names()}


def built(name: str, dtype: torch.dtype) -> tuple[nn.Module, tuple[Tensor, ...]]:
    """The small model in training, without dropout and noise, and its inputs."""
    small = SMALL[name]
    workload = zoo.get(small.workload)
    model = (small.build or workload.build)().train().to(dtype)
    module, inputs = workload.forms["forward"](model, small.sizes)
    for part in module.modules():
        if "Dropout" in type(part).__name__ or "Noise" in type(part).__name__:
            part.eval()
    return module, tree_map_only(
        Tensor, lambda t: t.to(dtype) if t.is_floating_point() else t, inputs
    )


def loss_of(outputs: object) -> Tensor:
    """A scalar to which every output contributes."""
    leaves = [v for v in tree_leaves(outputs) if isinstance(v, Tensor) and v.requires_grad]
    return torch.stack([v.square().mean() for v in leaves]).sum()


def joint(name: str, dtype: torch.dtype) -> tuple[Graph, Graph, nn.Module, tuple[Tensor, ...]]:
    module, inputs = built(name, dtype)
    forward = capture(module, inputs, phase=Phase.TRAIN, is_trusted=True)
    return forward, train_graph(forward, loss_of), module, inputs


# A traced backward also computes the gradient of the zeros that a recurrence starts from, which
# torch's own skips: 2 layers x 2 directions, 2 FLOPs x 2 samples x 1,024 gates x 256 units each.
FIRST_STATE_FLOPS = {"crnn": 2 * 2 * (2 * 2 * 1024 * 256)}


@pytest.mark.parametrize("name", NAMES)
def test_the_joint_graph_costs_what_training_is_estimated_to(name: str) -> None:
    forward, step, _, _ = joint(name, torch.float32)
    verify(step)
    expected = total(work.cost.times(work.repeat) for work in work_of(forward))
    found = total(cost_of(node) for node in step.nodes)
    first_state = FIRST_STATE_FLOPS.get(name, 0)
    assert found.flops == expected.flops + first_state
    assert found.causal_flops == expected.causal_flops + first_state
    if name != "egc":  # its pooling has no heads, so torch runs it as products: no scores again
        assert found.executed_flops == expected.executed_flops + first_state


@pytest.mark.parametrize("name", NAMES)
def test_training_memory_is_estimated_from_above(name: str) -> None:
    """From the forward alone; the joint graph's own liveness is exact."""
    forward, step, _, _ = joint(name, torch.float32)
    estimated, exact = (
        memory_profile(g, work_of(g), optimizer=OPTIMIZERS["sgd"]).peak_bytes
        for g in (forward, step)
    )
    assert exact <= estimated < 1.3 * exact


@pytest.mark.parametrize("name", NAMES)
def test_gradients_are_autograds_and_finite_differences(name: str) -> None:
    is_single = name in SINGLE_PRECISION
    dtype, step_size, tolerance = (
        (torch.float32, 1e-3, 2e-2) if is_single else (torch.float64, 1e-6, 1e-5)
    )
    _, step, module, inputs = joint(name, dtype)
    inputs_of_step = tuple(x.clone() for x in example_inputs(step))
    found = named_outputs(step, Reference().build(step, Setting())(*inputs_of_step))
    loss = loss_of(module(*inputs))
    loss.backward()
    torch.testing.assert_close(found["loss"], loss.detach())
    gradients = {
        n: found[f"gradients.{n}"] for n, p in module.named_parameters() if p.grad is not None
    }
    for name_, gradient in gradients.items():
        expected = module.get_parameter(name_).grad
        torch.testing.assert_close(gradient, expected, rtol=1e-6, atol=1e-9)

    weights = {n: module.get_parameter(n).detach().clone() for n in gradients}

    def value(scale: float, direction: dict[str, Tensor]) -> float:
        with torch.no_grad():
            for n, weight in weights.items():
                module.get_parameter(n).copy_(weight + scale * direction[n])
        return float(loss_of(module(*inputs)).detach())

    for _ in range(2):
        direction = {n: torch.randn_like(w) for n, w in weights.items()}
        norm = torch.sqrt(sum((d.square().sum() for d in direction.values()), torch.zeros(())))
        direction = {n: d / norm for n, d in direction.items()}
        slope = sum(float((gradients[n] * d).sum()) for n, d in direction.items())
        difference = (value(step_size, direction) - value(-step_size, direction)) / (2 * step_size)
        assert slope == pytest.approx(difference, rel=tolerance, abs=tolerance * loss.item())
