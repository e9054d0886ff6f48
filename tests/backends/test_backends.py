"""Each backend against the reference, and the reference against the module itself."""

import contextlib
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from backend_suite import BackendSuite
from small_models import MODELS
from torch.utils._pytree import tree_leaves

from ridgeline.backends.agreement import compare
from ridgeline.backends.aoti import Aoti
from ridgeline.backends.eager import Eager
from ridgeline.backends.environment import compiling
from ridgeline.backends.inductor import Inductor
from ridgeline.backends.packing import onednn_packing
from ridgeline.backends.reference import Reference
from ridgeline.errors import GraphError
from ridgeline.frontends.torch_export import capture
from ridgeline.graph.flat import check_inputs, example_inputs


class TestReference(BackendSuite):
    make = Reference
    fp32_error = 1e-12

    @pytest.mark.parametrize("name", MODELS)
    def test_it_equals_the_module(self, name: str) -> None:
        model, inputs = MODELS[name]()
        with torch.no_grad():
            expected = [v for v in tree_leaves(model(*inputs)) if isinstance(v, torch.Tensor)]
        found = Reference().compile(capture(model, inputs))(*inputs)
        assert compare(expected, found).max_error < 1e-6


class TestEager(BackendSuite):
    make = Eager


@pytest.mark.slow
class TestInductor(BackendSuite):
    make = Inductor

    def test_weights_are_packed_ahead(self) -> None:
        """An unfrozen graph would call aten's convolution and reorder its weights in each run."""
        model, inputs = MODELS["conv_net"]()
        run = Inductor().compile(capture(model, inputs))
        with torch.profiler.profile() as profile, torch.no_grad():
            run(*inputs)
        names = {event.key for event in profile.key_averages()}
        assert "mkldnn::_convolution_pointwise" in names
        assert "aten::mkldnn_convolution" not in names


@pytest.mark.slow
class TestAoti(BackendSuite):
    make = Aoti


def test_inputs_are_checked() -> None:
    model, (x,) = MODELS["lstm"]()
    graph = capture(model, (x,))
    check_inputs(graph, (x,))
    for wrong, message in (
        ((), r"takes 1 tensors \(x: fp32\[2,3,4\]\), not 0"),
        ((x[:1],), r"input x of graph Lstm is fp32\[1,3,4\]; it must be fp32\[2,3,4\]"),
        ((x.double(),), r"is fp64\[2,3,4\]; it must be fp32"),
        (([1.0],), "input x of graph Lstm is a list, not a tensor"),
    ):
        with pytest.raises(GraphError, match=message):
            check_inputs(graph, wrong)


def test_keyword_inputs_come_in_the_order_of_the_graph() -> None:
    class Difference(torch.nn.Module):
        def forward(self, *, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
            return first - second

    values = {"second": torch.ones(2), "first": torch.full((2,), 5.0)}
    graph = capture(Difference(), (), kwargs=values)
    names = [i.path for i in graph.inputs]
    assert [float(v[0]) for v in example_inputs(graph)] == [float(values[n][0]) for n in names]
    (out,) = Eager().compile(graph)(*example_inputs(graph))
    assert out.tolist() == [4.0, 4.0]


def test_the_packing_patch_leaves_nothing_behind() -> None:
    with compiling():
        from torch._inductor.fx_passes.mkldnn_fusion import CpuMkldnnDeviceOp as Owner

    before = Owner.pack_linear_weight, Owner.pack_linear
    with contextlib.suppress(KeyError), compiling(), onednn_packing():
        inside = Owner.pack_linear_weight, Owner.pack_linear
        raise KeyError
    assert not set(inside) & set(before)
    assert (Owner.pack_linear_weight, Owner.pack_linear) == before


NO_COMPILER = """
import torch
from ridgeline.backends.{module} import {name}
from ridgeline.errors import BackendError
from ridgeline.frontends.torch_export import capture
graph = capture(torch.nn.Linear(2, 2), (torch.randn(1, 2),), is_trusted=True)
try:
    {name}().compile(graph)
except BackendError as error:
    print(error)
"""


@pytest.mark.parametrize(("module", "name"), [("inductor", "Inductor"), ("aoti", "Aoti")])
def test_without_a_compiler_it_says_so(
    module: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, repository: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setenv("PYTHONPATH", str(repository))
    done = subprocess.run(
        [sys.executable, "-c", NO_COMPILER.format(module=module, name=name)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "no C++ compiler" in done.stdout
    assert "install one" in done.stdout
