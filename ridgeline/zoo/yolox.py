"""YOLOX-S: anchor-free object detection, a CSP-Darknet with an aggregating neck and split heads.

architecture: Focus stem (space to depth), four CSP stages at strides 4 to 32 with spatial pyramid
  pooling in the last, top-down then bottom-up neck, one head per stride 8, 16, 32: class branch and
  box branch apart. Depth 0.33 and width 0.5 of the large model.
source: Ge et al. 2021 (arXiv:2107.08430, table 3) and the authors' code, which fixes what the paper
  leaves open.
input: images (N, 3, 640, 640), side a multiple of 32.
output: (N, 8400, 85): box centre and size in pixels, objectness, 80 class probabilities per grid
  cell.
loss: 5 x IoU + binary cross-entropy of objectness and of classes, cells assigned by SimOTA.
facts: 8,968,255 parameters, 26.69 GFLOP in convolutions (26.8 in the paper, which counts norms
  too).
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ridgeline.zoo.initialise import damp, randomise
from ridgeline.zoo.workload import Facts, Sizes, Workload

_NUM_CLASSES = 80
_SIDE = 640
_COARSEST_STRIDE = 32


class ConvUnit(nn.Sequential):
    """Convolution, batch norm (epsilon 1e-3, as published), SiLU."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1) -> None:
        super().__init__(
            nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False),
            nn.BatchNorm2d(outputs, eps=1e-3, momentum=0.03),
            nn.SiLU(),
        )


class Residual(nn.Module):
    """1x1 then 3x3 at one width, plus the input where the stage has shortcuts."""

    def __init__(self, width: int, *, shortcut: bool) -> None:
        super().__init__()
        self.body = nn.Sequential(ConvUnit(width, width, 1), ConvUnit(width, width, 3))
        self.shortcut = shortcut

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.body(x)
        return x + y if self.shortcut else y


class CrossStage(nn.Module):
    """Cross-stage partial block: half the channels pass `depth` residuals, half go around."""

    def __init__(self, inputs: int, outputs: int, depth: int, *, shortcut: bool) -> None:
        super().__init__()
        half = outputs // 2
        self.through = ConvUnit(inputs, half, 1)
        self.around = ConvUnit(inputs, half, 1)
        self.residuals = nn.Sequential(*(Residual(half, shortcut=shortcut) for _ in range(depth)))
        self.merge = ConvUnit(2 * half, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.cat((self.residuals(self.through(x)), self.around(x)), dim=1)
        out: Tensor = self.merge(y)
        return out


class Focus(nn.Module):
    """Every 2x2 patch of pixels becomes channels, then a 3x3 convolution at half the side."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv = ConvUnit(4 * inputs, outputs, 3)

    def forward(self, x: Tensor) -> Tensor:
        even, odd = x[..., ::2, :], x[..., 1::2, :]
        patches = (even[..., ::2], odd[..., ::2], even[..., 1::2], odd[..., 1::2])
        out: Tensor = self.conv(torch.cat(patches, dim=1))
        return out


class PyramidPool(nn.Module):
    """Max pools over 5, 9 and 13 pixels beside the input, so that each cell sees several scales."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.reduce = ConvUnit(width, width // 2, 1)
        self.pool5 = nn.MaxPool2d(5, stride=1, padding=2)
        self.pool9 = nn.MaxPool2d(9, stride=1, padding=4)
        self.pool13 = nn.MaxPool2d(13, stride=1, padding=6)
        self.merge = ConvUnit(2 * width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.reduce(x)
        out: Tensor = self.merge(
            torch.cat((y, self.pool5(y), self.pool9(y), self.pool13(y)), dim=1)
        )
        return out


class Backbone(nn.Module):
    """CSP-Darknet: features at strides 8, 16 and 32."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.stem = Focus(3, width)
        self.stage4 = nn.Sequential(
            ConvUnit(width, 2 * width, 3, 2), CrossStage(2 * width, 2 * width, 1, shortcut=True)
        )
        self.stage8 = nn.Sequential(
            ConvUnit(2 * width, 4 * width, 3, 2), CrossStage(4 * width, 4 * width, 3, shortcut=True)
        )
        self.stage16 = nn.Sequential(
            ConvUnit(4 * width, 8 * width, 3, 2), CrossStage(8 * width, 8 * width, 3, shortcut=True)
        )
        self.stage32 = nn.Sequential(
            ConvUnit(8 * width, 16 * width, 3, 2),
            PyramidPool(16 * width),
            CrossStage(16 * width, 16 * width, 1, shortcut=False),
        )

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        c8 = self.stage8(self.stage4(self.stem(image)))
        c16 = self.stage16(c8)
        return c8, c16, self.stage32(c16)


class Neck(nn.Module):
    """Path aggregation: coarse features join fine ones, then back. `width` is that of stride 8."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.narrow32 = ConvUnit(4 * width, 2 * width, 1)
        self.down16 = CrossStage(4 * width, 2 * width, 1, shortcut=False)
        self.narrow16 = ConvUnit(2 * width, width, 1)
        self.down8 = CrossStage(2 * width, width, 1, shortcut=False)
        self.stride8 = ConvUnit(width, width, 3, 2)
        self.up16 = CrossStage(2 * width, 2 * width, 1, shortcut=False)
        self.stride16 = ConvUnit(2 * width, 2 * width, 3, 2)
        self.up32 = CrossStage(4 * width, 4 * width, 1, shortcut=False)

    def forward(self, c8: Tensor, c16: Tensor, c32: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        n32 = self.narrow32(c32)
        n16 = self.narrow16(self.down16(_upsample_and_join(n32, c16)))
        p8 = self.down8(_upsample_and_join(n16, c8))
        p16 = self.up16(torch.cat((self.stride8(p8), n16), dim=1))
        return p8, p16, self.up32(torch.cat((self.stride16(p16), n32), dim=1))


def _upsample_and_join(coarse: Tensor, fine: Tensor) -> Tensor:
    return torch.cat((F.interpolate(coarse, scale_factor=2.0, mode="nearest"), fine), dim=1)


class Head(nn.Module):
    """One stride's predictions, decoded: (N, cells, 4 box + 1 objectness + classes)."""

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.stem = ConvUnit(inputs, width, 1)
        self.class_branch = nn.Sequential(ConvUnit(width, width, 3), ConvUnit(width, width, 3))
        self.box_branch = nn.Sequential(ConvUnit(width, width, 3), ConvUnit(width, width, 3))
        self.classes = nn.Conv2d(width, _NUM_CLASSES, 1)
        self.box = nn.Conv2d(width, 4, 1)
        self.objectness = nn.Conv2d(width, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.stem(x)
        class_features, box_features = self.class_branch(y), self.box_branch(y)
        box = self.box(box_features)
        cells = _cell_corners(box)
        centre = (box[:, :2] + cells) * self.stride
        size = box[:, 2:].exp() * self.stride
        objectness = self.objectness(box_features).sigmoid()
        classes = self.classes(class_features).sigmoid()
        return torch.cat((centre, size, objectness, classes), dim=1).flatten(2).transpose(1, 2)


def _cell_corners(like: Tensor) -> Tensor:
    """(2, H, W): the column and the row of every cell of a (N, C, H, W) map."""
    height, width = like.shape[2:]
    rows = torch.arange(height, device=like.device, dtype=like.dtype)
    columns = torch.arange(width, device=like.device, dtype=like.dtype)
    return torch.stack((columns.expand(height, width), rows.unsqueeze(1).expand(height, width)))


class Yolox(nn.Module):
    """Backbone, neck, three heads, which run side by side (attributes), not in turn (a list)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.backbone = Backbone(width)
        self.neck = Neck(4 * width)
        self.head8 = Head(4 * width, 4 * width, 8)
        self.head16 = Head(8 * width, 4 * width, 16)
        self.head32 = Head(16 * width, 4 * width, 32)

    def forward(self, image: Tensor) -> Tensor:
        p8, p16, p32 = self.neck(*self.backbone(image))
        return torch.cat((self.head8(p8), self.head16(p16), self.head32(p32)), dim=1)


def build() -> nn.Module:
    """YOLOX-S in eval mode; classes and objectness start at probability 0.01, as published."""
    model = Yolox(32)
    randomise(model)
    for module in model.modules():
        if isinstance(module, Residual) and module.shortcut:
            damp(_norm(module.body[1]))
        elif isinstance(module, Head):
            _initialise_predictions((module.classes, module.objectness), bias=-math.log(99.0))
            _initialise_predictions((module.box,), bias=0.0)
    return model.eval()


def _norm(unit: nn.Module) -> nn.BatchNorm2d:
    assert isinstance(unit, ConvUnit)
    norm = unit[1]
    assert isinstance(norm, nn.BatchNorm2d)
    return norm


def _initialise_predictions(convs: Sequence[nn.Conv2d], *, bias: float) -> None:
    """Small weights keep exp(size) bounded: a box starts at about one cell."""
    for conv in convs:
        nn.init.normal_(conv.weight, std=0.1 / math.sqrt(conv.in_channels))
        assert conv.bias is not None
        nn.init.constant_(conv.bias, bias)


def forward_form(model: nn.Module, sizes: Sizes) -> tuple[nn.Module, tuple[Tensor, ...]]:
    """Images of `sizes.seq` pixels per side, 640 unless told; a multiple of 32 or ValueError."""
    side = sizes.seq or _SIDE
    if side % _COARSEST_STRIDE:
        raise ValueError(
            f"yolox-s takes images whose side is a multiple of {_COARSEST_STRIDE}; {side} is not"
        )
    return model, (torch.randn(sizes.batch or 1, 3, side, side),)


WORKLOAD = Workload(
    name="yolox-s",
    build=build,
    forms={"forward": forward_form},
    facts=Facts(
        parameters=8_968_255,
        flops=26_685_542_400,  # convolutions; the paper's 26.8 also counts norms and activations
        sizes=Sizes(batch=1, seq=640),
        source="Ge et al. 2021, authors' code: 9.0 M parameters, 26.8 GFLOP; exact from shapes",
    ),
)
