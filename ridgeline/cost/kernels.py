"""KernelModel: how long one piece of work takes on one machine."""

from dataclasses import dataclass

from ridgeline.cost.roofline import Execution, Times, compute_dtype, roofline_times
from ridgeline.cost.work import Work
from ridgeline.machines import Ceiling, Machine


@dataclass(frozen=True, slots=True)
class KernelModel:
    """Prices work on `machine` under one execution and one ceiling."""

    machine: Machine
    execution: Execution
    ceiling: Ceiling

    def times(self, work: Work, nbytes: int, is_head: bool) -> Times:
        """Times of one run of `work` that moves `nbytes`; only a group's head pays for a start."""
        is_free = work.node is not None and work.node.row.is_free
        return roofline_times(
            work.cost,
            nbytes,
            compute_dtype(work.node),
            self.machine,
            self.ceiling,
            self._overhead_s(is_head and not is_free),
        )

    def _overhead_s(self, is_start: bool) -> float:
        if not is_start or self.ceiling is Ceiling.DATASHEET:
            return 0.0
        if self.execution is Execution.EAGER:
            return self.machine.dispatch_overhead_s
        return self.machine.launch_overhead_s
