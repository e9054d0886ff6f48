"""The four networks written in Keras are those written in torch: one normal form, one digest."""

from pathlib import Path

import pytest
import torch
from keras_oracle import saved  # first of what imports keras: it says what is missing
from networks import NETWORKS
from torch import Tensor, nn
from twins import ROWS, TWINS

from ridgeline.backends.agreement import compare
from ridgeline.backends.reference import Reference
from ridgeline.frontends.keras import KerasModule, opened
from ridgeline.frontends.torch_export import capture
from ridgeline.graph import Graph
from ridgeline.passes.normal import normal_form

MAX_ERROR = 1e-5


def network(name: str) -> tuple[nn.Module, tuple[Tensor, ...]]:
    """The module and its inputs, of a size that Keras pads as torch does."""
    model, inputs = NETWORKS[name]()
    return model, (torch.randn(2, 3, 65, 65),) if name == "resnet18" else inputs


def from_keras(path: Path, inputs: tuple[Tensor, ...]) -> Graph:
    with opened(path, ROWS) as (model, store):
        module = KerasModule(model, store, "cpu")
        module.prepare(*inputs)
    return capture(module.eval(), inputs, is_trusted=True)


@pytest.mark.parametrize("name", NETWORKS)
def test_written_in_keras_is_the_same_network(name: str, tmp_path: Path) -> None:
    model, inputs = network(name)
    graph = capture(model, inputs, is_trusted=True)
    other = from_keras(saved(TWINS[name](model), tmp_path), inputs)
    assert other.digest != graph.digest, "or there is nothing to show"
    found = normal_form(other)
    expected, outputs = (Reference().compile(g)(*inputs) for g in (graph, found))
    assert compare(expected, outputs).max_error < MAX_ERROR
    assert found.digest == normal_form(graph).digest
