"""What a layer must bring for its weights to be rounded by its Hessian."""

from math import isfinite

import torch
from torch import Tensor

from ridgeline.errors import FormatError


def checked(weight_OI: Tensor, hessian_II: Tensor, layer: str) -> tuple[Tensor, Tensor]:
    """Both as contiguous fp32. Raises FormatError, naming the layer, for what is ill-shaped, not
    floating point, not finite, negative on the diagonal or zero all along it.
    """
    weight_OI, hessian_II = weight_OI.detach(), hessian_II.detach()
    if weight_OI.ndim != 2 or not weight_OI.numel():
        raise FormatError(f"{layer}: a weight is (outputs, inputs), not {tuple(weight_OI.shape)}.")
    inputs = weight_OI.shape[1]
    if tuple(hessian_II.shape) != (inputs, inputs):
        raise FormatError(
            f"{layer}: a Hessian of {tuple(hessian_II.shape)} for {inputs} columns of the weight."
        )
    weight = _finite(weight_OI, f"{layer}: the weight")
    hessian = _finite(hessian_II, f"{layer}: the Hessian")
    diagonal_I = hessian.diagonal()
    if bool((diagonal_I < 0).any()):
        raise FormatError(f"{layer}: the Hessian's diagonal is negative: it is no sum of squares.")
    if not bool(diagonal_I.any()):
        raise FormatError(f"{layer}: every calibration input was zero, or there was none.")
    return weight, hessian


def _finite(tensor: Tensor, what: str) -> Tensor:
    if not tensor.is_floating_point():
        raise FormatError(f"{what} is {tensor.dtype}, not floating point.")
    single = tensor.float().contiguous()
    # One sum tells of most tensors; it may overflow where no element did.
    if not isfinite(float(single.sum())) and not bool(torch.isfinite(single).all()):
        bad = int((~torch.isfinite(single)).sum())
        raise FormatError(f"{what} has {bad} values of {single.numel()} that fp32 cannot hold.")
    return single
