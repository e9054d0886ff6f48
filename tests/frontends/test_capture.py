"""Capture: composites whole, noise gone, and one clear error for what cannot be a graph."""

import random

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from ridgeline.cost import cost_of, estimate
from ridgeline.errors import CaptureError
from ridgeline.frontends import capture
from ridgeline.graph import verify
from ridgeline.machines import load


class Draws(nn.Module):
    """Draws a number in Python; `how` says with what."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how

    def forward(self, x: Tensor) -> Tensor:
        if self.how == "python":
            return x * random.random()
        if self.how == "numpy":
            return x * float(np.random.rand())
        if self.how == "constant":
            return x * torch.tensor([random.random(), 1.0])
        return torch.roll(x, random.randint(0, 10**6), 0)


@pytest.mark.parametrize("how", ["python", "numpy", "constant", "shift"])
@pytest.mark.parametrize("is_folded", [False, True])
def test_python_randomness_is_an_error(how: str, is_folded: bool) -> None:
    model = nn.Sequential(Draws(how), nn.Linear(2, 2), nn.Linear(2, 2))
    with pytest.raises(CaptureError, match="exports differently each time"):
        capture(model, (torch.ones(3, 2),), fold_layers=is_folded)


def test_torch_randomness_is_part_of_the_graph() -> None:
    graph = capture(nn.Dropout(0.5).train(), (torch.ones(3),))
    assert [n.op for n in graph.nodes] == ["native_dropout"]


def test_a_data_dependent_branch_is_an_error_without_a_dump(
    capfd: pytest.CaptureFixture[str],
) -> None:
    class Branch(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x + 1 if x.sum() > 0 else x - 1

    with pytest.raises(CaptureError, match=r"Branch does not export: .*\n.*torch\.cond"):
        capture(Branch(), (torch.ones(3),))
    out, err = capfd.readouterr()
    assert (out, err) == ("", "")


def test_a_data_dependent_size_is_an_error() -> None:
    class NonZero(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.nonzero()

    with pytest.raises(CaptureError, match="depends on data"):
        capture(NonZero(), (torch.ones(3),))


def test_a_number_made_from_data_is_no_tensor() -> None:
    class Scale(nn.Module):
        def forward(self, x: Tensor) -> tuple[float, Tensor, Tensor]:
            most = x.max().item()
            return most * 2.0, x * most, x < most

    graph = capture(Scale(), (torch.ones(3),))
    verify(graph)
    assert [n.op for n in graph.nodes] == ["max", "mul", "lt"]
    assert [str(ref) for ref in graph.outputs] == ["%mul_1", "%lt"]
    assert sum(cost_of(node).read_bytes for node in graph.nodes) == 3 * 12  # x, three times
    assert estimate(graph, load("H100")).totals.time_s > 0
    assert "item" in str(graph)


def test_names_that_no_program_can_be_written_with_are_an_error() -> None:
    model = nn.Sequential()
    model.add_module("a'\"b", nn.Linear(2, 2))
    with pytest.raises(CaptureError, match="Sequential does not export"):
        capture(model, (torch.ones(3, 2),))


def test_cond_is_captured_with_both_branches() -> None:
    class Exit(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.cond(x.sum() > 0, lambda y: y.sin() * 2, lambda y: y + 1, (x,))

    graph = capture(Exit(), (torch.ones(3),))
    (cond,) = (n for n in graph.nodes if n.op == "cond")
    assert [[n.op for n in branch] for branch in cond.branches] == [["sin", "mul"], ["add"]]


def test_lstm_stays_one_node() -> None:
    graph = capture(nn.LSTM(4, 8, num_layers=2, bidirectional=True).eval(), (torch.ones(9, 2, 4),))
    assert [n.op for n in graph.nodes if n.row.category.value == "recurrent"] == ["lstm"]
    assert len(graph.nodes) < 10


def test_writes_in_place_become_functional() -> None:
    class Writes(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            y = x.clone()
            y[0].mul_(2)
            return y.relu_()

    x = torch.tensor([[-1.0], [2.0]])
    graph = capture(Writes(), (x,))
    verify(graph)
    torch.testing.assert_close(graph.program.module()(x), Writes()(x.clone()))


def test_noise_is_removed_and_values_stay() -> None:
    class Noisy(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            torch._assert(x.shape[0] == 2, "two rows")
            y = x.clone().detach().to(torch.float32).contiguous() + torch.tensor(3.0)
            return y.reshape(2, 3).expand(2, 3).mul(2)

    x = torch.randn(2, 3)
    graph = capture(Noisy().eval(), (x,))
    assert [n.op for n in graph.nodes] == ["add", "mul"]
    torch.testing.assert_close(graph.program.module()(x), Noisy()(x))


def test_copies_that_change_something_stay() -> None:
    class Copies(nn.Module):
        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return x.to(torch.bfloat16), x.t().contiguous()

    assert [n.op for n in capture(Copies(), (torch.ones(2, 3),)).nodes] == [
        "copy",
        "permute",
        "clone",
    ]


def test_an_input_is_never_returned_as_itself() -> None:
    class Same(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.clone()

    graph = capture(Same(), (torch.ones(2),))
    assert [n.op for n in graph.nodes] == ["clone"]


def test_meta_tensors_are_enough() -> None:
    with torch.device("meta"):
        graph = capture(nn.Linear(10**6, 10**6), (torch.ones(1, 10**6),))
    assert graph.parameters == 10**12 + 10**6
    assert not graph.is_runnable
