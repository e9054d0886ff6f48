"""How far a candidate's outputs are from the reference's."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """max_error: the largest |error| over the largest |reference|, of the worst output; inf where
    shapes, infinities or NaNs differ. cosine: of the worst output. top1: the share of equal argmax
    along the last dimension of the first output; None where that has none.
    """

    max_error: float
    cosine: float
    top1: float | None


def compare(reference: Sequence[Tensor], outputs: Sequence[Tensor]) -> Agreement:
    """The agreement of `outputs` with `reference`, output by output."""
    if [tuple(r.shape) for r in reference] != [tuple(o.shape) for o in outputs]:
        return Agreement(max_error=inf, cosine=0.0, top1=None)
    pairs = [
        (r.detach().double(), o.detach().double())
        for r, o in zip(reference, outputs, strict=True)
        if r.numel()
    ]
    return Agreement(
        max_error=max((_max_error(r, o) for r, o in pairs), default=0.0),
        cosine=min((_cosine(r, o) for r, o in pairs), default=1.0),
        top1=_top1(*pairs[0]) if pairs else None,
    )


def _max_error(reference: Tensor, output: Tensor) -> float:
    finite = torch.isfinite(reference)
    if not torch.equal(finite, torch.isfinite(output)):
        return inf
    special = (reference[~finite], output[~finite])
    if not torch.equal(special[0].nan_to_num(0.0), special[1].nan_to_num(0.0)):
        return inf
    if not finite.any():
        return 0.0
    scale = reference[finite].abs().max().item()
    error = (reference[finite] - output[finite]).abs().max().item()
    return error / scale if scale > 0 else error


def _cosine(reference: Tensor, output: Tensor) -> float:
    finite = torch.isfinite(reference) & torch.isfinite(output)
    a, b = reference[finite], output[finite]
    norm = (a.norm() * b.norm()).item()
    return float((a @ b).item() / norm) if norm > 0 else float(torch.equal(a, b))


def _top1(reference: Tensor, output: Tensor) -> float | None:
    if reference.dim() < 1 or reference.shape[-1] < 2:
        return None
    equal = reference.argmax(-1) == output.argmax(-1)
    return equal.double().mean().item()
