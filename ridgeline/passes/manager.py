"""Runs passes in order; verifies after each and keeps what each one changed."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from ridgeline.errors import GraphError
from ridgeline.graph import Graph, diff, verify
from ridgeline.passes.canonicalise import canonicalise
from ridgeline.passes.fold import fold_batch_norm, fold_constants

Pass = Callable[[Graph], Graph]
DEFAULT_PASSES: tuple[Pass, ...] = (canonicalise, fold_constants, fold_batch_norm)


@dataclass(frozen=True, slots=True, kw_only=True)
class PassStep:
    """What one pass did. before, graph: what it got and what it made of it; diff: unified text
    diff, empty when it changed nothing visible.
    """

    name: str
    before: Graph
    graph: Graph
    diff: str
    is_skipped: bool = False


def run_passes(
    graph: Graph, passes: Sequence[Pass] = DEFAULT_PASSES, *, skip: Collection[str] = ()
) -> tuple[PassStep, ...]:
    """The steps of running `passes` on `graph`; the last step's graph is the result.

    Raises GraphError when `skip` names no pass, or when a pass breaks the graph.
    """
    known = [p.__name__ for p in passes]
    unknown = sorted(set(skip) - set(known))
    if unknown:
        raise GraphError(f"no pass {unknown[0]!r} to skip; there are {', '.join(known)}.")
    steps = []
    for one in passes:
        step = _run(one, graph, is_skipped=one.__name__ in skip)
        graph = step.graph
        steps.append(step)
    return tuple(steps)


def _run(one: Pass, graph: Graph, *, is_skipped: bool) -> PassStep:
    if is_skipped:
        return PassStep(name=one.__name__, before=graph, graph=graph, diff="", is_skipped=True)
    after = one(graph)
    try:
        verify(after)
    except GraphError as error:
        raise GraphError(
            f"pass {one.__name__} broke graph {graph.name}: {error} Skip it by name and report it."
        ) from error
    return PassStep(name=one.__name__, before=graph, graph=after, diff=diff(graph, after))
