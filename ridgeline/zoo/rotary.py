"""Rotary position embedding, with the frequency scaling of LLaMA 3.1.

Shapes: B batch, T tokens, H heads, d head size.
"""

from dataclasses import dataclass
from math import pi

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class RopeScaling:
    """LLaMA 3.1's stretch of the rotary frequencies: slow ones are divided by `factor`, fast ones
    kept, between them blended.

    Source: `rope_scaling` of rope_type "llama3" in the published config.json.
    """

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_length: int

    def __post_init__(self) -> None:
        for name in ("factor", "original_length"):
            if getattr(self, name) < 1:
                raise ValueError(f"rope scaling: {name} is {getattr(self, name)}; at least 1")
        if self.high_freq_factor <= self.low_freq_factor:
            low, high = self.low_freq_factor, self.high_freq_factor
            raise ValueError(
                f"rope scaling: high_freq_factor {high} must exceed the low one, {low}"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Rotation:
    """Cosines and signed sines of this call's positions, (T, d), shared by all layers.

    Dimension i is paired with i + d / 2. The sines of the first half are negative, so that
    swapping the halves is all that is left of the usual `cat((-high, low))`.
    """

    cos_Td: Tensor
    sin_Td: Tensor

    def turn(self, x_BHTd: Tensor) -> Tensor:
        """The heads rotated by their positions."""
        swapped_BHTd = x_BHTd.roll(x_BHTd.shape[-1] // 2, dims=-1)
        return x_BHTd * self.cos_Td + swapped_BHTd * self.sin_Td


def rotation(
    positions_T: Tensor,
    *,
    head_dim: int,
    theta: float,
    scaling: RopeScaling | None,
    dtype: torch.dtype,
) -> Rotation:
    """The rotary tables. Computed in float32 in every call: a table kept in bfloat16 would misplace
    far tokens.

    Source: Su et al., "RoFormer", 2021, equation 15, with the halves layout of transformers.
    """
    pairs = torch.arange(0, head_dim, 2, device=positions_T.device, dtype=torch.float32)
    frequencies = theta ** (pairs / -head_dim)
    if scaling is not None:
        frequencies = _stretch(frequencies, scaling)
    angles = positions_T[:, None] * frequencies
    cos, sin = angles.cos(), angles.sin()
    cos_Td, sin_Td = torch.cat((cos, cos), dim=-1), torch.cat((-sin, sin), dim=-1)
    return Rotation(cos_Td=cos_Td.to(dtype), sin_Td=sin_Td.to(dtype))


def _stretch(frequencies: Tensor, scaling: RopeScaling) -> Tensor:
    """Turns over the original length, clamped to the two factors, say how much of a frequency is
    kept.
    """
    turns = frequencies * (scaling.original_length / (2 * pi))
    width = scaling.high_freq_factor - scaling.low_freq_factor
    kept = ((turns - scaling.low_freq_factor) / width).clamp(0, 1)
    return frequencies * (kept + (1 - kept) / scaling.factor)
