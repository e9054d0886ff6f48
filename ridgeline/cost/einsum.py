"""What torch makes of an einsum: pair by pair, matrix products and elementwise work.

Source: torch's ATen/native/Linear.cpp, einsum and sumproduct_pair.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod

from ridgeline.cost.products import Product
from ridgeline.errors import GraphError
from ridgeline.graph import Node, Ref
from ridgeline.graph.node import references


@dataclass(frozen=True, slots=True, kw_only=True)
class Contraction:
    """The matrix products of an einsum, and the elements that it sums or multiplies one by one."""

    products: tuple[Product, ...]
    vector_ops: int


@dataclass(frozen=True, slots=True, kw_only=True)
class _Term:
    """An operand, or what became of several: the labels of its dimensions longer than 1."""

    labels: frozenset[str]
    refs: frozenset[Ref]


def contraction_of(node: Node) -> Contraction:
    """How torch runs an einsum: pairwise along its path, without one from the left."""
    terms, result, sizes = _parsed(node)
    steps = _steps(node)
    done: list[Contraction] = []
    while len(terms) > 1:
        first, second = steps.pop(0) if steps else (0, 1)
        right, left = terms.pop(second), terms.pop(first)
        later = result.union(*(term.labels for term in terms))
        done.append(_pair(left, right, later, sizes))
        joined = _Term(labels=(left.labels | right.labels) & later, refs=left.refs | right.refs)
        terms.insert(len(terms) if node.has("path") else 0, joined)
    lone = _summed(terms[0], result, sizes)
    return Contraction(
        products=tuple(product for pair in done for product in pair.products),
        vector_ops=sum(pair.vector_ops for pair in done) + lone,
    )


def _pair(
    left: _Term, right: _Term, later: frozenset[str], sizes: Mapping[str, int]
) -> Contraction:
    """Labels that one alone has and nothing later wants are summed before the two are multiplied:
    as matrices where they share a label to sum, else element by element.
    """
    shared = left.labels & right.labels
    before = sum(_summed(term, shared | later, sizes) for term in (left, right))
    multiplied = prod(sizes[x] for x in (left.labels | right.labels) & (shared | later))
    if shared <= later:
        return Contraction(products=(), vector_ops=before + multiplied)
    product = Product(macs=multiplied, factors=(left.refs, right.refs))
    return Contraction(products=(product,), vector_ops=before)


def _summed(term: _Term, kept: frozenset[str], sizes: Mapping[str, int]) -> int:
    """Elements added up to leave only the labels in `kept`."""
    return 0 if term.labels <= kept else prod(sizes[x] for x in term.labels)


def _steps(node: Node) -> list[tuple[int, int]]:
    """Which two of the operands then left are contracted at each step of the path, if any; the
    path of a lone operand names it alone.
    """
    path = node.args.get("path")
    numbers = [n for n in path if isinstance(n, int)] if isinstance(path, tuple) else []
    return [(min(pair), max(pair)) for pair in zip(numbers[::2], numbers[1::2], strict=False)]


def _parsed(node: Node) -> tuple[list[_Term], frozenset[str], dict[str, int]]:
    """The operands, the labels of the result, and the size of every label."""
    equation = node.arg("equation")
    if not isinstance(equation, str):
        raise GraphError(f"einsum node {node.name} has no equation.")
    operands, arrow, result = equation.replace(" ", "").partition("->")
    refs = list(references(node.arg("tensors")))
    sizes: dict[str, int] = {}
    terms = []
    for text, ref in zip(operands.split(","), refs, strict=True):
        own = _sizes(text, node.specs[ref].shape)
        sizes |= {label: max(size, sizes.get(label, 1)) for label, size in own.items()}
        longer = frozenset(label for label, size in own.items() if size != 1)
        terms.append(_Term(labels=longer, refs=frozenset({ref})))
    wanted = set(result) - {"."} if arrow else {x for x in sizes if operands.count(x) == 1}
    if not arrow or "..." in result:
        wanted |= {label for label in sizes if label.isdigit()}
    return terms, frozenset(wanted), sizes


def _sizes(text: str, shape: tuple[int, ...]) -> dict[str, int]:
    """label -> size of one operand; dimensions under the ellipsis are named by digits."""
    before, dots, after = text.partition("...")
    hidden = len(shape) - len(before) - len(after) if dots else 0
    labels = [*before, *(str(i) for i in reversed(range(hidden))), *after]
    return dict(zip(labels, shape, strict=True))
