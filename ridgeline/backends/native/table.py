"""Every operator that our kernels take."""

from collections.abc import Callable, Mapping

from ridgeline.backends.native.call import Call, Result
from ridgeline.backends.native.rows import (
    attention,
    convolution,
    elementwise,
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
    norms,
    pooling,
    products,
    recurrent,
    reductions,
    shapes,
)
# Overload packet, or overload, such as "aten.conv2d" -> the function that lowers a call of it.
TABLE: Mapping[str, Callable[[Call], Result]] = {
    name: row for family in _FAMILIES for name, row in family.ROWS.items()
}
