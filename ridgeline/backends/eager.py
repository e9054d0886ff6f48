"""Eager PyTorch: what people run when they do nothing."""

from pathlib import Path

from ridgeline.backends.backend import Backend, Runnable
from ridgeline.graph import Graph
from ridgeline.graph.flat import flat_module


class Eager(Backend):
    """Calls the graph's module as it stands."""

    name = "eager"

    def build(self, graph: Graph, keep: Path | None) -> Runnable:
        """The module's own forward."""
        forward: Runnable = flat_module(graph).forward
        return forward
