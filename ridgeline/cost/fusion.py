"""What a fusing compiler leaves of the traffic between nodes: groups of nodes that run as one."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ridgeline.cost.backward import MATRIX
from ridgeline.cost.rules import cost_of
from ridgeline.cost.vector_rules import uses_batch_statistics
from ridgeline.graph import Category, Graph, Node, Ref

_POINTWISE = (
    Category.ELEMENTWISE,
    Category.TRANSCENDENTAL,
    Category.COPY,
    Category.CREATE,
    Category.RANDOM,
)
_STITCHED = (Category.NORM, Category.SOFTMAX, Category.REDUCTION)
# Ops of pointwise categories that change which element goes where, so they need their own loop.
_REARRANGING = frozenset(
    {"cat", "pad", "repeat", "roll", "flip", "pixel_shuffle", "fftshift", "diag_embed"}
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Traffic:
    """Bytes one node moves once it runs inside its group; is_head: the group's first node."""

    read_bytes: int
    write_bytes: int
    group: int
    is_head: bool

    @property
    def nbytes(self) -> int:
        """Bytes read and written."""
        return self.read_bytes + self.write_bytes


def fused_traffic(graph: Graph) -> Mapping[str, Traffic]:
    """node name -> what it still moves when pointwise work runs in the loop of its producer.

    A node joins the group of its latest producer when every other operand exists before that
    group starts (so no cycle can arise) and it is pointwise, or reduces rows a loop can hold. This
    is what Inductor, XLA and OpenVINO all do; it is not the best possible fusion.
    """
    group = _groups(graph)
    readers = _readers(graph)
    returned = {graph.storage.get(ref, ref) for ref in graph.outputs}
    traffic: dict[str, Traffic] = {}
    seen: dict[int, set[Ref]] = {}
    for node in graph.nodes:
        if node.row.is_free:
            continue
        mine = group[node.name]
        known = seen.setdefault(mine, set())
        is_head = not known
        traffic[node.name] = Traffic(
            read_bytes=_read(node, graph, group, known),
            write_bytes=_written(node, group, readers, returned),
            group=mine,
            is_head=is_head,
        )
        known.add(Ref(node.name))
    return traffic


def _groups(graph: Graph) -> dict[str, int]:
    """node name -> number of its group; numbers grow with the position of the group's head."""
    position = {node.name: i for i, node in enumerate(graph.nodes)}
    group: dict[str, int] = {}
    heads: dict[int, Node] = {}
    for index, node in enumerate(graph.nodes):
        if node.row.is_free:
            continue
        producers = _producers(node, graph, position)
        latest = max(producers, key=lambda name: position[name], default=None)
        home = group.get(latest) if latest else None
        if home is not None and _joins(node, heads[home], producers, group, position, home):
            group[node.name] = home
        else:
            group[node.name] = index
            heads[index] = node
    return group


def _producers(node: Node, graph: Graph, position: Mapping[str, int]) -> list[str]:
    """Names of the nodes whose memory this one reads."""
    roots = (graph.storage[ref] for ref in node.operands)
    return [root.name for root in roots if root.name in position]


def _joins(
    node: Node,
    head: Node,
    producers: Sequence[str],
    group: Mapping[str, int],
    position: Mapping[str, int],
    home: int,
) -> bool:
    is_pointwise = _is_pointwise(node)
    if not is_pointwise and node.row.category not in _STITCHED:
        return False
    if node.repeat != head.repeat:
        return False
    if head.row.category in MATRIX and not _is_epilogue(node, head):
        return False
    if not (head.row.category in MATRIX or _is_pointwise(head) or head.row.category in _STITCHED):
        return False
    return all(group[name] == home or position[name] < home for name in producers)


def _is_pointwise(node: Node) -> bool:
    if node.op == "batch_norm":  # in inference only a scale and a shift
        return not uses_batch_statistics(node)
    return node.row.category in _POINTWISE and node.op not in _REARRANGING


def _is_epilogue(node: Node, head: Node) -> bool:
    """Whether the node can run on a tile of the matrix result while it is still on chip."""
    return _is_pointwise(node) and node.out.numel == head.out.numel


def _readers(graph: Graph) -> dict[Ref, list[str]]:
    readers: dict[Ref, list[str]] = {}
    for node in graph.nodes:
        if not node.row.is_free:
            for ref in node.operands:
                readers.setdefault(graph.storage[ref], []).append(node.name)
    return readers


def _read(node: Node, graph: Graph, group: Mapping[str, int], known: set[Ref]) -> int:
    """Bytes of operands that neither the group made nor an earlier member already read."""
    nbytes = 0
    mine = group[node.name]
    for ref in node.operands:
        root = graph.storage[ref]
        if root in known or group.get(root.name) == mine:
            continue
        known.add(root)
        nbytes += min(node.specs[ref].nbytes, _gathered_bytes(node, ref))
    return nbytes


def _gathered_bytes(node: Node, ref: Ref) -> int:
    """A gather reads only the rows it takes; everything else reads its operand whole."""
    is_table = node.row.category is Category.GATHER and ref == node.operands[0]
    if is_table or node.row.category is Category.SCATTER:
        return max(s.nbytes for s in (node.out, *node.tensors[1:])) if is_table else 0
    return node.specs[ref].nbytes


def _written(
    node: Node,
    group: Mapping[str, int],
    readers: Mapping[Ref, Sequence[str]],
    returned: set[Ref],
) -> int:
    """Bytes of outputs that anything outside the group reads."""
    if node.row.category is Category.SCATTER:
        return cost_of(node).nbytes  # reads the update, writes it in place
    mine, nbytes = group[node.name], 0
    for k, spec in enumerate(node.outputs):
        ref = Ref(node.name, k)
        users = readers.get(ref, ())
        if ref in returned or any(group[name] != mine for name in users):
            nbytes += spec.nbytes
    return nbytes
