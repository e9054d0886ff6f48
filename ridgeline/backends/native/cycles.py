"""What a product by weights takes in tiles, in cycles of one core: bf16 or eight bits?

Tiles and vectors work side by side, and so does what brings the weights, so the longest of the
three counts. The numbers are rounded ones of ResNet-50's layers on one core of a Xeon with AMX,
each instruction run eight times in a row; no record has them. They choose, and are not reported.
"""

from dataclasses import dataclass

from ridgeline.native.grid import TILE_ROW_NBYTES

_SIDE = 16  # columns of a tile, and values of a vector
# A row of a tile takes a cycle in a product; a vector of sums 8 on its way to the output; weights
# come 4 bytes a cycle from where all cores share them.
_CYCLES_PER_VECTOR, _NBYTES_PER_CYCLE = 8.0, 4.0
# To find a range per vector of values, and for itself; to round a vector.
_CYCLES_PER_SEARCHED, _CYCLES_PER_RANGE, _CYCLES_PER_ROUNDED = 2.0, 40.0, 3.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """One way to do a product. steps: products of tiles for each row of a tile of results; laid:
    cycles that laying its operand out takes.
    """

    rows: int
    columns: int
    steps: float
    weight_nbytes: int
    laid: float = 0.0

    @property
    def cycles(self) -> float:
        """Expected, on one core."""
        vectors = self.rows * -(-self.columns // _SIDE)
        side_by_side = (
            self.rows * self.steps,
            vectors * _CYCLES_PER_VECTOR,
            self.weight_nbytes / _NBYTES_PER_CYCLE,
        )
        return max(side_by_side) + self.laid


def product(rows: int, columns: int, depth: int, item_nbytes: int) -> Work:
    """A matrix product; of eight bits the rows are rounded before."""
    steps = -(-depth // (TILE_ROW_NBYTES // item_nbytes)) * -(-columns // _SIDE)
    return Work(
        rows=rows,
        columns=columns,
        steps=steps,
        weight_nbytes=columns * depth * item_nbytes,
        laid=rounding(rows * depth, rows) if item_nbytes == 1 else 0.0,
    )


def search(values: int) -> float:
    """To find the smallest and largest of values."""
    return -(-values // _SIDE) * _CYCLES_PER_SEARCHED


def rounding(values: int, ranges: int) -> float:
    """To round values to eight bits, as many ranges of them."""
    rounded = -(-values // _SIDE) * _CYCLES_PER_ROUNDED
    return ranges * _CYCLES_PER_RANGE + search(values) + rounded
