"""The interpreter: the program's own values bit for bit, in the fewest live tensors."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from ridgeline import zoo
from ridgeline.errors import GraphError
from ridgeline.frontends import capture
from ridgeline.graph import Graph
from ridgeline.profile import Interpreter, measure
from ridgeline.profile.interpret import StepKind
from ridgeline.zoo.workload import Sizes


class Split(nn.Module):
    """Several outputs of one op, some unread, one returned."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        first, _, third = torch.split(x, 2, dim=1)
        values, places = torch.topk(first * third, 1)
        return values, torch.cat([places, places + 1], 1)


class Branch(nn.Module):
    """A branch taken at run time."""

    def forward(self, x: Tensor) -> Tensor:
        def up(y: Tensor) -> Tensor:
            return y.sin() * 2

        def down(y: Tensor) -> Tensor:
            return y + 1

        found: Tensor = torch.cond(x.sum() > 0, up, down, (x,))
        return found.relu()


class Counter(nn.Module):
    """State that every run changes."""

    seen: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("seen", torch.zeros(3))

    def forward(self, x: Tensor) -> Tensor:
        self.seen.add_(x)
        return self.seen * 2


def recurrent() -> Graph:
    lstm = nn.LSTM(4, 5, num_layers=2, bidirectional=True).eval()
    return capture(lstm, (torch.randn(7, 2, 4),))


def workload(name: str, phase: str = "forward", dtype: torch.dtype = torch.float32) -> Graph:
    entry = zoo.get(name)
    module, inputs = entry.forms[phase](entry.build(), Sizes())
    inputs = tuple(x.to(dtype) if x.is_floating_point() else x for x in inputs)
    return capture(module.to(dtype), inputs, name=name, is_trusted=True)


CASES: dict[str, Callable[[], Graph]] = {
    "several outputs": lambda: capture(Split(), (torch.randn(3, 6),)),
    "lstm": recurrent,
    "branch up": lambda: capture(Branch(), (torch.ones(4),)),
    "branch down": lambda: capture(Branch(), (-torch.ones(4),)),
    "state": lambda: capture(Counter(), (torch.randn(3),)),
    "kv cache": lambda: workload("llama-tiny", "decode"),
    "bf16": lambda: workload("llama-tiny", "prefill", torch.bfloat16),
    "mlp": lambda: workload("deepadipose"),
    "experts": lambda: workload("mixtral-tiny"),
}


@pytest.mark.parametrize("case", CASES)
def test_values_are_the_modules_own(case: str) -> None:
    graph = CASES[case]()
    interpreter = Interpreter(graph)
    with torch.inference_mode():
        found = interpreter.run()
        args, kwargs = graph.program.example_inputs
        whole = graph.program.module(check_guards=False)(*args, **kwargs)
    expected = [t for t in torch.utils._pytree.tree_leaves(whole) if isinstance(t, Tensor)]
    assert len(found) == len(expected) > 0
    for ours, theirs in zip(found, expected, strict=True):
        assert torch.equal(ours, theirs)


def test_every_node_of_the_graph_is_a_step_in_order() -> None:
    graph = workload("llama-tiny", "decode")
    steps = [s.name for s in Interpreter(graph).steps if s.kind is StepKind.NODE]
    assert steps == [node.name for node in graph.nodes]


def test_running_changes_the_interpreters_state_alone() -> None:
    graph = capture(Counter(), (torch.ones(3),))
    interpreter = Interpreter(graph)
    with torch.inference_mode():
        first, second = interpreter.run(), interpreter.run()
    assert first[0].tolist() == [2.0] * 3
    assert second[0].tolist() == [4.0] * 3
    assert graph.program.state_dict["seen"].tolist() == [0.0] * 3
    measure(graph, repeats=1)
    assert graph.program.state_dict["seen"].tolist() == [0.0] * 3


def test_inputs_of_ones_own_are_used_and_checked() -> None:
    graph = capture(nn.Linear(3, 2), (torch.zeros(4, 3),))
    x = torch.randn(4, 3)
    with torch.inference_mode():
        (found,) = Interpreter(graph, [x]).run()
    weight, bias = (graph.program.state_dict[name] for name in ("weight", "bias"))
    assert torch.equal(found, nn.functional.linear(x, weight, bias))
    with pytest.raises(GraphError, match="must be"):
        Interpreter(graph, [torch.zeros(5, 3)])


def test_a_description_does_not_run() -> None:
    layers = nn.Sequential(*(nn.Linear(4, 4) for _ in range(5)))
    folded = capture(layers, (torch.zeros(2, 4),), fold_layers=True)
    assert folded.repeats
    with torch.device("meta"):
        weightless = capture(nn.Linear(4, 4), (torch.zeros(2, 4),))
    for graph in (folded, weightless):
        with pytest.raises(GraphError, match=r"capture it with real weights"):
            measure(graph)
