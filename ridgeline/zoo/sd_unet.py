"""The denoising U-Net of Stable Diffusion v1.

Architecture: convolutional U-Net of widths 320, 640, 1280, 1280 with two residual blocks a level on
  the way down and three on the way up, each conditioned on the timestep, and after every residual
  block of the three finer levels a transformer: self-attention, cross-attention to the text, GEGLU
  feed-forward, 8 heads. Module and parameter names follow the published diffusers layout.
Source: Rombach et al., "High-Resolution Image Synthesis with Latent Diffusion Models", 2022.
Input: noisy latents (B, 4, S, S), S a multiple of 8, timesteps (B,), text states (B, 77, 768).
Output: the predicted noise (B, 4, S, S).
Loss: mean squared error to the noise that was added.
Facts: 859,520,964 parameters. FLOPs at S = 64 are the sum over the layers below, 2 per MAC: 18*C*K
  per pixel of a 3x3 convolution from C to K channels, 2*C*K of a 1x1 or linear one, and 4*C*T*L of
  an attention of T queries to L keys.

Shapes: B batch, C channels, S side, T = S * S tokens, L context tokens, H heads, d head size.
"""

from dataclasses import dataclass
from itertools import pairwise
from math import log

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ridgeline.zoo.workload import Facts, Sizes, Workload


@dataclass(frozen=True, slots=True, kw_only=True)
class UNetConfig:
    """The shape of the U-Net; the defaults are Stable Diffusion v1's.

    widths: channels of each level, finest first; all but the coarsest level have transformers.
    """

    latent_channels: int = 4
    widths: tuple[int, ...] = (320, 640, 1280, 1280)
    blocks_per_level: int = 2
    num_heads: int = 8
    context_dim: int = 768
    num_groups: int = 32

    def __post_init__(self) -> None:
        if len(self.widths) < 2:
            raise ValueError(f"widths {self.widths}: at least two levels")
        for width in self.widths:
            if width % self.num_heads or width % self.num_groups:
                raise ValueError(
                    f"width {width} is not a multiple of num_heads {self.num_heads} "
                    f"and num_groups {self.num_groups}"
                )

    @property
    def time_dim(self) -> int:
        """The size of the timestep embedding: four times the finest width."""
        return 4 * self.widths[0]


class TimeEmbedding(nn.Module):
    """Sines and cosines of the timestep, then two linear layers: (B,) -> (B, time_dim)."""

    def __init__(self, config: UNetConfig) -> None:
        super().__init__()
        self.num_frequencies = config.widths[0] // 2
        self.linear_1 = nn.Linear(config.widths[0], config.time_dim)
        self.linear_2 = nn.Linear(config.time_dim, config.time_dim)

    def forward(self, steps_B: Tensor) -> Tensor:
        counts = torch.arange(self.num_frequencies, device=steps_B.device, dtype=torch.float32)
        angles = steps_B[:, None] * (counts * (-log(10_000) / self.num_frequencies)).exp()
        waves = torch.cat((angles.cos(), angles.sin()), dim=-1).to(self.linear_1.weight.dtype)
        out: Tensor = self.linear_2(F.silu(self.linear_1(waves)))
        return out


class ResBlock(nn.Module):
    """Two 3x3 convolutions with the timestep added between them, and a shortcut."""

    def __init__(self, in_channels: int, channels: int, config: UNetConfig) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(config.num_groups, in_channels)
        self.conv1 = nn.Conv2d(in_channels, channels, 3, padding=1)
        self.time_emb_proj = nn.Linear(config.time_dim, channels)
        self.norm2 = nn.GroupNorm(config.num_groups, channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        is_same = in_channels == channels
        self.conv_shortcut = nn.Identity() if is_same else nn.Conv2d(in_channels, channels, 1)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        hidden = self.conv1(F.silu(self.norm1(x)))
        hidden = hidden + self.time_emb_proj(F.silu(time))[:, :, None, None]
        out: Tensor = self.conv_shortcut(x) + self.conv2(F.silu(self.norm2(hidden)))
        return out


class Attention(nn.Module):
    """Attention of image tokens to a context, (B, T, C) and (B, L, context_dim) -> (B, T, C)."""

    def __init__(self, channels: int, context_dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.to_q = nn.Linear(channels, channels, bias=False)
        self.to_k = nn.Linear(context_dim, channels, bias=False)
        self.to_v = nn.Linear(context_dim, channels, bias=False)
        self.to_out = nn.Sequential(nn.Linear(channels, channels))

    def forward(self, x_BTC: Tensor, context_BLX: Tensor) -> Tensor:
        q_BHTd = self._heads(self.to_q(x_BTC))
        k_BHLd = self._heads(self.to_k(context_BLX))
        v_BHLd = self._heads(self.to_v(context_BLX))
        mixed_BHTd = F.scaled_dot_product_attention(q_BHTd, k_BHLd, v_BHLd)
        out: Tensor = self.to_out(mixed_BHTd.transpose(1, 2).flatten(2))
        return out

    def _heads(self, x: Tensor) -> Tensor:
        return x.view(*x.shape[:2], self.num_heads, -1).transpose(1, 2)


class GEGLU(nn.Module):
    """A linear layer, one half of it gated by the GELU of the other. Source: Shazeer, 2020."""

    def __init__(self, channels: int, hidden_dim: int) -> None:
        super().__init__()
        self.proj = nn.Linear(channels, 2 * hidden_dim)

    def forward(self, x: Tensor) -> Tensor:
        value, gate = self.proj(x).chunk(2, dim=-1)
        gated: Tensor = value * F.gelu(gate)
        return gated


class FeedForward(nn.Module):
    """GEGLU four times as wide, and back; an identity keeps the place of the published dropout."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        wide = 4 * channels
        self.net = nn.Sequential(GEGLU(channels, wide), nn.Identity(), nn.Linear(wide, channels))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.net(x)
        return out


class TransformerBlock(nn.Module):
    """Self-attention, cross-attention and feed-forward on the normalised residual stream."""

    def __init__(self, channels: int, config: UNetConfig) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(channels)
        self.attn1 = Attention(channels, channels, config.num_heads)
        self.norm2 = nn.LayerNorm(channels)
        self.attn2 = Attention(channels, config.context_dim, config.num_heads)
        self.norm3 = nn.LayerNorm(channels)
        self.ff = FeedForward(channels)

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        normal = self.norm1(x)
        x = x + self.attn1(normal, normal)
        x = x + self.attn2(self.norm2(x), context)
        out: Tensor = x + self.ff(self.norm3(x))
        return out


class SpatialTransformer(nn.Module):
    """A transformer block over the pixels, between two 1x1 convolutions, added to its input."""

    def __init__(self, channels: int, config: UNetConfig) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(config.num_groups, channels, eps=1e-6)
        self.proj_in = nn.Conv2d(channels, channels, 1)
        self.transformer_blocks = nn.ModuleList([TransformerBlock(channels, config)])
        self.proj_out = nn.Conv2d(channels, channels, 1)

    def forward(self, x_BCSS: Tensor, context: Tensor) -> Tensor:
        hidden_BCSS = self.proj_in(self.norm(x_BCSS))
        hidden_BTC = hidden_BCSS.flatten(2).transpose(1, 2)
        for block in self.transformer_blocks:
            hidden_BTC = block(hidden_BTC, context)
        out: Tensor = x_BCSS + self.proj_out(hidden_BTC.transpose(1, 2).view_as(hidden_BCSS))
        return out


class Resample(nn.Module):
    """A 3x3 convolution that halves the side, or doubles it after nearest-neighbour upsampling."""

    def __init__(self, channels: int, *, is_up: bool) -> None:
        super().__init__()
        self.is_up = is_up
        self.conv = nn.Conv2d(channels, channels, 3, stride=1 if is_up else 2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.conv(F.interpolate(x, scale_factor=2.0) if self.is_up else x)
        return out


def _transformers(count: int, channels: int, config: UNetConfig, *, is_used: bool) -> nn.ModuleList:
    """One transformer for each residual block, or as many stand-ins that change nothing."""
    if not is_used:
        return nn.ModuleList(_Unattended() for _ in range(count))
    return nn.ModuleList(SpatialTransformer(channels, config) for _ in range(count))


class _Unattended(nn.Module):
    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        return x


class DownLevel(nn.Module):
    """Residual blocks and transformers of one width, then a halving unless it is the coarsest."""

    def __init__(
        self, in_channels: int, channels: int, config: UNetConfig, *, is_coarsest: bool
    ) -> None:
        super().__init__()
        count = config.blocks_per_level
        inputs = (in_channels, *(channels for _ in range(count - 1)))
        self.resnets = nn.ModuleList(ResBlock(width, channels, config) for width in inputs)
        self.attentions = _transformers(count, channels, config, is_used=not is_coarsest)
        resamplers = [] if is_coarsest else [Resample(channels, is_up=False)]
        self.downsamplers = nn.ModuleList(resamplers)

    def forward(self, x: Tensor, time: Tensor, context: Tensor) -> tuple[Tensor, ...]:
        """Every state the way up will need, the last one included."""
        states: tuple[Tensor, ...] = ()
        for resnet, attention in zip(self.resnets, self.attentions, strict=True):
            x = attention(resnet(x, time), context)
            states = (*states, x)
        for downsampler in self.downsamplers:
            x = downsampler(x)
            states = (*states, x)
        return states


class MidLevel(nn.Module):
    """Residual block, transformer, residual block, at the coarsest side."""

    def __init__(self, channels: int, config: UNetConfig) -> None:
        super().__init__()
        self.resnets = nn.ModuleList(ResBlock(channels, channels, config) for _ in range(2))
        self.attentions = nn.ModuleList([SpatialTransformer(channels, config)])

    def forward(self, x: Tensor, time: Tensor, context: Tensor) -> Tensor:
        first, last = self.resnets
        x = first(x, time)
        for attention in self.attentions:
            x = attention(x, context)
        out: Tensor = last(x, time)
        return out


class UpLevel(nn.Module):
    """Residual blocks over the state joined with one from the way down, then a doubling."""

    def __init__(
        self, in_channels: tuple[int, ...], channels: int, config: UNetConfig, *, level: int
    ) -> None:
        super().__init__()
        self.resnets = nn.ModuleList(ResBlock(width, channels, config) for width in in_channels)
        is_used = level < len(config.widths) - 1
        self.attentions = _transformers(len(in_channels), channels, config, is_used=is_used)
        self.upsamplers = nn.ModuleList([Resample(channels, is_up=True)] if level else [])

    def forward(self, x: Tensor, states: list[Tensor], time: Tensor, context: Tensor) -> Tensor:
        """Takes its states off the end of `states`."""
        for resnet, attention in zip(self.resnets, self.attentions, strict=True):
            x = attention(resnet(torch.cat((x, states.pop()), dim=1), time), context)
        for upsampler in self.upsamplers:
            x = upsampler(x)
        return x


class UNet(nn.Module):
    """The U-Net with torch's own random initialisation, on the ambient device."""

    def __init__(self, config: UNetConfig) -> None:
        super().__init__()
        widths = config.widths
        self.conv_in = nn.Conv2d(config.latent_channels, widths[0], 3, padding=1)
        self.time_embedding = TimeEmbedding(config)
        self.down_blocks = nn.ModuleList(
            DownLevel(before, width, config, is_coarsest=level == len(widths) - 1)
            for level, (before, width) in enumerate(pairwise((widths[0], *widths)))
        )
        self.mid_block = MidLevel(widths[-1], config)
        self.up_blocks = nn.ModuleList(
            UpLevel(inputs, widths[level], config, level=level)
            for level, inputs in _up_inputs(config)
        )
        self.conv_norm_out = nn.GroupNorm(config.num_groups, widths[0])
        self.conv_out = nn.Conv2d(widths[0], config.latent_channels, 3, padding=1)

    def forward(self, latents_BCSS: Tensor, steps_B: Tensor, context_BLX: Tensor) -> Tensor:
        self._check_side(latents_BCSS.shape[-1])
        time = self.time_embedding(steps_B)
        x = self.conv_in(latents_BCSS)
        states = [x]
        for level in self.down_blocks:
            states.extend(level(states[-1], time, context_BLX))
        x = self.mid_block(states[-1], time, context_BLX)
        for level in self.up_blocks:
            x = level(x, states, time, context_BLX)
        out: Tensor = self.conv_out(F.silu(self.conv_norm_out(x)))
        return out

    def _check_side(self, side: int) -> None:
        multiple = 2 ** (len(self.down_blocks) - 1)
        if side % multiple:
            raise ValueError(f"the latents' side is {side}; it must be a multiple of {multiple}")


def _up_inputs(config: UNetConfig) -> list[tuple[int, tuple[int, ...]]]:
    """Per level, coarsest first, the input channels of its residual blocks: state plus skip."""
    widths, count = config.widths, config.blocks_per_level
    skips = [widths[0]]
    for level, width in enumerate(widths):
        skips += [width] * (count if level == len(widths) - 1 else count + 1)
    state, inputs = widths[-1], []
    for level in reversed(range(len(widths))):
        states = (state, *(widths[level] for _ in range(count)))
        inputs.append((level, tuple(before + skips.pop() for before in states)))
        state = widths[level]
    return inputs


def _forward(model: nn.Module, sizes: Sizes) -> tuple[nn.Module, tuple[Tensor, ...]]:
    batch, side = sizes.batch or 1, sizes.seq or 64
    config = UNetConfig()
    latents = torch.randn(batch, config.latent_channels, side, side)
    return model, (latents, torch.randint(1000, (batch,)), torch.randn(batch, 77, 768))


class Block(nn.Module):
    """A residual block and its transformer, of the second level unless told: what the U-Net is made
    of.
    """

    def __init__(self, config: UNetConfig, *, level: int = 1) -> None:
        super().__init__()
        width = config.widths[level]
        self.resnet = ResBlock(width, width, config)
        self.attention = SpatialTransformer(width, config)

    def forward(self, x_BCSS: Tensor, time: Tensor, context_BLX: Tensor) -> Tensor:
        out: Tensor = self.attention(self.resnet(x_BCSS, time), context_BLX)
        return out


def _block_forward(model: nn.Module, sizes: Sizes) -> tuple[nn.Module, tuple[Tensor, ...]]:
    batch, side = sizes.batch or 1, sizes.seq or 32
    config = UNetConfig()
    x = torch.randn(batch, config.widths[1], side, side)
    return model, (x, torch.randn(batch, config.time_dim), torch.randn(batch, 77, 768))


WORKLOADS = (
    Workload(
        name="sd-v1-unet",
        build=lambda: UNet(UNetConfig()).eval(),
        forms={"forward": _forward},
        facts=Facts(
            parameters=859_520_964,
            flops=803_273_441_280,
            sizes=Sizes(batch=1, seq=64),
            source="Rombach et al. 2022 and the published checkpoint; FLOPs summed over the layers",
        ),
        runs_here=False,
    ),
    Workload(
        name="sd-v1-block",
        build=lambda: Block(UNetConfig()).eval(),
        forms={"forward": _block_forward},
        facts=Facts(
            parameters=17_384_960,
            flops=34_915_942_400,
            sizes=Sizes(batch=1, seq=32),
            source="one block of the U-Net's second level; FLOPs summed over the layers",
        ),
    ),
)
