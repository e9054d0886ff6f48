"""What a user asks for (a target, a phase, sizes) and what a frontend makes of it."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from ridgeline.errors import TargetError
from ridgeline.graph import Phase
from ridgeline.graph.spec import DTYPES

CHOOSABLE_DTYPES = ("fp32", "bf16", "fp16")
# More elements in two such dimensions than torch counts in 64 bits.
_LARGEST_SIZE = 2**31 - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A model to look at. `None` means the target's own default.

    batch: samples; seq: tokens, or pixels per side; cache: tokens already in the KV cache; full:
    capture every layer, also those that repeat.
    """

    target: str
    phase: Phase = Phase.FORWARD
    batch: int | None = None
    seq: int | None = None
    cache: int | None = None
    dtype: str | None = None
    full: bool = False

    def __post_init__(self) -> None:
        for name in ("batch", "seq", "cache"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise TargetError(f"--{name} is {value}; it must be at least 1.")
            if value is not None and value > _LARGEST_SIZE:
                raise TargetError(f"--{name} is {value}; it may be {_LARGEST_SIZE} at most.")
        if self.cache is not None and self.phase is not Phase.DECODE:
            raise TargetError(
                f"--cache does not apply to {self.target} in the phase {self.phase.value}; "
                "decode alone starts from a cache."
            )
        if self.dtype is not None and self.dtype not in CHOOSABLE_DTYPES:
            raise TargetError(
                f"--dtype is {self.dtype!r}; it must be one of {', '.join(CHOOSABLE_DTYPES)}."
            )

    @property
    def torch_dtype(self) -> torch.dtype | None:
        """The dtype asked for."""
        return None if self.dtype is None else DTYPES[self.dtype]

    def refuse_sizes(self, why: str) -> None:
        """Raises TargetError if a size was asked for, where the target brings its own inputs."""
        for name in ("batch", "seq", "cache"):
            if getattr(self, name) is not None:
                raise TargetError(f"--{name} does not apply to {self.target}: {why}.")

    def require_phase(self, *phases: Phase) -> None:
        """Raises TargetError if the phase asked for is none of `phases`."""
        if self.phase not in phases:
            has = ", ".join(p.value for p in phases)
            raise TargetError(f"{self.target} has no phase {self.phase.value}; it has {has}.")

    def require_length(self, limit: int | None) -> None:
        """Raises TargetError if the tokens asked for exceed the positions the model has."""
        if limit is None:
            return
        for name, tokens in (("seq", self.seq or 0), ("cache", (self.cache or 0) + 1)):
            if tokens > limit:
                raise TargetError(
                    f"--{name} {getattr(self, name)} needs {tokens} positions; "
                    f"{self.target} has {limit}. Ask for fewer."
                )


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedModel:
    """A module, ready to run or to capture, with its example inputs.

    has_uniform_layers: whether layers alike may be folded (False where the model treats them by
    number). is_trusted: the module is ours, so it draws nothing from Python's random.
    """

    module: nn.Module
    inputs: tuple[object, ...]
    name: str
    kwargs: Mapping[str, object] = field(default_factory=dict)
    has_uniform_layers: bool = True
    is_trusted: bool = False


def cast(value: object, dtype: torch.dtype | None) -> object:
    """`value` with its floating-point tensors, also nested ones, in `dtype`."""
    if isinstance(value, Tensor) and value.is_floating_point() and dtype is not None:
        return value.to(dtype)
    if isinstance(value, dict):
        return {k: cast(v, dtype) for k, v in value.items()}
    if type(value) in (tuple, list):
        return type(value)(cast(v, dtype) for v in value)  # type: ignore[attr-defined,call-arg]
    return value


def set_mode(module: nn.Module, phase: Phase) -> nn.Module:
    """`module` in the mode of the phase: training form for `train`, inference form otherwise."""
    return module.train(phase is Phase.TRAIN)
