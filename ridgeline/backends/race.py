"""The race of all candidates: compiled, compared with the reference, timed in turns."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import isfinite
from pathlib import Path
from statistics import median

import torch
from torch import Tensor

from ridgeline.backends.agreement import compare
from ridgeline.backends.backend import Backend, Dtype
from ridgeline.backends.child import Nursery
from ridgeline.backends.measure import (
    Limits,
    Timing,
    compile_all,
    measure_in_turn,
    measure_the_close,
)
from ridgeline.backends.protocol import Job
from ridgeline.backends.result import CANNOT_WIN
from ridgeline.backends.split.ways import LEAST_GAIN
from ridgeline.units import format_time

# What is being done, and how much of it is done.
Progress = Callable[[str, float], None]
# Samples that decide, before the next dtype is compiled, what that has to beat.
_FIRST_LOOK = 2
# Rounds that a late candidate shares with its rivals at least.
_LEAST_ROUNDS = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """One candidate to be. refusal: why it is not even tried."""

    backend: type[Backend]
    dtype: Dtype
    graph: Path
    refusal: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Race:
    """The candidates of one run, dtype by dtype."""

    plans: list[Plan]
    jobs: list[Job]
    expected: Sequence[Tensor]
    limits: Limits
    tell: Progress

    def run(
        self, nursery: Nursery, repeats: int, bound_s: Callable[[Dtype], float | None]
    ) -> list[Timing]:
        """What became of each: compiled and compared, the dtypes in their order, then timed in turn
        with the others; those that come close to the fastest of their dtype, longer.
        """
        timings = [Timing(skipped=plan.refusal) for plan in self.plans]
        dtypes = list(dict.fromkeys(plan.dtype for plan in self.plans[1:]))
        waves = [[n for n, p in enumerate(self.plans) if n and p.dtype == d] for d in dtypes]
        for place, (dtype, wave) in enumerate(zip(dtypes, waves, strict=True)):
            bound = bound_s(dtype)
            if place and bound is not None:
                timings = self._pruned(nursery, timings, wave, bound)
            self._compile(nursery, timings, [0, *wave] if not place else wave, place, len(dtypes))

        def told(done: float) -> Callable[[float], None]:
            return lambda fraction: self.tell("measure", done + fraction / 2)

        timings = measure_in_turn(nursery, timings, repeats, self.limits, told(0.0))
        return measure_the_close(nursery, timings, waves, repeats, self.limits, told(0.5))

    def join(
        self,
        nursery: Nursery,
        timings: Sequence[Timing],
        late: tuple[Plan, Job],
        rivals: Sequence[int],
        repeats: int,
    ) -> list[Timing]:
        """The timings and that of one more candidate, compiled when the race of the others is over
        and timed in turns with its rivals.
        """
        self.tell("split", 0.0)
        plan, job = late
        number = len(self.plans)
        self.plans.append(plan)
        self.jobs.append(job)
        nursery.jobs.append(job)
        for other in set(nursery.started) - set(rivals):
            nursery.started.pop(other).kill()  # its memory is wanted
        found = [*timings, Timing()]
        found[number] = self._ready(nursery, [number], lambda f: None)[number]
        if found[number].skipped is None:
            found = measure_in_turn(
                nursery,
                found,
                3 * repeats,
                self.limits,
                lambda f: None,
                only=[number, *rivals],
                least=_LEAST_ROUNDS,
            )
            found[number] = self._weighed(found, number, rivals)
        self.tell("split", 1.0)
        # what became of a rival before stays, though it was lost meanwhile
        return [
            old if new.skipped and not old.skipped else new
            for old, new in zip((*timings, found[number]), found, strict=True)
        ]

    def _weighed(self, timings: Sequence[Timing], number: int, rivals: Sequence[int]) -> Timing:
        """The timing of a late candidate, skipped if it does not gain enough on each rival in the
        rounds that they shared.
        """
        late = timings[number]
        for rival in rivals:
            pairs = zip(reversed(timings[rival].times_s), reversed(late.times_s), strict=False)
            gain = median(a / b for a, b in pairs) - 1
            if late.skipped is None and gain < LEAST_GAIN:
                plan = self.plans[rival]
                reason = (
                    f"not {LEAST_GAIN:.0%} faster than {plan.backend.name} {plan.dtype}, turn by "
                    f"turn ({gain:+.1%})"
                )
                late = replace(late, skipped=reason)
        return late

    def _compile(
        self, nursery: Nursery, timings: list[Timing], wave: Sequence[int], place: int, of: int
    ) -> None:
        """Compiles the candidates of one dtype that are still in, and compares their outputs."""
        numbers = [n for n in wave if timings[n].skipped is None]
        ready = self._ready(nursery, numbers, lambda f: self.tell("compile", (place + f) / of))
        for number, timing in ready.items():
            timings[number] = timing
        self.tell("compile", (place + 1) / of)

    def _ready(
        self, nursery: Nursery, numbers: Sequence[int], tell: Callable[[float], None]
    ) -> dict[int, Timing]:
        """The candidates of these numbers, compiled and compared."""
        ready = compile_all(nursery, numbers, self.limits, tell)
        for number, timing in ready.items():
            job = self.jobs[number]
            if timing.skipped is None:
                outputs = torch.load(Path(job.folder) / "outputs.pt", weights_only=True)
                ready[number] = _judged(timing, self.expected, outputs, job.tolerance)
        return ready

    def _pruned(
        self, nursery: Nursery, timings: Sequence[Timing], wave: Sequence[int], bound_s: float
    ) -> list[Timing]:
        """The timings, those of `wave` skipped if their bound cannot beat the best so far."""
        hasty = replace(self.limits, patience_s=0.0)
        looked = measure_in_turn(nursery, timings, _FIRST_LOOK, hasty, lambda f: None)
        ran = [(t.time_s, n) for n, t in enumerate(looked) if n and not t.skipped and t.time_s]
        if not ran or bound_s <= min(ran)[0]:
            return looked
        best_s, number = min(ran)
        plan = self.plans[number]
        reason = (
            f"{CANNOT_WIN}: the roofline allows {format_time(bound_s)}, "
            f"{plan.backend.name} {plan.dtype} takes {format_time(best_s)}"
        )
        for n in wave:
            if looked[n].skipped is None:
                looked[n] = replace(looked[n], skipped=reason)
        return looked


def _judged(
    timing: Timing, expected: Sequence[Tensor], outputs: Sequence[Tensor], limit: float | None
) -> Timing:
    agreement = compare(expected, outputs)
    error = agreement.max_error
    reason = None
    if limit is not None and not error <= limit:
        size = f"error {error:.2g}" if isfinite(error) else "other shapes, infinities or NaNs"
        reason = f"outputs differ from the reference: {size}, tolerance {limit:g}"
    return replace(timing, agreement=agreement, skipped=reason)
