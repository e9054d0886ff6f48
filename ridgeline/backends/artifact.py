"""The `.ridge` file: a chosen model that runs without its source.

A zip of `manifest.json`, `graph.pt2` (the graph after the passes, fp32) and the files that the
chosen backend compiled it to, which are native code or data. The manifest's sha256 sums find
damage; its seal (see seal.py) shows that this user wrote it here. Without a valid seal native code
never runs unless the caller passes `is_trusted=True`: the graph is compiled instead. Data is read
whoever wrote it, for it can name known operations only.
"""

import hashlib
import io
import os
import platform
import tempfile
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path

import msgspec
import torch
from torch import Tensor

from ridgeline import graph as graphs
from ridgeline.backends.backend import Backend, Dtype, Runnable, aligned, first_line
from ridgeline.backends.eager import Eager
from ridgeline.backends.registry import ALL
from ridgeline.backends.result import Optimized
from ridgeline.backends.seal import is_own, seal_of
from ridgeline.errors import BackendError, GraphError, MissingExtra
from ridgeline.graph import Graph, InputKind
from ridgeline.graph.flat import check_inputs
from ridgeline.graph.store import write_atomically
from ridgeline.native.large_pages import enlarge, regions

_FORMAT = 1
_MANIFEST, _GRAPH = "manifest.json", "graph.pt2"
_MEMBERS = frozenset({_MANIFEST, _GRAPH, *(name for b in ALL.values() for name in b.files)})
_MAX_MANIFEST_BYTES = 2**20
# Instruction sets that compilers choose among; code built for them fails without them.
_VECTOR_FLAGS = ("avx", "sse", "fma", "bmi", "f16c", "amx", "vaes", "gfni", "asimd", "sve")


class Manifest(msgspec.Struct, forbid_unknown_fields=True):
    """What a `.ridge` file says about itself. inputs: "name: dtype[shape]" of each user input.

    machine: the name that `optimize` was given; cpu_flags, torch_version: what native code needs.
    seal: shows its writer that all else here is as written; None where no key could be kept.
    """

    format: int
    name: str
    backend: str
    dtype: Dtype
    graph_digest: str
    machine: str | None
    inputs: list[str]
    torch_version: str
    architecture: str
    cpu_flags: list[str]
    threads: int
    sha256: dict[str, str]
    seal: str | None = None


class Loaded:
    """A model from a `.ridge` file. Call it on the tensors of `manifest.inputs`, in that order.

    backend, dtype: what runs it here. note: why that is not what was saved; None when it is. run:
    the same call without the check of its inputs.
    """

    def __init__(
        self, graph: Graph, manifest: Manifest, backend: str, run: Runnable, note: str | None
    ) -> None:
        self.graph = graph
        self.manifest = manifest
        self.backend = backend
        self.dtype: Dtype = manifest.dtype if backend == manifest.backend else "fp32"
        self.note = note
        self.run = run

    def __call__(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """The outputs. Raises GraphError, naming the input, when one does not fit."""
        check_inputs(self.graph, inputs)
        return self.run(*inputs)


def save(optimized: Optimized, path: str | os.PathLike[str]) -> None:
    """Writes the best candidate to `path` (`.ridge`): complete or absent, never half-written."""
    try:
        write_atomically(Path(path), _archive(optimized))
    except GraphError as error:
        raise BackendError(f"{path} is not saved: {error}") from error


def _archive(optimized: Optimized) -> memoryview:
    """The bytes of the file."""
    graph = optimized.graph
    content = {_GRAPH: _graph_bytes(graph), **optimized.files}
    manifest = Manifest(
        format=_FORMAT,
        name=graph.name,
        backend=optimized.best.backend,
        dtype=optimized.best.dtype,
        graph_digest=graph.digest,
        machine=optimized.machine,
        inputs=_input_lines(graph),
        torch_version=str(torch.__version__),
        architecture=platform.machine(),
        cpu_flags=list(cpu_flags()),
        threads=optimized.threads,
        sha256={name: hashlib.sha256(data).hexdigest() for name, data in content.items()},
    )
    manifest.seal = seal_of(_sealed(manifest))
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr(_MANIFEST, msgspec.json.format(msgspec.json.encode(manifest)))
        for name, data in content.items():
            archive.writestr(name, data)
    return buffer.getbuffer()


def _sealed(manifest: Manifest) -> bytes:
    """What a seal vouches for: every field of the manifest, and by its sums every other member."""
    return msgspec.json.encode(msgspec.structs.replace(manifest, seal=None), order="sorted")


def load(path: str | os.PathLike[str], *, is_trusted: bool = False) -> Loaded:
    """The model in a `.ridge` file, ready to run.

    What its backend compiled it to runs as it is where that is data. Where it is native code, it
    does so where this user saved it, on a machine that can run it, or with `is_trusted=True`, which
    runs anyone's. Otherwise the graph is compiled anew by the same backend, or run eagerly in fp32
    where that fails, and `Loaded.note` says why. What that takes in memory is put in large pages,
    as it was when it was measured. Raises BackendError for a missing, foreign,
    damaged or newer file.
    """
    file = Path(path)
    before = regions()
    loaded = _loaded(file, is_trusted)
    enlarge(before)
    return loaded


def _loaded(file: Path, is_trusted: bool) -> Loaded:
    manifest, content = _read(file)
    with tempfile.TemporaryDirectory(prefix="ridgeline-") as name:
        folder = Path(name)
        graph = _read_graph(file, folder, content.pop(_GRAPH), manifest)
        is_allowed = is_trusted or is_own(_sealed(manifest), manifest.seal)
        backend = ALL[manifest.backend]
        reason = _reason_to_recompile(manifest, backend, bool(content), is_allowed)
        if reason is None and content and _can_run(backend, manifest.dtype):
            for member, data in content.items():
                (folder / member).write_bytes(data)
            try:
                run = aligned(graph, backend().load(graph, folder, manifest.dtype))
                return Loaded(graph, manifest, backend.name, run, None)
            except BackendError as error:
                raise BackendError(f"{file} is refused: {error}") from error
            except Exception as error:  # another version's files fail in any way
                reason = f"what the file holds does not load here ({first_line(error)})"
    return _compiled(graph, manifest, reason)


def _can_run(backend: type[Backend], dtype: Dtype) -> bool:
    """Whether this machine has what the backend needs; compiling anew says what it lacks."""
    try:
        backend.require(dtype)
    except (BackendError, MissingExtra):
        return False
    return True


def _compiled(graph: Graph, manifest: Manifest, reason: str | None) -> Loaded:
    """The graph through the recorded backend, or eagerly in fp32 where that cannot."""
    backend: Backend = ALL[manifest.backend]()
    try:
        run = backend.compile(graph, manifest.dtype)
        note = f"compiled anew by {backend.name}: {reason}." if reason else None
        return Loaded(graph, manifest, backend.name, run, note)
    except (BackendError, MissingExtra) as error:
        note = f"runs eagerly in fp32, {backend.name} failed here: {error}"
        return Loaded(graph, manifest, Eager.name, Eager().compile(graph), note)


def _reason_to_recompile(
    manifest: Manifest, backend: type[Backend], has_files: bool, is_allowed: bool
) -> str | None:
    """Why what was saved cannot be used here; None where it can, or where nothing ever is."""
    if not backend.files:
        return None
    if not has_files:
        return f"the file holds nothing that {backend.name} compiled"
    if not backend.is_native:
        return None
    if not is_allowed:
        return (
            "the file was not saved by you on this machine, so its native code stays unused; "
            "is_trusted=True runs it"
        )
    if manifest.torch_version != str(torch.__version__):
        return f"it was made with torch {manifest.torch_version}, this is {torch.__version__}"
    missing = sorted(set(manifest.cpu_flags) - set(cpu_flags()))
    if manifest.architecture != platform.machine() or missing:
        lacks = ", ".join(missing[:3]) or manifest.architecture
        return f"this processor lacks {lacks}"
    return None


def cpu_flags() -> tuple[str, ...]:
    """The vector instruction sets of this processor; torch's one-word summary where the system
    lists none.
    """
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    found = next((line for line in lines if line.startswith(("flags", "Features"))), "")
    flags = {f for f in found.partition(":")[2].split() if f.startswith(_VECTOR_FLAGS)}
    return tuple(sorted(flags or {torch.backends.cpu.get_cpu_capability()}))


def _input_lines(graph: Graph) -> list[str]:
    return [f"{i.path}: {i.spec}" for i in graph.of_kind(InputKind.INPUT)]


def _graph_bytes(graph: Graph) -> bytes:
    with tempfile.TemporaryDirectory(prefix="ridgeline-") as folder:
        path = Path(folder) / _GRAPH
        graphs.save(graph, path)
        return path.read_bytes()


def _read(file: Path) -> tuple[Manifest, dict[str, bytes]]:
    """The manifest and the members it vouches for."""
    if not file.is_file():
        raise BackendError(
            f"no file {file}; `ridgeline optimize TARGET -o {file.name}` writes one."
        )
    try:
        with zipfile.ZipFile(file) as archive:
            names = archive.namelist()
            _check_names(file, names)
            if archive.getinfo(_MANIFEST).file_size > _MAX_MANIFEST_BYTES:
                raise BackendError(f"{file} is damaged: its manifest is too large.")
            manifest = _manifest(file, archive.read(_MANIFEST))
            content = {name: archive.read(name) for name in names if name != _MANIFEST}
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, NotImplementedError) as error:
        raise BackendError(f"{file} is no readable .ridge file: {error}.") from error
    for name, data in content.items():
        if hashlib.sha256(data).hexdigest() != manifest.sha256.get(name):
            raise BackendError(f"{file} is damaged: {name} is not what its manifest says.")
    return manifest, content


def _check_names(file: Path, names: Sequence[str]) -> None:
    strange = sorted(set(names) - _MEMBERS)
    missing = sorted({_MANIFEST, _GRAPH} - set(names))
    if strange or missing or len(set(names)) != len(names):
        what = f"holds {strange[0]!r}" if strange else f"lacks {', '.join(missing)}"
        raise BackendError(f"{file} is no .ridge file: it {what}.")


def _manifest(file: Path, data: bytes) -> Manifest:
    try:
        version = msgspec.json.decode(data, type=_Version).format
        if version != _FORMAT:
            raise BackendError(
                f"{file} has format {version}; this version reads {_FORMAT}. Optimize it again."
            )
        manifest = msgspec.json.decode(data, type=Manifest)
    except msgspec.DecodeError as error:
        raise BackendError(f"{file} has a damaged manifest: {error}.") from error
    if manifest.backend not in ALL:
        raise BackendError(f"{file} needs the backend {manifest.backend!r}, which is not here.")
    return manifest


class _Version(msgspec.Struct):
    format: int


def _read_graph(file: Path, folder: Path, data: bytes, manifest: Manifest) -> Graph:
    (folder / _GRAPH).write_bytes(data)
    try:
        graph = graphs.load(folder / _GRAPH)
    except GraphError as error:
        raise BackendError(f"{file} holds an unreadable graph: {first_line(error)}") from error
    if graph.digest != manifest.graph_digest:
        raise BackendError(f"{file} is damaged: its graph is not the one its manifest names.")
    return graph
