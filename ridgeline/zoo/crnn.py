"""CRNN: text recognition on one line of print, a convolutional net read by two bidirectional LSTMs.

architecture: seven convolutions (batch norm after the third, fifth and seventh) and four pools that
  take height 32 to 1 and width W to W/4 + 1 steps; two bidirectional LSTMs of 256 with a linear
  after each.
source: Shi et al. 2015 (arXiv:1507.05717, table 1); 5,530 classes are a common Chinese character
  set.
input: grey images (N, 1, 32, W), W = 280 unless told.
output: logits (W/4 + 1, N, 5530), time first.
loss: CTC, outside the network.
facts: 11,149,210 parameters; at batch 2, width 280: 7.82 GFLOP in convolutions and linears, which
  is the figure counters print, and 0.74 in the LSTM gates, which they miss wherever the LSTM is one
  op; 8.57 in all.
"""

import torch
from torch import Tensor, nn

from ridgeline.zoo.initialise import randomise
from ridgeline.zoo.workload import Facts, Sizes, Workload

_HEIGHT = 32
_WIDTH = 280
_NUM_CLASSES = 5530


def _conv(inputs: int, outputs: int, *, norm: bool = False) -> list[nn.Module]:
    norms = [nn.BatchNorm2d(outputs)] if norm else []
    return [nn.Conv2d(inputs, outputs, 3, padding=1), *norms, nn.ReLU()]


def _flatten_height() -> nn.MaxPool2d:
    """Halves the height and keeps the width (plus one column of padding): letters are narrow."""
    return nn.MaxPool2d(2, stride=(2, 1), padding=(0, 1))


class Recurrent(nn.Module):
    """A bidirectional LSTM over time, then a linear: (T, N, inputs) to (T, N, outputs)."""

    def __init__(self, inputs: int, hidden: int, outputs: int) -> None:
        super().__init__()
        self.lstm = nn.LSTM(inputs, hidden, bidirectional=True)
        self.project = nn.Linear(2 * hidden, outputs)

    def forward(self, x: Tensor) -> Tensor:
        states, _ = self.lstm(x)
        out: Tensor = self.project(states)
        return out


class Crnn(nn.Module):
    """Columns of the last feature map, left to right, are the time steps."""

    def __init__(self, *, hidden: int = 256, num_classes: int = _NUM_CLASSES) -> None:
        super().__init__()
        self.features = nn.Sequential(
            *_conv(1, 64),
            nn.MaxPool2d(2),
            *_conv(64, 128),
            nn.MaxPool2d(2),
            *_conv(128, 256, norm=True),
            *_conv(256, 256),
            _flatten_height(),
            *_conv(256, 512, norm=True),
            *_conv(512, 512),
            _flatten_height(),
            nn.Conv2d(512, 512, 2),
            nn.BatchNorm2d(512),
            nn.ReLU(),
        )
        self.reader = nn.Sequential(
            Recurrent(512, hidden, hidden), Recurrent(hidden, hidden, num_classes)
        )

    def forward(self, image: Tensor) -> Tensor:
        columns = self.features(image).squeeze(2).permute(2, 0, 1)
        logits: Tensor = self.reader(columns)
        return logits


def forward_form(model: nn.Module, sizes: Sizes) -> tuple[nn.Module, tuple[Tensor, ...]]:
    """Lines of print 32 pixels high and `sizes.seq` (280 unless told) wide."""
    return model, (torch.randn(sizes.batch or 1, 1, _HEIGHT, sizes.seq or _WIDTH),)


def build() -> nn.Module:
    """CRNN in eval mode."""
    model = Crnn()
    randomise(model)
    return model.eval()


WORKLOAD = Workload(
    name="crnn",
    build=build,
    forms={"forward": forward_form},
    facts=Facts(
        parameters=11_149_210,
        flops=8_566_910_976,
        sizes=Sizes(batch=2, seq=280),
        source="Shi et al. 2015; public 5,530-class model: 11.15 M parameters, 7.82 GFLOP, "
        "which leaves out the LSTM gates (0.745 GFLOP, derived by hand and added here)",
    ),
)
