"""The zoo's networks cut down to run in a moment, one per family, with inputs."""

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import nn

from ridgeline import zoo
from ridgeline.frontends.torch_export import capture
from ridgeline.graph import Graph
from ridgeline.passes.manager import run_passes
from ridgeline.zoo import Sizes
from ridgeline.zoo.bert import Bert, BertConfig
from ridgeline.zoo.crnn import Recurrent
from ridgeline.zoo.decoder import LLAMA_TINY, Decoder
from ridgeline.zoo.mobilenetv3 import InvertedResidual, _row
from ridgeline.zoo.resnet import Bottleneck
from ridgeline.zoo.vit import VisionTransformer

Built = tuple[nn.Module, tuple[torch.Tensor, ...]]


def resnet() -> Built:
    return _randomised(
        nn.Sequential(
            Bottleneck(8, 8, 32, stride=2, groups=1),
            Bottleneck(32, 8, 32, stride=1, groups=4),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(32, 10),
        )
    ), (torch.randn(2, 8, 12, 12),)


def mobilenet() -> Built:
    rows = (_row(3, 32, 16, "RE", 2), _row(5, 48, 16, "SE HS", 1))
    return _randomised(
        nn.Sequential(InvertedResidual(16, rows[0]), InvertedResidual(16, rows[1]))
    ), (torch.randn(1, 16, 12, 12),)


def vit() -> Built:
    model = VisionTransformer(width=32, depth=2, heads=2, num_classes=10)
    return model.at_side(48).eval(), (torch.randn(2, 3, 48, 48),)


def bert() -> Built:
    config = BertConfig(
        vocab_size=60, num_positions=16, hidden_size=32, intermediate_size=64, num_layers=2,
        num_heads=2,
    )  # fmt: skip
    tokens = torch.randint(0, 60, (2, 9))
    return Bert(config).eval(), (tokens, torch.randint(0, 2, (2, 9)))


def llama() -> Built:
    config = replace(
        LLAMA_TINY, vocab_size=60, hidden_size=32, intermediate_size=48, num_layers=2, num_heads=4,
        num_kv_heads=2, head_dim=8,
    )  # fmt: skip
    workload = zoo.get("llama-tiny")
    return workload.forms["forward"](Decoder(config).eval(), Sizes(seq=9))


def crnn_lstm() -> Built:
    return Recurrent(12, 8, 10).eval(), (torch.randn(5, 2, 12),)


def conv3d() -> Built:
    return _randomised(
        nn.Sequential(
            nn.Conv3d(2, 8, 3, padding=1),
            nn.BatchNorm3d(8),
            nn.ReLU(),
            nn.MaxPool3d(2),
            nn.Conv3d(8, 4, 1),
        )
    ), (torch.randn(1, 2, 6, 6, 6),)


def mlp() -> Built:
    return nn.Sequential(nn.Linear(32, 64), nn.GELU(), nn.Linear(64, 10)).eval(), (
        torch.randn(4, 32),
    )


ZOO: dict[str, Callable[[], Built]] = {
    f.__name__: f for f in (resnet, mobilenet, vit, bert, llama, crnn_lstm, conv3d, mlp)
}


def _randomised(model: nn.Module) -> nn.Module:
    """Statistics as after training: a fresh batch norm is nearly the identity."""
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            assert module.running_mean is not None
            assert module.running_var is not None
            module.running_mean.normal_(std=0.2)
            module.running_var.uniform_(0.5, 2.0)
    return model.eval()


def tiny(name: str) -> tuple[Graph, tuple[torch.Tensor, ...]]:
    """The graph of a tiny network after the passes, and its inputs."""
    model, inputs = ZOO[name]()
    steps = run_passes(capture(model, inputs, name=name))
    return steps[-1].graph, inputs
