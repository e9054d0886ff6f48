"""Every pass against the reference: the same outputs, the original untouched."""

import pytest
import torch
from small_models import MODELS, Branch, ConvNet, randomise_norms
from torch import Tensor, nn

from ridgeline.backends.agreement import compare
from ridgeline.backends.reference import Reference
from ridgeline.errors import GraphError
from ridgeline.frontends.torch_export import capture
from ridgeline.graph import Graph, load, save, verify
from ridgeline.graph.edit import Edit
from ridgeline.graph.flat import flat_module
from ridgeline.passes.affine import fold_batch_norm
from ridgeline.passes.canonicalise import canonicalise
from ridgeline.passes.fold import fold_constants
from ridgeline.passes.manager import DEFAULT_PASSES, Pass, run_passes

FP32_ERROR = 1e-5


def ops(graph: Graph) -> list[str]:
    return [node.op for node in graph.nodes]


def run(graph: Graph, *inputs: Tensor) -> tuple[Tensor, ...]:
    return Reference().compile(graph)(*inputs)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("one", DEFAULT_PASSES, ids=lambda p: p.__name__)
def test_a_pass_keeps_the_outputs_and_leaves_its_input_alone(one: Pass, name: str) -> None:
    model, inputs = MODELS[name]()
    graph = capture(model, inputs)
    text, expected = str(graph), run(graph, *inputs)
    after = one(graph)
    verify(after)
    assert compare(expected, run(after, *inputs)).max_error < FP32_ERROR
    assert str(graph) == text
    assert compare(expected, run(graph, *inputs)).max_error == 0
    assert one(after).digest == after.digest, "a pass run twice changes nothing more"


def test_branches_and_written_buffers_survive_all_passes() -> None:
    inputs = (torch.randn(2, 4), torch.randn(4), torch.randn(4))
    named = {"scale": inputs[1], "shift": inputs[2]}
    graph = capture(Branch().eval(), inputs[:1], kwargs=named)
    order = [i.path for i in graph.inputs if i.kind.value == "input"]
    flat = (inputs[0], *(named[name] for name in order[1:]))
    before, after = (Reference().compile(g) for g in (graph, run_passes(graph)[-1].graph))
    for _ in range(3):
        assert compare(before(*flat), after(*flat)).max_error < FP32_ERROR


def test_batch_norms_fold_into_every_kind_of_layer_before_them() -> None:
    model, inputs = MODELS["conv_net"]()
    graph = capture(model, inputs)
    folded = fold_batch_norm(graph)
    assert ops(graph).count("batch_norm") == 4
    assert "batch_norm" not in ops(folded)
    paths = {i.path for i in folded.inputs}
    assert {"conv.weight", "conv.bias", "up.weight", "up.bias", "head.bias"} <= paths
    assert not any("norm" in path for path in paths)


def test_folding_batch_norm_is_exact_in_double_precision() -> None:
    model = randomise_norms(ConvNet()).double()
    x = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    graph = capture(model, (x,))
    exact, folded = (flat_module(g)(x) for g in (graph, fold_batch_norm(graph)))
    assert compare(exact, folded).max_error < 1e-13


def test_folding_batch_norm_loses_no_more_than_rounding_once() -> None:
    model, (x,) = MODELS["conv_net"]()
    folded = fold_batch_norm(capture(model, (x,)))
    exact = flat_module(capture(model.double(), (x.double(),)))(x.double())
    assert compare(exact, run(folded, x)).max_error < 32 * torch.finfo(torch.float32).eps


class Shared(nn.Module):
    """The convolution's result is read a second time."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv1d(2, 3, 1), nn.BatchNorm1d(3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        return self.norm(y) + y


class Tokens(nn.Module):
    """The norm runs over the tokens, not over what the linear makes."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.norm = nn.Linear(2, 3), nn.BatchNorm1d(4)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.linear(x))


class Twice(nn.Module):
    """One convolution with two norms behind it: its weight must be folded twice, apart."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.a, self.b = nn.Conv1d(2, 2, 1), nn.BatchNorm1d(2), nn.BatchNorm1d(2)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.conv(self.a(self.conv(x))))


@pytest.mark.parametrize(("model", "shape"), [(Shared(), (2, 2, 5)), (Tokens(), (2, 4, 2))])
def test_batch_norm_stays_where_folding_would_be_wrong(
    model: nn.Module, shape: tuple[int, ...]
) -> None:
    graph = capture(randomise_norms(model), (torch.randn(shape),))
    assert ops(fold_batch_norm(graph)) == ops(graph)


def test_batch_norm_stays_in_training_form() -> None:
    graph = capture(nn.Sequential(nn.Conv1d(2, 3, 1), nn.BatchNorm1d(3)), (torch.randn(2, 2, 5),))
    assert "batch_norm" in ops(fold_batch_norm(graph))


def test_a_shared_weight_is_folded_once_per_norm() -> None:
    x = torch.randn(2, 2, 5)
    graph = capture(randomise_norms(Twice()), (x,))
    folded = fold_batch_norm(graph)
    assert "batch_norm" not in ops(folded)
    assert compare(run(graph, x), run(folded, x)).max_error < FP32_ERROR


class Constants(nn.Module):
    """A value worth folding, one that would grow, a random one, and a plain fill."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("seed", torch.randn(1, 1024))
        self.register_buffer("angle", torch.randn(8))

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        return x + self.angle.cos().exp(), x.sum() + self.seed.repeat(1024, 1), torch.rand(8) + x


def test_constants_fold_unless_they_grow_or_vary() -> None:
    x = torch.randn(8)
    graph = capture(Constants(), (x,))
    folded = fold_constants(graph)
    assert not {"cos", "exp"} & set(ops(folded))
    assert {"repeat", "random"} <= set(ops(folded))
    assert compare(run(graph, x)[:2], run(folded, x)[:2]).max_error == 0


def test_nothing_folds_without_weights() -> None:
    with torch.device("meta"):
        model, x = randomise_norms(ConvNet()), torch.randn(2, 3, 8, 8)
    graph = capture(model, (x,))
    assert fold_batch_norm(graph) is graph
    assert fold_constants(graph) is graph


def test_a_transformed_graph_is_saved_and_loaded(tmp_path) -> None:  # type: ignore[no-untyped-def]
    model, inputs = MODELS["conv_net"]()
    graph = run_passes(capture(model, inputs))[-1].graph
    save(graph, tmp_path / "graph.pt2")
    back = load(tmp_path / "graph.pt2")
    assert back.digest == graph.digest
    assert compare(run(graph, *inputs), run(back, *inputs)).max_error == 0


def test_unread_weights_and_idle_dropout_go() -> None:
    class Idle(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear, self.unused = nn.Linear(2, 2), nn.Linear(2, 2)

        def forward(self, x: Tensor) -> Tensor:
            return torch.dropout(self.linear(x), 0.5, False)

    after = canonicalise(capture(Idle(), (torch.randn(1, 2),)))
    assert ops(after) == ["linear"]
    assert [i.path for i in after.inputs] == ["linear.weight", "linear.bias", "x"]


def test_the_manager_records_skips_and_names() -> None:
    model, inputs = MODELS["conv_net"]()
    graph = capture(model, inputs)
    steps = run_passes(graph, skip=["fold_batch_norm"])
    assert [s.name for s in steps] == [p.__name__ for p in DEFAULT_PASSES]
    assert [s.name for s in steps if s.is_skipped] == ["fold_batch_norm"]
    assert "batch_norm" in ops(steps[-1].graph)
    assert "-  buffer norm.num_batches_tracked: int64[]" in steps[0].diff
    with pytest.raises(GraphError, match="no pass 'fuse' to skip; there are canonicalise, "):
        run_passes(graph, skip=["fuse"])


def test_the_manager_stops_a_pass_that_breaks_the_graph() -> None:
    def break_order(graph: Graph) -> Graph:
        after = Edit(graph).finish()
        nodes = [n for n in after.program.graph.nodes if n.op == "call_function"]
        nodes[0].prepend(nodes[1])
        return after

    model, inputs = MODELS["conv_net"]()
    with pytest.raises(GraphError, match="pass break_order broke graph ConvNet"):
        run_passes(capture(model, inputs), [break_order])
