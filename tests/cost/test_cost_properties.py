"""Costs of random shapes equal torch's counter; costs add up; what cannot be counted is said."""

import re

import pytest
import torch
from cost_helpers import Captured, Wrapped, cost, counted_flops, live_refs, meta, node_of
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from ridgeline.cost import OpCost, Part, backward, cost_of, work_of
from ridgeline.cost.op_cost import total
from ridgeline.errors import UnsupportedOp
from ridgeline.frontends.torch_export import capture
from ridgeline.graph import Graph, Phase

aten = torch.ops.aten
SIZE = st.integers(1, 9)
COUNTS = st.builds(
    OpCost,
    flops=st.integers(0, 10**15),
    causal_flops=st.integers(0, 10**15),
    read_bytes=st.integers(0, 10**12),
    write_bytes=st.integers(0, 10**12),
)


@given(st.lists(SIZE, min_size=1, max_size=3), SIZE, SIZE)
def test_linear(batch: list[int], inputs: int, outputs: int) -> None:
    args = (meta(*batch, inputs), meta(outputs, inputs))
    assert cost(aten.linear.default, *args).flops == counted_flops(
        lambda: aten.linear.default(*args)
    )


@settings(max_examples=60)
@given(st.data())
def test_convolution(data: st.DataObject) -> None:
    dims, groups = data.draw(st.integers(1, 3)), data.draw(st.integers(1, 3))
    is_transposed = data.draw(st.booleans())
    draw = [data.draw(st.integers(1, 3)) for _ in range(4)]
    batch, inputs, outputs, side = draw[0], draw[1] * groups, draw[2] * groups, draw[3]
    stride, dilation = data.draw(st.integers(1, 2)), data.draw(st.integers(1, 2))
    x = meta(batch, inputs, *[9] * dims)
    ends = (inputs, outputs // groups) if is_transposed else (outputs, inputs // groups)
    weight = meta(*ends, *[side] * dims)
    args = (
        x, weight, None, [stride] * dims, [1] * dims, [dilation] * dims, is_transposed, [0] * dims,
        groups,
    )  # fmt: skip
    assert cost(aten.convolution.default, *args).flops == counted_flops(
        lambda: aten.convolution.default(*args)
    )


@settings(max_examples=200)
@given(st.data())
def test_einsum(data: st.DataObject) -> None:
    """One to four operands, dimensions that broadcast, any path: what torch multiplies forward and
    backward, and nothing where it multiplies element by element.
    """
    sizes = {label: data.draw(st.integers(1, 4)) for label in "abcdef"}
    labels = st.lists(st.sampled_from("abcdef"), min_size=1, max_size=4, unique=True)
    terms = data.draw(st.lists(labels, min_size=1, max_size=4))
    used = sorted({label for term in terms for label in term})
    result = data.draw(st.lists(st.sampled_from(used), unique=True))
    shapes = [[data.draw(st.sampled_from([sizes[x], 1])) for x in term] for term in terms]
    path = data.draw(paths(len(terms)))
    equation = f"{','.join(map(''.join, terms))}->{''.join(result)}"
    wanted = data.draw(st.sets(st.sampled_from(range(len(terms))), min_size=1))
    tensors = [meta(*shape).requires_grad_(i in wanted) for i, shape in enumerate(shapes)]

    node = node_of(aten.einsum.default, equation, tensors, path=path)
    forward = cost_of(node)
    assert forward.flops == counted_flops(lambda: aten.einsum(equation, tensors, path=path))
    back = backward.backward_of(node, forward, live_refs(node, *wanted))
    assert back is not None
    assert forward.flops + back.flops == counted_flops(
        lambda: aten.einsum(equation, tensors, path=path).sum().backward()
    )


@st.composite
def paths(draw: st.DrawFn, count: int) -> list[int] | None:
    """None, or which two of the operands then left are contracted at every step, in a row."""
    if draw(st.booleans()):
        return None
    if count == 1:
        return [0]
    steps = [draw(st.permutations(range(left)))[:2] for left in range(count, 1, -1)]
    return [number for step in steps for number in step]


@given(COUNTS, COUNTS, COUNTS, st.integers(0, 200))
def test_costs_add_up(a: OpCost, b: OpCost, c: OpCost, count: int) -> None:
    assert a + b == b + a
    assert (a + b) + c == a + (b + c) == total([a, b, c])
    assert (a + b).times(count) == a.times(count) + b.times(count)
    assert total([a] * (count % 7)) == a.times(count % 7)
    assert a + OpCost() == a


def test_a_cost_is_never_negative() -> None:
    with pytest.raises(ValueError, match="flops is -1; a cost is never negative"):
        OpCost(flops=-1)


def graph_of(function, *inputs: Tensor, weights: tuple[Tensor, ...] = ()) -> Graph:
    return capture(Wrapped(function, *weights), inputs, is_trusted=True, phase=Phase.FORWARD)


X = torch.ones(4, 4)


def test_both_branches_of_cond_count_half() -> None:
    graph = graph_of(
        lambda x: torch.cond(x.sum() > 0, lambda a: a @ a, lambda a: (a @ a) @ a, (x,)), X
    )
    node = next(n for n in graph.nodes if n.op == "cond")
    assert [len(branch) for branch in node.branches] == [1, 2]
    assert cost_of(node).flops == (1 + 2) * 2 * 64 // 2


def loops() -> dict[str, Graph]:
    from torch._higher_order_ops import scan
    from torch._higher_order_ops.map import map as map_
    from torch._higher_order_ops.while_loop import while_loop

    zero = torch.tensor(0)
    return {
        "while_loop": graph_of(
            lambda x: while_loop(lambda i, a: i < 3, lambda i, a: (i + 1, a @ a), (zero, x))[1], X
        ),
        "map_impl": graph_of(lambda x: map_(lambda row: row.sin(), x), X),
        "scan": graph_of(lambda x: scan(lambda c, r: (c + r, (c * r).clone()), x[0], x)[1], X),
    }


def test_loops_are_refused_by_name_and_never_count_as_nothing() -> None:
    for name, graph in loops().items():
        with pytest.raises(UnsupportedOp, match=f"no cost rule for higher_order.{name}") as caught:
            work_of(graph)
        assert re.search(r"from cost_helpers.py:\d+\)", str(caught.value))
        (work,) = (w for w in work_of(graph, allow_uncounted=True) if not w.is_counted)
        assert work.op == f"higher_order.{name}"
        assert work.cost == OpCost()


class Cholesky(torch.nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.linalg.cholesky(x)


def test_an_unknown_op_names_its_line() -> None:
    graph = capture(Cholesky(), [X], is_trusted=True)
    with pytest.raises(UnsupportedOp, match=r"aten.linalg_cholesky.*test_cost_properties.py:\d+"):
        work_of(graph)


def test_flex_attention_is_one_node_with_its_functions() -> None:
    from torch.nn.attention.flex_attention import flex_attention

    q = torch.ones(1, 2, 128, 16)
    graph = graph_of(lambda q: flex_attention(q, q, q, score_mod=lambda s, b, h, i, j: s + 1), q)
    node = next(n for n in graph.nodes if n.op == "flex_attention")
    scores = 2 * 128 * 128
    found = cost_of(node)
    assert found.flops == 2 * scores * 32
    assert found.vector_ops == 4 * scores + scores  # softmax, and the score function's addition
    assert node.out.shape == (1, 2, 128, 16)


def test_repeats_multiply(captured: Captured) -> None:
    graph = captured("llama-tiny")
    works = {w.name: w for w in work_of(graph)}
    assert {w.repeat for w in works.values()} == {1, 4}
    for node in graph.nodes:
        assert works[node.name].repeat == (4 if ".layers." in f".{node.module}" else 1)


def test_a_product_with_itself_has_two_gradients() -> None:
    graph = capture(
        Wrapped(lambda x, w: (w @ w).sum() + x.sum(), torch.ones(8, 8)), [X],
        phase=Phase.TRAIN, is_trusted=True,
    )  # fmt: skip
    flops = {w.name: w.cost.flops for w in work_of(graph)}
    assert flops["matmul.backward"] == 2 * flops["matmul"] == 2 * 2 * 512


RECURRENT = {
    f"{kind.__name__}, {form}": (kind, options)
    for kind in (nn.RNN, nn.GRU, nn.LSTM)
    for form, options in {
        "one layer": {},
        "two layers": {"num_layers": 2},
        "both ways": {"num_layers": 2, "bidirectional": True},
    }.items()
} | {"LSTM, projected": (nn.LSTM, {"num_layers": 2, "proj_size": 3})}


@pytest.mark.parametrize("name", RECURRENT)
@pytest.mark.parametrize("is_first", [True, False])
def test_training_a_recurrence_is_what_torch_counts(name: str, is_first: bool) -> None:
    """On meta, where no kernel hides the products from torch's counter. The data a network is fed
    wants no gradient, nor do the zeros it starts from; what a layer before it makes does.
    """
    kind, options = RECURRENT[name]
    model = Recurrent(kind(7, 8, **options), is_first=is_first).to("meta").train()
    x_TBD = meta(5, 3, 7)
    graph = capture(model, (x_TBD,), phase=Phase.TRAIN)
    counted = counted_flops(lambda: model(x_TBD).sum().backward())
    assert sum(work.cost.flops for work in work_of(graph)) == counted > 0


class Recurrent(nn.Module):
    """A recurrence fed by data, or by a layer that is trained with it."""

    def __init__(self, recurrence: nn.RNNBase, *, is_first: bool) -> None:
        super().__init__()
        self.before = nn.Identity() if is_first else nn.Linear(7, 7)
        self.recurrence = recurrence

    def forward(self, x_TBD: Tensor) -> Tensor:
        out: Tensor = self.recurrence(self.before(x_TBD))[0]
        return out


def test_gradients_flow_from_parameters_through_floating_values_alone() -> None:
    def run(x: Tensor, w: Tensor) -> Tensor:
        chosen = (x * 2).argmax(-1)  # no parameter, and integers
        return (w.view(-1)[chosen] + w.argmax()).sum()

    graph = capture(Wrapped(run, torch.ones(4, 4)), [X], phase=Phase.TRAIN, is_trusted=True)
    live = {ref.name for ref in backward.differentiable(graph)}
    ops = {n.op for n in graph.nodes if n.name in live}
    assert {"view", "index", "add", "sum"} <= ops
    assert not ops & {"mul", "argmax"}
    parts = [w for w in work_of(graph) if w.part is Part.BACKWARD]
    assert {w.op for w in parts} == {"index", "add", "sum"}  # a view's backward is a view
