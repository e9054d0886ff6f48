"""Weights of 3 x 3 convolutions for Winograd's algorithm, as the instruction `winograd` wants."""

from collections.abc import Sequence

import torch
from torch import Tensor

# Rows g(p) = (1, p, p^2) / prod(p - q), one per point p beside all others q, and infinity last: the
# matrix G of F(2, 3) and F(4, 3) (Lavin and Gray, Fast Algorithms for Convolutional Neural
# Networks, arXiv 1509.09308), for the points that winograd.cpp has. Those of F(4, 3) give a quarter
# of the error of the usual 0, 1, -1, 2, -2: 2.8e-6 of the largest result with 256 channels.
_POINTS = {2: (0.0, 1.0, -1.0), 4: (0.0, 0.75, -0.75, 1.5, -1.5)}

_MIN_WIDTH, _MARGIN = 16, 1.1  # fewer channels leave vectors empty; a close call is not worth it


def _transform(tile: int) -> Tensor:
    points = torch.tensor(_POINTS[tile], dtype=torch.float64)
    distances = points[:, None] - points
    distances.fill_diagonal_(1)
    finite = points[:, None] ** torch.arange(3) / distances.prod(1, keepdim=True)
    return torch.cat([finite, torch.tensor([[0.0, 0.0, 1.0]], dtype=torch.float64)])


def winograd_weights(weight_KCRS: Tensor, tile: int) -> Tensor:
    """(points, filters, channels) in fp32, of a weight (filters, channels, 3, 3)."""
    transform = _transform(tile)
    points = transform @ weight_KCRS.double() @ transform.T
    return points.flatten(2).permute(2, 0, 1).float().contiguous()


def winograd_tile(batch: int, out_size: Sequence[int], channels: int, filters: int) -> int | None:
    """The tile with which a convolution of 3 x 3 taps and stride 1 is expected to take least, or
    None where it takes less without the algorithm.
    """

    def cost(products: int, weights: int, values: int) -> float:
        # In products of a value and a weight. Measured on a Xeon with AVX-512: reading a weight
        # that no near cache holds takes as long as 12 of them, a transform as 10 per value.
        return products * channels * filters + 12 * weights * channels * filters + 10 * values

    positions = batch * out_size[0] * out_size[1]
    costs: dict[int | None, float] = {None: cost(9 * positions, 9, 0)}
    for tile in _POINTS:
        points = (tile + 2) ** 2
        tiles = batch * -(-out_size[0] // tile) * -(-out_size[1] // tile)
        found = cost(points * tiles, points, points * tiles * (channels + filters))
        costs[tile] = found * _MARGIN
    return min(costs, key=costs.__getitem__) if min(channels, filters) >= _MIN_WIDTH else None
