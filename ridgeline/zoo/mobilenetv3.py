"""MobileNetV3-Large: image classification with depthwise inverted residuals, for phones.

architecture: 3x3 stem, 15 inverted residuals (1x1 expand, depthwise, squeeze-and-excite, 1x1
  project), 1x1 to 960, average pool, two linears. ReLU in the first six blocks, hard-swish after.
source: Howard et al. 2019 (arXiv:1905.02244, table 1).
input: images (N, 3, 224, 224).
output: logits (N, 1000).
loss: cross-entropy.
facts: 5,483,032 parameters, 0.217 GMAC.
"""

from dataclasses import dataclass

from torch import Tensor, nn

from ridgeline.zoo.initialise import damp, randomise
from ridgeline.zoo.workload import Facts, Sizes, Workload, image_form


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One row of the paper's table 1: what an inverted residual looks like."""

    kernel: int
    expanded: int
    outputs: int
    excite: bool
    hard_swish: bool
    stride: int


def _row(kernel: int, expanded: int, outputs: int, marks: str, stride: int) -> Row:
    """marks as in the paper: "SE" squeeze-and-excite, "HS" hard-swish, "RE" ReLU."""
    return Row(
        kernel=kernel,
        expanded=expanded,
        outputs=outputs,
        excite="SE" in marks,
        hard_swish="HS" in marks,
        stride=stride,
    )


_LARGE = (
    _row(3, 16, 16, "RE", 1),
    _row(3, 64, 24, "RE", 2),
    _row(3, 72, 24, "RE", 1),
    _row(5, 72, 40, "SE RE", 2),
    _row(5, 120, 40, "SE RE", 1),
    _row(5, 120, 40, "SE RE", 1),
    _row(3, 240, 80, "HS", 2),
    _row(3, 200, 80, "HS", 1),
    _row(3, 184, 80, "HS", 1),
    _row(3, 184, 80, "HS", 1),
    _row(3, 480, 112, "SE HS", 1),
    _row(3, 672, 112, "SE HS", 1),
    _row(5, 672, 160, "SE HS", 2),
    _row(5, 960, 160, "SE HS", 1),
    _row(5, 960, 160, "SE HS", 1),
)


def _round_to_8(channels: float) -> int:
    """The nearest multiple of 8 that loses at most a tenth of the channels, as published."""
    rounded = max(8, int(channels + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * channels else rounded


class ConvNorm(nn.Sequential):
    """Convolution and batch norm (epsilon 1e-3, as published), then the activation, if any."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int,
        activation: nn.Module | None = None,
        *,
        stride: int = 1,
        groups: int = 1,
    ) -> None:
        layers: list[nn.Module] = [
            nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False),
            nn.BatchNorm2d(outputs, eps=1e-3, momentum=0.01),
        ]
        super().__init__(*layers, *([activation] if activation is not None else []))


class Excite(nn.Module):
    """Squeeze-and-excite: each channel scaled by a gate computed from all channels' means."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        squeezed = _round_to_8(channels // 4)
        self.squeeze = nn.Conv2d(channels, squeezed, 1)
        self.expand = nn.Conv2d(squeezed, channels, 1)
        self.average = nn.AdaptiveAvgPool2d(1)
        self.relu = nn.ReLU()
        self.gate = nn.Hardsigmoid()

    def forward(self, x: Tensor) -> Tensor:
        scale: Tensor = self.gate(self.expand(self.relu(self.squeeze(self.average(x)))))
        return scale * x


class InvertedResidual(nn.Module):
    """Widen, filter each channel, gate, narrow; plus the input when the shape is kept."""

    def __init__(self, inputs: int, row: Row) -> None:
        super().__init__()
        activation = nn.Hardswish if row.hard_swish else nn.ReLU
        layers: list[nn.Module] = []
        if row.expanded != inputs:
            layers.append(ConvNorm(inputs, row.expanded, 1, activation()))
        layers.append(
            ConvNorm(
                row.expanded,
                row.expanded,
                row.kernel,
                activation(),
                stride=row.stride,
                groups=row.expanded,
            )
        )
        if row.excite:
            layers.append(Excite(row.expanded))
        self.body = nn.Sequential(*layers)
        self.project = ConvNorm(row.expanded, row.outputs, 1)
        self.is_residual = row.stride == 1 and inputs == row.outputs

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.project(self.body(x))
        return x + y if self.is_residual else y


class MobileNetV3(nn.Module):
    """The large variant at width 1."""

    def __init__(self, num_classes: int = 1000) -> None:
        super().__init__()
        widths = (16, *(row.outputs for row in _LARGE))
        self.stem = ConvNorm(3, 16, 3, nn.Hardswish(), stride=2)
        self.blocks = nn.Sequential(*map(InvertedResidual, widths, _LARGE))
        self.last = ConvNorm(160, 960, 1, nn.Hardswish())
        self.average = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Sequential(
            nn.Linear(960, 1280), nn.Hardswish(), nn.Dropout(0.2), nn.Linear(1280, num_classes)
        )

    def forward(self, x: Tensor) -> Tensor:
        y = self.last(self.blocks(self.stem(x)))
        logits: Tensor = self.head(self.average(y).flatten(1))
        return logits


def build() -> nn.Module:
    """MobileNetV3-Large in eval mode."""
    model = MobileNetV3()
    randomise(model)
    for block in model.modules():
        if isinstance(block, InvertedResidual) and block.is_residual:
            norm = block.project[1]
            assert isinstance(norm, nn.BatchNorm2d)
            damp(norm)
    return model.eval()


WORKLOAD = Workload(
    name="mobilenetv3-large",
    build=build,
    forms={"forward": image_form(3, 224)},
    facts=Facts(
        parameters=5_483_032,
        flops=433_179_520,
        sizes=Sizes(batch=1, seq=224),
        source="Howard et al. 2019, table 3: 5.4 M parameters, 219 M MAC; exact from shapes",
    ),
)
