"""ViT-B/16: image classification with a plain transformer encoder over 16x16 patches.

architecture: patch embedding, class token, learned positions, 12 pre-norm blocks (12 heads, width
  768, MLP 3072, GELU), layer norm, linear on the class token.
source: Dosovitskiy et al. 2020 (arXiv:2010.11929, table 1).
input: images (N, 3, 224, 224), or another multiple of 16 with the positions resampled once (section
  3.2).
output: logits (N, 1000).
loss: cross-entropy.
facts: 86,567,656 parameters, 17.56 GMAC with attention, which counters miss where it is one fused
  op.
"""

# B batch, T tokens, D width, H heads, d width of a head, G patches, h and w patches per side.

import copy

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ridgeline.zoo.workload import Facts, Sizes, Workload

_PATCH = 16
_SIDE = 224


class Attention(nn.Module):
    """Multi-head self-attention with one packed projection."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x_BTD: Tensor) -> Tensor:
        B, T, D = x_BTD.shape
        qkv_3BHTd = (
            self.qkv(x_BTD).view(B, T, 3, self.heads, D // self.heads).permute(2, 0, 3, 1, 4)
        )
        q_BHTd, k_BHTd, v_BHTd = qkv_3BHTd.unbind(0)
        y_BHTd = F.scaled_dot_product_attention(q_BHTd, k_BHTd, v_BHTd)
        out_BTD: Tensor = self.out(y_BHTd.transpose(1, 2).reshape(B, T, D))
        return out_BTD


class Block(nn.Module):
    """Attention and MLP, each on a normalised input and added to it."""

    def __init__(self, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=1e-6)
        self.attention = Attention(width, heads)
        self.norm2 = nn.LayerNorm(width, eps=1e-6)
        self.mlp = nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width))

    def forward(self, x_BTD: Tensor) -> Tensor:
        y_BTD = x_BTD + self.attention(self.norm1(x_BTD))
        out_BTD: Tensor = y_BTD + self.mlp(self.norm2(y_BTD))
        return out_BTD


class VisionTransformer(nn.Module):
    """The base model; `positions` fixes the image size, `at_side` changes it."""

    def __init__(
        self, *, width: int = 768, depth: int = 12, heads: int = 12, num_classes: int = 1000
    ) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, width, _PATCH, stride=_PATCH)
        self.class_token = nn.Parameter(torch.empty(1, 1, width).normal_(std=0.02))
        self.positions = nn.Parameter(
            torch.empty(1, 1 + (_SIDE // _PATCH) ** 2, width).normal_(std=0.02)
        )
        self.blocks = nn.ModuleList(Block(width, heads, 4 * width) for _ in range(depth))
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.head = nn.Linear(width, num_classes)

    def forward(self, image: Tensor) -> Tensor:
        x_BTD = self.patches(image).flatten(2).transpose(1, 2)
        token_B1D = self.class_token.expand(x_BTD.shape[0], -1, -1)
        x_BTD = torch.cat((token_B1D, x_BTD), dim=1) + self.positions
        for block in self.blocks:
            x_BTD = block(x_BTD)
        logits: Tensor = self.head(self.norm(x_BTD)[:, 0])
        return logits

    def at_side(self, side: int) -> "VisionTransformer":
        """A copy with positions resampled (bicubic) for `side` pixels, a multiple of 16."""
        if side % _PATCH:
            raise ValueError(
                f"vit-b-16 takes images whose side is a multiple of {_PATCH}; {side} is not"
            )
        resized = copy.deepcopy(self)
        positions_1TD = self.positions.detach()
        token_11D, grid_1GD = positions_1TD[:, :1], positions_1TD[:, 1:]
        old, new = _SIDE // _PATCH, side // _PATCH
        grid_1Dhw = grid_1GD.transpose(1, 2).reshape(1, -1, old, old)
        grid_1Dhw = F.interpolate(grid_1Dhw, size=(new, new), mode="bicubic")
        resized.positions = nn.Parameter(
            torch.cat((token_11D, grid_1Dhw.flatten(2).transpose(1, 2)), dim=1)
        )
        return resized


def forward_form(model: nn.Module, sizes: Sizes) -> tuple[nn.Module, tuple[Tensor, ...]]:
    """Images of `sizes.seq` pixels per side, 224 unless told."""
    assert isinstance(model, VisionTransformer)
    side = sizes.seq or _SIDE
    resized = model if side == _SIDE else model.at_side(side)
    return resized, (torch.randn(sizes.batch or 1, 3, side, side),)


def build() -> nn.Module:
    """ViT-B/16 in eval mode; torch's own draw for linears keeps the signal bounded."""
    return VisionTransformer().eval()


WORKLOAD = Workload(
    name="vit-b-16",
    build=build,
    forms={"forward": forward_form},
    facts=Facts(
        parameters=86_567_656,
        # 2 * (196*768*768 + 12*197*(12*768*768 linears + 2*197*768 attention) + 768*1000)
        flops=35_127_656_448,
        sizes=Sizes(batch=1, seq=224),
        source="Dosovitskiy et al. 2020: 86 M parameters; 17.56 GMAC derived by hand, term by term",
    ),
)
