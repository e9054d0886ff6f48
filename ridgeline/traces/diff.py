"""What changed between two recordings of a program: by category, and by module and operator.

Recordings need not hold the same amount of work: one may have more steps, or a recorder that stops
after a second catches less of a slower program. Times of the second are therefore of as much work
as the first did, unless they are asked for as recorded.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum

from ridgeline.errors import TraceError
from ridgeline.traces.paths import Path
from ridgeline.traces.rank import RankTrace


class Basis(Enum):
    """What says how much work the second recording did beside the first."""

    STEPS = "the steps that each marks"
    CALLS = "how often the kernels that took most of the time ran"
    RECORDED = "nothing: as recorded"


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """A part of the span before and after."""

    what: str
    before_ns: float
    after_ns: float

    @property
    def change_ns(self) -> float:
        """By how much it became longer."""
        return self.after_ns - self.before_ns


@dataclass(frozen=True, slots=True, kw_only=True)
class OperatorChange:
    """An operator of a module before and after: time on the device and events there. op: the kernel
    where no operator is recorded. *_kernel: the one that took longest, "" where it did not run.
    """

    module: str
    op: str
    before_ns: float
    after_ns: float
    before_count: float
    after_count: float
    before_kernel: str
    after_kernel: str

    @property
    def change_ns(self) -> float:
        """By how much it became longer."""
        return self.after_ns - self.before_ns


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """Two recordings side by side. work_ratio: how much the second did beside the first, by
    `basis`; its times and counts here are divided by that. categories: make up the spans, in the
    order of what became longer; operators: what changed most first.
    """

    before: RankTrace
    after: RankTrace
    work_ratio: float
    basis: Basis
    categories: tuple[Change, ...]
    operators: tuple[OperatorChange, ...]

    def __post_init__(self) -> None:
        if self.work_ratio <= 0:
            raise TraceError(f"a recording did {self.work_ratio} times the work of another.")

    @property
    def before_ns(self) -> float:
        """The span of the first."""
        return float(self.before.split.span_ns)

    @property
    def after_ns(self) -> float:
        """The span of the second, for as much work as the first did."""
        return self.after.split.span_ns / self.work_ratio

    @property
    def slowdown(self) -> float:
        """By which share the second takes longer; negative where it is faster."""
        return self.after_ns / self.before_ns - 1


def diff(before: RankTrace, after: RankTrace, *, is_as_recorded: bool = False) -> Difference:
    """What changed from one rank's recording to another's."""
    olds, news = _grouped(before.paths), _grouped(after.paths)
    basis = Basis.RECORDED if is_as_recorded else _basis(before, after)
    ratio = _RATIOS[basis](before, after, olds, news)
    operators = (
        _operator(key, olds.get(key, ()), news.get(key, ()), ratio) for key in {**olds, **news}
    )
    return Difference(
        before=before,
        after=after,
        work_ratio=ratio,
        basis=basis,
        categories=_categories(before, after, ratio),
        operators=tuple(sorted(operators, key=lambda one: -abs(one.change_ns))),
    )


Key = tuple[str, str]
Groups = Mapping[Key, Sequence[Path]]


def _grouped(paths: Sequence[Path]) -> Groups:
    """By module and operator; by kernel what no operator launched."""
    found: dict[Key, list[Path]] = {}
    for path in paths:
        found.setdefault((path.module, path.op or path.kernel), []).append(path)
    return found


def _basis(before: RankTrace, after: RankTrace) -> Basis:
    return Basis.STEPS if before.steps and after.steps else Basis.CALLS


def _by_steps(before: RankTrace, after: RankTrace, olds: Groups, news: Groups) -> float:
    return len(after.steps) / len(before.steps)


def _by_calls(before: RankTrace, after: RankTrace, olds: Groups, news: Groups) -> float:
    """The median over the time of the first of how much more often what both have ran; 1 where
    they have nothing in common.
    """
    ratios = sorted(
        (_count(news[key]) / _count(olds[key]), _time_ns(olds[key])) for key in olds if key in news
    )
    half_ns, reached_ns = sum(time_ns for _, time_ns in ratios) / 2, 0
    for ratio, time_ns in ratios:
        reached_ns += time_ns
        if reached_ns >= half_ns:
            return ratio
    return 1.0


def _as_recorded(before: RankTrace, after: RankTrace, olds: Groups, news: Groups) -> float:
    return 1.0


_RATIOS = {Basis.STEPS: _by_steps, Basis.CALLS: _by_calls, Basis.RECORDED: _as_recorded}


def _count(paths: Sequence[Path]) -> int:
    return sum(path.count for path in paths)


def _time_ns(paths: Sequence[Path]) -> int:
    return sum(path.total_ns for path in paths)


def _operator(key: Key, olds: Sequence[Path], news: Sequence[Path], ratio: float) -> OperatorChange:
    return OperatorChange(
        module=key[0],
        op=key[1],
        before_ns=float(_time_ns(olds)),
        after_ns=_time_ns(news) / ratio,
        before_count=float(_count(olds)),
        after_count=_count(news) / ratio,
        before_kernel=olds[0].kernel if olds else "",
        after_kernel=news[0].kernel if news else "",
    )


def _categories(before: RankTrace, after: RankTrace, ratio: float) -> tuple[Change, ...]:
    old, new = _parts(before), _parts(after)
    changes = (
        Change(what=what, before_ns=float(old.get(what, 0)), after_ns=new.get(what, 0) / ratio)
        for what in {**old, **new}
    )
    return tuple(sorted(changes, key=lambda change: -change.change_ns))


def _parts(rank: RankTrace) -> dict[str, int]:
    """What makes up a span, in ns; a part that is not there is left out."""
    split = rank.split
    busy = {
        "compute": split.compute_ns,
        "exposed communication": split.exposed_communication_ns,
        "memory": split.memory_ns,
    }
    idle = {f"idle: {one.cause.value}": one.idle_ns for one in rank.idle_causes}
    return {what: time_ns for what, time_ns in {**busy, **idle}.items() if time_ns}
