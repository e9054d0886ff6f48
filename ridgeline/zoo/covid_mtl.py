"""COVID-MTL: three COVID-19 diagnoses at once from a chest CT volume and its radiomics.

architecture: 3-D SqueezeNet (strided stem, eight Fire modules, every second one with a bypass)
  shared by three heads; a radiomics network 375-256-128-64-32 joins each head before its decision
  layer. The Shift3D augmentation of the paper acts in training only and is not part of this
  network.
source: Bao et al. 2021, Pattern Recognition 108499 (doi:10.1016/j.patcog.2021.108499), and the
  authors' code.
input: volume (N, 1, 200, 250, 250), clipped and z-scored; radiomics (N, 375).
output: logits of infection by CT (N, 2), infection by nucleic acid test (N, 2), severity (N, 3).
loss: three cross-entropies, weighted by the mean of two Dirichlet(1, 1, 1) draws.
facts: 3,848,199 parameters, 87.18 GFLOP.
"""

import torch
from torch import Tensor, nn

from ridgeline.zoo.initialise import damp, randomise
from ridgeline.zoo.workload import Facts, Sizes, Workload

_RADIOMICS = 375
_SIDE = 250


def _norm(channels: int) -> nn.BatchNorm3d:
    return nn.BatchNorm3d(channels, eps=1e-3, momentum=0.01)


class Fire(nn.Module):
    """Squeeze to few channels, expand by 1x1x1 and 3x3x3 side by side; `bypass` adds the input."""

    def __init__(self, inputs: int, squeezed: int, expanded: int, *, bypass: bool = False) -> None:
        super().__init__()
        self.squeeze = nn.Sequential(nn.Conv3d(inputs, squeezed, 1), _norm(squeezed), nn.ReLU())
        self.expand1 = nn.Sequential(nn.Conv3d(squeezed, expanded, 1), _norm(expanded))
        self.expand3 = nn.Sequential(nn.Conv3d(squeezed, expanded, 3, padding=1), _norm(expanded))
        self.relu = nn.ReLU()
        self.bypass = bypass

    def forward(self, x: Tensor) -> Tensor:
        y = self.squeeze(x)
        y = torch.cat((self.expand1(y), self.expand3(y)), dim=1)
        out: Tensor = self.relu(x + y if self.bypass else y)
        return out


def _level(inputs: int, squeezed: int, expanded: int) -> list[nn.Module]:
    """Halve the volume, then two Fire modules, the second with a bypass."""
    return [
        nn.MaxPool3d(3, stride=2, padding=1),
        Fire(inputs, squeezed, expanded),
        Fire(2 * expanded, squeezed, expanded, bypass=True),
    ]


class Branch(nn.Module):
    """One task: 32 features averaged over the volume, and 32 radiomics features, to logits."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.image = nn.Sequential(
            nn.Dropout(0.3), nn.Conv3d(512, 32, 1), nn.ReLU(), nn.AdaptiveAvgPool3d(1)
        )
        self.decide = nn.Sequential(nn.ReLU(), nn.Linear(32 + 32, num_classes))

    def forward(self, features: Tensor, radiomics: Tensor) -> Tensor:
        joined = torch.cat((self.image(features).flatten(1), radiomics), dim=1)
        logits: Tensor = self.decide(joined)
        return logits


class CovidMtl(nn.Module):
    """The published pool covers the whole 7x8x8 map of a full volume; here it is global, the same
    at that size, so any volume fits."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(
            nn.Conv3d(1, 64, 3, stride=2, padding=1),
            _norm(64),
            nn.ReLU(),
            *_level(64, 32, 64),
            *_level(128, 64, 128),
            *_level(256, 96, 192),
            *_level(384, 128, 256),
        )
        self.radiomics = nn.Sequential(
            nn.Linear(_RADIOMICS, 256),
            nn.ReLU(),
            nn.Linear(256, 128),
            nn.ReLU(),
            nn.Linear(128, 64),
            nn.ReLU(),
            nn.Linear(64, 32),
        )
        self.infection_by_ct = Branch(2)
        self.infection_by_test = Branch(2)
        self.severity = Branch(3)

    def forward(self, volume: Tensor, radiomics: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        features, measured = self.backbone(volume), self.radiomics(radiomics)
        return (
            self.infection_by_ct(features, measured),
            self.infection_by_test(features, measured),
            self.severity(features, measured),
        )


def forward_form(model: nn.Module, sizes: Sizes) -> tuple[nn.Module, tuple[Tensor, ...]]:
    """A volume `sizes.seq` (250 unless told) pixels wide with 4/5 as many slices, and radiomics."""
    batch, side = sizes.batch or 1, sizes.seq or _SIDE
    volume = torch.randn(batch, 1, max(1, side * 4 // 5), side, side)
    return model, (volume, torch.randn(batch, _RADIOMICS))


def build() -> nn.Module:
    """COVID-MTL in eval mode."""
    model = CovidMtl()
    randomise(model)
    for fire in model.modules():
        if isinstance(fire, Fire) and fire.bypass:
            for branch in (fire.expand1, fire.expand3):
                norm = branch[1]
                assert isinstance(norm, nn.BatchNorm3d)
                damp(norm)
    return model.eval()


WORKLOAD = Workload(
    name="covid-mtl",
    build=build,
    forms={"forward": forward_form},
    facts=Facts(
        parameters=3_848_199,
        flops=87_175_075_712,
        sizes=Sizes(batch=1, seq=250),
        source="Bao et al. 2021, authors' code: 3.848 M parameters, 87.18 GFLOP; exact from shapes",
    ),
)
