"""Ways through the parts of a graph, each part on one of two backends: the best that was timed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

from ridgeline.units import format_time

# The number of the backend that each part runs on.
Way = tuple[int, ...]
# A mixture that gains less over one backend alone is not built: samples vary by as much.
LEAST_GAIN = 0.02


@dataclass(frozen=True, slots=True, kw_only=True)
class Stretch:
    """Neighbouring parts on one backend: from number `first` up to `last`."""

    backend: int
    first: int
    last: int


def stretches(way: Way) -> tuple[Stretch, ...]:
    """The neighbours of a way that run on the same backend, put together."""
    found, start = [], 0
    for backend, group in groupby(way):
        count = len(list(group))
        found.append(Stretch(backend=backend, first=start, last=start + count - 1))
        start += count
    return tuple(found)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ways:
    """What was timed. names: of the backends. times_s: seconds of each way that runs."""

    names: Sequence[str]
    times_s: Mapping[Way, float]

    def fastest(self) -> Way | None:
        """The fastest way of all; None where nothing runs."""
        return self._fastest(list(self.times_s))

    def fastest_mixed(self) -> Way | None:
        """The fastest way that uses both; None where there is none."""
        return self._fastest([way for way in self.times_s if len(set(way)) > 1])

    def refusal(self) -> str | None:
        """Why no mixture is worth building; None where one is."""
        alone = self._fastest([way for way in self.times_s if len(set(way)) == 1])
        mixed = self.fastest_mixed()
        if mixed is None:
            return "no part runs on the other."
        if alone is None or self.times_s[mixed] <= (1 - LEAST_GAIN) * self.times_s[alone]:
            return None
        return f"no mixture is enough faster: {self}."

    def _fastest(self, ways: Sequence[Way]) -> Way | None:
        return min(ways, key=lambda way: self.times_s[way], default=None)

    def __str__(self) -> str:
        """The times of each backend alone in parts, and of the fastest mixture."""
        mixed = self.fastest_mixed()
        shown = [way for way in self.times_s if len(set(way)) == 1] + ([mixed] if mixed else [])
        return ", ".join(f"{self._spelled(way)} {format_time(self.times_s[way])}" for way in shown)

    def _spelled(self, way: Way) -> str:
        runs = [f"{self.names[s.backend]} {s.last - s.first + 1}" for s in stretches(way)]
        return " then ".join(runs) if len(runs) > 1 else f"{self.names[way[0]]} alone"
