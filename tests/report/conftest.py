"""A machine with round numbers and a graph small enough to count by hand."""

import pytest
import torch
from torch import nn

from ridgeline.cost import estimate
from ridgeline.cost.advice import advise
from ridgeline.frontends import capture
from ridgeline.graph import Graph
from ridgeline.machines import Machine, Memory, Rate
from ridgeline.report.reading import Reading, read


class Block(nn.Module):
    """A product, then a sum with its input and a ReLU."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(1024, 1024, bias=False)

    def forward(self, x_BD: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.linear(x_BD) + x_BD)


def tiny_model() -> nn.Module:
    """Three blocks alike."""
    return nn.Sequential(Block(), Block(), Block()).eval()


@pytest.fixture
def machine() -> Machine:
    """10 TFLOP/s and 1 TB/s achievable, 20 TFLOP/s and 2 TB/s by the datasheet, 1 µs a kernel."""
    rate = Rate(
        flops_per_s=20e12, source="test", achievable_flops_per_s=10e12, achievable_source="test"
    )
    half = Rate(
        flops_per_s=40e12, source="test", achievable_flops_per_s=20e12, achievable_source="test"
    )
    return Machine(
        id="round",
        name="Round 1",
        vendor="Test",
        arch="none",
        kind="gpu",
        match="Round",
        memory=Memory(
            name="RAM",
            bandwidth_bytes_per_s=2e12,
            source="test",
            capacity_bytes=2**30,
            achievable_bandwidth_bytes_per_s=1e12,
            achievable_source="test",
        ),
        launch_overhead_s=1e-6,
        dispatch_overhead_s=5e-6,
        overhead_source="test",
        confidence="user",
        source="test",
        matrix={"fp32": rate, "bf16": half},
        vector={"fp32": rate},
    )


@pytest.fixture(scope="session")
def graph() -> Graph:
    """The tiny model at a batch of 4096, layers folded."""
    with torch.device("meta"):
        model, x_BD = tiny_model(), torch.randn(4096, 1024)
    return capture(model, (x_BD,), fold_layers=True, is_trusted=True, name="tiny")


@pytest.fixture
def reading(graph: Graph, machine: Machine) -> Reading:
    """What `inspect` makes of it."""
    run = estimate(graph, machine)
    return read("tiny.py:model", graph, run, advise(graph, run))
