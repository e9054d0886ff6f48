"""The icicle of a trace: module, operator, kernel."""

from collections.abc import Callable, Mapping, Sequence

from ridgeline.report.icicle import Branch, icicle
from ridgeline.report.markup import Html, elided
from ridgeline.report.trace_colours import KERNELS, kernel_style
from ridgeline.report.trace_words import share_of, time_of
from ridgeline.traces.kernels import Kernel
from ridgeline.traces.paths import Path
from ridgeline.traces.usage import KernelUse
from ridgeline.units import counted

Level = Callable[[Path], str]


def _module(path: Path) -> str:
    return path.module


def _op(path: Path) -> str:
    return path.op


def _kernel(path: Path) -> str:
    return path.kernel


_NOT_RECORDED: Mapping[Level, str] = {_module: "(no module)", _op: "(no operator)", _kernel: ""}
"""The levels from left to right, and what stands where one was not recorded."""


def paths_icicle(paths: Sequence[Path], kernels: Sequence[KernelUse]) -> Html:
    """Time by module and operator, where any is recorded, and by kernel, coloured by its kind."""
    levels = [level for level in _NOT_RECORDED if any(level(path) for path in paths)]
    kinds = {use.name: use.what for use in kernels}
    whole_ns = sum(path.total_ns for path in paths)
    return icicle(_branches(paths, levels, kinds, whole_ns), len(levels), "run-kernels")


def _branches(
    paths: Sequence[Path], levels: Sequence[Level], kinds: Mapping[str, Kernel], whole_ns: int
) -> list[Branch]:
    groups: dict[str, list[Path]] = {}
    for path in paths:
        groups.setdefault(levels[0](path), []).append(path)
    return [_branch(name, members, levels, kinds, whole_ns) for name, members in groups.items()]


def _branch(
    name: str,
    members: Sequence[Path],
    levels: Sequence[Level],
    kinds: Mapping[str, Kernel],
    whole_ns: int,
) -> Branch:
    total_ns = sum(path.total_ns for path in members)
    num_runs = sum(path.count for path in members)
    shown = name or _NOT_RECORDED[levels[0]]
    tip = [elided(shown), f"{time_of(total_ns)}, {share_of(total_ns, whole_ns)} of the time"]
    tip.append(counted(num_runs, "run"))
    is_leaf = len(levels) == 1
    style = kernel_style(kinds[name]) if is_leaf else "free"
    if is_leaf:
        tip.append(f"{KERNELS[style]}: {kinds[name].op.value}, {kinds[name].precision.value}")
    return Branch(
        label=f"{shown} {share_of(total_ns, whole_ns)}",
        value=total_ns,
        tip="\n".join(tip),
        style=style,
        words=elided(name),
        children=[] if is_leaf else _branches(members, levels[1:], kinds, whole_ns),
    )
