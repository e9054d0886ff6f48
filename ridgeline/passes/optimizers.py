"""Optimizers as pure functions, to be traced into a training step."""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from ridgeline.errors import GraphError

Tensors = Mapping[str, Tensor]
State = Mapping[str, Tensors]
OptimizerName = Literal["sgd", "momentum", "adamw"]


class Optimizer(ABC):
    """How parameters follow from gradients. The learning rate is an input of the step."""

    @abstractmethod
    def start(self, parameters: Tensors) -> State:
        """The state before the first step, by its name and then by parameter."""

    @abstractmethod
    def update(
        self, parameters: Tensors, gradients: Tensors, state: State, rate: Tensor
    ) -> tuple[Tensors, State]:
        """New parameters and new state."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sgd(Optimizer):
    """Gradient descent, as torch.optim.SGD with dampening 0."""

    momentum: float = 0.0
    weight_decay: float = 0.0
    is_nesterov: bool = False

    def start(self, parameters: Tensors) -> State:
        """The velocity, zero; nothing without momentum."""
        if not self.momentum:
            return {}
        return {"momentum": {name: torch.zeros_like(p) for name, p in parameters.items()}}

    def update(
        self, parameters: Tensors, gradients: Tensors, state: State, rate: Tensor
    ) -> tuple[Tensors, State]:
        """p - rate * velocity."""
        moves = {name: self._decayed(p, gradients[name]) for name, p in parameters.items()}
        if not self.momentum:
            return {name: p - rate * moves[name] for name, p in parameters.items()}, {}
        velocity = {name: self.momentum * state["momentum"][name] + g for name, g in moves.items()}
        moves = (
            {n: g + self.momentum * velocity[n] for n, g in moves.items()}
            if (self.is_nesterov)
            else velocity
        )
        return (
            {name: p - rate * moves[name] for name, p in parameters.items()},
            {"momentum": velocity},
        )

    def _decayed(self, parameter: Tensor, gradient: Tensor) -> Tensor:
        return gradient + self.weight_decay * parameter if self.weight_decay else gradient


@dataclass(frozen=True, slots=True, kw_only=True)
class AdamW(Optimizer):
    """Adam with decoupled weight decay (Loshchilov and Hutter 2019, alg. 2), torch's defaults."""

    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8
    weight_decay: float = 1e-2

    def start(self, parameters: Tensors) -> State:
        """Both moments, zero, and how many steps were taken."""
        return {
            "first": {name: torch.zeros_like(p) for name, p in parameters.items()},
            "second": {name: torch.zeros_like(p) for name, p in parameters.items()},
            "count": {"steps": torch.zeros((), dtype=torch.float32)},
        }

    def update(
        self, parameters: Tensors, gradients: Tensors, state: State, rate: Tensor
    ) -> tuple[Tensors, State]:
        """One step of every parameter."""
        steps = state["count"]["steps"] + 1
        # 1 - beta^t loses its digits in fp32 while beta^t is near 1; expm1 does not
        size = rate / -torch.expm1(steps * math.log(self.beta1))
        root = torch.sqrt(-torch.expm1(steps * math.log(self.beta2)))
        first, second, new = {}, {}, {}
        for name, p in parameters.items():
            g = gradients[name]
            first[name] = torch.lerp(state["first"][name], g, 1 - self.beta1)
            second[name] = torch.addcmul(
                self.beta2 * state["second"][name], g, g, value=1 - self.beta2
            )
            kept = p * (1 - rate * self.weight_decay) if self.weight_decay else p
            new[name] = kept - size * first[name] / (second[name].sqrt() / root + self.eps)
        return new, {"first": first, "second": second, "count": {"steps": steps}}


_NAMED: dict[str, Optimizer] = {"sgd": Sgd(), "momentum": Sgd(momentum=0.9), "adamw": AdamW()}


def named_optimizer(name: OptimizerName) -> Optimizer:
    """The optimizer of that name with its usual settings. Raises GraphError for another name."""
    if name not in _NAMED:
        raise GraphError(f"no optimizer {name!r}; there are {', '.join(get_args(OptimizerName))}.")
    return _NAMED[name]
