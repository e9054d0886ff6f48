"""The graph's text, digest, node reading and rules, on graphs small enough to write out by hand."""

from collections import Counter
from dataclasses import replace
from types import MappingProxyType

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from ridgeline.errors import GraphError
from ridgeline.frontends import capture
from ridgeline.graph import Graph, InputKind, Phase, diff, to_text, verify
from ridgeline.graph.read import packet_of

GOLDEN = """\
graph Block phase=forward digest={digest}
  parameter fc.weight: fp32[3,4]
  parameter fc.bias: fp32[3]
  buffer seen: fp32[3] mutated
  input x: fp32[2,4]
  %linear: fp32[2,3] = linear(input=x, weight=fc.weight, bias=fc.bias)  # fc
  %relu: fp32[2,3] = relu(self=%linear)
  %sum_1: fp32[3] = sum(self=%relu, dim=[0], keepdim=False)
  %add: fp32[3] = add(self=seen, other=%sum_1, alpha=1)
  %view: fp32[6] = view(self=%relu, size=[-1])
  %split_with_sizes: fp32[2,1], fp32[2,2] = split(self=%relu, split_sizes=[1, 2], dim=1)
  return %add, %view, %split_with_sizes.1
"""


class Block(nn.Module):
    """A parameter, a buffer written in place, a view and one output of a split."""

    def __init__(self, width: int = 3) -> None:
        super().__init__()
        self.fc = nn.Linear(4, width)
        self.register_buffer("seen", torch.zeros(width))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y = torch.relu(self.fc(x))
        self.seen.add_(y.sum(0))
        return y.reshape(-1), y.split([1, y.shape[1] - 1], dim=1)[1]


def block(width: int = 3) -> Graph:
    """The captured block."""
    return capture(Block(width).eval(), (torch.ones(2, 4),))


def test_text_is_what_a_person_would_write() -> None:
    graph = block()
    assert to_text(graph) == GOLDEN.format(digest=graph.digest)


def test_mutated_buffers_are_flagged() -> None:
    assert {i.path: i.is_mutated for i in block().of_kind(InputKind.BUFFER)} == {"seen": True}
    (mean, variance, count) = capture(nn.BatchNorm1d(4).train(), (torch.ones(2, 4),)).of_kind(
        InputKind.BUFFER
    )
    assert mean.is_mutated
    assert variance.is_mutated
    assert count.is_mutated


def test_digest_ignores_names_and_sees_shapes_arguments_phase_and_repeats() -> None:
    graph = block()
    assert block().digest == graph.digest
    assert replace(graph, name="other").digest == graph.digest
    changed = [
        block(5),
        replace(graph, phase=Phase.TRAIN),
        replace(graph, repeats={"fc": 2}),
        capture(Block().eval(), (torch.ones(3, 4),)),
        capture(Block().eval().double(), (torch.ones(2, 4).double(),)),
    ]
    digests = {g.digest for g in changed}
    assert len(digests) == len(changed)
    assert graph.digest not in digests


def test_digest_sees_constants_of_calls() -> None:
    class Scale(nn.Module):
        def __init__(self, by: float) -> None:
            super().__init__()
            self.by = by

        def forward(self, x: Tensor) -> Tensor:
            return x * self.by

    two, three = (capture(Scale(by), (torch.ones(2),)) for by in (2.0, 3.0))
    assert two.digest != three.digest
    assert "other=2.0" in diff(two, three)


def test_diff_of_equal_graphs_is_empty() -> None:
    assert diff(block(), block()) == ""


def test_repeats_multiply_nodes_parameters_and_nested_repeats() -> None:
    model = nn.Sequential(nn.Sequential(nn.Linear(4, 4), nn.ReLU()), nn.Linear(4, 2))
    graph = replace(capture(model, (torch.ones(2, 4),)), repeats={"0": 3, "0.0": 2})
    assert {n.module: n.repeat for n in graph.nodes} == {"0.0": 6, "0.1": 3, "1": 1}
    assert graph.parameters == 6 * 20 + 10
    assert not graph.is_runnable


def test_nodes_give_complete_arguments_specs_and_sources() -> None:
    node = block().node("linear")
    assert node.spec("weight").shape == (3, 4)
    assert node.out.nbytes == 24
    assert node.source.startswith("test_graph.py:")
    with pytest.raises(GraphError, match="no argument 'nothing'"):
        node.arg("nothing")
    with pytest.raises(GraphError, match="has no node 'nothing'"):
        block().node("nothing")


def test_views_share_the_storage_of_what_they_view() -> None:
    storage = {str(v): str(root) for v, root in block().storage.items()}
    assert storage["%view"] == "%relu"
    assert storage["%split_with_sizes.1"] == "%relu"
    assert storage["%sum_1"] == "%sum_1"


def test_dynamic_dimensions_show_their_symbol_and_example() -> None:
    batch = torch.export.Dim("batch", min=2, max=64)
    graph = capture(nn.Linear(4, 3), (torch.ones(5, 4),), dynamic={"input": {0: batch}})
    (entry,) = graph.of_kind(InputKind.INPUT)
    assert entry.spec.shape == (5, 4)
    symbol = entry.spec.symbols[0]
    assert symbol
    assert f"fp32[{symbol}=5,3] = linear(" in to_text(graph)


LAYERS = {
    "linear": lambda: nn.Linear(4, 4),
    "relu": nn.ReLU,
    "gelu": nn.GELU,
    "softmax": lambda: nn.Softmax(dim=-1),
    "norm": lambda: nn.LayerNorm(4),
    "dropout": nn.Dropout,
}


@settings(max_examples=12)
@given(st.lists(st.sampled_from(sorted(LAYERS)), min_size=1, max_size=5))
def test_reading_keeps_every_call_of_the_fx_graph(names: list[str]) -> None:
    model = nn.Sequential(*(LAYERS[name]() for name in names))
    graph = capture(model.eval(), (torch.ones(2, 4),), is_trusted=True)
    calls = Counter(
        packet_of(n.target) for n in graph.program.graph.nodes if n.op == "call_function"
    )
    assert Counter(n.target.rpartition(".")[0] for n in graph.nodes) == calls
    verify(graph)


def planted() -> Graph:
    """A graph of its own for a test to break."""
    return capture(nn.Sequential(nn.Linear(4, 4), nn.ReLU()), (torch.ones(2, 4),))


def test_verify_accepts_what_capture_makes() -> None:
    verify(planted())
    verify(block())


def test_verify_catches_a_use_before_its_definition() -> None:
    graph = planted()
    first, second = graph.nodes
    graph.__dict__["nodes"] = (second, first)
    with pytest.raises(GraphError, match="reads %linear before it is computed"):
        verify(graph)


def test_verify_catches_a_write_in_place() -> None:
    graph = planted()
    relu = next(n for n in graph.program.graph.nodes if "relu" in n.name)
    relu.target = torch.ops.aten.relu_.default
    with pytest.raises(GraphError, match="writes in place"):
        verify(graph)


def test_verify_catches_an_unknown_operand_shape() -> None:
    graph = planted()
    linear, relu = graph.nodes
    graph.__dict__["nodes"] = (linear, replace(relu, specs=MappingProxyType({})))
    with pytest.raises(GraphError, match="of unknown shape"):
        verify(graph)


def test_verify_catches_an_output_that_nothing_computes() -> None:
    graph = planted()
    graph.__dict__["nodes"] = graph.nodes[:1]
    with pytest.raises(GraphError, match="which nothing computes"):
        verify(graph)
