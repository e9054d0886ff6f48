"""Predicted times for the waterfall, from the cost model."""

from functools import cache

from ridgeline.backends.backend import Dtype
from ridgeline.backends.choose import Execution, Predict
from ridgeline.cost import Execution as CostExecution
from ridgeline.cost import estimate
from ridgeline.errors import GraphError, UnsupportedOp
from ridgeline.graph import Graph
from ridgeline.graph.spec import DTYPES
from ridgeline.machines import Machine
from ridgeline.passes.precision import set_precision

_EXECUTIONS = {"eager": CostExecution.EAGER, "compiled": CostExecution.COMPILED}


def predictor(machine: Machine) -> Predict:
    """Times on `machine` at its achievable ceiling; None for a graph with an op that has no cost
    rule, or no form in the dtype asked for.
    """

    @cache
    def lowered(graph: Graph, dtype: Dtype) -> Graph:
        return set_precision(graph, DTYPES[dtype])

    def predict(graph: Graph, dtype: Dtype, execution: Execution) -> float | None:
        try:
            run = estimate(
                lowered(graph, dtype),
                machine,
                execution=_EXECUTIONS.get(execution, CostExecution.COMPILED),
            )
        except (UnsupportedOp, GraphError):
            return None
        return run.totals.roofline_s if execution == "roofline" else run.totals.time_s

    return predict
