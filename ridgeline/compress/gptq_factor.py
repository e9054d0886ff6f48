"""Cholesky's factor by matrix products, which are faster here than LAPACK's own."""

import torch
from torch import Tensor

_BLOCK = 128


def lower_factor(matrix_II: Tensor) -> Tensor | None:
    """L, its columns contiguous, with L L^T the symmetric matrix; None where there is none. What
    stands above the diagonal is of no meaning. One triangle of the matrix is read.
    """
    upper_II = matrix_II.clone(memory_format=torch.contiguous_format)
    size = upper_II.shape[0]
    for first in range(0, size, _BLOCK):
        end = min(first + _BLOCK, size)
        above = upper_II[:first]
        upper_II[first:end, first:].addmm_(above[:, first:end].T, above[:, first:], alpha=-1)
        corner, failed_at = torch.linalg.cholesky_ex(upper_II[first:end, first:end], upper=True)
        if int(failed_at):
            return None
        upper_II[first:end, first:end] = corner
        rest = upper_II[first:end, end:]
        rest.copy_(torch.linalg.solve_triangular(corner.T, rest, upper=False))
    return upper_II.T
