"""Values that a number format must get right."""

import torch
from torch import Tensor

from ridgeline.compress.codes import decode
from ridgeline.compress.elements import Element, Kind


def samples(count: int = 1_000_000) -> Tensor:
    """Random bit patterns (NaN, inf, subnormals among them) and normals of many scales, fp32."""
    bits = torch.randint(-(2**31), 2**31, (count // 2,)).to(torch.int32).view(torch.float32)
    scales = 10 ** torch.empty(count // 2).uniform_(-8, 8)
    return torch.cat([bits, torch.randn(count // 2) * scales])


def edges(element: Element) -> Tensor:
    """Every value, every middle between two, and the fp32 neighbours of these; zeros and inf."""
    values = decode(torch.arange(2**element.bits, dtype=torch.uint8), element)
    values = values[values.isfinite()].double().unique()
    middles = (values[1:] + values[:-1]) / 2
    beyond = values[-1] + (values[-1] - values[-2]) * torch.tensor([0.5, 1, 2])
    centre = torch.cat([values, middles, beyond, -beyond]).float()
    if element.kind is Kind.EXPONENT:
        centre = centre.abs()
    up = torch.nextafter(centre, torch.tensor(torch.inf))
    down = torch.nextafter(centre, torch.tensor(-torch.inf))
    return torch.cat([centre, up, down, torch.tensor([0.0, -0.0, torch.inf, -torch.inf])])
