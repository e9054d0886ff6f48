"""EGC: one network that classifies and, by the gradient of its energy, generates.

Architecture: a U-Net over latents that gives every pixel one logit per class. Widths 384, 768,
  1536; two residual blocks a level on the way down and two on the way up, each conditioned on the
  timestep and followed by a spatial transformer (self-attention, cross-attention to the embedded
  label, GELU feed-forward; heads of 64); the convolutions between levels change the width, and a
  level's last state joins the first block of its way up.
  Classify: attention pooling without parameters; the mean pixel attends to all pixels.
  Score: with the energy E(x) = -sum over pixels of logsumexp over classes, the score is -dE/dx.
Source: Guo et al., "EGC: Image Generation and Classification via a Diffusion Energy-Based Model",
  ICCV 2023. The blocks are our own reading of it.
Input: noisy latents (B, 4, S, S), S a multiple of 4, timesteps (B,), labels (B,), where the number
  of classes stands for no label.
Output: class logits (B, K), or the score, of the latents' shape.
Loss: mean squared error of the noise, which is the score times minus its deviation, plus 0.005
  times cross-entropy with smoothing 0.2, weighted by the root of the signal's share; labels dropped
  at 0.1.
Facts: 516,470,120 parameters; tiny (widths 32, 64, heads of 16, 10 classes, one block on the way
  up) 693,850.

Shapes: B batch, C channels, S side, T = S * S pixels, K classes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ridgeline.zoo.sd_unet import Attention, ResBlock, TimeEmbedding, UNetConfig
from ridgeline.zoo.workload import Facts, Form, Sizes, Workload


@dataclass(frozen=True, slots=True, kw_only=True)
class EGCConfig:
    """The shape of an EGC; the defaults are those for ImageNet. widths: finest level first."""

    widths: tuple[int, ...] = (384, 768, 1536)
    blocks_down: int = 2
    blocks_up: int = 2
    head_dim: int = 64
    context_dim: int = 512
    num_groups: int = 32
    num_classes: int = 1000
    latent_channels: int = 4
    side: int = 32

    @property
    def unet(self) -> UNetConfig:
        """What the blocks shared with Stable Diffusion's U-Net read."""
        return UNetConfig(
            widths=self.widths,
            context_dim=self.context_dim,
            num_groups=self.num_groups,
            num_heads=self.widths[0] // self.head_dim,
        )


TINY = EGCConfig(
    widths=(32, 64), blocks_up=1, head_dim=16, context_dim=16, num_groups=8, num_classes=10, side=8
)


class SpatialTransformer(nn.Module):
    """Attention of the pixels to each other and to the label, then a feed-forward, added on."""

    def __init__(self, channels: int, config: EGCConfig) -> None:
        super().__init__()
        heads = channels // config.head_dim
        self.norm = nn.GroupNorm(config.num_groups, channels)
        self.proj_in = nn.Conv2d(channels, channels, 1)
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(channels) for _ in range(3))
        self.attn1 = Attention(channels, channels, heads)
        self.attn2 = Attention(channels, config.context_dim, heads)
        self.ff = nn.Sequential(
            nn.Linear(channels, 4 * channels), nn.GELU(), nn.Linear(4 * channels, channels)
        )
        self.proj_out = nn.Conv2d(channels, channels, 1)

    def forward(self, x_BCSS: Tensor, context_BLX: Tensor) -> Tensor:
        hidden_BTC = self.proj_in(self.norm(x_BCSS)).flatten(2).transpose(1, 2)
        normal_BTC = self.norm1(hidden_BTC)
        hidden_BTC = hidden_BTC + self.attn1(normal_BTC, normal_BTC)
        hidden_BTC = hidden_BTC + self.attn2(self.norm2(hidden_BTC), context_BLX)
        hidden_BTC = hidden_BTC + self.ff(self.norm3(hidden_BTC))
        hidden_BCSS = hidden_BTC.transpose(1, 2).reshape(x_BCSS.shape)
        out: Tensor = x_BCSS + self.proj_out(hidden_BCSS)
        return out


class Block(nn.Module):
    """A residual block and its spatial transformer."""

    def __init__(self, in_channels: int, channels: int, config: EGCConfig) -> None:
        super().__init__()
        self.residual = ResBlock(in_channels, channels, config.unet)
        self.transformer = SpatialTransformer(channels, config)

    def forward(self, x: Tensor, time: Tensor, context: Tensor) -> Tensor:
        out: Tensor = self.transformer(self.residual(x, time), context)
        return out


class Level(nn.Module):
    """The blocks of one width on one way."""

    def __init__(self, widths: Sequence[int], channels: int, config: EGCConfig) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block(width, channels, config) for width in widths)

    def forward(self, x: Tensor, time: Tensor, context: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x, time, context)
        return x


class EGC(nn.Module):
    """One logit per class for every pixel: (B, 4, S, S), (B,), (B,) -> (B, K, S, S)."""

    def __init__(self, config: EGCConfig) -> None:
        super().__init__()
        self.config = config
        widths = config.widths
        self.conv_in = nn.Conv2d(config.latent_channels, widths[0], 3, padding=1)
        self.time_embedding = TimeEmbedding(config.unet)
        self.label_embedding = nn.Embedding(config.num_classes + 1, config.context_dim)
        self.down = nn.ModuleList(Level([w] * config.blocks_down, w, config) for w in widths)
        self.coarsen = nn.ModuleList(
            nn.Conv2d(fine, coarse, 3, stride=2, padding=1) for fine, coarse in pairwise(widths)
        )
        self.up = nn.ModuleList(
            Level([2 * w, *[w] * (config.blocks_up - 1)], w, config) for w in widths
        )
        self.refine = nn.ModuleList(
            nn.Conv2d(coarse, fine, 3, padding=1) for fine, coarse in pairwise(widths)
        )
        self.norm_out = nn.GroupNorm(config.num_groups, widths[0])
        self.conv_out = nn.Conv2d(widths[0], config.num_classes, 3, padding=1)

    def forward(self, latents_BCSS: Tensor, steps_B: Tensor, labels_B: Tensor) -> Tensor:
        self._check_side(latents_BCSS.shape[-1])
        time, context = self.time_embedding(steps_B), self.label_embedding(labels_B)[:, None]
        x, states = self.conv_in(latents_BCSS), []
        for level, blocks in enumerate(self.down):
            x = blocks(self.coarsen[level - 1](x) if level else x, time, context)
            states.append(x)
        for level in reversed(range(len(self.up))):
            x = self.up[level](torch.cat((x, states[level]), dim=1), time, context)
            if level:
                x = self.refine[level - 1](F.interpolate(x, scale_factor=2.0))
        out: Tensor = self.conv_out(F.silu(self.norm_out(x)))
        return out

    def _check_side(self, side: int) -> None:
        multiple = 2 ** (len(self.down) - 1)
        if side % multiple:
            raise ValueError(f"the latents' side is {side}; it must be a multiple of {multiple}")


class Classify(nn.Module):
    """Class logits: the mean pixel attends to every pixel."""

    def __init__(self, model: EGC) -> None:
        super().__init__()
        self.model = model

    def forward(self, latents_BCSS: Tensor, steps_B: Tensor, labels_B: Tensor) -> Tensor:
        logits_BTK = self.model(latents_BCSS, steps_B, labels_B).flatten(2).transpose(1, 2)
        mean_B1K = logits_BTK.mean(1, keepdim=True)
        return F.scaled_dot_product_attention(mean_B1K, logits_BTK, logits_BTK).squeeze(1)


class Score(nn.Module):
    """-dE/dx, of the latents' shape. Plain torch, which torch.export refuses: it is a gradient."""

    def __init__(self, model: EGC) -> None:
        super().__init__()
        self.model = model

    def forward(self, latents_BCSS: Tensor, steps_B: Tensor, labels_B: Tensor) -> Tensor:
        with torch.enable_grad():
            x_BCSS = latents_BCSS.detach().requires_grad_()
            energy = -self.model(x_BCSS, steps_B, labels_B).logsumexp(1).sum()
            (slope_BCSS,) = torch.autograd.grad(energy, x_BCSS, create_graph=self.training)
        return -slope_BCSS


def _form(kind: type[Classify] | type[Score]) -> Form:
    def form(model: nn.Module, sizes: Sizes) -> tuple[nn.Module, tuple[Tensor, ...]]:
        if not isinstance(model, EGC):
            raise TypeError(f"this form takes an EGC, not {type(model).__name__}")
        config, batch = model.config, sizes.batch or 1
        side = sizes.seq or config.side
        latents = torch.randn(batch, config.latent_channels, side, side)
        labels = torch.full((batch,), config.num_classes)
        return kind(model).train(model.training), (latents, torch.randint(1000, (batch,)), labels)

    return form


_FORMS = {"forward": _form(Classify), "score": _form(Score)}

WORKLOADS = (
    Workload(
        name="egc",
        build=lambda: EGC(EGCConfig()).eval(),
        forms=_FORMS,
        facts=Facts(
            parameters=516_470_120,
            flops=161_297_760_256,
            sizes=Sizes(batch=1),
            source="Guo et al. 2023, 516.5 M; FLOPs summed over the layers",
        ),
        runs_here=False,
    ),
    Workload(
        name="egc-tiny",
        build=lambda: EGC(TINY).eval(),
        forms=_FORMS,
        facts=Facts(
            parameters=693_850,
            flops=35_029_504,
            sizes=Sizes(batch=1),
            source="counted by hand from the config; FLOPs summed over the layers",
        ),
    ),
)
