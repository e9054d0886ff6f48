"""What a zoo entry is: how to build the model, how to feed it in each phase, and what is published
about it.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """The sizes a caller may choose. `None` means the workload's own default.

    batch: samples; seq: tokens (text) or pixels per side (images); cache: tokens already in the KV
    cache.
    """

    batch: int | None = None
    seq: int | None = None
    cache: int | None = None

    def __post_init__(self) -> None:
        for name in ("batch", "seq", "cache"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} is {value}; it must be at least 1")


# (model, sizes) -> the module to run in this phase and its positional inputs, made on the ambient
# device.
# It must work on `meta` and on real devices, and with fewer layers than the config says (layers are
# collapsed before capture), so it reads layer counts from the model, never from the config.
Form = Callable[[nn.Module, Sizes], tuple[nn.Module, tuple[Tensor, ...]]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """Published or hand-derived truth at `sizes`; `flops` counts matmul, convolution and full
    attention, 2 per MAC.
    """

    parameters: int | None = None
    flops: int | None = None
    causal_flops: int | None = None
    sizes: Sizes = field(default_factory=Sizes)
    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """One zoo entry. `build()` makes the model in eval mode with random weights on the ambient
    device.

    forms: keys are "forward" (always there), "prefill" and "decode" (decoders only), and "score"
    (energy models only: the gradient by the input, plain torch, which torch.export refuses).
    runs_here: small enough to run on a laptop; the others are for inspection on `meta`.
    """

    name: str
    build: Callable[[], nn.Module]
    forms: Mapping[str, Form]
    facts: Facts
    runs_here: bool = True

    def __post_init__(self) -> None:
        if "forward" not in self.forms:
            raise ValueError(f"workload {self.name} has no form for the phase 'forward'")


def image_form(channels: int, side: int) -> Form:
    """The forward form of an image model: one (N, channels, S, S) input, S = seq or `side`."""

    def form(model: nn.Module, sizes: Sizes) -> tuple[nn.Module, tuple[Tensor, ...]]:
        pixels = sizes.seq or side
        return model, (torch.randn(sizes.batch or 1, channels, pixels, pixels),)

    return form
