"""Real graphs: zoo models exported by torch come back as graphs that agree with torch's own."""

from collections.abc import Callable

import pytest

pytest.importorskip("onnx", reason="needs the extra onnx: pip install 'ridgeline[onnx]'")
pytest.importorskip("onnxscript", reason="torch's exporter needs onnxscript, a test extra")

import torch
from exporting import exported
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from ridgeline import zoo
from ridgeline.backends.reference import Reference
from ridgeline.cost.rules import cost_of
from ridgeline.frontends import capture
from ridgeline.frontends.onnx import OnnxModule, read_model
from ridgeline.graph import Category, Graph, verify
from ridgeline.zoo.bert import Bert, BertConfig
from ridgeline.zoo.crnn import Crnn
from ridgeline.zoo.gpt2 import GPT2, GPT2Config
from ridgeline.zoo.initialise import randomise
from ridgeline.zoo.sd_unet import UNet, UNetConfig
from ridgeline.zoo.vit import VisionTransformer
from ridgeline.zoo.workload import Sizes

Built = tuple[nn.Module, tuple[Tensor, ...]]
MATRIX = (Category.MATMUL, Category.CONVOLUTION, Category.ATTENTION, Category.RECURRENT)


def bert() -> Built:
    config = BertConfig(
        vocab_size=200,
        num_positions=32,
        hidden_size=32,
        intermediate_size=64,
        num_layers=2,
        num_heads=4,
    )
    return Bert(config), (torch.randint(200, (2, 16)), torch.randint(2, (2, 16)))


def gpt2() -> Built:
    config = GPT2Config(vocab_size=200, num_positions=32, hidden_size=32, num_layers=2, num_heads=4)
    return GPT2(config), (torch.randint(200, (1, 16)),)


def vit() -> Built:
    return VisionTransformer(width=48, depth=2, heads=3, num_classes=10), (
        torch.randn(1, 3, 224, 224),
    )


def unet() -> Built:
    config = UNetConfig(
        widths=(32, 64), blocks_per_level=1, num_heads=2, context_dim=24, num_groups=8
    )
    return UNet(config), (torch.randn(1, 4, 16, 16), torch.tensor([7]), torch.randn(1, 7, 24))


def crnn() -> Built:
    model = Crnn(hidden=16, num_classes=20)
    randomise(model)
    return model, (torch.randn(1, 1, 32, 40),)


def from_zoo(name: str, side: int) -> Callable[[], Built]:
    def build() -> Built:
        workload = zoo.get(name)
        return workload.forms["forward"](workload.build(), Sizes(seq=side))

    return build


FAST: dict[str, Callable[[], Built]] = {"bert": bert, "gpt2": gpt2, "vit": vit, "crnn": crnn}
SLOW: dict[str, Callable[[], Built]] = {
    "llama-tiny": from_zoo("llama-tiny", 16),
    "sd unet": unet,
    "mobilenetv3": from_zoo("mobilenetv3-large", 64),
    "resnet50": from_zoo("resnet50", 64),
    "yolox-s": from_zoo("yolox-s", 64),
    "covid-mtl": from_zoo("covid-mtl", 48),
}


def matrix_flops(graph: Graph) -> int:
    return sum(cost_of(n).flops * n.repeat for n in graph.nodes if n.row.category in MATRIX)


def check(build: Callable[[], Built]) -> None:
    model, inputs = build()
    model.eval()
    module = OnnxModule(read_model(exported(model, inputs), name="exported"))
    module.prepare(*inputs)
    graph = capture(module, inputs, is_trusted=True)
    verify(graph)
    with torch.no_grad():
        expected = tree_leaves(model(*inputs))
    for found, want in zip(Reference().compile(graph)(*inputs), expected, strict=True):
        assert found.shape == want.shape
        assert ((found - want).abs().max() / want.abs().max()).item() <= 1e-5
    assert matrix_flops(graph) == matrix_flops(capture(model, inputs, is_trusted=True))
    assert all(n.row.category is not Category.UNKNOWN for n in graph.nodes)


@pytest.mark.parametrize("name", FAST)
def test_small_models_come_back(name: str) -> None:
    check(FAST[name])


@pytest.mark.slow
@pytest.mark.parametrize("name", SLOW)
def test_larger_models_come_back(name: str) -> None:
    check(SLOW[name])


def test_modules_are_torchs_own() -> None:
    model, inputs = bert()
    module = OnnxModule(read_model(exported(model.eval(), inputs), name="exported"))
    module.prepare(*inputs)
    graph = capture(module, inputs, is_trusted=True)
    own = {path for path, _ in model.named_modules()}
    assert {n.module for n in graph.nodes} <= own
    weights = dict(model.named_parameters())
    named = {i.path for i in graph.inputs if i.path in weights}
    assert {"embeddings.word_embeddings.weight", "pooler.dense.weight"} <= named
