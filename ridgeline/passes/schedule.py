"""In which order a joint graph runs when some of forward is computed again, and what it holds."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate

from ridgeline.cost import Execution, estimate
from ridgeline.errors import GraphError
from ridgeline.graph import Category, Graph, Node, Ref
from ridgeline.machines import Machine

# A value of the first run of its node (False) or of the second (True).
Copy = tuple[Ref, bool]


@dataclass(frozen=True, slots=True)
class Run:
    """One execution of a node; is_again: the second, in backward."""

    node: Node
    is_again: bool


@dataclass(frozen=True, eq=False, kw_only=True)
class Joint:
    """A joint graph with the predicted time of every node on a machine. Forward is what the first
    output, the loss, depends on.
    """

    graph: Graph
    machine: Machine

    def __post_init__(self) -> None:
        if not self.graph.nodes or not self.graph.outputs:
            raise GraphError(f"graph {self.graph.name} computes nothing.")

    @cached_property
    def times_s(self) -> Mapping[str, float]:
        """node name -> predicted seconds, op by op."""
        run = estimate(self.graph, self.machine, execution=Execution.EAGER)
        return {node.name: node.time_s for node in run.nodes}

    @cached_property
    def forward(self) -> tuple[Node, ...]:
        """The nodes that the loss depends on, in order."""
        loss = self.graph.outputs[sum(i.is_mutated for i in self.graph.inputs)]
        needed = {loss.name}
        for node in reversed(self.graph.nodes):
            if node.name in needed:
                needed |= {ref.name for ref in node.operands}
        return tuple(node for node in self.graph.nodes if node.name in needed)

    @cached_property
    def forward_names(self) -> frozenset[str]:
        """The names of `forward`."""
        return frozenset(node.name for node in self.forward)

    @cached_property
    def views(self) -> frozenset[str]:
        """The names of forward's views."""
        return frozenset(node.name for node in self.forward if node.row.is_free)

    @cached_property
    def read_by_backward(self) -> frozenset[Ref]:
        """The values of forward that a node outside it reads."""
        readers = (n for n in self.graph.nodes if n.name not in self.forward_names)
        read = {ref for node in readers for ref in node.operands}
        return frozenset(ref for ref in read if ref.name in self.forward_names)

    def is_repeatable(self, node: Node) -> bool:
        """Whether a second run gives the same values: it draws nothing and takes no branch."""
        return not (node.branches or node.row.category is Category.RANDOM or _drops(node))

    def runs(self, again: Collection[str]) -> tuple[Run, ...]:
        """All executions in order; each of `again` runs once more, right before its first reader
        in backward. What nothing reads then does not run.
        """
        by_name = {node.name: node for node in self.graph.nodes}
        runs: list[Run] = []
        done: set[str] = set()
        for node in self.graph.nodes:
            if node.name not in self.forward_names:
                for name in _unmet(node, by_name, again, done):
                    runs.append(Run(by_name[name], True))
            runs.append(Run(node, False))
        return _needed(runs, again, self)

    def reads(self, run: Run, again: Collection[str]) -> tuple[Copy, ...]:
        """The values that an execution reads."""
        is_late = run.is_again or run.node.name not in self.forward_names
        return tuple((ref, is_late and ref.name in again) for ref in run.node.operands)

    def time_s(self, runs: Sequence[Run]) -> float:
        """The predicted time of all executions."""
        return sum(self.times_s[run.node.name] for run in runs)

    def peak_bytes(self, runs: Sequence[Run], again: Collection[str]) -> int:
        """The most that is held at once: every input throughout, a result to the end, any other
        value from its run to its last reader; a view lives in what it views.
        """
        start: dict[Copy, tuple[int, int]] = {}
        last: dict[Copy, int] = {}
        home: dict[Copy, Copy] = {}
        for index, run in enumerate(runs):
            reads = self.reads(run, again)
            for copy in reads:
                last[home.get(copy, copy)] = index
            for k, spec in enumerate(run.node.outputs):
                own = (Ref(run.node.name, k), run.is_again)
                is_view = run.node.row.is_free and bool(reads)
                source = reads[min(k, len(reads) - 1)] if is_view else own
                home[own] = home.get(source, source) if is_view else own
                if not is_view:
                    start[own], last[own] = (index, spec.nbytes), index
        for ref in self.graph.outputs:
            last[home.get((ref, False), (ref, False))] = len(runs) - 1
        changes = [0] * (len(runs) + 1)
        for copy, (index, nbytes) in start.items():
            changes[index] += nbytes
            changes[last[copy] + 1] -= nbytes
        return max(accumulate(changes)) + sum(i.nbytes for i in self.graph.inputs)


def _drops(node: Node) -> bool:
    """Whether the node draws a random mask."""
    if node.op in ("dropout", "native_dropout"):
        return True
    return node.has("dropout_p") and node.arg("dropout_p") not in (0, 0.0)


def _unmet(
    node: Node, by_name: Mapping[str, Node], again: Collection[str], done: set[str]
) -> list[str]:
    """What must run again before `node`, in order; marked as done."""
    order: list[str] = []
    pending = [(ref.name, False) for ref in reversed(node.operands)]
    while pending:
        name, is_ready = pending.pop()
        if is_ready:
            order.append(name)
        elif name in again and name not in done:
            done.add(name)
            pending.append((name, True))
            pending += [(ref.name, False) for ref in reversed(by_name[name].operands)]
    return order


def _needed(runs: Sequence[Run], again: Collection[str], joint: Joint) -> tuple[Run, ...]:
    """The runs that lead to an output."""
    wanted: set[tuple[str, bool]] = {(ref.name, False) for ref in joint.graph.outputs}
    kept = []
    for run in reversed(runs):
        if (run.node.name, run.is_again) in wanted:
            kept.append(run)
            wanted |= {(ref.name, is_copy) for ref, is_copy in joint.reads(run, again)}
    return tuple(reversed(kept))
