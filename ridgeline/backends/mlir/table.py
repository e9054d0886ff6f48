"""Every operator that has a lowering of our own."""

from collections.abc import Mapping

from ridgeline.backends.mlir.row import Lowering
from ridgeline.backends.mlir.rows import (
    attention,
    convolution,
    elementwise,
    indexing,
    norms,
    pooling,
    products,
    recurrent,
    reductions,
    shapes,
)

_FAMILIES = (
    attention,
    convolution,
    elementwise,
    indexing,
    norms,
    pooling,
    products,
    recurrent,
    reductions,
    shapes,
)
# Overload packet, such as "aten.conv2d" -> the function that writes a call of it.
TABLE: Mapping[str, Lowering] = {
    name: lowering for family in _FAMILIES for name, lowering in family.ROWS.items()
}
