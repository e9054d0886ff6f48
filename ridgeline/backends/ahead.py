"""What a lowering computes before a program runs: calls of which everything is known."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from ridgeline.graph import Category, row_of

# As long as that does not write out what a view repeats: so many elements more than were given.
_LARGEST_GROWTH = 2**20
_CHANGING = (Category.RANDOM, Category.CONTROL)


def computed(
    target: torch._ops.OpOverload, named: Mapping[str, object], unknown: tuple[type, ...]
) -> Tensor | tuple[Tensor, ...] | None:
    """The result of a call; None where an argument is of a type that is `unknown` until the program
    runs, or the call gives something else each time, or far more than it was given.
    """
    given = tree_leaves(list(named.values()))
    if any(isinstance(leaf, unknown) for leaf in given):
        return None
    if row_of(str(target).rpartition(".")[0]).category in _CHANGING:
        return None
    result = called(target, named)
    size = sum(leaf.numel() for leaf in given if isinstance(leaf, Tensor))
    results = (result,) if isinstance(result, Tensor) else tuple(result)
    if sum(r.numel() for r in results) > size + _LARGEST_GROWTH:
        return None
    return result if isinstance(result, Tensor) else results


def called(target: torch._ops.OpOverload, named: Mapping[str, object]) -> Tensor | Sequence[Tensor]:
    """The call with its arguments by name, all of them given."""
    schema = target._schema.arguments
    positional = [named[s.name] for s in schema if not s.kwarg_only]
    keyword = {s.name: named[s.name] for s in schema if s.kwarg_only and named[s.name] is not None}
    with torch.no_grad():
        result: Tensor | Sequence[Tensor] = target(*positional, **keyword)
    return result
