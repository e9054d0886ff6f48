"""A `.ridge` file runs its native code for the user who saved it, and for nobody else."""

import hashlib
import json
import os
import stat
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from results import chosen
from torch import Tensor

from ridgeline.backends import aoti
from ridgeline.backends.aoti import PACKAGE, Aoti
from ridgeline.backends.artifact import Loaded, load, save
from ridgeline.backends.backend import Backend, Runnable, Setting
from ridgeline.backends.reference import Reference
from ridgeline.backends.registry import BACKENDS
from ridgeline.backends.seal import is_own, key_path, seal_of
from ridgeline.errors import BackendError
from ridgeline.graph import Graph

Change = Callable[[dict[str, bytes]], None]


@pytest.fixture
def canary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file that exists once a package has been loaded; compiling is done by the reference."""
    path = tmp_path / "canary"

    def loaded(package: Path) -> Runnable:
        path.write_bytes(package.read_bytes())
        return lambda *inputs: inputs

    def build(self: Aoti, graph: Graph, setting: Setting) -> Runnable:
        return Reference().compile(graph)

    monkeypatch.setattr(aoti, "load_package", loaded)
    monkeypatch.setattr(Aoti, "build", build)
    return path


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """A saved model whose package is an archive that only `canary` can take for native code."""
    package = tmp_path / "package.zip"
    with zipfile.ZipFile(package, "w") as archive:
        archive.writestr("data/model.so", b"native code")
    path = tmp_path / "model.ridge"
    save(chosen("lstm", "aoti", {PACKAGE: package.read_bytes()}), path)
    return path


def outputs_of(loaded: Loaded) -> tuple[Tensor, ...]:
    return loaded(torch.randn(2, 3, 4))


def assert_compiled_anew(loaded: Loaded, canary: Path) -> None:
    assert not canary.exists()
    assert loaded.backend == "aoti"
    assert loaded.note == (
        "compiled anew by aoti: the file was not saved by you on this machine, so its native code "
        "stays unused; is_trusted=True runs it."
    )
    assert outputs_of(loaded)[0].shape == (2, 3, 10)


def rewritten(path: Path, change: Change) -> None:
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    change(members)
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)


def test_ones_own_file_runs_as_it_is(saved: Path, canary: Path) -> None:
    loaded = load(saved)
    assert loaded.note is None
    with zipfile.ZipFile(saved) as archive:
        assert canary.read_bytes() == archive.read("package.pt2")


def test_a_copy_elsewhere_is_still_ones_own(saved: Path, canary: Path, tmp_path: Path) -> None:
    (tmp_path / "copy.ridge").write_bytes(saved.read_bytes())
    assert load(tmp_path / "copy.ridge").note is None
    assert canary.exists()


def another_user(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(folder))


def test_another_home_compiles_anew_unless_told_to_trust(
    saved: Path, canary: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    another_user(monkeypatch, tmp_path / "other")
    assert_compiled_anew(load(saved), canary)
    assert not (tmp_path / "other").exists()  # loading makes no key
    assert seal_of(b"other") is not None
    assert_compiled_anew(load(saved), canary)
    assert load(saved, is_trusted=True).note is None
    assert canary.exists()


def test_a_missing_key_compiles_anew(saved: Path, canary: Path) -> None:
    key_path().unlink()
    assert_compiled_anew(load(saved), canary)


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o666])
def test_a_key_that_others_can_read_is_none(saved: Path, canary: Path, mode: int) -> None:
    key_path().chmod(mode)
    assert_compiled_anew(load(saved), canary)


def test_a_key_behind_a_link_or_of_another_size_is_none(
    saved: Path, canary: Path, tmp_path: Path
) -> None:
    elsewhere = tmp_path / "key"
    key_path().rename(elsewhere)
    key_path().symlink_to(elsewhere)
    assert_compiled_anew(load(saved), canary)
    key_path().unlink()
    key_path().write_bytes(b"")
    key_path().chmod(0o600)
    assert_compiled_anew(load(saved), canary)


def _other_package(members: dict[str, bytes]) -> None:
    """A stranger's code under sums that fit, and the seal of the file it came in."""
    evil = members["package.pt2"].replace(b"native code", b"hostile one")
    assert evil != members["package.pt2"]
    members["package.pt2"] = evil
    manifest = json.loads(members["manifest.json"])
    manifest["sha256"]["package.pt2"] = hashlib.sha256(evil).hexdigest()
    members["manifest.json"] = json.dumps(manifest).encode()


def with_manifest(**changes: object) -> Change:
    def change(members: dict[str, bytes]) -> None:
        manifest = json.loads(members["manifest.json"]) | changes
        members["manifest.json"] = json.dumps(manifest).encode()

    return change


@pytest.mark.parametrize(
    "change",
    [
        _other_package,
        with_manifest(seal=None),
        with_manifest(seal=""),
        with_manifest(seal="0" * 64),
        with_manifest(seal="é" * 64),
        with_manifest(cpu_flags=[]),
        with_manifest(threads=7),
    ],
)
def test_what_was_changed_since_it_was_saved_is_never_run(
    saved: Path, canary: Path, change: Change
) -> None:
    rewritten(saved, change)
    assert_compiled_anew(load(saved), canary)


def test_a_changed_package_under_its_old_sum_is_damage(saved: Path, canary: Path) -> None:
    rewritten(saved, lambda m: m.update({"package.pt2": b"hostile"}))
    for is_trusted in (False, True):
        with pytest.raises(BackendError, match=r"package\.pt2 is not what its manifest says"):
            load(saved, is_trusted=is_trusted)
    assert not canary.exists()


def test_the_key_is_private_random_and_stays(saved: Path) -> None:
    key = key_path().read_bytes()
    status = key_path().stat()
    assert len(key) == 32
    assert stat.S_IMODE(status.st_mode) == 0o600
    assert os.listdir(key_path().parent) == ["key"]
    assert key not in saved.read_bytes()
    assert key.hex().encode() not in saved.read_bytes()
    seal = seal_of(b"data")
    assert key_path().read_bytes() == key
    assert is_own(b"data", seal)
    assert not is_own(b"datum", seal)
    key_path().unlink()
    assert seal_of(b"data") != seal
    assert not is_own(b"data", seal)


def test_where_no_key_can_be_kept_the_file_is_saved_without_a_seal(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (home / ".cache").write_text("a file where a folder should be")
    assert seal_of(b"data") is None
    assert not is_own(b"data", None)


def test_a_relative_cache_folder_is_not_taken(
    saved: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a key beside a stranger's file would vouch for it."""
    monkeypatch.setenv("XDG_CACHE_HOME", ".")
    assert key_path() == home / ".cache" / "ridgeline" / "key"


@pytest.mark.parametrize("backend", [b for b in BACKENDS.values() if b.files])
def test_native_code_of_no_backend_runs_unsealed(
    backend: type[Backend], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """OpenVINO's and onnxruntime's files are data; the others' are code."""
    touched: list[str] = []

    def load_files(self: Backend, graph: Graph, folder: Path, dtype: str) -> Runnable:
        touched.append(self.name)
        return Reference().compile(graph)

    def build(self: Backend, graph: Graph, setting: Setting) -> Runnable:
        return Reference().compile(graph)

    monkeypatch.setattr(backend, "load", load_files)
    monkeypatch.setattr(backend, "build", build)
    monkeypatch.setattr(backend, "modules", ())
    path = tmp_path / "model.ridge"
    save(chosen("lstm", backend.name, dict.fromkeys(backend.files, b"compiled")), path)
    key_path().unlink()
    assert outputs_of(load(path))[0].shape == (2, 3, 10)
    assert backend.is_native == (backend.name in ("aoti", "iree"))
    assert touched == ([] if backend.is_native else [backend.name])
    load(path, is_trusted=True)
    assert touched[-1:] == [backend.name]
