"""What tests of rewrites share: a function as a graph, and a pass held against the reference."""

from collections import Counter
from collections.abc import Callable

from torch import Tensor, nn

from ridgeline.backends.agreement import compare
from ridgeline.backends.reference import Reference
from ridgeline.frontends.torch_export import capture
from ridgeline.graph import Graph, verify
from ridgeline.passes.manager import Pass

FP32_ERROR = 1e-5


class Net(nn.Module):
    """A function with weights of its own: name -> tensor, buffers all."""

    def __init__(self, function: Callable[..., object], **weights: Tensor) -> None:
        super().__init__()
        self.function = function
        for name, value in weights.items():
            self.register_buffer(name, value)

    def forward(self, *inputs: Tensor) -> object:
        return self.function(self, *inputs)


def graph_of(function: Callable[..., object], *inputs: Tensor, **weights: Tensor) -> Graph:
    return capture(Net(function, **weights).eval(), inputs, is_trusted=True)


def ops(graph: Graph) -> Counter[str]:
    return Counter(node.op for node in graph.nodes)


def check(graph: Graph, passes: Pass | list[Pass], *inputs: Tensor) -> Graph:
    """The rewritten graph, shown to give the reference's outputs and to stay as it is when
    rewritten again.
    """
    after = graph
    for one in passes if isinstance(passes, list) else [passes]:
        after = one(after)
        verify(after)
        assert one(after).digest == after.digest, "a pass run twice changes nothing more"
    expected, found = (Reference().compile(g)(*inputs) for g in (graph, after))
    assert [o.dtype for o in found] == [o.dtype for o in expected]
    assert compare(expected, found).max_error < FP32_ERROR
    return after
