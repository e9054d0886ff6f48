"""ResNet-50 and ResNeXt-50 32x4d: image classification with bottleneck residual blocks.

architecture: 7x7 stem, four stages of 3, 4, 6, 3 bottlenecks (1x1, 3x3, 1x1, each with batch norm),
  average pool, linear. The stride sits on the 3x3 convolution ("v1.5"). ResNeXt widens the 3x3 and
  splits it in 32 groups.
source: He et al. 2015 (arXiv:1512.03385, table 1); Xie et al. 2016 (arXiv:1611.05431, table 1).
input: images (N, 3, 224, 224).
output: logits (N, 1000).
loss: cross-entropy.
facts: ResNet-50 25,557,032 parameters, 4.09 GMAC; ResNeXt-50 25,028,904 parameters, 4.23 GMAC.
"""

from collections.abc import Callable

from torch import Tensor, nn

from ridgeline.zoo.initialise import damp, randomise
from ridgeline.zoo.workload import Facts, Sizes, Workload, image_form

_EXPANSION = 4


def _conv_norm(
    inputs: int, outputs: int, kernel: int, *, stride: int = 1, groups: int = 1
) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(outputs),
    )


class Bottleneck(nn.Module):
    """1x1 reduce, 3x3, 1x1 expand, plus the input (projected when its shape changes)."""

    def __init__(self, inputs: int, inner: int, outputs: int, *, stride: int, groups: int) -> None:
        super().__init__()
        self.reduce = _conv_norm(inputs, inner, 1)
        self.spatial = _conv_norm(inner, inner, 3, stride=stride, groups=groups)
        self.expand = _conv_norm(inner, outputs, 1)
        same = inputs == outputs and stride == 1
        self.shortcut = nn.Identity() if same else _conv_norm(inputs, outputs, 1, stride=stride)
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu(self.reduce(x))
        y = self.relu(self.spatial(y))
        out: Tensor = self.relu(self.expand(y) + self.shortcut(x))
        return out


class Stage(nn.Module):
    """One bottleneck that changes the shape, then equal ones that keep it."""

    def __init__(
        self, inputs: int, width: int, depth: int, *, stride: int, groups: int, group_width: int
    ) -> None:
        super().__init__()
        inner, outputs = width * group_width // 64 * groups, width * _EXPANSION
        self.first = Bottleneck(inputs, inner, outputs, stride=stride, groups=groups)
        self.rest = nn.Sequential(
            *(
                Bottleneck(outputs, inner, outputs, stride=1, groups=groups)
                for _ in range(depth - 1)
            )
        )

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.rest(self.first(x))
        return out


class ResNet(nn.Module):
    """The network; `groups` and `group_width` (channels per group at width 64) make a ResNeXt."""

    def __init__(self, *, groups: int = 1, group_width: int = 64, num_classes: int = 1000) -> None:
        super().__init__()
        self.stem = _conv_norm(3, 64, 7, stride=2)
        self.relu = nn.ReLU()
        self.pool = nn.MaxPool2d(3, stride=2, padding=1)
        self.stage1 = Stage(64, 64, 3, stride=1, groups=groups, group_width=group_width)
        self.stage2 = Stage(256, 128, 4, stride=2, groups=groups, group_width=group_width)
        self.stage3 = Stage(512, 256, 6, stride=2, groups=groups, group_width=group_width)
        self.stage4 = Stage(1024, 512, 3, stride=2, groups=groups, group_width=group_width)
        self.average = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(2048, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        y = self.pool(self.relu(self.stem(x)))
        y = self.stage4(self.stage3(self.stage2(self.stage1(y))))
        logits: Tensor = self.head(self.average(y).flatten(1))
        return logits


def _builder(*, groups: int, group_width: int) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        model = ResNet(groups=groups, group_width=group_width)
        randomise(model)
        for block in model.modules():
            if isinstance(block, Bottleneck):
                norm = block.expand[1]
                assert isinstance(norm, nn.BatchNorm2d)
                damp(norm)
        return model.eval()

    return build


WORKLOADS: tuple[Workload, ...] = (
    Workload(
        name="resnet50",
        build=_builder(groups=1, group_width=64),
        forms={"forward": image_form(3, 224)},
        facts=Facts(
            parameters=25_557_032,
            flops=8_178_368_512,
            sizes=Sizes(batch=1, seq=224),
            source="He et al. 2015, v1.5: 25.56 M parameters, 4.09 GMAC; exact from shapes",
        ),
    ),
    Workload(
        name="resnext50-32x4d",
        build=_builder(groups=32, group_width=4),
        forms={"forward": image_form(3, 224)},
        facts=Facts(
            parameters=25_028_904,
            flops=8_460_959_744,
            sizes=Sizes(batch=1, seq=224),
            source="Xie et al. 2016: 25.0 M parameters, 4.2 GMAC; exact from shapes",
        ),
    ),
)
