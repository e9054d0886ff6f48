"""IREE: the graph as MLIR, in our own TOSA and linalg or through torch-mlir, compiled natively."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import msgspec
from torch import Tensor

from ridgeline.backends.backend import Backend, Dtype, Runnable, Setting, first_line
from ridgeline.backends.environment import silent
from ridgeline.backends.mlir import iree, torch_mlir
from ridgeline.backends.mlir.emit import emit
from ridgeline.backends.stateless import Stateless, has_attention, stateless
from ridgeline.errors import BackendError, UnsupportedOp
from ridgeline.graph import Graph

MODULE, ROUTE, WEIGHTS = "iree.vmfb", "iree.json", "iree.irpa"
OWN = "ridgeline"
_MAX_REASON = 160


class Route(msgspec.Struct, forbid_unknown_fields=True):
    """How a graph reached IREE: our own module, or torch-mlir's dialect it went in by; and why
    those before it did not take it.
    """

    taken: str
    refused: dict[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Compiled:
    """Native code, and the weights that are not in it."""

    code: bytes
    weights: Mapping[str, Tensor] = field(default_factory=dict)


# A way from a graph to native code; its failures are reasons.
Way = Callable[[], Compiled]


class Iree(Backend):
    """Compiles ahead of time; its module is native code, its weights lie beside it."""

    name = "iree"
    extra = "iree"
    modules = ("iree.compiler", "iree.runtime")
    files = (MODULE, ROUTE, WEIGHTS)
    is_native = True
    declines = ("join_linears",)  # the joined product's parts are copied out, which costs more

    def build(self, graph: Graph, setting: Setting) -> Runnable:
        """The loaded module of the first route that compiles; all it needs is kept when a folder
        is given.
        """
        form = stateless(graph)
        with silent():
            made, route = first_that_compiles(self.ways(graph, form))
        if setting.keep is not None:
            (setting.keep / MODULE).write_bytes(made.code)
            (setting.keep / ROUTE).write_bytes(msgspec.json.encode(route))
            if made.weights:
                iree.write_weights(made.weights, setting.keep / WEIGHTS)
        index = iree.index_of(made.weights) if made.weights else None
        return form.runnable(iree.loaded(made.code, form.results, index))

    def ways(self, graph: Graph, form: Stateless) -> dict[str, Way]:
        """Every route, in the order in which they are tried."""
        return {OWN: partial(_own, form), **by_torch_mlir(graph, form)}

    def load(self, graph: Graph, folder: Path, dtype: Dtype) -> Runnable:
        """The saved module's callable."""
        form = stateless(self.lower(graph, dtype))
        archive = folder / WEIGHTS
        index = iree.read_weights(archive) if archive.is_file() else None
        return form.runnable(iree.loaded((folder / MODULE).read_bytes(), form.results, index))


def by_torch_mlir(graph: Graph, form: Stateless) -> dict[str, Way]:
    """torch-mlir's routes, those first that suit the graph; none where it is not installed."""
    if find_spec("torch_mlir") is None:
        return {"torch-mlir": _not_installed}
    names = torch_mlir.FOR_ATTENTION if has_attention(graph) else torch_mlir.FOR_CONVOLUTIONS
    return {name: partial(_converted, form, name) for name in names}


def first_that_compiles(ways: Mapping[str, Way]) -> tuple[Compiled, Route]:
    """Native code by the first route that leads there. Raises BackendError with the reason of each
    where none does.
    """
    refused: dict[str, str] = {}
    for name, way in ways.items():
        try:
            return way(), Route(taken=name, refused=refused)
        except Exception as error:  # compilers raise every kind of exception
            refused[name] = reason_of(error)
    reasons = "; ".join(f"{name}: {reason}" for name, reason in refused.items())
    raise BackendError(f"no route to IREE takes it ({reasons}).")


def _own(form: Stateless) -> Compiled:
    emitted = emit(form)
    return Compiled(code=iree.compiled(emitted.text, "tosa"), weights=emitted.weights)


def _converted(form: Stateless, dialect: str) -> Compiled:
    module = torch_mlir.converted(form, dialect)
    return Compiled(code=iree.compiled(module, torch_mlir.INPUT_TYPES[dialect]))


def _not_installed() -> Compiled:
    raise BackendError("it is not installed: pip install 'ridgeline[torch-mlir]'.")


def reason_of(error: Exception) -> str:
    """The first error in a compiler's complaint, else its first line."""
    lines = str(error).splitlines()
    found = next((line.partition("error: ")[2] for line in lines if "error: " in line), None)
    is_ours = isinstance(error, BackendError | UnsupportedOp)
    reason = found or (lines[0] if is_ours else first_line(error))
    return reason.strip().rstrip(".")[:_MAX_REASON]
