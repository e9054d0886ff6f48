"""FLOPs and parameters of the zoo: exactly what torch's own counter counts on meta,
and against what is published where that counter is wrong.
"""

import pytest
import torch
from cost_helpers import Captured, counted_flops
from torch import Tensor

from ridgeline import zoo
from ridgeline.cost import OpCost, Part, cost_of, work_of
from ridgeline.cost.op_cost import total
from ridgeline.graph import Graph

SLOW = {
    "bcnn", "covid-mtl", "crnn", "llama-2-7b", "llama-3.1-405b", "llama-3.1-70b", "llama-3.1-8b",
    "mixtral-8x7b", "mobilenetv3-large", "resnext50-32x4d", "sd-v1-unet", "yolox-s",
}  # fmt: skip
# torch's counter has no formula for grouped matrix products, and takes every weight gradient of a
# grouped convolution as if it were dense.
UNCOUNTED_EXPERTS = ("mixtral-8x7b", "mixtral-tiny")
DENSE_GRADIENTS = ("mobilenetv3-large", "resnext50-32x4d")


def names(*without: str) -> list[object]:
    found = [n for n in zoo.names() if n not in without]
    return [pytest.param(n, marks=pytest.mark.slow) if n in SLOW else n for n in found]


def total_of(graph: Graph, *parts: Part) -> OpCost:
    works = work_of(graph)
    return total(w.cost.times(w.repeat) for w in works if not parts or w.part in parts)


def torch_count(name: str, phase: str) -> int:
    workload = zoo.get(name)
    with torch.device("meta"):
        model = workload.build().train(phase == "train").requires_grad_(phase == "train")
        form = workload.forms["forward" if phase == "train" else phase]
        module, inputs = form(model, workload.facts.sizes)

        def run() -> None:
            out = module(*inputs)
            if phase == "train":
                outs = [out] if isinstance(out, Tensor) else [o for o in out if o.requires_grad]
                sum(o.float().sum() for o in outs).backward()

        return counted_flops(run)


@pytest.mark.parametrize("name", names())
def test_forward_is_what_is_published(name: str, captured: Captured) -> None:
    graph, facts = captured(name), zoo.get(name).facts
    found = total_of(graph)
    assert found.flops == facts.flops
    assert graph.parameters == facts.parameters
    if facts.causal_flops is not None:
        assert found.causal_flops == facts.causal_flops


@pytest.mark.parametrize("name", names(*UNCOUNTED_EXPERTS))
def test_forward_is_what_torch_counts(name: str, captured: Captured) -> None:
    assert total_of(captured(name)).flops == torch_count(name, "forward")


@pytest.mark.parametrize("phase", ["prefill", "decode"])
@pytest.mark.parametrize(
    "name", [n for n in names(*UNCOUNTED_EXPERTS) if "llama" in str(n) or n == "gpt2"]
)
def test_prefill_and_decode_are_what_torch_counts(
    name: str, phase: str, captured: Captured
) -> None:
    assert total_of(captured(name, phase)).flops == torch_count(name, phase)


@pytest.mark.parametrize("name", names(*UNCOUNTED_EXPERTS, *DENSE_GRADIENTS))
def test_training_is_what_torch_counts(name: str, captured: Captured) -> None:
    """Exactly: no gradient of the input image, none of integer tokens, none of constants."""
    assert total_of(captured(name, "train")).flops == torch_count(name, "train")


@pytest.mark.slow
@pytest.mark.parametrize("name", DENSE_GRADIENTS)
def test_training_grouped_convolutions_costs_two_forwards(name: str, captured: Captured) -> None:
    graph = captured(name, "train")
    forward = total_of(graph, Part.FORWARD).flops
    first = next(cost_of(n).flops for n in graph.nodes if n.op == "convolution")
    assert total_of(graph).flops == 3 * forward - first  # the image wants no gradient


@pytest.mark.parametrize("phase", ["forward", "prefill", "decode", "train"])
def test_experts_are_what_torch_leaves_out(phase: str, captured: Captured) -> None:
    graph = captured("mixtral-tiny", phase)
    experts = sum(cost_of(n).flops * n.repeat for n in graph.nodes if n.op == "grouped_mm")
    times = 3 if phase == "train" else 1
    assert total_of(graph).flops - times * experts == torch_count("mixtral-tiny", phase)


# As printed elsewhere: GMAC for the networks on images, GFLOP for the others.
PUBLISHED = [
    ("resnet50", "4.09 GMAC"), ("vit-b-16", "17.56 GMAC"), ("covid-mtl", "87.2 GFLOP"),
    ("bcnn", "33.67 GFLOP"), ("llama-2-7b", "29261.6 GFLOP"), ("mixtral-8x7b", "54.4 TFLOP"),
]  # fmt: skip
UNITS = {"GMAC": 2e9, "GFLOP": 1e9, "TFLOP": 1e12}


@pytest.mark.parametrize(
    ("name", "figure"),
    [
        pytest.param(*p, marks=[pytest.mark.slow] if p[0] in ("bcnn", "covid-mtl") else [])
        for p in PUBLISHED
    ],
)
def test_published_figures(name: str, figure: str, captured: Captured) -> None:
    printed, unit = figure.split()
    digits = len(printed.partition(".")[2])
    assert f"{total_of(captured(name)).flops / UNITS[unit]:.{digits}f}" == printed


@pytest.mark.slow
def test_causal_flops_of_llama_2_7b(captured: Captured) -> None:
    assert f"{total_of(captured('llama-2-7b')).causal_flops / 1e9:.1f}" == "28162.1"


@pytest.mark.parametrize("phase", ["forward", "train"])
@pytest.mark.parametrize(
    "name",
    ["vit-b-16", "bert-base", "llama-tiny", pytest.param("resnet50", marks=pytest.mark.slow)],
)
def test_a_folded_capture_counts_what_the_full_one_counts(
    name: str, phase: str, captured: Captured
) -> None:
    folded, full = captured(name, phase), captured(name, phase, False)
    assert folded.repeats
    assert not full.repeats
    assert total_of(folded) == total_of(full)
    assert folded.parameters == full.parameters
