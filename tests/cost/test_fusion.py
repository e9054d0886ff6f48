"""Fused traffic: never more than unfused, groups without cycles, small graphs by hand."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from cost_helpers import Captured, Wrapped
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ridgeline.cost import cost_of
from ridgeline.cost.fusion import fused_traffic
from ridgeline.frontends.torch_export import capture
from ridgeline.graph import Graph


def graph_of(function: Callable[..., Tensor], *inputs: Tensor) -> Graph:
    return capture(Wrapped(function), inputs, is_trusted=True)


def is_acyclic(edges: set[tuple[int, int]]) -> bool:
    """Kahn's algorithm on the contracted graph."""
    nodes = {n for edge in edges for n in edge}
    while ready := {n for n in nodes if not any(b == n for _, b in edges)}:
        nodes -= ready
        edges = {(a, b) for a, b in edges if a not in ready}
    return not nodes


def group_edges(graph: Graph) -> set[tuple[int, int]]:
    traffic = fused_traffic(graph)
    edges = set()
    for node in graph.nodes:
        for ref in node.operands:
            source = graph.storage[ref].name
            if node.name in traffic and source in traffic:
                edges.add((traffic[source].group, traffic[node.name].group))
    return {(a, b) for a, b in edges if a != b}


def check(graph: Graph) -> None:
    traffic = fused_traffic(graph)
    nodes = {n.name: n for n in graph.nodes if not n.row.is_free}
    assert set(traffic) == set(nodes)
    fused = sum(t.nbytes for t in traffic.values())
    assert fused <= sum(cost_of(n).nbytes for n in nodes.values())
    assert is_acyclic(group_edges(graph))
    heads = [t.group for t in traffic.values() if t.is_head]
    assert sorted(heads) == sorted({t.group for t in traffic.values()})


def test_a_pointwise_chain_reads_once_and_writes_once() -> None:
    x = torch.ones(8, 16)
    traffic = fused_traffic(graph_of(lambda x: (x.exp() + 1).sin(), x))
    assert [(t.read_bytes, t.write_bytes) for t in traffic.values()] == [(512, 0), (0, 0), (0, 512)]
    assert [t.is_head for t in traffic.values()] == [True, False, False]


def test_an_epilogue_runs_in_the_product() -> None:
    x, w = torch.ones(8, 16), torch.ones(4, 16)
    traffic = fused_traffic(graph_of(lambda x, w: F.relu(F.linear(x, w)), x, w))
    assert [t.nbytes for t in traffic.values()] == [512 + 256, 128]
    assert len({t.group for t in traffic.values()}) == 1


def test_a_reduction_is_no_epilogue_of_a_product() -> None:
    x, w = torch.ones(8, 16), torch.ones(4, 16)
    traffic = fused_traffic(graph_of(lambda x, w: F.linear(x, w).softmax(-1), x, w))
    assert [t.nbytes for t in traffic.values()] == [512 + 256 + 128, 128 + 128]


def test_batch_norm_in_inference_fuses_into_the_convolution() -> None:
    x, w, ones = torch.ones(1, 2, 4, 4), torch.ones(2, 2, 1, 1), torch.ones(2)

    def layer(x: Tensor, w: Tensor, mean: Tensor, var: Tensor) -> Tensor:
        return F.relu(F.batch_norm(F.conv2d(x, w), mean, var))

    traffic = fused_traffic(graph_of(layer, x, w, ones, ones.clone()))
    assert len({t.group for t in traffic.values()}) == 1
    assert sum(t.write_bytes for t in traffic.values()) == 128


def test_no_cycle_through_a_node_that_cannot_join() -> None:
    """a feeds both the product and the sum: were the sum in a's group, that group would wait for
    itself.
    """
    x = torch.ones(16, 16)
    graph = graph_of(lambda x: (lambda a: a + a @ a)(x.exp()), x)
    groups = {name: t.group for name, t in fused_traffic(graph).items()}
    assert groups["add"] == groups["matmul"] != groups["exp"]
    check(graph)


@pytest.mark.parametrize("name", ["vit-b-16", "bert-base", "gpt2", "llama-tiny", "mixtral-tiny"])
def test_zoo(name: str, captured: Captured) -> None:
    check(captured(name))


@pytest.mark.parametrize("phase", ["prefill", "decode"])
def test_decoding(phase: str, captured: Captured) -> None:
    check(captured("llama-tiny", phase))


STEPS: list[Callable[[Tensor, Tensor], Tensor]] = [
    lambda a, b: a + b,
    lambda a, b: a @ b,
    lambda a, b: a.exp(),
    lambda a, b: a.softmax(-1),
    lambda a, b: a * b.sum(-1, keepdim=True),
    lambda a, b: a.t() + b,
    lambda a, b: torch.cat([a, b])[:8],
    lambda a, b: a.roll(1) * b,
    lambda a, b: F.layer_norm(a, [8]) + b,
]


@settings(max_examples=25)
@given(
    st.lists(
        st.tuples(st.integers(0, len(STEPS) - 1), st.integers(0, 9), st.integers(0, 9)),
        min_size=2,
        max_size=9,
    )
)
def test_random_graphs(steps: list[tuple[int, int, int]]) -> None:
    def run(x: Tensor) -> Tensor:
        values = [x]
        for step, a, b in steps:
            values.append(STEPS[step](values[a % len(values)], values[b % len(values)]))
        return torch.stack(values[1:]).sum(0)

    check(graph_of(run, torch.ones(8, 8)))
