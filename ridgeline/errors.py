"""The one error tree. Every message names the thing, the place, the value and the way out."""


class RidgelineError(Exception):
    """Base of everything Ridgeline raises on purpose; the CLI prints it as one sentence and exits
    2.
    """


class UnsupportedOp(RidgelineError, NotImplementedError):
    """A node whose op has no row in the table asked for (op table, cost rule, lowering)."""


class CaptureError(RidgelineError, RuntimeError):
    """A model that does not become a graph: it fails to export, or differs each time."""


class GraphError(RidgelineError, ValueError):
    """A graph that breaks its own rules, or a file that does not hold one."""


class TargetError(RidgelineError, ValueError):
    """A TARGET (file, folder, config, zoo name) that is missing, unreadable or of no known kind."""


class MachineError(RidgelineError, ValueError):
    """A machine that does not exist, or whose description is incomplete or contradicts itself."""


class BackendError(RidgelineError, RuntimeError):
    """A backend that cannot take a graph, or that fails while compiling or running it."""


class FormatError(RidgelineError, ValueError):
    """A number format that contradicts itself, or a tensor that it cannot hold."""


class TraceError(RidgelineError, ValueError):
    """A recording that is missing, empty, damaged or of no known kind."""


class MissingExtra(RidgelineError, ImportError):
    """A feature whose optional dependency is not installed."""
