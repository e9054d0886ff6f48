"""The peers: other people's compilers, from the same graph, with the same answers."""

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

import msgspec
import pytest
import torch
from backend_suite import BackendSuite, branch
from small_models import MODELS
from tiny_zoo import ZOO, tiny
from torch import Tensor, nn

from ridgeline.backends.agreement import compare
from ridgeline.backends.backend import Backend, Dtype
from ridgeline.backends.mlir.torch_mlir import INPUT_TYPES
from ridgeline.backends.onnxruntime import OnnxRuntime, require_own_files
from ridgeline.backends.openvino import OpenVino
from ridgeline.backends.reference import Reference
from ridgeline.backends.registry import TOLERANCES
from ridgeline.backends.stateless import has_attention, stateless
from ridgeline.backends.torchao import Torchao
from ridgeline.backends.tosa import OWN, ROUTE, WEIGHTS, Iree, Route
from ridgeline.errors import BackendError, MissingExtra
from ridgeline.frontends.torch_export import capture
from ridgeline.graph import Graph, InputKind
from ridgeline.graph.flat import example_inputs


def needs(backend: type[Backend]) -> pytest.MarkDecorator:
    """Skips where the backend's extra is not installed, with the sentence that names it."""
    try:
        backend.require(backend.dtypes[0])
    except MissingExtra as error:
        return pytest.mark.skip(reason=str(error))
    return pytest.mark.skipif(False, reason="")


class Peer(BackendSuite):
    """Every backend's suite, the zoo, and the files that it keeps."""

    quantizes: ClassVar[bool] = True

    @pytest.mark.parametrize("name", ZOO)
    def test_the_zoo_agrees(self, name: str) -> None:
        graph, inputs = tiny(name)
        found = type(self).make().compile(graph)(*inputs)
        assert compare(Reference().compile(graph)(*inputs), found).max_error < self.fp32_error

    @pytest.mark.parametrize("name", ["resnet", "vit", "llama"])
    def test_the_zoo_agrees_in_int8(self, name: str) -> None:
        if not self.quantizes:
            pytest.skip("has no int8")
        agrees_in_int8(type(self).make(), name)

    def test_what_it_keeps_is_the_same_model(self, tmp_path: Path) -> None:
        graph, inputs = tiny("mlp")
        backend = type(self).make()
        folder = tmp_path / "kept"
        folder.mkdir()
        run = backend.compile(graph, keep=folder)
        assert {p.name for p in folder.iterdir()} <= set(backend.files)
        again = backend.load(graph, folder, "fp32")
        assert compare(run(*inputs), again(*inputs)).max_error == 0

    def test_each_call_has_outputs_of_its_own(self) -> None:
        graph, (x,) = tiny("mlp")
        run = type(self).make().compile(graph)
        (first,) = run(x)
        kept = first.clone()
        (second,) = run(2 * x)
        assert torch.equal(first, kept)
        assert not torch.equal(first, second)


def agrees_in_int8(backend: Backend, name: str) -> None:
    graph, inputs = tiny(name)
    with torch.no_grad():
        found = backend.compile(graph, "int8", calibration=[inputs])(*inputs)
    error = compare(Reference().compile(graph)(*inputs), found).max_error
    assert 1e-4 < error < TOLERANCES["int8"]


@needs(OpenVino)
class TestOpenVino(Peer):
    make = OpenVino


@needs(OnnxRuntime)
class TestOnnxRuntime(Peer):
    make = OnnxRuntime
    bf16_refusals: ClassVar[Mapping[str, str]] = dict.fromkeys(
        ("conv_net", "block"), "does not compute in bf16"
    )


@needs(Iree)
@pytest.mark.slow
class TestIree(Peer):
    make = Iree
    quantizes = False
    # IREE 3.13 makes invalid code of some bf16 products
    bf16_refusals: ClassVar[Mapping[str, str]] = {"block": "no route to IREE takes it"}

    def test_bf16_where_iree_has_it(self) -> None:
        graph, inputs = tiny("mlp")
        found = Iree().compile(graph, "bf16")(*inputs)
        expected = Reference().compile(graph)(*inputs)
        assert 1e-5 < compare(expected, found).max_error < TOLERANCES["bf16"]

    def test_a_data_dependent_branch_and_a_written_buffer(self) -> None:
        """No branches: the reason of every route is told."""
        with pytest.raises(BackendError, match=r"no route to IREE .*\(ridgeline: .*; tosa: "):
            Iree().compile(branch())


@needs(Iree)
def test_iree_keeps_its_route_and_the_reasons_of_the_others(tmp_path: Path) -> None:
    pytest.importorskip("torch_mlir", reason="torch-mlir is not installed")
    x = torch.randn(3, 4)
    graph = capture(Summed().eval(), (x,))  # our tables have no row for its running sum
    run = Iree().compile(graph, keep=tmp_path)
    assert compare(Reference().compile(graph)(x), run(x)).max_error < 1e-5
    route = msgspec.json.decode((tmp_path / ROUTE).read_bytes(), type=Route)
    assert route.taken in INPUT_TYPES
    assert route.refused[OWN] == (
        "no lowering for aten.cumsum.default (node cumsum): the table has no row for it"
    )
    assert not (tmp_path / WEIGHTS).exists()


@needs(Iree)
def test_iree_takes_our_own_module_first(tmp_path: Path) -> None:
    graph, _ = tiny("mlp")
    Iree().compile(graph, keep=tmp_path)
    route = msgspec.json.decode((tmp_path / ROUTE).read_bytes(), type=Route)
    assert route == Route(taken=OWN, refused={})
    assert (tmp_path / WEIGHTS).stat().st_size > sum(
        i.nbytes for i in graph.inputs if i.kind is not InputKind.INPUT
    )


@needs(Iree)
def test_iree_without_torch_mlir_says_what_its_own_tables_lack(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from ridgeline.backends import tosa

    monkeypatch.setattr(tosa, "find_spec", lambda name: None)
    reasons = r"\(ridgeline: no lowering for aten.cumsum.* torch-mlir: it is not installed: pip"
    with pytest.raises(BackendError, match=reasons):
        Iree().compile(capture(Summed().eval(), (torch.randn(3, 4),)))


class Summed(nn.Module):
    """A running sum."""

    def forward(self, x: Tensor) -> Tensor:
        return x.cumsum(1) * 2


@needs(Torchao)
@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnet", "mlp", "llama"])
def test_torchao_agrees_in_int8(name: str) -> None:
    agrees_in_int8(Torchao(), name)


@needs(Torchao)
def test_torchao_says_where_there_is_nothing_to_quantise() -> None:
    graph, inputs = tiny("conv3d")
    with pytest.raises(BackendError, match="finds nothing in it to quantise"):
        Torchao().compile(graph, "int8", calibration=[inputs])


@pytest.mark.parametrize(
    "backend", [pytest.param(b, marks=needs(b)) for b in (OpenVino, OnnxRuntime, Torchao)]
)
def test_int8_without_calibration_is_refused(backend: type[Backend]) -> None:
    graph, _ = tiny("mlp")
    with pytest.raises(BackendError, match="takes its ranges from calibration inputs"):
        backend().compile(graph, "int8")


@pytest.mark.parametrize("backend", [OpenVino, OnnxRuntime, Torchao, Iree])
def test_a_missing_extra_is_named(backend: type[Backend], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backend, "modules", ("no_such_module.inner",))
    graph, inputs = tiny("mlp")
    dtype: Dtype = backend.dtypes[0]
    with pytest.raises(MissingExtra, match=rf"pip install 'ridgeline\[{backend.extra}\]'\.$"):
        backend().compile(graph, dtype, calibration=[inputs])


@pytest.mark.parametrize(
    ("backend", "dtype"), [(OnnxRuntime, "bf16"), (Iree, "int8"), (Torchao, "fp32")]
)
def test_a_dtype_that_it_lacks_is_refused(backend: type[Backend], dtype: Dtype) -> None:
    with pytest.raises(BackendError, match=f"{backend.name} does not compute in {dtype}"):
        backend().compile(tiny("mlp")[0], dtype)


class Passing(nn.Module):
    """Returns an input, a weight, and one value twice."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(3))

    def forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, ...]:
        total = x + y
        return y, total, self.weight, total


def test_the_stateless_form_computes_each_value_once() -> None:
    inputs = (torch.randn(3), torch.randn(3))
    graph = capture(Passing().eval(), inputs)
    form = stateless(graph)
    assert len(form.results) == 1
    found = form.runnable(lambda values: form.module(*values))(*inputs)
    expected = Reference().compile(graph)(*inputs)
    assert compare(expected, found).max_error == 0
    found[0].zero_()
    assert inputs[1].abs().sum() > 0


class Memory(nn.Module):
    """Counts in a buffer, and writes into its input."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("count", torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        self.count.add_(1)
        x.mul_(2)
        return x + self.count


def test_the_stateless_form_keeps_the_state() -> None:
    graph = capture(Memory().eval(), (torch.ones(2),))
    form = stateless(graph)
    run = form.runnable(lambda values: form.module(*values))
    reference = Reference().compile(graph)
    for _ in range(3):
        given, wanted = torch.ones(2), torch.ones(2)
        assert torch.equal(run(given)[0], reference(wanted)[0])
        assert torch.equal(given, wanted)
    assert torch.equal(graph.program.state_dict["count"], torch.zeros(1))


def test_what_the_stateless_form_cannot_be_is_told() -> None:
    linear = nn.Linear(3, 2).eval()
    batch = torch.export.Dim("batch", min=2, max=8)
    program = torch.export.export(linear, (torch.randn(4, 3),), dynamic_shapes=({0: batch},))
    with pytest.raises(BackendError, match="dynamic shapes; capture it at one size"):
        stateless(Graph(name="dynamic", program=program))
    with pytest.raises(BackendError, match="computes nothing"):
        stateless(capture(nn.Identity().eval(), (torch.randn(2),)))


def test_attention_is_seen_whole_and_written_out() -> None:
    assert [has_attention(tiny(n)[0]) for n in ("vit", "resnet", "mlp")] == [True, False, False]
    model, inputs = MODELS["block"]()
    assert has_attention(capture(model, inputs))


@needs(OnnxRuntime)
def test_an_onnx_file_that_reads_others_is_refused(tmp_path: Path) -> None:
    import onnx

    graph, _ = tiny("mlp")
    OnnxRuntime().compile(graph, keep=tmp_path)
    path = tmp_path / "model.onnx"
    model = onnx.load(path, load_external_data=False)
    require_own_files(path)
    tensor = next(t for t in model.graph.initializer if t.external_data)
    for elsewhere in ("../../etc/passwd", "/etc/passwd"):
        next(e for e in tensor.external_data if e.key == "location").value = elsewhere
        path.write_bytes(model.SerializeToString())
        with pytest.raises(BackendError, match=f"reads '{elsewhere}'; refusing it"):
            OnnxRuntime().load(graph, tmp_path, "fp32")
    path.write_bytes(b"\x08nonsense")
    with pytest.raises(BackendError, match="is no ONNX model"):
        require_own_files(path)


SILENT = """
import sys, torch
from ridgeline.backends.openvino import OpenVino
from ridgeline.frontends.torch_export import capture
OpenVino().compile(capture(torch.nn.Linear(2, 2).eval(), (torch.randn(1, 2),)))
import nncf
print(sys.modules["openvino_telemetry"])
"""


@needs(OpenVino)
def test_openvino_does_not_report_its_use(home: Path, repository: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", SILENT],
        env={**os.environ, "PYTHONPATH": str(repository)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.splitlines()[-1] == "None"
    assert not (home / "intel").exists()


def test_example_inputs_of_the_tiny_zoo_are_those_given() -> None:
    graph, inputs = tiny("bert")
    assert all(torch.equal(a, b) for a, b in zip(example_inputs(graph), inputs, strict=True))
