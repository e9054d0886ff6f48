"""Captures shared by the cost tests: each workload and phase is exported once per session."""

from functools import lru_cache

import pytest
import torch
from cost_helpers import Captured

from ridgeline import zoo
from ridgeline.frontends.torch_export import capture
from ridgeline.graph import Graph, Phase


@pytest.fixture(scope="session")
def captured() -> Captured:
    """(name, phase, is_folded) -> the workload's graph at the sizes of its published facts."""

    @lru_cache
    def make(name: str, phase: str = "forward", is_folded: bool = True) -> Graph:
        workload = zoo.get(name)
        form = workload.forms["forward" if phase == "train" else phase]
        with torch.device("meta"):
            model = workload.build().train(phase == "train")
            module, inputs = form(model, workload.facts.sizes)
        return capture(
            module, inputs, name=name, phase=Phase(phase), fold_layers=is_folded, is_trusted=True
        )

    return make
