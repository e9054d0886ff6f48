"""What `optimize` finds: every candidate, the best, the waterfall; plain values, JSON-ready."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import isfinite
from typing import TypedDict

from ridgeline.backends.backend import Dtype
from ridgeline.graph import Graph
from ridgeline.passes.manager import PassStep

# How the reason begins of one whose dtype cannot beat what was measured in another.
CANNOT_WIN = "cannot win"


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """One way to run the graph. time_s: median of its clean samples (of the faster half of all,
    where fewer than five are clean); spread_s: their interquartile range. times_s: all its samples,
    round by round; those of candidates that began together can be compared round for round.

    skipped: why it was not chosen from; None for a candidate that ran and agreed.
    """

    backend: str
    dtype: Dtype
    time_s: float | None = None
    spread_s: float | None = None
    samples: int = 0
    clean_samples: int = 0
    max_error: float | None = None
    cosine: float | None = None
    top1: float | None = None
    skipped: str | None = None
    times_s: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One bar of the waterfall: measured, predicted, or both."""

    step: str
    measured_s: float | None
    predicted_s: float | None


class BestDict(TypedDict):
    """The chosen candidate, as JSON."""

    backend: str
    dtype: str
    time_s: float | None


class CandidateDict(BestDict):
    """One candidate, as JSON."""

    max_error: float | None
    skipped: str | None


class StepDict(TypedDict):
    """One bar of the waterfall, as JSON."""

    step: str
    measured_s: float | None
    predicted_s: float | None


class OptimizedDict(TypedDict):
    """The result, as JSON; the keys are stable."""

    best: BestDict
    candidates: list[CandidateDict]
    waterfall: list[StepDict]
    roofline_s: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Optimized:
    """The outcome of `optimize`. graph: after the passes; passes: what each one did.

    candidates: what was tried on `graph`. baseline: the graph as captured, run eagerly in fp32.
    roofline_s: the predicted bound in the best candidate's dtype. files: what its backend needs
    besides the graph to load what it compiled, by name.
    """

    graph: Graph
    passes: tuple[PassStep, ...]
    candidates: tuple[Candidate, ...]
    baseline: Candidate
    best: Candidate
    waterfall: tuple[Step, ...]
    roofline_s: float | None
    threads: int
    machine: str | None
    files: Mapping[str, bytes]

    @property
    def speedup(self) -> float | None:
        """How many times faster the best candidate is than the baseline."""
        if self.best.time_s is None or self.baseline.time_s is None:
            return None
        return self.baseline.time_s / self.best.time_s

    def as_dict(self) -> OptimizedDict:
        """The stable JSON form."""
        return {
            "best": {
                "backend": self.best.backend,
                "dtype": self.best.dtype,
                "time_s": self.best.time_s,
            },
            "candidates": [_candidate_dict(c) for c in self.candidates],
            "waterfall": [
                {"step": s.step, "measured_s": s.measured_s, "predicted_s": s.predicted_s}
                for s in self.waterfall
            ],
            "roofline_s": self.roofline_s,
        }


def _candidate_dict(candidate: Candidate) -> CandidateDict:
    error = candidate.max_error
    return {
        "backend": candidate.backend,
        "dtype": candidate.dtype,
        "time_s": candidate.time_s,
        "max_error": error if error is not None and isfinite(error) else None,
        "skipped": candidate.skipped,
    }
