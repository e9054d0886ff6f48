"""BCNN: the bifocal network of PathoFusion, which sees a point of a pathology slide near and wide.

architecture: two equal paths, one per field of view: strided 3x3 stem, three stages of four pre-
  activation pairs (ReLU, 3x3, batch norm, twice), average pool, linear to 16; the joined 32
  features to 6 classes.
source: Bao et al. 2020, Cancers 12(3):617 (PathoFusion), and the authors' code.
input: near field (N, 3, 256, 256) and wide field (N, 3, 512, 512) around the same centre.
output: logits (N, 6): palisading necrosis, microvascular proliferation, vessel, geographic
  necrosis, brain, tumour.
loss: cross-entropy.
facts: 11,617,382 parameters, 33.67 GFLOP.
"""

import torch
from torch import Tensor, nn

from ridgeline.zoo.initialise import randomise
from ridgeline.zoo.workload import Facts, Sizes, Workload

_SIDE = 256
_PAIRS = 4


class Pair(nn.Sequential):
    """Two 3x3 convolutions, each after a ReLU and before a batch norm. No shortcut."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__(
            nn.ReLU(),
            nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(),
            nn.Conv2d(outputs, outputs, 3, padding=1, bias=False),
            nn.BatchNorm2d(outputs),
        )


class Stage(nn.Module):
    """One pair that halves the side, then equal ones."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.first = Pair(inputs, outputs, 2)
        self.rest = nn.Sequential(*(Pair(outputs, outputs, 1) for _ in range(_PAIRS - 1)))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.rest(self.first(x))
        return out


class Path(nn.Module):
    """One field of view to 16 features."""

    def __init__(self, features: int = 16) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, stride=2, padding=1)
        self.stages = nn.Sequential(Stage(16, 64), Stage(64, 128), Stage(128, 256))
        self.relu = nn.ReLU()
        self.average = nn.AdaptiveAvgPool2d(1)
        self.project = nn.Linear(256, features)

    def forward(self, x: Tensor) -> Tensor:
        y = self.average(self.relu(self.stages(self.stem(x))))
        out: Tensor = self.project(y.flatten(1))
        return out


class Bcnn(nn.Module):
    """The two paths share their shape, not their weights."""

    def __init__(self, num_classes: int = 6) -> None:
        super().__init__()
        self.near = Path()
        self.wide = Path()
        self.head = nn.Linear(32, num_classes)

    def forward(self, near: Tensor, wide: Tensor) -> Tensor:
        logits: Tensor = self.head(torch.cat((self.near(near), self.wide(wide)), dim=1))
        return logits


def forward_form(model: nn.Module, sizes: Sizes) -> tuple[nn.Module, tuple[Tensor, ...]]:
    """A near field of `sizes.seq` (256 unless told) pixels per side, a wide one of twice that."""
    batch, side = sizes.batch or 1, sizes.seq or _SIDE
    return model, (torch.randn(batch, 3, side, side), torch.randn(batch, 3, 2 * side, 2 * side))


def build() -> nn.Module:
    """BCNN in eval mode."""
    model = Bcnn()
    randomise(model)
    return model.eval()


WORKLOAD = Workload(
    name="bcnn",
    build=build,
    forms={"forward": forward_form},
    facts=Facts(
        parameters=11_617_382,
        flops=33_667_170_688,
        sizes=Sizes(batch=1, seq=256),
        source="Bao et al. 2020, authors' code: 11.617 M parameters, 33.67 GFLOP; exact by shapes",
    ),
)
