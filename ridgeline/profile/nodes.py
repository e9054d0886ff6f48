"""What a profile says of one node, one op kind, one moment of memory."""

from dataclasses import dataclass

from ridgeline.machines import Ceiling


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeProfile:
    """One node, measured and estimated.

    predicted_s: in eager execution at the achievable ceiling, overhead included; error:
    predicted/measured - 1. datasheet_s and achievable_s: its roofline alone at either ceiling, what
    it moves moved once; fused_s: the achievable one when neighbours are fused. compiled_s: the
    prediction for compiled execution. share: of the sum of all nodes. is_compute_bound: whether its
    roofline is computing, not moving; `bound` counts dispatch as well.
    """

    name: str
    op: str
    category: str
    module: str
    dtype: str
    bound: str
    measured_s: float
    spread_s: float
    num_samples: int
    num_clean: int
    predicted_s: float
    compiled_s: float
    datasheet_s: float
    achievable_s: float
    fused_s: float
    dispatch_s: float
    flops: int
    moved_bytes: int
    fused_bytes: int
    output_bytes: int
    share: float
    is_view: bool
    is_compute_bound: bool
    is_counted: bool

    @property
    def error(self) -> float:
        """Predicted over measured, less one; 0 for a node too quick to see."""
        return self.predicted_s / self.measured_s - 1 if self.measured_s else 0.0

    @property
    def achieved_flops_per_s(self) -> float:
        """Matrix work done per second."""
        return self.flops / self.measured_s if self.measured_s else 0.0

    @property
    def achieved_bytes_per_s(self) -> float:
        """What the node alone must move, per second; above the memory's rate where a cache held
        it.
        """
        return self.moved_bytes / self.measured_s if self.measured_s else 0.0

    @property
    def intensity(self) -> float:
        """FLOPs per byte."""
        return self.flops / self.moved_bytes if self.moved_bytes else 0.0

    def percent_of(self, ceiling: Ceiling) -> float:
        """Share of the machine's roofline that the node reaches, as a fraction of one."""
        bound_s = self.datasheet_s if ceiling is Ceiling.DATASHEET else self.achievable_s
        return bound_s / self.measured_s if self.measured_s else 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class KindProfile:
    """All nodes of one op kind."""

    op: str
    count: int
    measured_s: float
    predicted_s: float
    achievable_s: float
    flops: int
    moved_bytes: int
    share: float

    @property
    def error(self) -> float:
        """Predicted over measured, less one."""
        return self.predicted_s / self.measured_s - 1 if self.measured_s else 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryPoint:
    """Bytes held while a node runs, observed and predicted."""

    name: str
    measured_bytes: int
    predicted_bytes: int
    rss_bytes: int | None
