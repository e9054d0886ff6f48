"""Runs passes in order; verifies after each and keeps what each one changed."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from ridgeline.errors import GraphError
from ridgeline.graph import Graph, diff, verify
from ridgeline.passes.affine import fold_affine, fold_batch_norm
from ridgeline.passes.attention import recover_attention
from ridgeline.passes.canonicalise import canonicalise
from ridgeline.passes.casts import cancel_casts
from ridgeline.passes.composites import recover_composites
from ridgeline.passes.cse import share_common
from ridgeline.passes.dead import drop_dead_code
from ridgeline.passes.fold import fold_constants
from ridgeline.passes.join import join_linears
from ridgeline.passes.layout import cancel_permutes
from ridgeline.passes.linear import recover_linears
from ridgeline.passes.pad import absorb_pads

Pass = Callable[[Graph], Graph]
# Clean up; recover what was written out; fold into weights, which later patterns would not know;
# join last, since a joined weight is no longer its layer's own.
DEFAULT_PASSES: tuple[Pass, ...] = (
    canonicalise,
    fold_constants,
    share_common,
    drop_dead_code,
    cancel_casts,
    cancel_permutes,
    recover_linears,
    recover_composites,
    recover_attention,
    fold_batch_norm,
    fold_affine,
    absorb_pads,
    join_linears,
)


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
