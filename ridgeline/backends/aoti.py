"""AOTInductor: a package of native code that loads and runs without the compiler."""

import tempfile
import zipfile
from pathlib import Path, PurePosixPath

import torch
from torch import Tensor
from torch.export import ExportedProgram
from torch.export.graph_signature import ConstantArgument

from ridgeline.backends.backend import Backend, Dtype, Runnable, Setting
from ridgeline.backends.environment import compiling, require_compiler
from ridgeline.errors import BackendError
from ridgeline.graph import Graph, InputKind
from ridgeline.graph.flat import align_inputs, example_inputs, flat_module

PACKAGE = "package.pt2"


class Aoti(Backend):
    """Compiles ahead of time with frozen weights; fp32 linears are packed for oneDNN."""

    name = "aoti"
    files = (PACKAGE,)
    is_native = True

    def build(self, graph: Graph, setting: Setting) -> Runnable:
        """The loaded package; kept as `keep / PACKAGE` when a folder is given."""
        require_compiler()
        flat_module(graph)  # says why, where the graph cannot run
        if setting.keep is not None:
            package(graph, setting.keep / PACKAGE)
            return load_package(setting.keep / PACKAGE)
        with tempfile.TemporaryDirectory(prefix="ridgeline-") as folder:
            path = Path(folder) / PACKAGE
            package(graph, path)
            return load_package(path)

    def load(self, graph: Graph, folder: Path, dtype: Dtype) -> Runnable:
        """The package's callable. Raises BackendError if unpacking it would write outside its
        folder.
        """
        _check_package(folder / PACKAGE)
        return load_package(folder / PACKAGE)


def package(graph: Graph, path: Path) -> None:
    """Compiles the graph into a package at `path` (`.pt2`)."""
    with compiling(), torch.no_grad():
        torch._inductor.aoti_compile_and_package(
            _tensors_only(graph), package_path=str(path), inductor_configs={"freezing": True}
        )


def _tensors_only(graph: Graph) -> ExportedProgram:
    """The program without plain numbers among its inputs and outputs: AOTInductor cannot pass
    them.
    """
    signature = graph.program.graph_signature
    specs = (*signature.input_specs, *signature.output_specs)
    if not any(isinstance(spec.arg, ConstantArgument) for spec in specs):
        return graph.program
    if any(any(i.spec.symbols) for i in graph.of_kind(InputKind.INPUT)):
        raise BackendError(
            f"{graph.name} returns plain numbers and has dynamic shapes; AOTInductor takes one or "
            "the other."
        )
    inputs = align_inputs(graph)(example_inputs(graph))
    program: ExportedProgram = torch.export.export(flat_module(graph), inputs)
    functional: ExportedProgram = program.run_decompositions({})
    return functional


def _check_package(path: Path) -> None:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except zipfile.BadZipFile as error:
        raise BackendError(f"its package is no archive: {error}.") from error
    for name in names:
        inner = PurePosixPath(name.replace("\\", "/"))
        if inner.is_absolute() or ".." in inner.parts or ":" in name:
            raise BackendError(f"its package holds the path {name!r}; refusing it.")


def load_package(path: Path) -> Runnable:
    """The callable of a package; this loads native code, so `path` must come from here."""
    with compiling():
        loader = torch._inductor.aoti_load_package(str(path)).loader

    def run(*inputs: Tensor) -> tuple[Tensor, ...]:
        return tuple(loader.run(list(inputs)))

    return run
