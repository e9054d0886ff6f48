"""The table of layers: a file per family, a row per class."""

from ridgeline.frontends.keras.layers import (
    activations,
    attention,
    convolution,
    core,
    merging,
    normalisation,
    numeric,
    pooling,
    preprocessing,
    recurrent,
    reshaping,
    tensors,
    wrappers,
)
from ridgeline.frontends.keras.table import Row, by_kind

_FAMILIES = (
    activations,
    attention,
    convolution,
    core,
    merging,
    normalisation,
    numeric,
    pooling,
    preprocessing,
    recurrent,
    reshaping,
    tensors,
    wrappers,
)
_TABLE = by_kind(row for family in _FAMILIES for row in family.ROWS)


def row_of(kind: str) -> Row | None:
    """The row of a class, or None where there is none."""
    return _TABLE.get(kind)


def kinds() -> tuple[str, ...]:
    """Every class that has a row."""
    return tuple(sorted(_TABLE))
