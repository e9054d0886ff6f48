"""How `conv_grid` has its input and its weights laid out; grid.h says what a grid is."""

from dataclasses import dataclass, replace
from enum import IntEnum
from math import prod

from torch import Tensor
from torch.nn import functional

Three = tuple[int, int, int]
TILE_ROW_NBYTES = 64  # of AMX
_SIDE = 16  # columns of a tile
# Estimates that choose a kind: to start a copy, and per value, by the bytes of one (to round takes
# longer).
_CYCLES_PER_RUN, _CYCLES_PER_VALUE = 8, {2: 1 / 16, 1: 3 / 16}
# Of x that 32 positions read: beyond that they are read from afar for every two strips of weights.
_MOST_NBYTES = 1 << 20


class GridKind(IntEnum):
    """What stands at a column: a position, a row of the kernel, or where one starts."""

    TAPS = 0
    ROWS = 1
    RUNS = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Grid:
    """One convolution's grid. out, kernel, stride, dilation: depth, height, width. item_nbytes: 2
    for bf16, 1 for eight bits. Raises ValueError for RUNS of groups, dilated, or of bf16: what is
    read in vain might be no number there.
    """

    batch: int
    channels: int
    groups: int
    out: Three
    kernel: Three
    stride: Three
    dilation: Three
    item_nbytes: int
    kind: GridKind = GridKind.TAPS

    def __post_init__(self) -> None:
        if self.kind == GridKind.RUNS and not self.has_runs:
            raise ValueError("runs are of one group, not dilated, and of eight bits")

    @property
    def has_runs(self) -> bool:
        """Whether a row of the kernel is one run of values."""
        return self.groups == 1 and self.dilation[2] == 1 and self.item_nbytes == 1

    @property
    def depth(self) -> int:
        """Values of a row of a tile."""
        return TILE_ROW_NBYTES // self.item_nbytes

    @property
    def room(self) -> int:
        """Values that a tap of a group reads."""
        run = 1 if self.kind == GridKind.TAPS else self.kernel[2]
        return -(-self.channels // self.groups * run // self.depth) * self.depth

    @property
    def pitch(self) -> int:
        """Values of a column."""
        if self.kind == GridKind.RUNS:
            return self.stride[2] * self.channels
        return self.groups * self.room

    @property
    def taps(self) -> int:
        """Taps that are read apart."""
        return prod(self.kernel[:2]) * (self.kernel[2] if self.kind == GridKind.TAPS else 1)

    @property
    def shape(self) -> tuple[int, ...]:
        """Images, planes, phases of rows and of columns, rows, columns, values."""
        reach = [(k - 1) * d for k, d in zip(self.kernel, self.dilation, strict=True)]
        phases = [min(s, r + 1) for s, r in zip(self.stride, reach, strict=True)]
        lines = [o + r // s for o, r, s in zip(self.out, reach, self.stride, strict=True)]
        planes = (self.out[0] - 1) * self.stride[0] + reach[0] + 1
        if self.kind != GridKind.TAPS:
            phases[2] = 1
        if self.kind == GridKind.ROWS:
            lines[2] = self.out[2]
        return (self.batch, planes, *phases[1:], *lines[1:], self.pitch)

    @property
    def size(self) -> int:
        """Values in all, with what the last run reads in vain."""
        return prod(self.shape) + (self.room if self.kind == GridKind.RUNS else 0)

    def steps(self, filters: int) -> float:
        """Products of tiles for each row of a tile of results, those in vain counted."""
        strips = -(-filters // self.groups // _SIDE) * self.groups
        return self.shape[-2] / self.out[2] * self.taps * (self.room // self.depth) * strips

    @property
    def laying_cycles(self) -> float:
        """Expected for copying the values: some for every run, and some for each of them."""
        runs = {GridKind.TAPS: self.groups, GridKind.RUNS: 0}
        per_column = _CYCLES_PER_RUN * runs.get(self.kind, self.groups * self.kernel[2])
        return prod(self.shape[:-1]) * (
            per_column + self.pitch * _CYCLES_PER_VALUE[self.item_nbytes]
        )

    def weights(self, weight: Tensor) -> list[Tensor]:
        """Per group (filters, taps x room), of a weight (filters, channels of a group, *kernel)."""
        by_tap = weight.reshape(*weight.shape[:2], *self.kernel).permute(0, 2, 3, 4, 1)
        runs = by_tap if self.kind == GridKind.TAPS else by_tap.flatten(3)
        padded = functional.pad(runs, (0, self.room - runs.shape[-1]))
        return list(padded.flatten(1).contiguous().chunk(self.groups))


def grid_of(plain: Grid, filters: int) -> Grid:
    """The grid, of the kind that is expected to take least."""

    def cycles(grid: Grid) -> float:
        return grid.batch * prod(grid.out) * grid.steps(filters) + grid.laying_cycles

    return min((replace(plain, kind=k) for k in GridKind if _is_fit(plain, k)), key=cycles)


def _is_fit(plain: Grid, kind: GridKind) -> bool:
    if kind == GridKind.RUNS:
        return plain.has_runs
    merged = replace(plain, kind=GridKind.ROWS)
    nbytes = 2 * _SIDE * merged.taps * merged.room * merged.item_nbytes
    return kind == GridKind.TAPS or nbytes <= _MOST_NBYTES
