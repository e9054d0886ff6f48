"""The normal form: what a network is, whatever framework wrote it."""

from collections.abc import Sequence
from itertools import cycle, islice

from ridgeline.errors import GraphError
from ridgeline.graph import Graph, Phase
from ridgeline.passes.bake import bake_constants, settle_constants
from ridgeline.passes.cse import share_common
from ridgeline.passes.divide import divide_linears
from ridgeline.passes.join import join_linears
from ridgeline.passes.manager import DEFAULT_PASSES, Pass, run_passes
from ridgeline.passes.order import order_nodes
from ridgeline.passes.recurrent import unstack_lstms
from ridgeline.passes.spelling import spell_alike
from ridgeline.passes.views import compose_views, sink_views

# What speeds a graph up, but for joined weights, which are divided here; then one form of each
# thing that has several.
NORMAL_PASSES: tuple[Pass, ...] = (
    *(one for one in DEFAULT_PASSES if one is not join_linears),
    unstack_lstms,
    spell_alike,
    bake_constants,
    sink_views,
    compose_views,
    divide_linears,
    share_common,
    settle_constants,
    order_nodes,
)
# One pass makes room for another; networks need two or three rounds.
_MOST_ROUNDS = 8


def normal_form(graph: Graph, passes: Sequence[Pass] = NORMAL_PASSES) -> Graph:
    """The graph in the form that depends on what it computes alone: two captures of one network,
    from whatever frameworks, share its `digest`.

    What counts is structure, shapes, types, numbers in calls, and the values of constants of whole
    numbers; not names, nor the values of floating-point weights. For comparing: it computes what
    the graph does, and no backend is faster for it. Raises GraphError for graphs in training, with
    folded layers or without weights.
    """
    if graph.phase in (Phase.TRAIN, Phase.STEP) or not graph.is_runnable:
        raise GraphError(
            f"graph {graph.name} has no normal form: it is in training, has folded layers or has "
            "no weights; capture it for inference, with weights and fold_layers=False."
        )
    settled = 0
    for one in islice(cycle(passes), _MOST_ROUNDS * len(passes)):
        after = run_passes(graph, [one])[-1].graph
        settled, graph = (settled + 1, graph) if after.digest == graph.digest else (0, after)
        if settled == len(passes):
            break
    return graph
