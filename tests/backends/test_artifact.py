"""The `.ridge` file: a round trip without the model's source, and every way it can be bad."""

import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
import torch
from results import chosen
from torch import Tensor

from ridgeline.backends import artifact
from ridgeline.backends.agreement import compare
from ridgeline.backends.aoti import PACKAGE, Aoti
from ridgeline.backends.artifact import load, save
from ridgeline.backends.backend import Backend, Dtype
from ridgeline.backends.eager import Eager
from ridgeline.backends.onnxruntime import OnnxRuntime
from ridgeline.backends.openvino import OpenVino
from ridgeline.backends.reference import Reference
from ridgeline.backends.registry import TOLERANCES
from ridgeline.backends.seal import key_path
from ridgeline.errors import BackendError, GraphError


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    path = tmp_path / "model.ridge"
    save(chosen("many_outputs"), path)
    return path


FRESH = """
import sys, torch
from ridgeline.backends.artifact import load
loaded = load(sys.argv[1])
inputs = torch.load(sys.argv[2], weights_only=True)
torch.save([o.clone() for o in loaded(*inputs)], sys.argv[3])
print(loaded.backend, loaded.note)
"""


def in_a_fresh_process(path: Path, inputs: tuple[Tensor, ...]) -> tuple[list[Tensor], str]:
    """The outputs of a saved model in a process that has never seen its source."""
    given, outputs = path.with_suffix(".in"), path.with_suffix(".out")
    torch.save(list(inputs), given)
    paths = [p for p in sys.path if "tests" not in Path(p).parts]
    done = subprocess.run(
        [sys.executable, "-c", FRESH, str(path), str(given), str(outputs)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(p or "." for p in paths)},
        capture_output=True,
        text=True,
        check=True,
    )
    return torch.load(outputs, weights_only=True), done.stdout.strip()


def test_a_saved_model_runs_in_a_fresh_process(saved: Path) -> None:
    result = chosen("many_outputs")
    inputs = (torch.randn(3, 4),)
    save(result, saved)
    expected = Reference().compile(result.graph)(*inputs)
    found, words = in_a_fresh_process(saved, inputs)
    assert words == "eager None"
    assert compare(expected, found).max_error < 1e-6


@pytest.mark.slow
def test_native_code_is_saved_loaded_and_replaced_where_it_does_not_fit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = chosen("conv_net", backend="aoti")
    inputs = (torch.randn(2, 3, 8, 8),)
    Aoti().compile(result.graph, keep=tmp_path)
    result = replace(result, files={PACKAGE: (tmp_path / PACKAGE).read_bytes()})
    path = tmp_path / "model.ridge"
    save(result, path)
    expected = Reference().compile(result.graph)(*inputs)
    found, words = in_a_fresh_process(path, inputs)
    assert words == "aoti None"
    assert compare(expected, found).max_error < 1e-5
    monkeypatch.setattr(artifact, "cpu_flags", lambda: ())
    moved = load(path)
    assert moved.backend == "aoti"
    assert moved.note is not None
    assert moved.note.startswith("compiled anew by aoti: this processor lacks ")
    assert compare(expected, moved(*inputs)).max_error < 1e-5


@pytest.mark.parametrize(("backend", "dtype"), [(OpenVino, "bf16"), (OnnxRuntime, "int8")])
def test_what_is_data_loads_as_it_is_whoever_wrote_it(
    backend: type[Backend], dtype: Dtype, tmp_path: Path
) -> None:
    pytest.importorskip(backend.modules[0])
    result, inputs = chosen("many_outputs", backend=backend.name), (torch.randn(3, 4),)
    backend().compile(result.graph, dtype, keep=tmp_path, calibration=[inputs])
    files = {n: (tmp_path / n).read_bytes() for n in backend.files if (tmp_path / n).exists()}
    best = replace(result.best, dtype=dtype)
    path = tmp_path / "model.ridge"
    save(replace(result, best=best, files=files), path)
    key_path().unlink()
    found, words = in_a_fresh_process(path, inputs)
    assert words == f"{backend.name} None"
    expected = Reference().compile(result.graph)(*inputs)
    assert 0 < compare(expected[:2], found[:2]).max_error < TOLERANCES[dtype]


def test_what_does_not_load_is_compiled_anew_or_refused(tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    path = tmp_path / "model.ridge"
    damaged = {"openvino.xml": b"<net></net>", "openvino.bin": b""}
    save(replace(chosen("many_outputs", backend="openvino"), files=damaged), path)
    loaded = load(path)
    assert loaded.backend == "openvino"
    assert loaded.note is not None
    assert loaded.note.startswith("compiled anew by openvino: what the file holds does not load")
    assert loaded(torch.randn(3, 4))[0].shape == (3, 6)


def test_without_the_extra_a_saved_model_runs_eagerly(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "model.ridge"
    result = chosen("many_outputs", backend="openvino")
    save(replace(result, best=replace(result.best, dtype="bf16")), path)
    monkeypatch.setattr(OpenVino, "modules", ("no_such_module",))
    loaded = load(path)
    assert (loaded.backend, loaded.dtype) == ("eager", "fp32")
    assert loaded.note is not None
    assert "needs the extra openvino" in loaded.note


def fail(*_: object, **__: object) -> None:
    raise BackendError("no C++ compiler")


def test_where_recompiling_fails_it_runs_eagerly_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "model.ridge"
    save(chosen("lstm", backend="aoti", files={PACKAGE: b"native"}), path)
    monkeypatch.setattr(Aoti, "build", fail)
    key_path().unlink()
    loaded = load(path)
    assert loaded.backend == "eager"
    assert loaded.note is not None
    assert "aoti failed here" in loaded.note
    assert loaded(torch.randn(2, 3, 4))[0].shape == (2, 3, 10)


def test_inputs_are_checked_when_called(saved: Path) -> None:
    loaded = load(saved)
    assert loaded.manifest.inputs == ["x: fp32[3,4]"]
    with pytest.raises(GraphError, match=r"input x of graph ManyOutputs is fp32\[2,4\]"):
        loaded(torch.randn(2, 4))


def rewritten(path: Path, change: Callable[[dict[str, bytes]], None]) -> None:
    """Changes the members of the file at `path`."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    change(members)
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)


def with_manifest(members: dict[str, bytes], **changes: object) -> None:
    manifest = json.loads(members["manifest.json"]) | changes
    members["manifest.json"] = json.dumps(manifest).encode()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m.update({"../evil": b""}), r"it holds '\.\./evil'"),
        (lambda m: m.pop("graph.pt2"), r"it lacks graph\.pt2"),
        (lambda m: m.pop("manifest.json"), r"it lacks manifest\.json"),
        (lambda m: m.update({"graph.pt2": b"x"}), r"graph\.pt2 is not what its manifest says"),
        (lambda m: m.update({"manifest.json": b"{"}), "damaged manifest"),
        (lambda m: with_manifest(m, format=2), r"has format 2; this version reads 1"),
        (lambda m: with_manifest(m, extra=1), "damaged manifest: .*extra"),
        (lambda m: with_manifest(m, backend="xla"), "needs the backend 'xla'"),
        (lambda m: with_manifest(m, graph_digest="0" * 16), "its graph is not the one"),
    ],
)
def test_a_bad_file_is_one_sentence(
    saved: Path, change: Callable[[dict[str, bytes]], None], message: str
) -> None:
    rewritten(saved, change)
    with pytest.raises(BackendError, match=message) as caught:
        load(saved)
    assert "\n" not in str(caught.value)


def test_a_missing_truncated_or_foreign_file_is_one_sentence(saved: Path, tmp_path: Path) -> None:
    whole = saved.read_bytes()
    for size in (0, 10, len(whole) // 2, len(whole) - 1):
        saved.write_bytes(whole[:size])
        with pytest.raises(BackendError, match=r"is no readable \.ridge file"):
            load(saved)
    with pytest.raises(
        BackendError, match=r"no file .*; `ridgeline optimize TARGET -o none\.ridge`"
    ):
        load(tmp_path / "none.ridge")


def test_a_flipped_byte_is_noticed(saved: Path) -> None:
    data = bytearray(saved.read_bytes())
    data[len(data) // 2] ^= 1
    saved.write_bytes(data)
    with pytest.raises(BackendError):
        load(saved)


def test_a_package_that_would_write_elsewhere_is_refused(tmp_path: Path) -> None:
    package = tmp_path / "package.zip"
    with zipfile.ZipFile(package, "w") as archive:
        archive.writestr("data/../../../evil.so", b"")
    path = tmp_path / "model.ridge"
    save(chosen("lstm", backend="aoti", files={PACKAGE: package.read_bytes()}), path)
    with pytest.raises(BackendError, match=r"the path 'data/\.\./\.\./\.\./evil\.so'; refusing it"):
        load(path)


def test_a_failed_save_leaves_the_old_file(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = saved.read_bytes()

    def full(self: Path, target: Path) -> Path:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(BackendError, match="No space left on device"):
        save(chosen("lstm"), saved)
    assert saved.read_bytes() == before
    assert set(os.listdir(saved.parent)) == {saved.name, "home"}


def test_the_manifest_says_what_the_package_needs(saved: Path) -> None:
    with zipfile.ZipFile(saved) as archive:
        manifest = msgspec.json.decode(archive.read("manifest.json"), type=artifact.Manifest)
    assert manifest.torch_version == torch.__version__
    assert manifest.cpu_flags == list(artifact.cpu_flags())
    assert manifest.graph_digest == chosen("many_outputs").graph.digest
    assert manifest.backend == Eager.name
