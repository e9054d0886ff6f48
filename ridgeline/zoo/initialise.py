"""Random weights that behave: signals keep their scale, different inputs give different outputs."""

import math

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

# Undoes the share of a signal's variance that a ReLU takes away: Brock et al. 2021
# (arXiv:2101.08692), section 4.
_RELU_GAIN = math.sqrt(2 / (1 - 1 / math.pi))


def randomise(model: nn.Module) -> None:
    """Redraws every convolution and batch norm; linear layers keep torch's own draw.

    A deep net of plain random filters answers every input alike: the positive mean of a ReLU's
    output grows into a constant. Filters that sum to zero drop that mean (scaled weight
    standardisation, Brock et al. 2021).
    """
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, _ConvNd):
                _draw_filters(module.weight)
            elif isinstance(module, _BatchNorm):
                _draw_norm(module)


def damp(norm: _BatchNorm) -> None:
    """Scales down the last norm of a residual branch, so that many branches have a bounded sum.

    Goyal et al. 2017 (section 5.1) start that scale at 0; a small one keeps the branch visible.
    """
    nn.init.uniform_(norm.weight, 0.3, 0.5)


def _draw_filters(weight: Tensor) -> None:
    fan_in = weight[0].numel()
    weight.normal_(std=_RELU_GAIN / math.sqrt(fan_in))
    weight -= weight.mean(dim=tuple(range(1, weight.dim())), keepdim=True)


def _draw_norm(norm: _BatchNorm) -> None:
    """Statistics other than 0 and 1: folding such a norm, or forgetting to, shows in the output."""
    nn.init.uniform_(norm.weight, 0.8, 1.2)
    nn.init.normal_(norm.bias, std=0.1)
    if norm.running_mean is not None and norm.running_var is not None:
        nn.init.normal_(norm.running_mean, std=0.1)
        nn.init.uniform_(norm.running_var, 0.8, 1.2)
