"""The cost model: what every node costs, and how long it takes on a machine."""

from ridgeline.cost import matrix_rules, vector_rules  # noqa: F401 - they fill the table
from ridgeline.cost.estimate import Estimate, NodeEstimate, Totals, estimate
from ridgeline.cost.memory import LiveTensor, MemoryProfile
from ridgeline.cost.op_cost import OpCost
from ridgeline.cost.roofline import Bound, Execution
from ridgeline.cost.rules import cost_of, has_rule, rule
from ridgeline.cost.work import OPTIMIZERS, Part, Recompute, Work, work_of

__all__ = [
    "OPTIMIZERS",
    "Bound",
    "Estimate",
    "Execution",
    "LiveTensor",
    "MemoryProfile",
    "NodeEstimate",
    "OpCost",
    "Part",
    "Recompute",
    "Totals",
    "Work",
    "cost_of",
    "estimate",
    "has_rule",
    "rule",
    "work_of",
]
