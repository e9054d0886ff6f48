"""Folding: exact where it is done, and not done where it would not be."""

from collections import Counter
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from ridgeline.cost.work import work_of
from ridgeline.frontends import capture
from ridgeline.graph import Graph, Phase


def counts(graph: Graph) -> Counter[tuple[str, tuple[int, ...]]]:
    """How often each op with each output shape runs, repeats counted."""
    total: Counter[tuple[str, tuple[int, ...]]] = Counter()
    for node in graph.nodes:
        total[node.op, node.out.shape if node.outputs else ()] += node.repeat
    return total


def folded_and_full(model: nn.Module, *inputs: Tensor) -> tuple[Graph, Graph]:
    """Both captures; they must agree on every count, and the model must come back unharmed."""
    before = [name for name, _ in model.named_modules()]
    folded = capture(model, inputs, fold_layers=True)
    full = capture(model, inputs)
    assert counts(folded) == counts(full)
    assert folded.parameters == full.parameters == sum(p.numel() for p in model.parameters())
    assert [name for name, _ in model.named_modules()] == before
    return folded, full


class Layer(nn.Module):
    """A residual layer that maps its input's shape to itself."""

    def __init__(self, width: int = 8, number: int = 0) -> None:
        super().__init__()
        self.fc = nn.Linear(width, width)
        self.layer_idx = number

    def forward(self, x: Tensor) -> Tensor:
        return x + torch.relu(self.fc(x))


class Loop(nn.Module):
    """Layers in a ModuleList, run by a body that a test supplies."""

    def __init__(self, body: Callable[[nn.ModuleList, Tensor], Tensor], count: int = 6) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Layer(number=i) for i in range(count))
        self.body = body

    def forward(self, x: Tensor) -> Tensor:
        return self.body(self.layers, x)


def plain(layers: nn.ModuleList, x: Tensor) -> Tensor:
    for layer in layers:
        x = layer(x)
    return x


def by_index(layers: nn.ModuleList, x: Tensor) -> Tensor:
    for i in range(len(layers)):
        x = layers[i](x)
    return x


def with_taps(layers: nn.ModuleList, x: Tensor) -> Tensor:
    taps = []
    for i, layer in enumerate(layers):
        x = layer(x)
        if i in (1, 4):
            taps.append(x.sum())
    return x + torch.stack(taps).sum()


def in_parallel(layers: nn.ModuleList, x: Tensor) -> Tensor:
    return torch.cat([layer(x) for layer in layers])


def with_work_between(layers: nn.ModuleList, x: Tensor) -> Tensor:
    for layer in layers:
        x = layer(x) * 2
    return x


def with_work_after_the_fifth(layers: nn.ModuleList, x: Tensor) -> Tensor:
    for i, layer in enumerate(layers):
        x = torch.tanh(layer(x)) if i == 4 else layer(x)
    return x


def skipping_one(layers: nn.ModuleList, x: Tensor) -> Tensor:
    for i, layer in enumerate(layers):
        x = x if i == 2 else layer(x)
    return x


def twice(layers: nn.ModuleList, x: Tensor) -> Tensor:
    return plain(layers, plain(layers, x))


@pytest.mark.parametrize("body", [plain, by_index, with_taps, in_parallel])
def test_runs_fold_into_one_layer(body: Callable[[nn.ModuleList, Tensor], Tensor]) -> None:
    folded, full = folded_and_full(Loop(body), torch.ones(2, 8))
    assert folded.repeats == {"layers.0": 6}
    assert len(folded.nodes) < len(full.nodes)


@pytest.mark.parametrize(
    "body", [with_work_between, with_work_after_the_fifth, skipping_one, twice]
)
def test_what_would_not_be_exact_is_captured_whole(
    body: Callable[[nn.ModuleList, Tensor], Tensor],
) -> None:
    model, x = Loop(body), torch.ones(2, 8)
    folded = capture(model, (x,), fold_layers=True)
    assert folded.repeats == {}
    assert counts(folded) == counts(capture(model, (x,)))


def test_a_layer_that_computes_with_its_number_is_not_folded() -> None:
    class Odd(Layer):
        def forward(self, x: Tensor) -> Tensor:
            return torch.tanh(x) if self.layer_idx % 2 else super().forward(x)

    model = nn.Sequential(*(Odd(number=i) for i in range(4)))
    assert capture(model, (torch.ones(2, 8),), fold_layers=True).repeats == {}
    assert [layer.layer_idx for layer in model] == [0, 1, 2, 3]
    assert type(model[0].layer_idx) is int


def test_a_layer_that_looks_something_up_by_its_number_folds() -> None:
    class LookUp(Layer):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) + ("a", "b", "c", "d").index("abcd"[self.layer_idx])

    model = nn.Sequential(*(LookUp(number=i) for i in range(4)))
    assert capture(model, (torch.ones(2, 8),), fold_layers=True).repeats == {"0": 4}


def test_alternating_layers_are_not_folded() -> None:
    model = nn.Sequential(*(Layer() if i % 2 else nn.LayerNorm(8) for i in range(6)))
    folded, _ = folded_and_full(model, torch.ones(2, 8))
    assert folded.repeats == {}


def test_layers_that_change_the_shape_are_not_folded() -> None:
    model = nn.Sequential(*(nn.Conv2d(4, 4, 3) for _ in range(4)))
    folded, _ = folded_and_full(model, torch.ones(1, 4, 16, 16))
    assert folded.repeats == {}


def test_different_settings_of_one_kind_are_not_folded() -> None:
    model = nn.Sequential(*(nn.LeakyReLU(i / 10) for i in range(4)), nn.Linear(8, 8))
    folded, _ = folded_and_full(model, torch.ones(2, 8))
    assert folded.repeats == {}


def test_a_resnet_like_stack_folds_each_stage() -> None:
    def stage(channels: int) -> nn.Sequential:
        convolutions = (nn.Conv2d(channels, channels, 3, padding=1) for _ in range(3))
        return nn.Sequential(*convolutions)

    model = nn.Sequential(stage(4), nn.Conv2d(4, 8, 3, stride=2), stage(8))
    folded, _ = folded_and_full(model, torch.ones(1, 4, 8, 8))
    assert folded.repeats == {"0.0": 3, "2.0": 3}


def test_a_transformer_stack_folds() -> None:
    layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True, dropout=0.0)
    model = nn.TransformerEncoder(layer, 5, enable_nested_tensor=False).train()
    folded, _ = folded_and_full(model, torch.ones(2, 6, 16))
    assert folded.repeats == {"layers.0": 5}


def test_nested_runs_multiply() -> None:
    model = nn.Sequential(*(nn.Sequential(*(Layer() for _ in range(3))) for _ in range(4)))
    folded, _ = folded_and_full(model, torch.ones(2, 8))
    assert folded.repeats == {"0": 4, "0.0": 3}
    assert {n.repeat for n in folded.nodes} == {12}


def test_a_first_layer_with_another_layout_stays_apart() -> None:
    class Transposed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.ModuleList(nn.Linear(8, 8) for _ in range(5))

        def forward(self, x: Tensor) -> Tensor:
            return plain(self.layers, x.t())

    folded, _ = folded_and_full(Transposed(), torch.ones(8, 3))
    assert folded.repeats == {"layers.1": 4}


def test_shared_arguments_and_mutated_buffers_are_counted_per_layer() -> None:
    class Counting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("seen", torch.zeros(8))

        def forward(self, x: Tensor, scale: Tensor) -> Tensor:
            self.seen.add_(x.sum(0))
            return x * scale

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.ModuleList(Counting() for _ in range(4))

        def forward(self, x: Tensor, scale: Tensor) -> Tensor:
            for layer in self.layers:
                x = layer(x, scale=scale)
            return x

    folded, _ = folded_and_full(Model(), torch.ones(2, 8), torch.ones(8))
    (seen,) = (i for i in folded.inputs if i.path.endswith("seen"))
    assert (seen.repeat, seen.is_mutated) == (4, True)


def test_full_captures_run_as_the_model_does() -> None:
    model, x = Loop(plain), torch.randn(2, 8)
    graph = capture(model, (x,))
    assert graph.is_runnable
    torch.testing.assert_close(graph.program.module()(x), model(x))


class _Tally:
    """Counts; in an object of its own, for export undoes what it does to a module's attributes."""

    calls = 0


class _Unlike(nn.Module):
    """Layers alike that are called differently, and a tail that counts how often it is reached."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(8, 8) for _ in range(3))
        self.tail = _Tally()

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x) + 1.0
        self.tail.calls += 1
        return x.relu()


def test_a_fold_that_fails_is_given_up_at_the_first_layer_that_differs() -> None:
    plain, folded = _Unlike(), _Unlike()
    x = torch.randn(2, 8)
    expected = capture(plain, (x,), is_trusted=True)
    graph = capture(folded, (x,), is_trusted=True, fold_layers=True)
    assert not graph.repeats
    assert graph.digest == expected.digest
    assert folded.tail.calls == plain.tail.calls > 0


@pytest.mark.parametrize("count", [2, 5])
def test_training_counts_the_gradient_that_only_the_first_layer_spares(count: int) -> None:
    model = nn.Sequential(*(nn.Linear(8, 8) for _ in range(count))).train()
    x = torch.randn(2, 8)
    graph = capture(model, (x,), phase=Phase.TRAIN, fold_layers=True)
    with FlopCounterMode(display=False) as counter:
        model(x).sum().backward()
    found = sum(work.cost.flops * work.repeat for work in work_of(graph))
    assert found == counter.get_total_flops()
