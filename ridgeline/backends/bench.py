"""How fast a saved model runs here, beside the same graph run eagerly in fp32."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypedDict

from torch import Tensor

from ridgeline.backends.artifact import Loaded
from ridgeline.backends.eager import Eager
from ridgeline.backends.measure import Timing
from ridgeline.backends.sample import take_samples
from ridgeline.graph.flat import check_inputs

_SAMPLES_PER_TURN = 2


class BenchDict(TypedDict):
    """The result, as JSON; the keys are stable."""

    model: str
    backend: str
    dtype: str
    note: str | None
    time_s: float | None
    spread_s: float | None
    samples: int
    clean_samples: int
    eager_s: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """What was measured. timing: of the saved model; eager: of its graph, in fp32."""

    loaded: Loaded
    timing: Timing
    eager: Timing

    def as_dict(self) -> BenchDict:
        """The stable JSON form."""
        return {
            "model": self.loaded.manifest.name,
            "backend": self.loaded.backend,
            "dtype": self.loaded.dtype,
            "note": self.loaded.note,
            "time_s": self.timing.time_s,
            "spread_s": self.timing.spread_s,
            "samples": len(self.timing.times_s),
            "clean_samples": sum(self.timing.is_clean),
            "eager_s": self.eager.time_s,
        }


def bench(loaded: Loaded, inputs: Sequence[Tensor], *, repeats: int = 10) -> Bench:
    """At least `repeats` samples of each, taken in turns so that a slow spell falls on both."""
    check_inputs(loaded.graph, inputs)
    runs = (loaded.run, Eager().compile(loaded.graph))
    timings = [Timing(), Timing()]
    for turn in range(-(-repeats // _SAMPLES_PER_TURN)):
        for number in (0, 1) if turn % 2 == 0 else (1, 0):
            times_s, is_clean = take_samples(runs[number], inputs, _SAMPLES_PER_TURN)
            before = timings[number]
            timings[number] = Timing(
                times_s=(*before.times_s, *times_s), is_clean=(*before.is_clean, *is_clean)
            )
    return Bench(loaded=loaded, timing=timings[0], eager=timings[1])
