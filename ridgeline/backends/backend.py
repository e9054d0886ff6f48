"""What a backend is: a graph in, a callable on its user inputs out."""

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import ClassVar, Literal, get_args

import torch
from torch import Tensor

from ridgeline.errors import BackendError, MissingExtra, RidgelineError
from ridgeline.graph import Graph
from ridgeline.graph.flat import align_inputs
from ridgeline.graph.spec import DTYPES
from ridgeline.passes.precision import set_precision

Dtype = Literal["fp32", "bf16", "int8"]
DTYPE_CHOICES: tuple[Dtype, ...] = get_args(Dtype)
# Takes the graph's user inputs one by one, gives its tensor outputs. It trusts its inputs: callers
# that do not know them use `graph.flat.check_inputs` first.
Runnable = Callable[..., tuple[Tensor, ...]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """How a graph is to be built. keep: a folder for the files that a saved model needs besides
    the graph. calibration: sets of inputs, for a backend that quantises. tolerance: the error that
    its outputs may have, for one that can choose what to quantise; whole: the graph in the dtypes
    that it was given with, whose outputs they are compared with.
    """

    dtype: Dtype = "fp32"
    keep: Path | None = None
    calibration: tuple[tuple[Tensor, ...], ...] = ()
    tolerance: float | None = None
    whole: Graph | None = None


class Backend(ABC):
    """One way to run a graph. `name` is what people type and what results are filed under.

    dtypes: what it computes in. extra: the optional dependency that it needs, and `modules`, what
    that installs. files: what `build` leaves in the folder to keep, for `load`; is_native: whether
    they hold code for this processor, which runs only where its author is known. declines: passes
    whose results it runs slower than what they replace. large_pages: whether its memory is put into
    some before it is timed, as it is when it is loaded.
    """

    name: ClassVar[str]
    dtypes: ClassVar[tuple[Dtype, ...]] = ("fp32", "bf16")
    extra: ClassVar[str | None] = None
    modules: ClassVar[tuple[str, ...]] = ()
    files: ClassVar[tuple[str, ...]] = ()
    is_native: ClassVar[bool] = False
    declines: ClassVar[tuple[str, ...]] = ()
    large_pages: ClassVar[bool] = True

    def compile(
        self,
        graph: Graph,
        dtype: Dtype = "fp32",
        *,
        keep: Path | None = None,
        calibration: Sequence[Sequence[Tensor]] = (),
        tolerance: float | None = None,
    ) -> Runnable:
        """A callable that computes the graph in `dtype`; inputs and outputs keep their own types.

        keep: a folder for files that a saved model needs besides the graph. calibration: sets of
        inputs that are like those to come; int8 takes its ranges from them. tolerance: the error of
        the outputs to aim at, as `agreement.compare` measures it. Raises BackendError when this
        backend or this machine cannot, MissingExtra when it is not installed.
        """
        self.require(dtype)
        setting = Setting(
            dtype=dtype,
            keep=keep,
            calibration=tuple(map(tuple, calibration)),
            tolerance=tolerance,
            whole=graph,
        )
        try:
            lowered = self.lower(graph, dtype)
            run = self.build(lowered, setting)
        except RidgelineError as error:
            raise BackendError(
                f"{self.name} cannot take {graph.name} in {dtype}: {error}"
            ) from error
        except Exception as error:  # compilers raise every kind of exception
            raise BackendError(
                f"{self.name} fails to compile {graph.name} in {dtype}: {first_line(error)}"
            ) from error
        return aligned(lowered, run)

    @classmethod
    def require(cls, dtype: Dtype) -> None:
        """Raises MissingExtra where its extra is not installed, BackendError for a dtype that it
        does not compute in.
        """
        if dtype not in cls.dtypes:
            raise BackendError(f"{cls.name} does not compute in {dtype}.")
        missing = next((m for m in cls.modules if not _is_installed(m)), None)
        if missing is not None:
            raise MissingExtra(
                f"the backend {cls.name} needs the extra {cls.extra} ({missing} is not installed): "
                f"pip install 'ridgeline[{cls.extra}]'."
            )

    def lower(self, graph: Graph, dtype: Dtype) -> Graph:
        """The graph that `build` gets: with its floating-point work done in `dtype`. A backend
        with a precision setting of its own overrides this.
        """
        return set_precision(graph, torch.float32 if dtype == "int8" else DTYPES[dtype])

    @abstractmethod
    def build(self, graph: Graph, setting: Setting) -> Runnable:
        """A callable for a graph that `lower` gave; called without gradients on inputs that have
        the strides the graph was traced with.
        """

    def load(self, graph: Graph, folder: Path, dtype: Dtype) -> Runnable:
        """The callable of the files that `build` left in `folder` for this graph in `dtype`. Raises
        BackendError for files that would reach beyond themselves.
        """
        raise BackendError(f"{self.name} saves no files (graph {graph.name}, {folder}).")


def _is_installed(module: str) -> bool:
    with contextlib.suppress(ModuleNotFoundError):  # of the package that it is in
        return find_spec(module) is not None
    return False


def aligned(graph: Graph, run: Runnable) -> Runnable:
    """`run` without gradients, on inputs with the strides that the graph was traced with."""
    align = align_inputs(graph)
    # oneDNN's recurrent layer keeps what its backward reads only where gradients are on
    is_on = any(node.op == "rnn_layer_backward" for node in graph.nodes)

    def call(*inputs: Tensor) -> tuple[Tensor, ...]:
        given = align(inputs)
        with torch.set_grad_enabled(is_on):
            return run(*(x.detach() for x in given)) if is_on else run(*given)

    return call


def first_line(error: BaseException) -> str:
    """The kind of an error and the first line that says anything."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0][:300]}" if lines else type(error).__name__
