"""What the report says of fusion."""

import torch
from torch import Tensor, nn

from ridgeline.frontends.torch_export import capture
from ridgeline.passes.fuse import fuse
from ridgeline.report.fusion import fusion_line, fusion_section


class Mlp(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(64, 256), nn.Linear(256, 64)

    def forward(self, x: Tensor) -> Tensor:
        return (self.down(self.up(x).relu()) + x).softmax(-1)


def test_the_line_and_the_section_tell_what_is_saved_and_what_is_not() -> None:
    plan = fuse(capture(Mlp().eval(), (torch.randn(16, 64),)))
    assert fusion_line(plan) == (
        "fusion, predicted: 5 kernels that move 221 KiB become 3 that move 181 KiB; 1 pair of "
        "products could share tiles. Kept apart: linear reads its operand again and again (1); "
        "softmax needs whole rows, a tile of linear is less (1)."
    )
    section = fusion_section(plan)
    for text in ("linear, relu", "linear_1, add", "fits", "softmax needs whole rows"):
        assert text in section.body


def test_a_graph_that_fuses_whole_has_nothing_kept_apart() -> None:
    plan = fuse(capture(nn.Sequential(nn.ReLU(), nn.Softmax(-1)).eval(), (torch.randn(4, 4),)))
    assert fusion_line(plan).endswith("become 1 that move 128 B.")
