"""Nodes that make several matrix products: recurrence and einsum, and what each product
multiplies.
"""

from collections.abc import Set
from dataclasses import dataclass

from ridgeline.graph import Node, Ref
from ridgeline.graph.node import references


@dataclass(frozen=True, slots=True, kw_only=True)
class Product:
    """One matrix product. factors: the operands that each of its factors is made of."""

    macs: int
    factors: tuple[frozenset[Ref], ...]

    def backward_macs(self, wanted: Set[Ref]) -> int:
        """One product of the same size per factor that a gradient flows to: dX = dY W', ..."""
        return self.macs * sum(not factor.isdisjoint(wanted) for factor in self.factors)


@dataclass(frozen=True, slots=True, kw_only=True)
class Recurrence:
    """The weight matrices of a recurrent node, by what they multiply, and how many rows of it.

    first: input-to-hidden of the first layer, which meets the data; deeper: of the others. hidden:
    hidden-to-hidden (gates x hidden, state) of every layer and direction. rows: steps of all
    samples together; samples: of them, those that meet the initial state.
    """

    data: Ref
    state: Ref
    first: tuple[Ref, ...]
    deeper: tuple[Ref, ...]
    hidden: tuple[Ref, ...]
    projections: tuple[Ref, ...]
    rows: int
    samples: int


def recurrence_of(node: Node) -> Recurrence:
    """Cells run one step and name their matrices; the others list them layer by layer and
    direction by direction: input-to-hidden, hidden-to-hidden and, if any, a narrower projection.
    """
    data = next(references(node.arg("data" if "data" in node.args else "input")))
    state = next(references(node.arg("hx")))
    names = ("w_ih", "w_hh") if node.op.endswith("_cell") else ("params",)
    weights = [ref for name in names for ref in references(node.arg(name))]
    matrices = [ref for ref in weights if len(node.specs[ref].shape) == 2]
    gates = node.specs[matrices[0]].shape[0]
    square = [ref for ref in matrices if node.specs[ref].shape[0] == gates]
    ways = 2 if node.args.get("bidirectional") is True else 1
    return Recurrence(
        data=data,
        state=state,
        first=tuple(square[::2][:ways]),
        deeper=tuple(square[::2][ways:]),
        hidden=tuple(square[1::2]),
        projections=tuple(ref for ref in matrices if ref not in square),
        rows=node.specs[data].numel // node.specs[data].shape[-1],
        samples=node.specs[state].shape[-2],
    )


def recurrent_products(node: Node) -> tuple[Product, ...]:
    """Each weight matrix multiplies every time step of every sequence once; in its first step the
    hidden one meets the initial state, which may want no gradient, as the data may.
    """
    of, inner = recurrence_of(node), frozenset(node.operands)

    def product(weight: Ref, rows: int, other: frozenset[Ref]) -> Product:
        macs = rows * node.specs[weight].numel
        return Product(macs=macs, factors=(frozenset({weight}), other))

    return (
        *(product(weight, of.rows, frozenset({of.data})) for weight in of.first),
        *(product(weight, of.rows, inner) for weight in (*of.deeper, *of.projections)),
        *(product(weight, of.samples, frozenset({of.state})) for weight in of.hidden),
        *(product(weight, of.rows - of.samples, inner) for weight in of.hidden),
    )
