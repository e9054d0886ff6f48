"""What one layer's calibration inputs say about its weights: H = 2 X^T X, gathered in batches."""

from dataclasses import dataclass
from math import isfinite

import torch
from torch import Tensor

from ridgeline.errors import FormatError

# Rows of X multiplied at once: fp32 sums stay short before they are added up in fp64.
_MOST_ROWS = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class Hessian:
    """Second derivatives of a linear layer's squared output error, the same for every output.

    sums_II: X^T X over all samples, fp64; samples: rows of X, one per token. Raises FormatError
    for sums that are not square, not finite or negative on the diagonal.
    """

    sums_II: Tensor
    samples: int

    def __post_init__(self) -> None:
        shape = tuple(self.sums_II.shape)
        if len(shape) != 2 or shape[0] != shape[1] or not shape[0]:
            raise FormatError(f"a Hessian is square and not empty, not {shape}.")
        # Of a sum of squares nothing is greater than the diagonal, so its sum tells for all.
        diagonal = self.sums_II.diagonal()
        if self.samples < 0 or bool((diagonal < 0).any()) or not isfinite(float(diagonal.sum())):
            raise FormatError(
                f"sums of squares of {self.samples} samples are negative or not finite."
            )

    @property
    def inputs(self) -> int:
        """Columns of the weight."""
        return self.sums_II.shape[0]

    @property
    def dead(self) -> Tensor:
        """(I,) bool: inputs that were zero in every sample."""
        return self.sums_II.diagonal() == 0

    def total(self) -> Tensor:
        """2 X^T X, fp32, (I, I)."""
        return (2 * self.sums_II).float()

    def mean(self) -> Tensor:
        """2 X^T X / samples, fp32, (I, I): as llm-compressor normalises it. Raises FormatError
        without samples.
        """
        if not self.samples:
            raise FormatError("no calibration samples: feed at least one batch to this layer.")
        return (self.sums_II * (2 / self.samples)).float()

    def __add__(self, other: "Hessian") -> "Hessian":
        """That of both sets of samples."""
        if self.inputs != other.inputs:
            raise FormatError(f"Hessians of {self.inputs} and {other.inputs} inputs do not add.")
        return Hessian(sums_II=self.sums_II + other.sums_II, samples=self.samples + other.samples)


def no_samples(inputs: int) -> Hessian:
    """The Hessian to start from."""
    return Hessian(sums_II=torch.zeros(inputs, inputs, dtype=torch.float64), samples=0)


def with_batch(hessian: Hessian, x: Tensor, *, layer: str) -> Hessian:
    """`hessian` with the inputs x (..., I) of `layer` added, any float type; memory: one more
    (I, I) fp64 and fp32. Raises FormatError, naming the layer, for NaN, infinite or ill-shaped x.
    """
    if not x.ndim or x.shape[-1] != hessian.inputs:
        raise FormatError(
            f"{layer}: inputs {tuple(x.shape)} for {hessian.inputs} columns of the weight."
        )
    if not x.is_floating_point():
        raise FormatError(f"{layer}: inputs are {x.dtype}, not floating point.")
    x_NI = x.reshape(-1, hessian.inputs)
    sums = hessian.sums_II.clone()
    for rows in torch.split(x_NI, _MOST_ROWS):
        sums += _products(rows, layer)
    return Hessian(sums_II=sums, samples=hessian.samples + x_NI.shape[0])


def _products(rows_NI: Tensor, layer: str) -> Tensor:
    """X^T X: in fp32, or in fp64 where a square does not fit fp32."""
    wide = rows_NI.float() if rows_NI.dtype is not torch.float64 else rows_NI
    if not bool(torch.isfinite(wide).all()):
        bad = int((~torch.isfinite(wide)).sum())
        raise FormatError(
            f"{layer}: {bad} of {wide.numel()} calibration inputs are NaN or infinite; "
            "leave that batch out or find where they come from."
        )
    products = wide.T @ wide
    # A diagonal that overflows or vanishes says that some square was too large or small.
    diagonal = products.diagonal()
    lost = (diagonal == 0) & (wide != 0).any(dim=0)
    if bool(torch.isfinite(diagonal).all()) and not bool(lost.any()):
        return products.double()
    return wide.double().T @ wide.double()
