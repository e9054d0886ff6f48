"""Along which axis a node reduces, and how long its rows are."""

from dataclasses import dataclass
from math import prod

from ridgeline.graph import Category, Node


@dataclass(frozen=True, slots=True, kw_only=True)
class Reduction:
    """domain: elements that go in; row_numel: those that one result comes from, or depends on.

    key: equal for reductions along the same axis of the same elements. keeps_shape: the result has
    an element for each that went in, as a norm's or a softmax's.
    """

    domain: int
    row_numel: int
    key: tuple[object, ...]
    keeps_shape: bool


def reduction_of(node: Node) -> Reduction:
    """The reduction that a norm, a softmax, a scan or a reduction does."""
    shape = node.tensors[0].shape
    domain = prod(shape)
    dims = _dims(node, shape)
    row = prod(shape[d] for d in dims) or 1
    if node.op == "group_norm":
        groups = node.args.get("num_groups") or node.args.get("group") or 1
        row = domain // max(1, shape[0] * groups) if isinstance(groups, int) else domain
    is_last = dims == tuple(range(len(shape) - len(dims), len(shape)))
    where = "row" if is_last else tuple(d - len(shape) for d in dims)
    return Reduction(
        domain=domain,
        row_numel=max(1, row),
        key=(domain, row, where),
        keeps_shape=bool(node.outputs) and node.out.numel == domain and row > 1,
    )


def _dims(node: Node, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The dimensions that are reduced, in order; all of them where the node names none."""
    rank = len(shape)
    if node.op in ("layer_norm", "rms_norm"):
        sizes = node.args.get("normalized_shape")
        count = len(sizes) if isinstance(sizes, tuple) else 1
        return tuple(range(rank - count, rank))
    if node.op == "batch_norm":  # over everything but the channels
        return tuple(d for d in range(rank) if d != 1)
    if node.op == "group_norm":
        return tuple(range(1, rank))
    if node.op == "instance_norm":
        return tuple(range(2, rank))
    dim = node.args.get("dim")
    if isinstance(dim, bool) or dim is None or dim == ():
        is_softmax = node.row.category is Category.SOFTMAX
        return tuple(range(rank))[-1:] if is_softmax else tuple(range(rank))
    given = dim if isinstance(dim, tuple) else (dim,)
    return tuple(sorted(d % rank for d in given if isinstance(d, int) and rank))
