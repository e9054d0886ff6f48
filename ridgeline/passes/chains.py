"""Products one after the other that could share tiles: what a chain would move, and whether it
fits.

The first product's result stays on chip, a tile of rows at a time; the price is that the second
operands of both are read once per tile. Source: Zheng et al., "Chimera", HPCA 2023 (data movement
by block order), for the order rows first; Dao et al., "FlashAttention", 2022, is the case of q k^T
and v.
"""

from dataclasses import dataclass
from math import ceil, prod

from ridgeline.cost.fusion import Loops
from ridgeline.graph import Category, Graph, Node, Ref

_INNER = (Category.ELEMENTWISE, Category.TRANSCENDENTAL, Category.COPY, Category.SOFTMAX)


@dataclass(frozen=True, slots=True, kw_only=True)
class Chain:
    """Two products and what stands between them. bytes_before, bytes_after: moved apart, and in
    one kernel that holds `tile_rows` rows at a time; refusal: why that is not claimed.
    """

    first: str
    second: str
    between: tuple[str, ...]
    tile_rows: int
    bytes_before: int
    bytes_after: int
    refusal: str | None


@dataclass(frozen=True, slots=True)
class _Product:
    """batch products of (rows x inner) by (inner x columns)."""

    batch: int
    rows: int
    inner: int
    columns: int

    @property
    def second_numel(self) -> int:
        """Elements of the second operand, per product."""
        return self.inner * self.columns


def find_chains(graph: Graph, loops: Loops) -> tuple[Chain, ...]:
    """Every pair of products of which the second reads what the first made, row for row."""
    found = []
    for first in loops.members:
        if _product(loops.nodes[first]) is None:
            continue
        between: list[int] = []
        here = first
        while len(loops.readers[here]) == 1:
            (after,) = loops.readers[here]
            node = loops.nodes[after]
            if _product(node) is not None:
                if _is_first_operand(graph, node, loops.nodes[here]):
                    found.append(_chain(loops, first, between, after))
                break
            if node.row.category not in _INNER or node.out.numel != loops.nodes[first].out.numel:
                break
            between.append(after)
            here = after
    return tuple(found)


def _product(node: Node) -> _Product | None:
    """The sizes of a linear or a matmul; None for any other node."""
    if node.op == "linear":
        x, out = node.spec("input"), node.out
        return _Product(1, prod(out.shape[:-1]), x.shape[-1], out.shape[-1])
    if node.op == "matmul" and len(node.tensors) == 2:
        x, y = node.tensors
        if len(x.shape) >= 2 and len(y.shape) >= 2:
            batch = prod(y.shape[:-2])
            rows = prod(x.shape[:-1]) // batch if batch else 0
            return _Product(batch, rows, x.shape[-1], y.shape[-1]) if rows else None
    return None


def _is_first_operand(graph: Graph, node: Node, source: Node) -> bool:
    return graph.storage[node.operands[0]] == Ref(source.name)


def _chain(loops: Loops, first: int, between: list[int], second: int) -> Chain:
    one, other = (_product(loops.nodes[i]) for i in (first, second))
    assert one is not None
    assert other is not None
    size = loops.nodes[first].out.itemsize
    row_nbytes = (one.inner + one.columns + other.columns) * size
    tile = min(one.rows, loops.limits.row_bytes // row_nbytes)
    parts = [frozenset({i}) for i in (first, *between, second)]
    before = sum(t.nbytes for p in parts for t in loops.traffic(p, 0).values())
    ends = one.batch * one.rows * (one.inner + other.columns) * size
    tiles = ceil(one.rows / tile) if tile else 0
    again = (one.batch * one.second_numel + other.batch * other.second_numel) * size
    refusal = None
    if one.batch != other.batch or one.columns != other.inner or one.rows != other.rows:
        refusal = "the second product reads the first one's result in another shape"
    elif not tile:
        refusal = f"a row of {row_nbytes:,} bytes does not stay in cache"
    elif ends + tiles * again >= before:
        refusal = f"the weights would be read {tiles} times, more than the result is worth"
    return Chain(
        first=loops.nodes[first].name,
        second=loops.nodes[second].name,
        between=tuple(loops.nodes[i].name for i in between),
        tile_rows=tile,
        bytes_before=before,
        bytes_after=ends + tiles * again,
        refusal=refusal,
    )
