"""GPTQ: weights rounded column by column, each column making up for the errors before it.

Frantar et al., arXiv 2210.17323, in the form of QuIP (arXiv 2307.13304, theorem 6), which needs no
inverse of the Hessian. O: outputs, I: inputs, G: groups of a row.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum

import torch
from torch import Tensor

from ridgeline.compress.gptq_factor import lower_factor
from ridgeline.compress.gptq_grid import Grid, codes_of, group_of_columns
from ridgeline.compress.gptq_input import checked
from ridgeline.errors import FormatError
from ridgeline.native.gptq import MOST_COLUMNS, Rounding, round_block

_LEAST_RAISED, _MOST_DAMPING = 1e-4, 1.0


class ScalesFrom(Enum):
    """Which weights the scales of a group are taken from."""

    ORIGINAL = "the weights as given, before any is rounded"
    UPDATED = "what the columns before the group made of it"


@dataclass(frozen=True, slots=True, kw_only=True)
class GptqOptions:
    """damping: added to the diagonal, of its mean over live columns. act_order: columns of large
    diagonal first; groups stay those of the original order ("static groups"). block_columns:
    rounded between two matrix products, of no influence on the result but in rounding.
    Raises FormatError for options that contradict each other.
    """

    damping: float = 0.01
    act_order: bool = False
    scales_from: ScalesFrom = ScalesFrom.ORIGINAL
    block_columns: int = MOST_COLUMNS

    def __post_init__(self) -> None:
        if not 0 <= self.damping <= _MOST_DAMPING:
            raise FormatError(f"damping is from 0 to {_MOST_DAMPING:g}, not {self.damping}.")
        if not 1 <= self.block_columns <= MOST_COLUMNS:
            raise FormatError(f"blocks have 1 to {MOST_COLUMNS} columns, not {self.block_columns}.")
        if self.act_order and self.scales_from is ScalesFrom.UPDATED:
            raise FormatError(
                "act-order visits a group's columns far apart, so there is no moment to take its "
                "scales from updated weights: use ScalesFrom.ORIGINAL."
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundedWeight:
    """value = (code - zero) * scale. codes_OI int8; scales_OG fp32; zeros_OG int8.

    loss: half the trace of E H E^T, E the change of the weight and H damped, dead columns left
    out: as llm-compressor counts it. damping: what was used. dead_columns: inputs that calibration
    never saw, rounded to nearest. zero_rows: outputs without a weight. notes: what to tell of it.
    """

    codes_OI: Tensor
    scales_OG: Tensor
    zeros_OG: Tensor
    group_size: int | None
    loss: float
    damping: float
    dead_columns: tuple[int, ...]
    zero_rows: tuple[int, ...]
    notes: tuple[str, ...]

    def dequantized(self) -> Tensor:
        """The weight that the codes stand for, fp32, (O, I)."""
        group_I = group_of_columns(self.codes_OI.shape[1], self.group_size)
        return (self.codes_OI - self.zeros_OG.float()[:, group_I]) * self.scales_OG[:, group_I]


def gptq(
    weight_OI: Tensor,
    hessian_II: Tensor,
    grid: Grid,
    *,
    layer: str,
    options: GptqOptions | None = None,
) -> RoundedWeight:
    """The weight of `layer` on `grid`, for the inputs that the symmetric Hessian tells of.

    Any float type, computed in fp32 on the CPU. Memory: three more of the Hessian, three of the
    weight. Damping is raised tenfold while the Hessian has no Cholesky factor, and a note says so.
    Raises FormatError, naming the layer, for input that is not finite, ill-shaped or all dead.
    """
    options = options or GptqOptions()
    weight_OI, hessian_II = checked(weight_OI, hessian_II, layer)
    dead_I = hessian_II.diagonal() == 0
    place_I = _places(hessian_II, options)
    factor_II, damping = _factor(hessian_II, place_I, options, layer)
    rounding = _start(weight_OI, factor_II, place_I, dead_I, grid)
    if options.scales_from is ScalesFrom.ORIGINAL:
        _set_scales(rounding, slice(None), grid, weight_OI)
        _round(rounding, 0, weight_OI.shape[1], options)
    else:
        _round_by_group(rounding, grid, options)
    return _result(rounding, grid, options, dead_I, damping, layer)


def rtn(
    weight_OI: Tensor,
    hessian_II: Tensor,
    grid: Grid,
    *,
    layer: str,
    damping: float = 0.01,
) -> RoundedWeight:
    """The same of rounding every weight to the nearest value: what GPTQ is compared with."""
    weight_OI, hessian_II = checked(weight_OI, hessian_II, layer)
    scales, zeros = grid.scales_and_zeros(weight_OI)
    group_I = group_of_columns(weight_OI.shape[1], grid.group_size)
    codes = codes_of(weight_OI, scales[:, group_I], zeros[:, group_I], grid)
    error = weight_OI - (codes - zeros[:, group_I]) * scales[:, group_I]
    dead_I = hessian_II.diagonal() == 0
    added = damping * float(hessian_II.diagonal()[~dead_I].mean())
    squares = (error @ hessian_II).mul_(error).sum(0) + added * error.square().sum(0) * ~dead_I
    return RoundedWeight(
        codes_OI=codes.to(torch.int8),
        scales_OG=scales,
        zeros_OG=zeros.to(torch.int8),
        group_size=grid.group_size,
        loss=float(squares.sum()) / 2,
        damping=damping,
        dead_columns=tuple(dead_I.nonzero().flatten().tolist()),
        zero_rows=_zero_rows(weight_OI),
        notes=(),
    )


def _places(hessian_II: Tensor, options: GptqOptions) -> Tensor:
    """(I,): the column at each position, last to first."""
    diagonal_I = hessian_II.diagonal()
    if options.act_order:
        return diagonal_I.argsort(descending=True, stable=True).flip(0)
    return torch.arange(len(diagonal_I)).flip(0)


def _factor(
    hessian_II: Tensor, place_I: Tensor, options: GptqOptions, layer: str
) -> tuple[Tensor, float]:
    """(Cholesky's L of the damped Hessian by position, by column; the damping that it took)."""
    if options.act_order:
        ordered_II = hessian_II.index_select(0, place_I).index_select(1, place_I)
    else:
        ordered_II = hessian_II.flip(0, 1)
    diagonal_I = ordered_II.diagonal()
    plain_I = diagonal_I.clone()
    dead_I = plain_I == 0
    mean = plain_I[~dead_I].mean()
    for damping in _dampings(options.damping):
        # A dead column is a system of its own: any positive number does on the diagonal.
        diagonal_I.copy_(torch.where(dead_I, mean, plain_I + damping * mean))
        factor_II = lower_factor(ordered_II)
        if factor_II is not None:
            return factor_II, damping
    raise FormatError(
        f"{layer}: the Hessian has no Cholesky factor, even with its mean diagonal added: it is "
        "no sum of squares."
    )


def _dampings(asked: float) -> Iterator[float]:
    yield asked
    raised = max(asked * 10, _LEAST_RAISED)
    while raised < _MOST_DAMPING:
        yield raised
        raised *= 10
    yield _MOST_DAMPING


def _start(
    weight_OI: Tensor, factor_II: Tensor, place_I: Tensor, dead_I: Tensor, grid: Grid
) -> Rounding:
    """Nothing rounded, no scales yet."""
    outputs, inputs = weight_OI.shape
    group_I = group_of_columns(inputs, grid.group_size)
    groups = int(group_I[-1]) + 1
    return Rounding(
        weight_OI=weight_OI,
        factor_II=factor_II,
        place_I=place_I,
        group_I=group_I[place_I],
        importance_I=factor_II.diagonal().square() * ~dead_I[place_I],
        scales_GO=torch.ones(groups, outputs),
        zeros_GO=torch.zeros(groups, outputs),
        low=grid.low,
        high=grid.high,
        codes_OI=torch.empty(outputs, inputs, dtype=torch.int8),
        errors_IO=torch.empty(inputs, outputs),
        loss_O=torch.zeros(outputs, dtype=torch.float64),
    )


def _set_scales(rounding: Rounding, groups: slice, grid: Grid, weight_OI: Tensor) -> None:
    scales_OG, zeros_OG = grid.scales_and_zeros(weight_OI)
    rounding.scales_GO[groups] = scales_OG.T
    rounding.zeros_GO[groups] = zeros_OG.T


def _round(rounding: Rounding, first: int, end: int, options: GptqOptions) -> None:
    """Rounds positions first to end, last first."""
    for stop in range(end, first, -options.block_columns):
        round_block(rounding, max(stop - options.block_columns, first), stop)


def _round_by_group(rounding: Rounding, grid: Grid, options: GptqOptions) -> None:
    """Rounds all, each group with scales of what the columns before it made of it."""
    inputs = rounding.weight_OI.shape[1]
    size = min(grid.group_size or inputs, inputs)
    for group, begin in enumerate(range(0, inputs, size)):
        columns = slice(begin, min(begin + size, inputs))
        first, end = inputs - columns.stop, inputs - columns.start
        # The best values of the columns not yet rounded, given those that are: L^T D = taken.
        change = torch.linalg.solve_triangular(
            rounding.factor_II[first:end, first:end].T, rounding.taken(first, end), upper=True
        )
        updated_OI = rounding.weight_OI[:, columns] + change.flip(0).T
        _set_scales(rounding, slice(group, group + 1), grid, updated_OI)
        _round(rounding, first, end, options)


def _zero_rows(weight_OI: Tensor) -> tuple[int, ...]:
    return tuple((~weight_OI.any(dim=1)).nonzero().flatten().tolist())


def _result(
    rounding: Rounding,
    grid: Grid,
    options: GptqOptions,
    dead_I: Tensor,
    damping: float,
    layer: str,
) -> RoundedWeight:
    loss = float(rounding.loss_O.sum()) / 2
    if not loss < float("inf"):
        raise FormatError(f"{layer}: weights or inputs are too large for fp32: the loss is {loss}.")
    dead, zero = tuple(dead_I.nonzero().flatten().tolist()), _zero_rows(rounding.weight_OI)
    notes = (
        (damping != options.damping, f"damping raised from {options.damping:g} to {damping:g}"),
        (bool(dead), f"{len(dead)} inputs never seen, rounded to nearest"),
        (bool(zero), f"{len(zero)} outputs without a weight"),
    )
    return RoundedWeight(
        codes_OI=rounding.codes_OI,
        scales_OG=rounding.scales_GO.T.contiguous(),
        zeros_OG=rounding.zeros_GO.T.to(torch.int8).contiguous(),
        group_size=grid.group_size,
        loss=loss,
        damping=damping,
        dead_columns=dead,
        zero_rows=zero,
        notes=tuple(f"{layer}: {text}." for holds, text in notes if holds),
    )
