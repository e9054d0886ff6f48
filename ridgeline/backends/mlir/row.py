"""What a row of a lowering table is."""

from collections.abc import Callable

from ridgeline.backends.mlir.call import Call
from ridgeline.backends.mlir.value import Operand

Result = Operand | tuple[Operand, ...]
# Writes one call into the module. Raises UnsupportedOp, saying what it lacks.
Lowering = Callable[[Call], Result]
