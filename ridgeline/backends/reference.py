"""The oracle: runs the graph op by op, each with PyTorch's own kernel, as captured."""

from torch import Tensor, fx

from ridgeline.backends.backend import Backend, Runnable, Setting
from ridgeline.graph import Graph
from ridgeline.graph.flat import flat_module


class Reference(Backend):
    """Interprets the graph. Every other backend is checked against it."""

    name = "reference"

    def build(self, graph: Graph, setting: Setting) -> Runnable:
        """The interpreter of the graph."""
        interpreter = fx.Interpreter(flat_module(graph))

        def run(*inputs: Tensor) -> tuple[Tensor, ...]:
            result: tuple[Tensor, ...] = interpreter.run(*inputs)
            return result

        return run
