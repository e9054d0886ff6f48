"""Applies tables of rewrites: a pattern, and what to put in its place."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor, fx

from ridgeline.graph import Graph
from ridgeline.graph.edit import Edit
from ridgeline.passes.match import Bound, Matcher

# What stands in for an occurrence, given it and its last node; None: not applicable after all.
Build = Callable[[Edit, Matcher, fx.Node, Bound], fx.Node | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rewrite:
    """Where `pattern` occurs, what `build` makes replaces it."""

    pattern: str
    build: Build


def rewrite(graph: Graph, rewrites: Sequence[Rewrite]) -> Graph:
    """The graph with every occurrence of every pattern replaced, first in the table first. A
    replacement of another shape or type is refused.
    """
    edit = Edit(graph)
    matcher = Matcher(edit)
    is_changed = False
    for node in edit.nodes:
        if node.op == "call_function" and node.users:
            is_changed |= any(_apply(edit, matcher, node, one) for one in rewrites)
    if is_changed:
        edit.refresh()
    return edit.finish()


def _apply(edit: Edit, matcher: Matcher, node: fx.Node, one: Rewrite) -> bool:
    bound = matcher.find(one.pattern, node) if node.users else None
    if bound is None:
        return False
    new = one.build(edit, matcher, node, bound)
    return new is not None and replace(edit, node, new)


def replace(edit: Edit, node: fx.Node, new: fx.Node) -> bool:
    """Puts `new` in the place of `node`, and sweeps what is left over; False where their shapes or
    types differ.
    """
    if not is_alike(node, new):
        edit.sweep(new)
        return False
    edit.replace_uses(node, new)
    edit.sweep(node)
    return True


def is_alike(one: fx.Node, other: fx.Node) -> bool:
    """Whether two nodes make tensors of the same shape and type."""
    a, b = one.meta.get("val"), other.meta.get("val")
    if not isinstance(a, Tensor) or not isinstance(b, Tensor):
        return False
    return a.dtype == b.dtype and a.shape == b.shape
