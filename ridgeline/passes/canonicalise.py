"""One spelling for one thing: no tracing noise, no dead code, no dropout that drops nothing."""

from torch import fx

from ridgeline.frontends.noise import drop_noise
from ridgeline.graph import Graph, Phase
from ridgeline.graph.edit import Edit
from ridgeline.graph.read import packet_of


def canonicalise(graph: Graph) -> Graph:
    """The graph without assertions, aliases, copies that copy nothing, unread values and weights,
    and inactive dropout.
    """
    edit = Edit(graph)
    for node in edit.nodes:
        source = node.args[0] if node.args else None
        if _is_inactive_dropout(node) and isinstance(source, fx.Node):
            edit.replace_uses(node, source)
    cleaned = edit.finish()
    drop_noise(cleaned.program, keep_detach=graph.phase is Phase.TRAIN)
    return Edit(cleaned).finish()


def _is_inactive_dropout(node: fx.Node) -> bool:
    if node.op != "call_function" or packet_of(node.target) != "aten.dropout":
        return False
    _, probability, is_training = node.args
    return is_training is False or probability in (0, 0.0)
