"""What a fusing compiler leaves of the traffic between nodes: which groups of nodes may run as one
loop, and what each then moves.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cached_property

from ridgeline.cost.backward import MATRIX
from ridgeline.cost.reduction import Reduction, reduction_of
from ridgeline.cost.rules import cost_of
from ridgeline.cost.vector_rules import uses_batch_statistics
from ridgeline.graph import Category, Graph, Node, Ref
from ridgeline.machines import Ceiling, Machine

_POINTWISE = (
    Category.ELEMENTWISE,
    Category.TRANSCENDENTAL,
    Category.COPY,
    Category.CREATE,
    Category.RANDOM,
)
# Cheap enough to be computed anew for every element that a larger loop broadcasts it to.
_CHEAP = (Category.ELEMENTWISE, Category.COPY, Category.CREATE)
_STITCHED = (Category.NORM, Category.SOFTMAX, Category.REDUCTION)
# Ops of pointwise categories that change which element goes where, so they need their own loop.
_REARRANGING = frozenset(
    {"cat", "pad", "repeat", "roll", "flip", "pixel_shuffle", "fftshift", "diag_embed"}
)
# Views through which a loop still walks its elements in the order in which they were made.
_IN_ORDER = frozenset({"view", "squeeze", "unsqueeze", "flatten", "expand", "alias", "split"})
Members = frozenset[int]


@dataclass(frozen=True, slots=True, kw_only=True)
class FusionLimits:
    """What a machine allows. row_bytes: what one unit holds between a reduction and the reading of
    its result; units: rows that must be independent to keep all busy; launch_bytes: what main
    memory moves while a kernel starts.

    The defaults are of a core with 1 MiB of its own cache that starts a kernel in 1 us and reads
    50 GB/s, our own measurement.
    """

    row_bytes: int = 2**20
    units: int = 1
    launch_bytes: int = 50_000

    @classmethod
    def of(cls, machine: Machine) -> "FusionLimits":
        """The limits of a machine: its second-level cache per unit, its units and overheads."""
        units = machine.num_units or 1
        caches = sorted(machine.caches, key=lambda c: c.capacity_bytes)
        inner = next((c for c in caches if c.name.upper() == "L2"), caches[0] if caches else None)
        bandwidth = machine.bandwidth_bytes_per_s(Ceiling.ACHIEVABLE)
        return cls(
            row_bytes=inner.capacity_bytes // units if inner else cls().row_bytes,
            units=units,
            launch_bytes=round(machine.launch_overhead_s * bandwidth),
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


class Loops:
    """The nodes of a graph that move data, as candidates for common loops. A member is a node's
    number in `nodes`; sets of members are groups.

    A node is inlined where computing it anew in every loop that reads it moves fewer bytes than
    storing it once: it is cheap, and made of smaller graph inputs alone. It is a member of no
    group; its readers read what it reads.
    """

    def __init__(self, graph: Graph, limits: FusionLimits) -> None:
        self.limits = limits
        self.nodes = tuple(n for n in graph.nodes if not n.row.is_free)
        self._graph = graph
        self._number = {n.name: i for i, n in enumerate(self.nodes)}
        self._returned = {graph.storage.get(ref, ref) for ref in graph.outputs}
        self._costs: dict[tuple[Members, int], float] = {}
        self._obstacles: dict[Members, str | None] = {}
        self.reductions: tuple[Reduction | None, ...] = tuple(
            reduction_of(n) if n.row.category in _STITCHED and not is_pointwise(n) else None
            for n in self.nodes
        )
        self.inlined = self._find_inlined()
        self.operands = tuple(self._operands(i) for i in range(len(self.nodes)))
        self.producers = tuple(
            frozenset(self._number[r.name] for r in reads if r.name in self._number)
            for reads in self.operands
        )

    @property
    def members(self) -> tuple[int, ...]:
        """Every node that belongs to a group."""
        return tuple(i for i in range(len(self.nodes)) if i not in self.inlined)

    @cached_property
    def readers(self) -> tuple[frozenset[int], ...]:
        """Per member, the members that read what it makes."""
        found: list[set[int]] = [set() for _ in self.nodes]
        for i in self.members:
            for producer in self.producers[i]:
                found[producer].add(i)
        return tuple(frozenset(f) for f in found)

    @cached_property
    def sharers(self) -> Mapping[Ref, tuple[int, ...]]:
        """Value -> the members that read it, in order."""
        found: dict[Ref, list[int]] = {}
        for i in self.members:
            for ref in self.operands[i]:
                found.setdefault(ref, []).append(i)
        return {ref: tuple(numbers) for ref, numbers in found.items()}

    def cost(self, group: Members, until: int | None = None) -> float:
        """Bytes a group moves, its start counted as the bytes that fit in it; more where it leaves
        units without a row to work on. until: as if there were no readers beyond this member.
        """
        last = len(self.nodes) if until is None else until
        if (group, last) not in self._costs:
            known: set[Ref] = set()
            moved = sum(
                self._read(i, group, known) + self._written(i, group, last) for i in sorted(group)
            )
            cost = moved * self._idle_factor(group) + self.limits.launch_bytes
            self._costs[group, last] = cost
        return self._costs[group, last]

    def traffic(self, group: Members, number: int) -> dict[int, Traffic]:
        """What each member moves when the group runs as one."""
        known: set[Ref] = set()
        found = {}
        for position, i in enumerate(sorted(group)):
            found[i] = Traffic(
                read_bytes=self._read(i, group, known),
                write_bytes=self._written(i, group, len(self.nodes)),
                group=number,
                is_head=position == 0,
            )
        return found

    def obstacle(self, group: Members) -> str | None:
        """Why the members may not run as one loop, cycles aside; None where they may."""
        if len(group) < 2:
            return None
        if group not in self._obstacles:
            self._obstacles[group] = self._find_obstacle(group)
        return self._obstacles[group]

    def is_hopeless(self, group: Members) -> bool:
        """Whether no further members can make the group legal."""
        if len(group) < 2:
            return False
        nodes = [self.nodes[i] for i in group]
        matrices = [i for i in group if _is_matrix(self.nodes[i])]
        return (
            len({n.repeat for n in nodes}) > 1
            or len(matrices) > 1
            or any(_loop_of_its_own(n) for n in nodes)
            or any(self._epilogue_obstacle(group) is not None for _ in matrices)
        )

    def _find_obstacle(self, group: Members) -> str | None:
        nodes = [self.nodes[i] for i in sorted(group)]
        if len({n.repeat for n in nodes}) > 1:
            return "one runs more often than the other"
        for node in nodes:
            if _loop_of_its_own(node):
                return f"{node.op} has a loop of its own"
        if any(_is_matrix(n) for n in nodes):
            reason = self._epilogue_obstacle(group)
        else:
            reason = self._domain_obstacle(group)
        return reason or (None if self._is_connected(group) else "they share nothing")

    def _epilogue_obstacle(self, group: Members) -> str | None:
        """A product takes what is done to each element of its result while that is on chip."""
        matrices = [i for i in group if _is_matrix(self.nodes[i])]
        if len(matrices) > 1:
            return "two products need tiles of both"
        (matrix,) = matrices
        if self.producers[matrix] & group:
            return f"{self.nodes[matrix].op} reads its operand again and again"
        numel = self.nodes[matrix].out.numel
        for i in group - {matrix}:
            node = self.nodes[i]
            if self.reductions[i] is not None:
                return f"{node.op} needs whole rows, a tile of {self.nodes[matrix].op} is less"
            if node.out.numel != numel:
                return f"{node.op} has another shape than the product"
        return None

    def _domain_obstacle(self, group: Members) -> str | None:
        """All walk the same elements, or one result per row of a reduction all share."""
        domain = max(self._domain(i) for i in group)
        reductions = [r for i in group if (r := self.reductions[i]) is not None]
        if len({r.key for r in reductions}) > 1:
            return "they reduce along different axes"
        rows = domain // reductions[0].row_numel if reductions else domain
        for i in group:
            own, node = self._domain(i), self.nodes[i]
            is_cheap = node.row.category in _CHEAP and own and domain % own == 0
            is_reduction = self.reductions[i] is not None
            if own != domain and (is_reduction or not (own == rows or is_cheap)):
                return f"{node.op} has another shape"
        if reductions and self._has_reordering(group):
            return "one reads in another order than the other writes"
        row_bytes = self._held_bytes(group)
        if row_bytes > self.limits.row_bytes:
            return f"a row of {row_bytes:,} bytes does not stay in cache"
        return None

    def _domain(self, i: int) -> int:
        reduction = self.reductions[i]
        return reduction.domain if reduction else self.nodes[i].out.numel

    def _held_bytes(self, group: Members) -> int:
        """Bytes of a row that the group reads again after reducing it; 0 where it does not."""
        held = 0
        for i in group:
            reduction = self.reductions[i]
            if reduction is None:
                continue
            wide = (self._domain(j) for j in self.readers[i] & group)
            is_read_back = any(d > self.nodes[i].out.numel for d in wide)
            if reduction.keeps_shape or is_read_back:
                held = max(held, reduction.row_numel * self.nodes[i].tensors[0].itemsize)
        return held

    def _idle_factor(self, group: Members) -> float:
        """By how much longer a group takes that has fewer rows than the machine units."""
        reductions = [r for i in group if (r := self.reductions[i]) is not None]
        if not reductions or not self._held_bytes(group):
            return 1.0
        rows = max(1, reductions[0].domain // max(1, reductions[0].row_numel))
        return max(1.0, self.limits.units / rows)

    def _has_reordering(self, group: Members) -> bool:
        for i in group:
            for ref in self.nodes[i].operands:
                root = self._graph.storage[ref]
                is_inside = self._number.get(root.name) in group
                if is_inside and ref in self._reordered:
                    return True
        return False

    @cached_property
    def _reordered(self) -> frozenset[Ref]:
        """Views that walk what they view in another order."""
        found: set[Ref] = set()
        for node in self._graph.nodes:
            if not node.row.is_free or not node.operands:
                continue
            if node.op not in _IN_ORDER or found & set(node.operands):
                found |= {Ref(node.name, k) for k in range(max(1, len(node.outputs)))}
        return frozenset(found)

    def _is_connected(self, group: Members) -> bool:
        """Whether members hang together by values they make or read in common."""
        pending, seen = [min(group)], {min(group)}
        while pending:
            i = pending.pop()
            near = set(self.producers[i]) | self.readers[i]
            for ref in self.operands[i]:
                near.update(self.sharers[ref])
            for j in (near & group) - seen:
                seen.add(j)
                pending.append(j)
        return len(seen) == len(group)

    def _find_inlined(self) -> frozenset[int]:
        readers = _reader_names(self._graph)
        found: set[int] = set()
        for i, node in enumerate(self.nodes):
            if node.row.category not in _CHEAP or not is_pointwise(node) or not node.outputs:
                continue
            roots = {self._graph.storage[ref] for ref in node.operands}
            made = [self._number[r.name] for r in roots if r.name in self._number]
            users = readers.get(Ref(node.name), ())
            is_free_to_move = all(
                self.reductions[self._number[u]] is not None
                or is_pointwise(self.nodes[self._number[u]])
                for u in users
            )
            nbytes = sum(spec.nbytes for spec in self._base(i, found).values())
            if (
                users
                and Ref(node.name) not in self._returned
                and all(m in found for m in made)
                and is_free_to_move
                and nbytes < node.out.nbytes
                and all(self.nodes[self._number[u]].repeat == node.repeat for u in users)
            ):
                found.add(i)
        return frozenset(found)

    def _base(self, i: int, inlined: Collection[int]) -> dict[Ref, "_Read"]:
        """What member `i` reads from memory: value -> bytes; through inlined nodes to theirs."""
        node, found = self.nodes[i], dict[Ref, _Read]()
        for ref in node.operands:
            root = self._graph.storage[ref]
            source = self._number.get(root.name)
            if source is not None and source in inlined:
                found |= self._base(source, inlined)
            else:
                nbytes = min(node.specs[ref].nbytes, _gathered_bytes(node, ref))
                found.setdefault(root, _Read(nbytes))
        return found

    def _operands(self, i: int) -> Mapping[Ref, "_Read"]:
        return self._base(i, self.inlined)

    def _read(self, i: int, group: Members, known: set[Ref]) -> int:
        """Bytes of operands that neither the group made nor an earlier member already read."""
        nbytes = 0
        for root, read in self.operands[i].items():
            if root in known or self._number.get(root.name) in group:
                continue
            known.add(root)
            nbytes += read.nbytes
        return nbytes

    def _written(self, i: int, group: Members, last: int) -> int:
        """Bytes of outputs that anything outside the group, up to number `last`, reads."""
        node = self.nodes[i]
        if node.row.category is Category.SCATTER:
            return cost_of(node).nbytes  # reads the update, writes it in place
        nbytes = 0
        for k, spec in enumerate(node.outputs):
            ref = Ref(node.name, k)
            users = self.sharers.get(ref, ())
            if ref in self._returned or any(user <= last and user not in group for user in users):
                nbytes += spec.nbytes
        return nbytes


@dataclass(frozen=True, slots=True)
class _Read:
    nbytes: int


def fused_traffic(graph: Graph, limits: FusionLimits | None = None) -> Mapping[str, Traffic]:
    """node name -> what it still moves when the graph runs group by group, as `groups` forms them;
    an inlined node moves nothing.
    """
    from ridgeline.cost.grouping import groups_of  # which builds on this module

    loops = Loops(graph, limits or FusionLimits())
    found: dict[str, Traffic] = {}
    for group in groups_of(loops):
        number = min(group)
        for i, traffic in loops.traffic(group, number).items():
            found[loops.nodes[i].name] = traffic
    readers = _reader_names(graph)
    for i in sorted(loops.inlined, reverse=True):
        name = loops.nodes[i].name
        home = found[readers[Ref(name)][0]].group
        found[name] = Traffic(read_bytes=0, write_bytes=0, group=home, is_head=False)
    return found


def is_pointwise(node: Node) -> bool:
    """Whether a node does the same to each element, wherever it stands."""
    if node.op == "batch_norm":  # in inference only a scale and a shift
        return not uses_batch_statistics(node)
    return node.row.category in _POINTWISE and node.op not in _REARRANGING


def _loop_of_its_own(node: Node) -> bool:
    return not (_is_matrix(node) or is_pointwise(node) or node.row.category in _STITCHED)


def _is_matrix(node: Node) -> bool:
    return node.row.category in MATRIX


def _reader_names(graph: Graph) -> dict[Ref, list[str]]:
    readers: dict[Ref, list[str]] = {}
    for node in graph.nodes:
        if not node.row.is_free:
            for ref in node.operands:
                readers.setdefault(graph.storage[ref], []).append(node.name)
    return readers


def _gathered_bytes(node: Node, ref: Ref) -> int:
    """A gather reads only the rows it takes; everything else reads its operand whole."""
    is_table = node.row.category is Category.GATHER and ref == node.operands[0]
    if is_table or node.row.category is Category.SCATTER:
        return max(s.nbytes for s in (node.out, *node.tensors[1:])) if is_table else 0
    return node.specs[ref].nbytes
