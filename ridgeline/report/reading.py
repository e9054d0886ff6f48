"""Reading: one estimate with what a report says beside it, and its sums by module, op and part."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from math import prod

from ridgeline.cost import Estimate, NodeEstimate
from ridgeline.cost.advice import Advice
from ridgeline.graph import Graph, InputKind

OPTIMIZER = "(optimizer)"
TOP_LEVEL = "(top level)"
# A module is opened while it takes more of the time than this and its parts have room.
_OPEN_ABOVE = 0.15


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """An estimate of one target in one phase on one machine.

    inputs: (name, dtype and shape). samples: items one run handles, `unit` says of what. repeats:
    module path -> how many alike stand behind it.
    """

    target: str
    estimate: Estimate
    inputs: tuple[tuple[str, str], ...]
    samples: int
    unit: str
    repeats: Mapping[str, int]
    advice: tuple[Advice, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Nodes added up. count: how often it is there or runs; share: of the predicted time."""

    label: str
    count: int
    flops: int
    vector_ops: int
    moved_bytes: int
    time_s: float
    share: float
    bound: str
    category: str = ""
    engine: str = ""


def read(target: str, graph: Graph, estimate: Estimate, advice: tuple[Advice, ...] = ()) -> Reading:
    """The reading of `estimate`, which is of `graph`."""
    inputs = list(graph.of_kind(InputKind.INPUT))
    first = inputs[0].spec if inputs else None
    is_text = first is not None and len(first.shape) == 2 and not first.is_floating
    samples = (first.numel if is_text else first.shape[0]) if first and first.shape else 1
    return Reading(
        target=target,
        estimate=estimate,
        inputs=tuple((i.path, str(i.spec)) for i in inputs),
        samples=samples,
        unit="token" if is_text else "sample",
        repeats=dict(graph.repeats),
        advice=advice,
    )


def by_op(reading: Reading) -> list[Group]:
    """The nodes added up by op kind, largest time first."""
    return _grouped(reading, lambda node: node.op)


def by_category(reading: Reading) -> list[Group]:
    """The nodes added up by category, largest time first."""
    return _grouped(reading, lambda node: node.category)


def by_part(reading: Reading) -> list[Group]:
    """The nodes added up by part of a training step, largest time first."""
    return _grouped(reading, lambda node: node.part)


def _grouped(reading: Reading, key: Callable[[NodeEstimate], str]) -> list[Group]:
    found: dict[str, list[NodeEstimate]] = {}
    for node in reading.estimate.nodes:
        found.setdefault(key(node), []).append(node)
    total_s = reading.estimate.totals.time_s
    groups = [
        group(label, nodes, total_s, count=sum(n.repeat for n in nodes))
        for label, nodes in found.items()
    ]
    return sorted(groups, key=lambda g: (-g.time_s, g.label))


def group(label: str, nodes: Iterable[NodeEstimate], total_s: float, *, count: int) -> Group:
    """The sum of `nodes`; its bound is the one that takes most of its time."""
    members = list(nodes)
    time_s = sum(n.time_s for n in members)
    bounds: dict[str, float] = {}
    for node in members:
        bounds[node.bound] = bounds.get(node.bound, 0.0) + node.time_s
    return Group(
        label=label,
        count=count,
        flops=sum(n.flops for n in members),
        vector_ops=sum(n.vector_ops for n in members),
        moved_bytes=sum(n.moved_bytes for n in members),
        time_s=time_s,
        share=time_s / total_s if total_s else 0.0,
        bound=max(bounds, key=lambda b: bounds[b], default="free"),
        category=members[0].category if len({n.category for n in members}) == 1 else "",
        engine=members[0].engine if len({n.engine for n in members}) == 1 else "",
    )


Path = tuple[str, ...]


def module_path(node: NodeEstimate) -> Path:
    """A module's path with numbered siblings together: `layers.0.mlp` is ("layers.*", "mlp")."""
    if not node.module:
        return (OPTIMIZER if node.part == "optimizer" else TOP_LEVEL,)
    parts: list[str] = []
    for name in node.module.split("."):
        if not name.isdigit():
            parts.append(name)
        elif parts:
            parts[-1] += ".*"
        else:
            parts.append("*")
    return tuple(parts)


def by_module(reading: Reading, limit: int = 14) -> list[Group]:
    """The nodes added up by module, largest time first, in about `limit` rows.

    Starts from the whole and opens what takes longest, so that rows stand where the time goes.
    """
    nodes = reading.estimate.nodes
    total_s = reading.estimate.totals.time_s
    rows: dict[Path, list[NodeEstimate]] = {(): list(nodes)}
    closed: set[Path] = set()
    while True:
        open_rows = [path for path in rows if path not in closed]
        if not open_rows:
            break
        path = max(open_rows, key=lambda p: sum(n.time_s for n in rows[p]))
        parts = _opened(path, rows[path])
        is_chain = len(parts) == 1 and (*path, "") not in parts
        is_large = sum(n.time_s for n in rows[path]) > _OPEN_ABOVE * total_s or not path
        has_room = len(rows) - 1 + len(parts) <= limit or not path
        if parts.keys() == {(*path, "")} or not (is_chain or (is_large and has_room)):
            closed.add(path)
            continue
        del rows[path]
        rows |= parts
        closed |= {p for p in parts if p[-1] == ""}
    groups = [
        group(_label(path), members, total_s, count=_count(path, members, reading.repeats))
        for path, members in rows.items()
    ]
    return sorted(groups, key=lambda g: (-g.time_s, g.label))


def _opened(path: Path, nodes: Iterable[NodeEstimate]) -> dict[Path, list[NodeEstimate]]:
    """The parts of a module; its own nodes, outside any part, stand under the name ""."""
    parts: dict[Path, list[NodeEstimate]] = {}
    for node in nodes:
        whole = module_path(node)
        part = whole[: len(path) + 1] if len(whole) > len(path) else (*path, "")
        parts.setdefault(part, []).append(node)
    return parts


def _label(path: Path) -> str:
    return f"{'.'.join(path[:-1])} (own ops)" if path and path[-1] == "" else ".".join(path)


def _count(path: Path, nodes: Iterable[NodeEstimate], repeats: Mapping[str, int]) -> int:
    """How many modules stand behind a row: distinct real paths, each with its repeats."""
    words = sum(part.count(".*") + 1 for part in path if part)
    real = {".".join(node.module.split(".")[:words]) for node in nodes}
    return sum(
        prod(count for folded, count in repeats.items() if f"{prefix}.".startswith(f"{folded}."))
        for prefix in real
    )
