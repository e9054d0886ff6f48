"""What won before: the outcomes of earlier races, kept by all that they depend on.

An outcome spares the next race of the same graph the candidates that were clearly slower. It says
nothing of right or wrong: whatever runs is compared with the reference every time.
"""

import contextlib
import datetime
import hashlib
import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import packages_distributions, version
from math import isfinite
from pathlib import Path

import msgspec

from ridgeline import __version__
from ridgeline.backends.backend import Backend, Dtype
from ridgeline.backends.measure import CLOSE
from ridgeline.backends.result import CANNOT_WIN, Candidate
from ridgeline.graph import Graph
from ridgeline.machines.cpu import read_cpu
from ridgeline.machines.files import user_cache
from ridgeline.units import format_time

_MAX_BYTES = 1 << 20
# Drivers and firmware change without a version that we see, so nobody is spared for longer.
_MAX_AGE = datetime.timedelta(days=30)
SLOWER = "slower on"
Pairs = Sequence[tuple[type[Backend], Dtype]]


class Past(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """One candidate that ran and agreed: the median of its samples in seconds."""

    backend: str
    dtype: str
    time_s: float

    def __post_init__(self) -> None:
        if not (isfinite(self.time_s) and self.time_s > 0):
            raise ValueError(f"time_s is {self.time_s}; it must be positive")


class Outcome(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """One race and its day."""

    date: datetime.date
    ran: tuple[Past, ...]

    def holds(self, candidates: Sequence[Candidate]) -> bool:
        """Whether the fastest of every dtype still runs, or was not tried because its whole dtype
        cannot win. If not, those that were spared on its account may be the fastest.
        """
        fates: dict[tuple[str, str], str | None] = {
            (c.backend, c.dtype): c.skipped for c in candidates
        }
        fastest = [self._fastest(dtype) for dtype in {p.dtype for p in self.ran}]
        return all(_may_hold(fates.get((p.backend, p.dtype), "gone")) for p in fastest if p)

    def refusals(self, pairs: Pairs) -> list[str | None]:
        """For each backend and dtype, why it is not tried this time; None for those that were the
        fastest of their dtype or close, and for those that did not run.
        """
        times = {(p.backend, p.dtype): p.time_s for p in self.ran}
        return [
            None
            if self._shares_the_fastest(b.name, d)
            else self._refusal(times.get((b.name, d)), self._fastest(d))
            for b, d in pairs
        ]

    def _shares_the_fastest(self, backend: str, dtype: str) -> bool:
        """Whether the fastest runs parts of the graph on this backend."""
        fastest = self._fastest(dtype)
        return fastest is not None and backend in fastest.backend.split("+")

    def was_close(self, backend: str, dtype: str) -> bool:
        """Whether a candidate ran and was about as fast as the fastest of its dtype."""
        fastest = self._fastest(dtype)
        times = [p.time_s for p in self.ran if (p.backend, p.dtype) == (backend, dtype)]
        return fastest is not None and any(t <= CLOSE * fastest.time_s for t in times)

    def _fastest(self, dtype: str) -> Past | None:
        return min((p for p in self.ran if p.dtype == dtype), key=lambda p: p.time_s, default=None)

    def _refusal(self, time_s: float | None, fastest: Past | None) -> str | None:
        if time_s is None or fastest is None or time_s <= CLOSE * fastest.time_s:
            return None
        return (
            f"{SLOWER} {self.date}: {format_time(time_s)}, {fastest.backend} "
            f"{format_time(fastest.time_s)}; --fresh tries it again"
        )


def _may_hold(skipped: str | None) -> bool:
    return skipped is None or skipped.startswith(CANNOT_WIN)


@dataclass(frozen=True, slots=True)
class Choices:
    """The outcomes in one folder, a JSON file each."""

    folder: Path

    @classmethod
    def of_user(cls) -> "Choices | None":
        """Those in the user's cache; None for a user without a home."""
        with contextlib.suppress(RuntimeError):
            return cls(user_cache() / "choices")
        return None

    def recall(self, key: str) -> Outcome | None:
        """The outcome filed under `key`; None where there is none, none that can be read, or only
        an old one.
        """
        with contextlib.suppress(OSError, ValueError, msgspec.DecodeError):
            with self._path(key).open("rb") as file:
                outcome = msgspec.json.decode(file.read(_MAX_BYTES), type=Outcome)
            return outcome if datetime.date.today() - outcome.date <= _MAX_AGE else None
        return None

    def keep(self, key: str, candidates: Sequence[Candidate], before: Outcome | None) -> None:
        """Files what ran under `key`, whole or not at all; where nothing can be kept, nothing is.

        before: the outcome that spared some of the candidates; of those its times stay, and its
        date.
        """
        times = {(p.backend, p.dtype): p for p in (before.ran if before else ())}
        for c in candidates:
            if c.skipped is None and c.time_s is not None:
                times[c.backend, c.dtype] = Past(c.backend, c.dtype, c.time_s)
            elif not (c.skipped or "").startswith((SLOWER, CANNOT_WIN)):
                times.pop((c.backend, c.dtype), None)  # it fails now
        date = before.date if before else datetime.date.today()
        outcome = Outcome(date, tuple(times.values()))
        with contextlib.suppress(OSError):
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            handle, partial = tempfile.mkstemp(dir=self.folder, prefix=".choice-")
            try:
                with os.fdopen(handle, "wb") as file:
                    file.write(msgspec.json.encode(outcome))
                os.replace(partial, self._path(key))
            except OSError:
                os.unlink(partial)

    def _path(self, key: str) -> Path:
        return self.folder / f"{key}.json"


def key_of(graph: Graph, pairs: Pairs, threads: int, settings: str) -> str:
    """All that decides who wins, as 64 hexadecimal digits: the rewritten graph with its shapes, the
    candidates and the versions of what they rest on, the processor, its threads; settings: whatever
    else was asked for.
    """
    candidates = [f"{b.name} {d}" for b, d in pairs]
    parts = [graph.digest, read_cpu().model, str(threads), settings, *candidates]
    return hashlib.sha256("\n".join([*parts, *_versions(pairs)]).encode()).hexdigest()


def _versions(pairs: Pairs) -> list[str]:
    """Ours, and those of the packages behind the candidates; "none" for what is not installed."""
    owners = packages_distributions()
    modules = {"torch", *(m.partition(".")[0] for b, _ in pairs for m in b.modules)}
    found = [
        f"{name} {version(name)}" if module in owners else f"{module} none"
        for module in sorted(modules)
        for name in sorted(set(owners.get(module, [module])))
    ]
    return [f"ridgeline {__version__}", *found]
