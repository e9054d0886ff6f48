"""Memory over a run: small graphs by hand, and training against what autograd really keeps."""

from collections.abc import Callable, Sequence

import pytest
import torch
import torch.nn.functional as F
from cost_helpers import Captured, Wrapped, kept_by_autograd
from torch import Tensor, nn

from ridgeline import zoo
from ridgeline.cost import OPTIMIZERS, MemoryProfile, Part, Recompute, work_of
from ridgeline.cost.memory import memory_profile
from ridgeline.cost.op_cost import total
from ridgeline.frontends.torch_export import capture
from ridgeline.graph import Graph, Phase
from ridgeline.zoo import Sizes


def profile(graph: Graph, recompute: Recompute = Recompute.NONE) -> MemoryProfile:
    return memory_profile(graph, work_of(graph, recompute=recompute), optimizer=OPTIMIZERS["adamw"])


def graph_of(function: Callable[..., Tensor], inputs: Sequence[Tensor], *weights: Tensor) -> Graph:
    return capture(Wrapped(function, *weights), inputs, is_trusted=True)


def test_three_nodes() -> None:
    graph = graph_of(
        lambda x, a, b: F.linear(F.relu(F.linear(x, a)), b),
        [torch.ones(4, 8)], torch.ones(16, 8), torch.ones(2, 16),
    )  # fmt: skip
    found = profile(graph)
    assert (found.weight_bytes, found.input_bytes) == (512 + 128, 128)
    # (4, 16) is 256 bytes, (4, 2) is 32: the hidden value; it and its relu; the relu and the result
    assert [nbytes - 768 for _, nbytes in found.curve] == [256, 512, 288]
    assert (found.peak_bytes, found.peak_at) == (768 + 512, "relu")
    assert found.activation_bytes == 512
    assert {t.nbytes for t in found.live_at_peak if t.what == "activation"} == {256}


def test_a_residual_is_held_until_it_is_added() -> None:
    def residual(x: Tensor) -> Tensor:
        skip = x.exp()
        return skip + skip.sin().cos()

    found = profile(graph_of(residual, [torch.ones(4, 8)]))
    # exp; exp, sin; exp, sin, cos; exp, cos, sum
    assert [nbytes - 128 for _, nbytes in found.curve] == [128, 256, 384, 384]


def test_views_take_no_memory_and_keep_their_source() -> None:
    def viewed(x: Tensor) -> Tensor:
        hidden = x.exp()
        first, second = hidden.view(2, 16).chunk(2)
        return first.sin() + second

    found = profile(graph_of(viewed, [torch.ones(4, 8)]))
    by_name = dict(found.curve)
    assert by_name["view"] == by_name["exp"] == 256
    assert by_name["sin"] == 128 + 128 + 64
    assert by_name["add"] == 128 + 128 + 64 + 64


class Cache(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("cache", torch.zeros(2, 64, 8))

    def forward(self, x: Tensor) -> Tensor:
        self.cache[:, 5:6] = x
        return self.cache.repeat(3, 1, 1).sum(-1)


def test_a_cache_is_updated_in_place_but_a_copy_of_it_is_not() -> None:
    found = profile(capture(Cache(), [torch.ones(2, 1, 8)], is_trusted=True))
    assert found.cache_bytes == 2 * 64 * 8 * 4
    by_op = {name.split("_")[0]: nbytes for name, nbytes in found.curve}
    assert by_op["repeat"] - found.persistent_bytes == 3 * found.cache_bytes
    assert by_op["sum"] - found.persistent_bytes == 3 * found.cache_bytes + 6 * 64 * 4


class ConvNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.conv2, self.bn2 = nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.pool, self.head = nn.MaxPool2d(2), nn.Linear(8, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(F.relu(self.bn1(self.conv1(x))))
        x = F.relu(self.bn2(self.conv2(x)) + x)
        return F.cross_entropy(self.head(x.mean((2, 3))), torch.zeros(x.shape[0]).long())


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(32), nn.LayerNorm(32)
        self.qkv, self.out = nn.Linear(32, 96), nn.Linear(32, 32)
        self.up, self.down = nn.Linear(32, 128), nn.Linear(128, 32)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(self.norm1(x)).view(*x.shape[:2], 3, 4, 8).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(y.transpose(1, 2).flatten(2))
        return (x + self.down(F.gelu(self.up(self.norm2(x))))).square().mean()


def zoo_model(name: str, sizes: Sizes) -> tuple[nn.Module, tuple[Tensor, ...]]:
    workload = zoo.get(name)
    return workload.forms["forward"](workload.build().train(), sizes)


# name -> (model, inputs), and how far apart the two may be: what torch keeps beyond the formula
TRAINED: dict[str, tuple[Callable[[], tuple[nn.Module, tuple[Tensor, ...]]], float]] = {
    "convolutions": (lambda: (ConvNet(), (torch.randn(4, 3, 16, 16),)), 0.001),
    "transformer block": (lambda: (Block(), (torch.randn(2, 64, 32),)), 0.001),
    # rms_norm is a composite on the CPU and keeps its steps; a GPU keeps input and statistics
    "llama-tiny": (lambda: zoo_model("llama-tiny", Sizes(batch=1, seq=64)), 0.12),
    "mobilenetv3-large": (lambda: zoo_model("mobilenetv3-large", Sizes(batch=2, seq=64)), 0.002),
    "deepadipose": (lambda: zoo_model("deepadipose", Sizes(batch=64)), 0.001),
}


@pytest.mark.parametrize("name", TRAINED)
def test_saved_bytes_are_what_autograd_keeps(name: str) -> None:
    make, tolerance = TRAINED[name]
    model, inputs = make()
    graph = capture(model, inputs, phase=Phase.TRAIN, is_trusted=True)
    predicted = profile(graph).saved_bytes
    held = [*model.parameters(), *model.buffers(), *inputs]
    actual = kept_by_autograd(lambda: model(*inputs), held)
    assert predicted == pytest.approx(actual, rel=tolerance), (predicted / actual, actual)


def test_training_holds_weights_gradients_and_moments() -> None:
    graph = capture(Block(), [torch.randn(2, 64, 32)], phase=Phase.TRAIN, is_trusted=True)
    found, weights = profile(graph), 4 * graph.parameters
    assert found.weight_bytes == found.gradient_bytes == weights
    assert found.optimizer_bytes == 2 * weights
    assert found.peak_bytes >= found.persistent_bytes + found.saved_bytes


@pytest.mark.parametrize("is_folded", [False, True])
def test_recomputation_keeps_layer_inputs_and_runs_each_layer_once_more(
    is_folded: bool, captured: Captured
) -> None:
    graph = captured("llama-tiny", "train", is_folded)
    works = work_of(graph, recompute=Recompute.FULL)
    again = total(w.cost.times(w.repeat) for w in works if w.part is Part.RECOMPUTE)
    inside = [w for w in works if w.part is Part.FORWARD and ".layers." in f".{w.module}."]
    once = total(w.cost.times(w.repeat) for w in inside)
    assert again.flops == 0  # useful work stays what it was
    assert again.executed_flops == once.executed_flops > 0
    assert again.nbytes == once.nbytes
    kept, all_kept = profile(graph, Recompute.FULL), profile(graph)
    assert kept.saved_bytes < all_kept.saved_bytes / 4
    assert kept.peak_bytes < all_kept.peak_bytes


def test_recomputation_comes_right_before_its_layers_backward(captured: Captured) -> None:
    works = work_of(captured("llama-tiny", "train", False), recompute=Recompute.FULL)
    layers = [w.module.split("layers.")[1][0] for w in works if w.part is Part.RECOMPUTE]
    assert layers == sorted(layers, reverse=True)  # the last layer first, each in forward order
    last = next(i for i, w in enumerate(works) if w.part is Part.RECOMPUTE)
    assert works[last - 1].part is Part.BACKWARD  # of the head, which is no layer


@pytest.mark.parametrize("name", ["llama-tiny", "mixtral-tiny", "bert-base", "gpt2"])
@pytest.mark.parametrize("phase", ["forward", "train"])
def test_the_curve_stays_above_what_is_always_held(
    name: str, phase: str, captured: Captured
) -> None:
    graph = captured(name, phase)
    found = profile(graph)
    assert min(nbytes for _, nbytes in found.curve) >= found.persistent_bytes
    assert found.peak_bytes == max(nbytes for _, nbytes in found.curve)
    assert sum(t.nbytes for t in found.live_at_peak) == found.peak_bytes
    if phase == "forward":
        returned = sum(graph.specs[ref].nbytes for ref in graph.outputs)
        assert found.curve[-1][1] >= found.persistent_bytes + returned


def test_no_gradient_flows_through_detach() -> None:
    class Stopped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(4, 8), nn.Linear(8, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.second(self.first(x).detach())

    graph = capture(Stopped(), (torch.randn(3, 4),), phase=Phase.TRAIN)
    backward = [w for w in work_of(graph) if w.part is Part.BACKWARD]
    assert [w.module for w in backward if w.cost.flops] == ["second"]
    assert sum(w.cost.flops for w in backward) == 2 * 3 * 8 * 2  # the weight's gradient alone
