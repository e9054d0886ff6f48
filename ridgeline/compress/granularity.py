"""Which values share a scale."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from math import prod

from torch import Tensor
from torch.nn import functional

from ridgeline.errors import FormatError


class Sharing(Enum):
    """What a tile, the values under one scale, covers."""

    TENSOR = "tensor"
    CHANNEL = "channel"
    TOKEN = "token"
    GROUP = "group"
    BLOCK = "block"
    HEAD = "head"


@dataclass(frozen=True, slots=True, kw_only=True)
class Granularity:
    """How a tensor is cut into tiles, each with a scale of its own.

    tensor: one tile. channel: one per index of `axis`. token: one per row of the last axis.
    group: `rows` values along `axis`. block: `rows` by `columns` of the last two axes. head: one
    per index of axis -3, of (..., heads, tokens, width). is_padded: a side that the tile does not
    divide is filled up with zeros; otherwise it is an error.
    """

    sharing: Sharing
    axis: int = -1
    rows: int = 1
    columns: int = 1
    is_padded: bool = False

    def __post_init__(self) -> None:
        if self.rows < 1 or self.columns < 1:
            raise FormatError(f"a tile of {self.rows} by {self.columns} values holds none.")

    def tile(self, shape: Sequence[int]) -> tuple[int, ...]:
        """The sides of one tile of a tensor of `shape`; of an empty side, 1."""
        need = _LEAST_RANK[self.sharing]
        rank = len(shape)
        if rank < need or not (rank == 0 or -rank <= self.axis < rank):
            raise FormatError(
                f"{self} needs {need} axes and axis {self.axis}; the tensor is {tuple(shape)}."
            )
        return tuple(max(1, side) for side in _TILES[self.sharing](self, tuple(shape)))

    def tile_values(self, shape: Sequence[int]) -> int:
        """How many values share one scale."""
        return prod(self.tile(shape))

    def scale_shape(self, shape: Sequence[int]) -> tuple[int, ...]:
        """One side per axis: how many tiles lie along it. Raises FormatError if any is cut."""
        tile = self.tile(shape)
        for axis, (side, step) in enumerate(zip(shape, tile, strict=True)):
            if side % step and not self.is_padded:
                raise FormatError(
                    f"axis {axis} of {tuple(shape)} is {side} long, which {step} does not divide "
                    f"({self}).\n  Take a size that divides {side}, or is_padded=True."
                )
        return tuple(-(-side // step) for side, step in zip(shape, tile, strict=True))

    def padded_shape(self, shape: Sequence[int]) -> tuple[int, ...]:
        """The shape of the codes: `shape` with every side filled up to whole tiles."""
        tiles = self.scale_shape(shape)
        return tuple(n * step for n, step in zip(tiles, self.tile(shape), strict=True))

    def padded(self, values: Tensor) -> Tensor:
        """`values` with zeros appended up to whole tiles; itself where none are cut."""
        target = self.padded_shape(values.shape)
        if target == tuple(values.shape):
            return values
        missing = [t - n for n, t in zip(values.shape, target, strict=True)]
        return functional.pad(values, [p for m in reversed(missing) for p in (0, m)])

    def tiled(self, values: Tensor) -> Tensor:
        """Whole tiles as a view (tiles_0, side_0, tiles_1, side_1, ...)."""
        tile = self.tile(values.shape)
        sides = [
            part for n, step in zip(values.shape, tile, strict=True) for part in (n // step, step)
        ]
        return values.reshape(sides)

    def spread(self, scales: Tensor) -> Tensor:
        """Scales of `scale_shape` as a view that broadcasts against `tiled`."""
        return scales.reshape([part for n in scales.shape for part in (n, 1)])

    def __str__(self) -> str:
        return _TEXTS[self.sharing](self)


def _channel_tile(granularity: Granularity, shape: tuple[int, ...]) -> tuple[int, ...]:
    axis = granularity.axis % len(shape)
    return tuple(1 if i == axis else side for i, side in enumerate(shape))


def _group_tile(granularity: Granularity, shape: tuple[int, ...]) -> tuple[int, ...]:
    axis = granularity.axis % len(shape)
    return tuple(granularity.rows if i == axis else 1 for i in range(len(shape)))


def _token_tile(granularity: Granularity, shape: tuple[int, ...]) -> tuple[int, ...]:
    return (*(1 for _ in shape[:-1]), shape[-1])


def _block_tile(granularity: Granularity, shape: tuple[int, ...]) -> tuple[int, ...]:
    return (*(1 for _ in shape[:-2]), granularity.rows, granularity.columns)


_TILES: Mapping[Sharing, Callable[[Granularity, tuple[int, ...]], tuple[int, ...]]] = {
    Sharing.TENSOR: lambda granularity, shape: shape,
    Sharing.CHANNEL: _channel_tile,
    Sharing.TOKEN: _token_tile,
    Sharing.GROUP: _group_tile,
    Sharing.BLOCK: _block_tile,
    Sharing.HEAD: _channel_tile,
}
_LEAST_RANK: Mapping[Sharing, int] = {
    Sharing.TENSOR: 0,
    Sharing.CHANNEL: 1,
    Sharing.TOKEN: 1,
    Sharing.GROUP: 1,
    Sharing.BLOCK: 2,
    Sharing.HEAD: 3,
}
_TEXTS: Mapping[Sharing, Callable[[Granularity], str]] = {
    Sharing.TENSOR: lambda g: "tensor",
    Sharing.CHANNEL: lambda g: f"channel of axis {g.axis}",
    Sharing.TOKEN: lambda g: "token",
    Sharing.GROUP: lambda g: f"group of {g.rows} along axis {g.axis}",
    Sharing.BLOCK: lambda g: f"block of {g.rows}×{g.columns}",
    Sharing.HEAD: lambda g: "head",
}

PER_TENSOR = Granularity(sharing=Sharing.TENSOR)
PER_TOKEN = Granularity(sharing=Sharing.TOKEN)
PER_HEAD = Granularity(sharing=Sharing.HEAD, axis=-3)


def per_channel(axis: int = 0) -> Granularity:
    """One scale per index of `axis`: the rows of a linear's weight by default."""
    return Granularity(sharing=Sharing.CHANNEL, axis=axis)


def per_group(size: int, *, axis: int = -1, is_padded: bool = False) -> Granularity:
    """One scale per `size` values along `axis`."""
    return Granularity(sharing=Sharing.GROUP, rows=size, axis=axis, is_padded=is_padded)


def per_block(rows: int, columns: int, *, is_padded: bool = False) -> Granularity:
    """One scale per block of the last two axes."""
    return Granularity(sharing=Sharing.BLOCK, rows=rows, columns=columns, is_padded=is_padded)
