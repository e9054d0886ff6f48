"""DeepAdipose: a multilayer perceptron from abdominal fat radiomics to one metabolic outcome.

architecture: 11-1024-512-256-128-64-2, ReLU between, softmax at the end; Gaussian noise (0.02 after
  the first layer, 0.01 after the last hidden one) and Gaussian dropout (0.05 after the second) in
  training.
source: the Keras model of the DeepAdipose repository (guoqingbao/DeepAdipose), layer for layer.
input: (N, 11), ten radiomics features and gender.
output: probabilities (N, 2).
loss: cross-entropy, weights decayed by 0.05 (first layer) and 0.03.
facts: 709,698 parameters; 2 FLOP per weight and sample.
"""

import math
from itertools import pairwise

import torch
from torch import Tensor, nn

from ridgeline.zoo.workload import Facts, Sizes, Workload

_WIDTHS = (11, 1024, 512, 256, 128, 64)
_NUM_CLASSES = 2


class GaussianNoise(nn.Module):
    """Adds noise of a fixed deviation in training; the identity otherwise."""

    def __init__(self, deviation: float) -> None:
        super().__init__()
        self.deviation = deviation

    def forward(self, x: Tensor) -> Tensor:
        return x + self.deviation * torch.randn_like(x) if self.training else x


class GaussianDropout(nn.Module):
    """Multiplies by noise of mean 1 and variance rate / (1 - rate) in training.

    Source: Srivastava et al. 2014, section 10.
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.deviation = math.sqrt(rate / (1 - rate))

    def forward(self, x: Tensor) -> Tensor:
        return x * (1 + self.deviation * torch.randn_like(x)) if self.training else x


class DeepAdipose(nn.Module):
    """Linear and ReLU per width, then the noise that width has."""

    def __init__(self) -> None:
        super().__init__()
        noise = {1024: GaussianNoise(0.02), 512: GaussianDropout(0.05), 64: GaussianNoise(0.01)}
        layers: list[nn.Module] = []
        for inputs, outputs in pairwise(_WIDTHS):
            layers += [nn.Linear(inputs, outputs), nn.ReLU()]
            if outputs in noise:
                layers.append(noise[outputs])
        self.hidden = nn.Sequential(*layers)
        self.head = nn.Linear(_WIDTHS[-1], _NUM_CLASSES)
        self.softmax = nn.Softmax(dim=-1)

    def forward(self, features: Tensor) -> Tensor:
        probabilities: Tensor = self.softmax(self.head(self.hidden(features)))
        return probabilities


def forward_form(model: nn.Module, sizes: Sizes) -> tuple[nn.Module, tuple[Tensor, ...]]:
    """A batch of feature vectors; raises ValueError if asked for a sequence length."""
    if sizes.seq is not None:
        raise ValueError(f"deepadipose takes 11 features and has no seq; leave out seq={sizes.seq}")
    return model, (torch.randn(sizes.batch or 1, _WIDTHS[0]),)


def build() -> nn.Module:
    """DeepAdipose in eval mode; drawn as in Keras (He et al. 2015, fan-in), biases zero."""
    model = DeepAdipose()
    for module in model.modules():
        if isinstance(module, nn.Linear):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            nn.init.zeros_(module.bias)
    return model.eval()


WORKLOAD = Workload(
    name="deepadipose",
    build=build,
    forms={"forward": forward_form},
    facts=Facts(
        parameters=709_698,
        flops=1_415_424,  # 2 * (11*1024 + 1024*512 + 512*256 + 256*128 + 128*64 + 64*2)
        sizes=Sizes(batch=1),
        source="the published Keras model: 0.710 M parameters; FLOPs derived by hand",
    ),
)
