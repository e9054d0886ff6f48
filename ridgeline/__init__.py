"""A model and a machine in: how fast, where the time goes, and how to get there.

The public names, nothing else. Each is loaded when it is first used, so that `import ridgeline`
costs milliseconds and loads neither torch nor transformers. To add a name: import it under
TYPE_CHECKING, give its module in `_MODULES`, list it in `__all__` and in tests/test_public_api.py.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ridgeline.backends.artifact import load
    from ridgeline.backends.choose import optimize
    from ridgeline.cost import Estimate, estimate
    from ridgeline.errors import (
        BackendError,
        CaptureError,
        FormatError,
        GraphError,
        MachineError,
        MissingExtra,
        RidgelineError,
        TargetError,
        TraceError,
        UnsupportedOp,
    )
    from ridgeline.frontends import Request, capture, capture_target
    from ridgeline.graph import Graph, Phase
    from ridgeline.machines import Machine
    from ridgeline.passes.autodiff import differentiate, named_outputs, train_graph
    from ridgeline.passes.normal import normal_form
    from ridgeline.profile import breakdown, measure

__version__ = "0.1.0"

__all__ = [
    "BackendError",
    "CaptureError",
    "Estimate",
    "FormatError",
    "Graph",
    "GraphError",
    "Machine",
    "MachineError",
    "MissingExtra",
    "Phase",
    "Request",
    "RidgelineError",
    "TargetError",
    "TraceError",
    "UnsupportedOp",
    "__version__",
    "breakdown",
    "capture",
    "capture_target",
    "differentiate",
    "estimate",
    "load",
    "measure",
    "named_outputs",
    "normal_form",
    "optimize",
    "train_graph",
]

_MODULES = {
    "BackendError": "ridgeline.errors",
    "CaptureError": "ridgeline.errors",
    "FormatError": "ridgeline.errors",
    "GraphError": "ridgeline.errors",
    "MachineError": "ridgeline.errors",
    "MissingExtra": "ridgeline.errors",
    "RidgelineError": "ridgeline.errors",
    "TargetError": "ridgeline.errors",
    "TraceError": "ridgeline.errors",
    "UnsupportedOp": "ridgeline.errors",
    "Estimate": "ridgeline.cost",
    "Graph": "ridgeline.graph",
    "Machine": "ridgeline.machines",
    "Phase": "ridgeline.graph",
    "Request": "ridgeline.frontends",
    "breakdown": "ridgeline.profile",
    "capture": "ridgeline.frontends",
    "capture_target": "ridgeline.frontends",
    "differentiate": "ridgeline.passes.autodiff",
    "estimate": "ridgeline.cost",
    "load": "ridgeline.backends.artifact",
    "measure": "ridgeline.profile",
    "named_outputs": "ridgeline.passes.autodiff",
    "normal_form": "ridgeline.passes.normal",
    "optimize": "ridgeline.backends.choose",
    "train_graph": "ridgeline.passes.autodiff",
}

if not TYPE_CHECKING:  # a __getattr__ that mypy sees would make every misspelt name valid

    def __getattr__(name: str) -> object:
        """The public name `name`, imported from its module and kept (PEP 562)."""
        if name not in _MODULES:
            raise AttributeError(f"module 'ridgeline' has no attribute {name!r}")
        value = globals()[name] = getattr(import_module(_MODULES[name]), name)
        return value

    def __dir__() -> list[str]:
        """The public names, loaded or not, beside what the module already holds."""
        return sorted({*globals(), *__all__})
