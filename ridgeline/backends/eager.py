"""Eager PyTorch."""

from ridgeline.backends.backend import Backend, Runnable, Setting
from ridgeline.graph import Graph
from ridgeline.graph.flat import flat_module


class Eager(Backend):
    """Calls the graph's module as it stands."""

    name = "eager"
    declines = ("join_linears",)

    def build(self, graph: Graph, setting: Setting) -> Runnable:
        """The module's own forward."""
        forward: Runnable = flat_module(graph).forward
        return forward


class AsCaptured(Eager):
    """What people run when they do nothing: the baseline of every waterfall."""

    large_pages = False
