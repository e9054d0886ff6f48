"""The cost table: one rule per op kind. A missing row raises; it never counts as zero."""

from collections.abc import Callable

from ridgeline.cost.op_cost import OpCost
from ridgeline.errors import UnsupportedOp
from ridgeline.graph import Category, Node

Rule = Callable[[Node], OpCost]

_RULES: dict[str, Rule] = {}
# Whole categories whose members all cost the same way; a rule for the kind itself goes first.
_CATEGORY_RULES: dict[Category, Rule] = {}


def rule(*kinds: str) -> Callable[[Rule], Rule]:
    """Registers the decorated function as the cost of these op kinds; a kind has one rule only."""

    def register(function: Rule) -> Rule:
        for kind in kinds:
            if kind in _RULES:
                raise ValueError(f"op kind {kind!r} already has a cost rule")
            _RULES[kind] = function
        return function

    return register


def category_rule(*categories: Category) -> Callable[[Rule], Rule]:
    """Registers the cost of every kind of these categories that has no rule of its own."""

    def register(function: Rule) -> Rule:
        for category in categories:
            _CATEGORY_RULES[category] = function
        return function

    return register


def has_rule(node: Node) -> bool:
    """Whether the table can count this node."""
    return node.op in _RULES or node.row.category in _CATEGORY_RULES


def cost_of(node: Node) -> OpCost:
    """What one run of `node` costs. Raises UnsupportedOp naming the op and the way to add it."""
    found = _RULES.get(node.op) or _CATEGORY_RULES.get(node.row.category)
    if found is None:
        place = f", from {node.source}" if node.source else ""
        raise UnsupportedOp(
            f"no cost rule for {node.target} (node {node.name}{place}).\n"
            f'  Register one with @ridgeline.cost.rule("{node.op}"), or list such ops instead of '
            "failing with --allow-uncounted (the total is then a lower bound)."
        )
    return found(node)


def read_bytes(node: Node) -> int:
    """Bytes of every distinct value the node reads."""
    return sum(node.specs[ref].nbytes for ref in node.operands)


def write_bytes(node: Node) -> int:
    """Bytes of every value the node makes."""
    return sum(spec.nbytes for spec in node.outputs)
