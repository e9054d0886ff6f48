"""What every graph must satisfy; the pass manager calls it after each pass."""

import torch
from torch import fx

from ridgeline.errors import GraphError
from ridgeline.graph.graph import Graph
from ridgeline.graph.node import Node, Ref


def verify(graph: Graph) -> None:
    """Raises GraphError naming the first node that breaks a rule: defined before use, functional,
    specs known.
    """
    _verify_functional(graph)
    known = {Ref(i.name) for i in graph.inputs}
    for node in graph.nodes:
        _verify_node(node, known, graph.name)
        new = {Ref(node.name, k) for k in range(max(1, len(node.outputs)))}
        if new & known:
            raise GraphError(f"graph {graph.name} defines %{node.name} twice.")
        known |= new
    for ref in graph.outputs:
        if ref not in known:
            raise GraphError(f"graph {graph.name} returns {ref}, which nothing computes.")


def _verify_node(node: Node, known: set[Ref], graph_name: str) -> None:
    for ref in node.operands:
        if ref not in known:
            raise GraphError(
                f"node %{node.name} of graph {graph_name} reads {ref} before it is computed."
            )
        if ref not in node.specs:
            raise GraphError(
                f"node %{node.name} of graph {graph_name} reads {ref} of unknown shape."
            )


def _verify_functional(graph: Graph) -> None:
    try:
        graph.program.graph.lint()
    except (RuntimeError, ValueError) as error:
        raise GraphError(f"graph {graph.name} is not well formed: {error}") from error
    for node in graph.program.graph.nodes:
        if node.op == "call_function" and _is_in_place(node):
            raise GraphError(
                f"node %{node.name} ({node.target}) of graph {graph.name} writes in place; "
                "functionalise with program.run_decompositions({})."
            )


def _is_in_place(node: fx.Node) -> bool:
    return isinstance(node.target, torch._ops.OpOverload) and node.target._schema.is_mutable
