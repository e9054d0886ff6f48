"""Which composite operators decomposing a program has to leave whole: its own, not all there are.

`run_decompositions({})` keeps composite operators (linear, layer_norm, attention) by overriding
each of torch's thousand, used or not, which takes a quarter of a small capture.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from threading import RLock
from unittest.mock import patch

import torch
from torch import fx
from torch._export.utils import _is_cia_op, _is_preservable_cia_op
from torch._ops import OpOverload
from torch.export import ExportedProgram, exported_program

_COLLECT = "_collect_all_valid_cia_ops"
_OVERRIDING = RLock()
# Composites that never stay whole, for they may alias, and of which no part is a composite that
# does: each becomes views and copies. What is not listed here may hide one.
_VIEWS = frozenset(
    getattr(getattr(torch.ops.aten, packet), overload)
    for packet, overload in (
        ("chunk", "default"),
        ("contiguous", "default"),
        ("expand_as", "default"),
        ("flatten", "using_ints"),
        ("narrow", "default"),
        ("reshape", "default"),
        ("reshape_as", "default"),
        ("to", "device"),
        ("to", "dtype"),
        ("to", "dtype_layout"),
        ("to", "other"),
        ("unflatten", "int"),
        ("view_as", "default"),
    )
)


@contextmanager
def own_composites(program: ExportedProgram) -> Iterator[None]:
    """Within the block, decomposing keeps the composites that occur in `program`, which is the same
    as keeping all: nothing where another might turn up, or where torch has changed. One thread at a
    time, for what is overridden is torch's own.
    """
    composites = {operator for operator in _operators(program) if _is_cia_op(operator)}
    kept = {operator for operator in composites if _is_preservable_cia_op(operator)}
    if composites - kept - _VIEWS or not hasattr(exported_program, _COLLECT):
        yield
        return
    with _OVERRIDING, patch.object(exported_program, _COLLECT, lambda: kept):
        yield


def _operators(program: ExportedProgram) -> Iterator[OpOverload]:
    """Every operator of the program, sub-graphs included."""
    for module in program.graph_module.modules():
        if isinstance(module, fx.GraphModule):
            yield from (n.target for n in module.graph.nodes if isinstance(n.target, OpOverload))
