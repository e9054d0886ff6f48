"""Gradients as graphs, against torch's autograd, torch.optim, its joint export and differences."""

import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from small_models import MODELS
from torch import Tensor, fx, nn
from torch.export.experimental import _export_forward_backward
from torch.export.graph_signature import OutputKind
from torch.nn import functional as F
from torch.utils._pytree import tree_leaves

from ridgeline import differentiate, named_outputs, train_graph
from ridgeline.backends.aoti import Aoti
from ridgeline.backends.backend import Backend, Setting
from ridgeline.backends.eager import Eager
from ridgeline.backends.inductor import Inductor
from ridgeline.backends.reference import Reference
from ridgeline.errors import GraphError, UnsupportedOp
from ridgeline.frontends.torch_export import capture
from ridgeline.graph import Graph, Phase, load, save, verify
from ridgeline.graph.flat import example_inputs
from ridgeline.passes.optimizers import AdamW, Optimizer, Sgd

CLOSE = {"rtol": 0.0, "atol": 1e-5}


class Net(nn.Module):
    """A convolution, both kinds of norm, and a buffer that training changes."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.batch_norm = nn.BatchNorm2d(8)
        self.layer_norm = nn.LayerNorm(8)
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.batch_norm(self.conv(x)).relu().mean((2, 3))
        return self.head(self.layer_norm(x))


def batch() -> tuple[Tensor, Tensor]:
    return torch.randn(4, 3, 8, 8), torch.randint(5, (4,))


def twin(model: nn.Module) -> nn.Module:
    """Another model with the same weights."""
    other = type(model)()
    other.load_state_dict(model.state_dict())
    return other.train(model.training)


def run(graph: Graph, inputs: Sequence[Tensor]) -> dict[str, Tensor]:
    verify(graph)
    return named_outputs(graph, Reference().compile(graph)(*inputs))


def gradient_graph(model: nn.Module, x: Tensor, target: Tensor) -> Graph:
    return train_graph(model, F.cross_entropy, (x,), targets=(target,))


def test_gradients_are_autograds() -> None:
    model, (x, target) = Net().train(), batch()
    graph = gradient_graph(model, x, target)
    found = run(graph, example_inputs(graph))
    loss = F.cross_entropy(model(x), target)  # updates the statistics of the batch norm
    loss.backward()
    torch.testing.assert_close(found["loss"], loss.detach())
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(found[f"gradients.{name}"], parameter.grad, rtol=0, atol=1e-6)
    for name, buffer in model.named_buffers():
        torch.testing.assert_close(found[f"buffers.{name}"], buffer)
    assert len(found) == 1 + len(list(model.parameters())) + len(list(model.buffers()))


class WithLoss(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = Net()

    def forward(self, x: Tensor, target: Tensor) -> Tensor:
        return F.cross_entropy(self.net(x), target)


def test_gradients_are_those_of_torchs_joint_export() -> None:
    """torch's own joint graph is made on another path, and decomposed further."""
    model, inputs = WithLoss().train(), batch()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch, about its own code
        joint = _export_forward_backward(torch.export.export(model, inputs))
    signature = joint.graph_signature
    weights = [joint.state_dict[s.target] for s in signature.input_specs if s.target]
    with torch.no_grad():
        values = fx.Interpreter(joint.graph_module).run(*weights, *inputs)
    ours = train_graph(model, lambda loss: loss, inputs)
    found = run(ours, example_inputs(ours))
    pairs = list(zip(signature.output_specs, values, strict=True))
    gradients = {s.target: v for s, v in pairs if s.kind is OutputKind.GRADIENT_TO_PARAMETER}
    assert set(gradients) == {name for name, _ in model.named_parameters()}
    for name, expected in gradients.items():
        torch.testing.assert_close(found[f"gradients.{name}"], expected, rtol=0, atol=1e-6)


OPTIMIZERS: dict[str, tuple[Optimizer, Callable[..., torch.optim.Optimizer]]] = {
    "sgd": (Sgd(weight_decay=0.1), lambda p: torch.optim.SGD(p, lr=0.1, weight_decay=0.1)),
    "momentum": (Sgd(momentum=0.9), lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9)),
    "nesterov": (
        Sgd(momentum=0.9, is_nesterov=True),
        lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True),
    ),
    "adamw": (AdamW(), lambda p: torch.optim.AdamW(p, lr=0.1)),
}


def train_both(
    backend: Backend, optimizer: Optimizer, torch_optimizer: Callable[..., torch.optim.Optimizer]
) -> None:
    """Five steps of the compiled graph and of plain torch end with the same weights."""
    model, inputs = Net().train(), batch()
    graph = train_graph(model, F.cross_entropy, inputs[:1], targets=inputs[1:], optimizer=optimizer)
    step = backend.compile(graph)
    carry = example_inputs(graph)[: len(graph.outputs) - 1]
    plain = twin(model)
    update = torch_optimizer(plain.parameters())
    for _ in range(5):
        x, target = batch()
        loss, *carry = step(*carry, torch.tensor(0.1), x, target)
        update.zero_grad()
        expected = F.cross_entropy(plain(x), target)
        expected.backward()
        update.step()
        torch.testing.assert_close(loss, expected.detach(), rtol=0, atol=1e-5)
    found = named_outputs(graph, (loss, *carry))
    for name, parameter in plain.named_parameters():
        torch.testing.assert_close(found[f"parameters.{name}"], parameter.detach(), **CLOSE)
    for name, buffer in plain.named_buffers():
        torch.testing.assert_close(found[f"buffers.{name}"], buffer, **CLOSE)


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("backend", [Reference(), Eager()], ids=lambda b: b.name)
def test_five_steps_are_plain_torchs(name: str, backend: Backend) -> None:
    train_both(backend, *OPTIMIZERS[name])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["momentum", "adamw"])
@pytest.mark.parametrize("backend", [Inductor(), Aoti()], ids=lambda b: b.name)
def test_five_compiled_steps_are_plain_torchs(name: str, backend: Backend) -> None:
    train_both(backend, *OPTIMIZERS[name])


def test_a_step_is_saved_and_loaded(tmp_path: Path) -> None:
    model, (x, target) = Net().train(), batch()
    graph = train_graph(model, F.cross_entropy, (x,), targets=(target,), optimizer="adamw")
    save(graph, tmp_path / "step.pt2")
    loaded = load(tmp_path / "step.pt2")
    assert (loaded.digest, loaded.phase) == (graph.digest, Phase.STEP)
    expected, found = (run(g, example_inputs(graph)) for g in (graph, loaded))
    assert expected.keys() == found.keys()
    assert all(torch.equal(expected[name], found[name]) for name in expected)


def test_nodes_of_backward_know_their_module() -> None:
    graph = gradient_graph(Net().train(), *batch())
    modules = {node.target: node.module for node in graph.nodes}
    assert modules["aten.convolution_backward.default"] == "conv"
    assert modules["aten.native_batch_norm_backward.default"] == "batch_norm"
    assert modules["aten.mm.default"] == "head"


class Tied(nn.Module):
    """One weight under two names, one that is frozen, and one that nothing uses."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.head = nn.Embedding(7, 4), nn.Linear(4, 7, bias=False)
        self.head.weight = self.table.weight
        self.scale = nn.Parameter(torch.full((4,), 2.0), requires_grad=False)
        self.unused = nn.Parameter(torch.ones(3))

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.table(tokens) * self.scale)


def test_tied_frozen_and_unused_weights() -> None:
    model, tokens = Tied().train(), torch.tensor([[1, 2, 3]])
    graph = train_graph(
        model, lambda y, t: F.cross_entropy(y[0], t[0]), (tokens,), targets=(tokens,)
    )
    found = run(graph, example_inputs(graph))
    F.cross_entropy(model(tokens)[0], tokens[0]).backward()
    assert sorted(found) == ["gradients.table.weight", "gradients.unused", "loss"]
    torch.testing.assert_close(found["gradients.table.weight"], model.table.weight.grad)
    assert found["gradients.unused"].tolist() == [0.0, 0.0, 0.0]
    assert next(i.path for i in graph.inputs) == "scale"


def test_what_is_detached_gets_no_gradient() -> None:
    class Stopped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(3, 3), nn.Linear(3, 3)

        def forward(self, x: Tensor) -> Tensor:
            with torch.no_grad():
                bias = self.second(x)
            return self.first(x).detach() * self.second(x) + bias

    for model in (Stopped().train(), Stopped().eval()):
        x = torch.randn(2, 3)
        graph = train_graph(model, torch.sum, (x,))
        found = run(graph, example_inputs(graph))
        model(x).sum().backward()
        assert not found["gradients.first.weight"].any()
        torch.testing.assert_close(found["gradients.second.weight"], model.second.weight.grad)


def differences(
    value: Callable[[Tensor], Tensor], x: Tensor, direction: Tensor, step: float = 1e-6
) -> float:
    """The slope of `value` along a direction, by a central difference."""
    return float((value(x + step * direction) - value(x - step * direction)) / (2 * step))


@pytest.mark.parametrize("path", ["x", "conv.weight", "norm.bias"])
def test_gradients_of_a_captured_graph(path: str) -> None:
    """By an input and by parameters; in fp64, along three directions."""
    model, (x,) = MODELS["conv_net"]()
    model, x = model.double(), x.double()
    slopes = differentiate(capture(model, (x,)), wrt=[path], of=lambda y: y.square().sum())
    run_fp64 = Reference().build(slopes, Setting())  # `compile` would make it fp32
    found = named_outputs(slopes, run_fp64(x))[f"gradients.{path}"]

    def value(at: Tensor) -> Tensor:
        weights = {} if path == "x" else {path: at}
        with torch.no_grad():
            out = torch.func.functional_call(model, weights, (at if path == "x" else x,))
        return out.square().sum()

    at = x if path == "x" else model.get_parameter(path).detach()
    for _ in range(3):
        direction = torch.randn_like(at)
        expected = differences(value, at, direction)
        assert float((found * direction).sum()) == pytest.approx(expected, rel=1e-6)


def test_a_branch_is_differentiated() -> None:
    class Choice(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.cond(x.sum() > 0, lambda t: t * t, lambda t: t.sin(), (x,))

    graph = differentiate(capture(Choice().eval(), (torch.ones(3),)))
    for x in (torch.rand(3), -torch.rand(3)):
        expected = 2 * x if x.sum() > 0 else x.cos()
        torch.testing.assert_close(run(graph, (x,))["gradients.x"], expected)


def test_numbers_among_the_inputs_stay_what_they_were() -> None:
    class Power(nn.Module):
        def forward(self, x: Tensor, exponent: int, none: None) -> Tensor:
            return x**exponent

    x = torch.rand(3)
    graph = differentiate(capture(Power(), (x, 3, None)))
    torch.testing.assert_close(run(graph, (x,))["gradients.x"], 3 * x**2)
    (again,) = Reference().compile(differentiate(graph))(x)
    torch.testing.assert_close(again, 6 * x)


def test_own_outputs_come_first() -> None:
    model, (x,) = MODELS["many_outputs"]()
    graph = differentiate(capture(model, (x,)), has_outputs=True)
    verify(graph)
    *own, gradient = Reference().compile(graph)(x)
    expected = [v for v in tree_leaves(model(x)) if isinstance(v, Tensor)]
    assert [tuple(v.shape) for v in own] == [tuple(v.shape) for v in expected]
    assert all(torch.equal(a, b) for a, b in zip(own, expected, strict=True))
    assert gradient.shape == x.shape


@pytest.mark.parametrize(
    ("wrt", "of", "message"),
    [
        (["conv.wait"], torch.sum, "has no input or weight 'conv.wait'; near it are conv.weight"),
        ([], lambda y: y, r"a gradient is that of a scalar; for graph Net it is \(4, 5\)"),
        ([], lambda y: y.detach().sum(), "depends on nothing that wants a gradient"),
        (["batch_norm.num_batches_tracked"], torch.sum, "is torch.int64, which has no gradient"),
    ],
)
def test_a_wrong_question_is_one_sentence(
    wrt: list[str], of: Callable[..., Tensor], message: str
) -> None:
    graph = capture(Net().train(), batch()[:1], phase=Phase.TRAIN)
    with pytest.raises(GraphError, match=message):
        differentiate(graph, wrt=wrt, of=of)


def test_wrong_training_is_one_sentence() -> None:
    model, (x, target) = Net(), batch()
    with pytest.raises(GraphError, match="no optimizer 'sdg'; there are sgd, momentum, adamw"):
        train_graph(model, F.cross_entropy, (x,), targets=(target,), optimizer="sdg")  # type: ignore[arg-type]
    with pytest.raises(GraphError, match=r"a gradient is that of a scalar; .* it is \(4, 5\)"):
        train_graph(model, lambda y: y, (x,))
    with pytest.raises(GraphError, match="no parameter of graph Net wants a gradient"):
        train_graph(model.requires_grad_(False), torch.sum, (x,))
    batches = ({0: torch.export.Dim("n", min=2)},)
    dynamic = capture(Net(), (x,), dynamic=batches)
    with pytest.raises(GraphError, match="folded layers or dynamic shapes"):
        differentiate(dynamic)


def test_an_op_without_derivative_is_named() -> None:
    class Recurrent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn = nn.LSTM(4, 5)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.rnn(x)[0]
            return out

    once = differentiate(capture(Recurrent().eval(), (torch.randn(3, 2, 4),)))
    with pytest.raises(UnsupportedOp, match="mkldnn_rnn_layer_backward"):
        differentiate(once)
