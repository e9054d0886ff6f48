"""What a backend is: a graph in, a callable on its user inputs out."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar, Literal, get_args

import torch
from torch import Tensor

from ridgeline.errors import BackendError, RidgelineError
from ridgeline.graph import Graph
from ridgeline.graph.flat import align_inputs
from ridgeline.graph.spec import DTYPES
from ridgeline.passes.precision import set_precision

Dtype = Literal["fp32", "bf16"]
DTYPE_CHOICES: tuple[Dtype, ...] = get_args(Dtype)
# Takes the graph's user inputs one by one, gives its tensor outputs. It trusts its inputs: callers
# that do not know them use `graph.flat.check_inputs` first.
Runnable = Callable[..., tuple[Tensor, ...]]


class Backend(ABC):
    """One way to run a graph. `name` is what people type and what results are filed under."""

    name: ClassVar[str]

    def compile(self, graph: Graph, dtype: Dtype = "fp32", *, keep: Path | None = None) -> Runnable:
        """A callable that computes the graph in `dtype`; inputs and outputs keep their own types.

        keep: a folder for files that a saved model needs besides the graph. Raises BackendError
        when this backend or this machine cannot.
        """
        try:
            lowered = set_precision(graph, DTYPES[dtype])
            run = self.build(lowered, keep)
        except RidgelineError as error:
            raise BackendError(
                f"{self.name} cannot take {graph.name} in {dtype}: {error}"
            ) from error
        except Exception as error:  # compilers raise every kind of exception
            raise BackendError(
                f"{self.name} fails to compile {graph.name} in {dtype}: {first_line(error)}"
            ) from error
        align = align_inputs(lowered)

        def call(*inputs: Tensor) -> tuple[Tensor, ...]:
            with torch.no_grad():
                return run(*align(inputs))

        return call

    @abstractmethod
    def build(self, graph: Graph, keep: Path | None) -> Runnable:
        """A callable for a graph that already has its precision; called without gradients on inputs
        that have the strides the graph was traced with.
        """


def first_line(error: BaseException) -> str:
    """The kind of an error and the first line that says anything."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0][:300]}" if lines else type(error).__name__
