"""The text of a graph: stable and readable to print, renumbered to compare."""

import difflib
import hashlib
from collections.abc import Mapping

from torch import Tensor
from torch._subclasses import FakeTensor

from ridgeline.graph.graph import Graph, GraphInput, InputKind
from ridgeline.graph.node import Argument, Node, Ref

# Where a tensor lives is not part of what a graph computes.
_PLACEMENT = ("device", "layout", "pin_memory")


def to_text(graph: Graph) -> str:
    """One line per input, node and output, with shapes, module paths and repeats."""
    names = {Ref(i.name): i.path for i in graph.inputs}
    lines = [f"graph {graph.name} phase={graph.phase.value} digest={graph.digest}"]
    lines += [f"  {i.kind.value} {i.path}: {_input(i)}" for i in graph.inputs]
    lines += [line for node in graph.nodes for line in _node_lines(node, names, indent="  ")]
    lines.append(f"  return {', '.join(_value(r, names) for r in graph.outputs)}")
    return "\n".join(lines) + "\n"


def canonical_lines(graph: Graph) -> list[str]:
    """The graph with names replaced by numbers, so that only structure is left to compare."""
    names: dict[Ref, str] = {}
    lines = [f"phase {graph.phase.value}"]
    for number, entry in enumerate(graph.inputs):
        names[Ref(entry.name)] = f"%i{number}"
        lines.append(f"%i{number} = {entry.kind.value} {_input(entry)}{_content(graph, entry)}")
    for number, node in enumerate(graph.nodes):
        names |= {Ref(node.name, k): f"%{number}.{k}" for k in range(len(node.outputs))}
        lines += [
            line.partition("  #")[0]
            for line in _node_lines(node, names, f"%{number}", is_bare=True)
        ]
    return [*lines, f"return {', '.join(_value(r, names) for r in graph.outputs)}"]


def diff(before: Graph, after: Graph) -> str:
    """Unified diff of the two texts; empty when the graphs are the same."""
    old, new = to_text(before).splitlines(), to_text(after).splitlines()
    return "\n".join(difflib.unified_diff(old, new, "before", "after", lineterm="", n=1))


def _input(entry: GraphInput) -> str:
    return f"{entry.spec}{' mutated' if entry.is_mutated else ''}{_times(entry.repeat)}"


def _content(graph: Graph, entry: GraphInput) -> str:
    """A digest of whole numbers that the graph holds as a constant: they are part of what it is, as
    places to look up and masks are.
    """
    value = graph.program.constants.get(entry.path)
    is_known = isinstance(value, Tensor) and not isinstance(value, FakeTensor) and not value.is_meta
    if entry.kind is not InputKind.CONSTANT or not is_known or value.is_floating_point():
        return ""
    if value.is_complex():
        return ""
    numbers = value.detach().cpu().contiguous().numpy()
    return f" {hashlib.sha256(numbers.tobytes()).hexdigest()[:16]}"


def _node_lines(
    node: Node, names: Mapping[Ref, str], indent: str, *, is_bare: bool = False
) -> list[str]:
    arguments = ", ".join(
        f"{name}={_value(value, names)}"
        for name, value in node.args.items()
        if value is not None and name not in _PLACEMENT
    )
    outputs = ", ".join(str(spec) for spec in node.outputs)
    label = "" if is_bare else f"%{node.name}"
    place = f"  # {node.module}" if node.module else ""
    head = f"{indent}{label}: {outputs} = {node.op}({arguments}){_times(node.repeat)}{place}"
    inner = [
        f"{indent}  | {line.strip()}"
        for branch in node.branches
        for child in branch
        for line in _node_lines(child, names, "")
    ]
    return [head, *inner]


def _value(value: Argument, names: Mapping[Ref, str]) -> str:
    if isinstance(value, Ref):
        return names.get(value, str(value))
    if isinstance(value, tuple):
        return f"[{', '.join(_value(v, names) for v in value)}]"
    return repr(value) if isinstance(value, str) else str(value)


def _times(repeat: int) -> str:
    return f" x{repeat}" if repeat > 1 else ""
