"""Predicted times for the waterfall, from the cost model."""

from functools import cache

from ridgeline.backends.backend import Dtype
from ridgeline.backends.choose import Execution, Predict
from ridgeline.cost import Estimate, estimate
from ridgeline.cost import Execution as CostExecution
from ridgeline.cost.estimate import compulsory_bytes
from ridgeline.cost.kernels import KernelModel
from ridgeline.errors import GraphError, UnsupportedOp
from ridgeline.graph import Category, Graph
from ridgeline.graph.spec import DTYPES
from ridgeline.machines import Ceiling, Machine
from ridgeline.passes.precision import set_precision

# Post-training int8 leaves what is not a product of weights in bf16: there is no int8 graph.
_STORED: dict[Dtype, str] = {"int8": "bf16"}
_QUANTISED = (Category.MATMUL.value, Category.CONVOLUTION.value)
_EXECUTIONS = {"eager": CostExecution.EAGER, "compiled": CostExecution.COMPILED}


def predictor(machine: Machine) -> Predict:
    """Times on `machine` at its achievable ceiling; None for a graph with an op that has no cost
    rule, or no form in the dtype asked for.
    """

    @cache
    def lowered(graph: Graph, dtype: Dtype) -> Graph:
        return set_precision(graph, DTYPES[_STORED.get(dtype, dtype)])

    def predict(graph: Graph, dtype: Dtype, execution: Execution) -> float | None:
        try:
            form = lowered(graph, dtype)
            run = estimate(
                form, machine, execution=_EXECUTIONS.get(execution, CostExecution.COMPILED)
            )
            if dtype == "int8":
                is_bound = execution == "roofline"
                return _int8_bound_s(form, run, machine) if is_bound else _int8_s(run, machine)
        except (UnsupportedOp, GraphError):
            return None
        return run.totals.roofline_s if execution == "roofline" else run.totals.time_s

    return predict


def _int8_bound_s(graph: Graph, run: Estimate, machine: Machine) -> float:
    """The bound with every product in int8 and half the bytes of bf16."""
    rate = machine.matrix_flops_per_s("int8", Ceiling.ACHIEVABLE)
    memory_s = KernelModel(machine, run.execution, run.ceiling).pass_s(compulsory_bytes(graph) // 2)
    return min(_int8_s(run, machine), max(run.totals.causal_flops / rate, memory_s))


def _int8_s(run: Estimate, machine: Machine) -> float:
    """The bf16 estimate with the products of weights at int8's rate and half their bytes."""
    rates = [machine.matrix_flops_per_s(d, Ceiling.ACHIEVABLE) for d in ("bf16", "int8")]
    return sum(
        max(n.compute_s * rates[0] / rates[1], n.memory_s / 2) + n.overhead_s
        if n.category in _QUANTISED
        else n.time_s
        for n in run.nodes
    )
