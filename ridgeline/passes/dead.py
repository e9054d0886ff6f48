"""Dead code: what nothing reads, and what does nothing."""

from torch import fx

from ridgeline.graph import Graph
from ridgeline.graph.edit import Edit
from ridgeline.graph.read import packet_of
from ridgeline.passes.match import Matcher, is_call, is_plain
from ridgeline.passes.rewrite import is_alike

# kind -> the second operand with which the first comes back exactly, -0.0 and NaN included.
_NEUTRAL = {"mul": 1.0, "div": 1.0, "sub": 0.0, "pow": 1.0}
_SAME_SHAPE = ("aten.view", "aten._unsafe_view", "aten.expand", "aten.slice")


def drop_dead_code(graph: Graph) -> Graph:
    """The graph without nodes and weights that nothing reads, or arithmetic that changes
    nothing: x * 1, x / 1, x - 0, x ** 1, a view as the same shape, a join of one.

    x + 0 stays: it turns -0.0 into 0.0.
    """
    edit = Edit(graph)
    matcher = Matcher(edit)
    is_changed = False
    for node in edit.nodes:
        if node.op != "call_function" or not node.users:
            continue
        source = _unchanged(node, matcher)
        if source is not None and not _would_return_input(node, source):
            edit.replace_uses(node, source)
            is_changed = True
    if is_changed:
        edit.refresh()
    return edit.finish()


def _unchanged(node: fx.Node, matcher: Matcher) -> fx.Node | None:
    """The operand that a node gives back as it is; None where it does something."""
    operands: list[object] = list(node.args[:2])
    if is_call(node, "cat") and isinstance(node.args[0], list | tuple) and len(node.args[0]) == 1:
        operands = list(node.args[0])
    elif packet_of(node.target) not in _SAME_SHAPE and not _is_neutral(node, operands, matcher):
        return None
    source = operands[0]
    return source if isinstance(source, fx.Node) and is_alike(node, source) else None


def _is_neutral(node: fx.Node, operands: list[object], matcher: Matcher) -> bool:
    kind = next((k for k in _NEUTRAL if is_call(node, k)), None)
    if kind is None or len(operands) < 2 or not is_plain(node):
        return False
    if kind == "mul" and matcher.number(operands[0]) == 1.0:
        operands.reverse()
    return matcher.number(operands[1]) == _NEUTRAL[kind]


def _would_return_input(node: fx.Node, source: fx.Node) -> bool:
    """Whether an input would become an output, which must stay a value of its own."""
    return source.op == "placeholder" and any(user.op == "output" for user in node.users)
