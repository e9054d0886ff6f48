"""Order: what a graph computes decides where each of its nodes and weights stands."""

import hashlib
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, fx

from ridgeline.graph import Category, Graph, row_of
from ridgeline.graph.edit import Edit
from ridgeline.graph.read import packet_of
from ridgeline.passes.match import arguments, is_plain

# The first two operands of these may change places.
_COMMUTATIVE = frozenset(
    "add mul maximum minimum eq ne fmax fmin logical_and logical_or logical_xor bitwise_and "
    "bitwise_or bitwise_xor".split()
)
# Where a value lives is not part of what a graph computes.
_PLACEMENT = ("device", "layout", "pin_memory")
# Rounds of telling nodes apart by what they read and by what reads them.
_ROUNDS = 2


def order_nodes(graph: Graph) -> Graph:
    """The graph with operands that may change places, nodes and weights in an order that its
    structure alone decides, and weights that it never writes as buffers, those of whole numbers as
    constants.

    Left in their order: graphs that draw random numbers, which come from one stream.
    """
    edit = Edit(graph)
    if any(row_of(packet_of(n.target)).category is Category.RANDOM for n in _calls(edit)):
        return graph
    _swap(edit, _colours(edit))
    _arrange(edit)
    edit.settle_weights()
    return edit.finish()


def _calls(edit: Edit) -> list[fx.Node]:
    return [n for n in edit.nodes if n.op == "call_function"]


# ---- telling nodes apart ------------------------------------------------------------------------


def _colours(edit: Edit) -> Mapping[fx.Node, str]:
    """Node -> what it is, reads, and is read by, as a digest; the same for nodes alike."""
    nodes = edit.nodes
    weights = edit.weights()
    inputs = {n: k for k, n in enumerate(n for n in nodes if n.op == "placeholder")}
    given = [n for n in inputs if n not in weights]
    colours = {n: _digest(_label(n), str(given.index(n)) if n in given else "") for n in nodes}
    for _ in range(_ROUNDS):
        for node in nodes:
            colours[node] = _digest(colours[node], *_read(node, colours))
        for node in reversed(nodes):
            colours[node] = _digest(colours[node], *sorted(_uses(node, colours)))
    return colours


def _label(node: fx.Node) -> str:
    value = node.meta.get("val")
    parts = value if isinstance(value, tuple | list) else (value,)
    specs = [f"{v.dtype}{list(v.shape)}" if isinstance(v, Tensor) else "" for v in parts]
    kind = row_of(packet_of(node.target)).kind if node.op == "call_function" else node.op
    return f"{kind} {specs}"


def _values(node: fx.Node) -> list[object]:
    """What a node is called with, in the order of its schema, without what says where it runs."""
    if not isinstance(node.target, torch._ops.OpOverload):
        return [] if node.op == "placeholder" else [*node.args, *node.kwargs.values()]
    return [value for name, value in arguments(node).items() if name not in _PLACEMENT]


def _read(node: fx.Node, colours: Mapping[fx.Node, str]) -> list[str]:
    operands = [_spelt(value, colours) for value in _values(node)]
    return [*sorted(operands[:2]), *operands[2:]] if is_commutative(node) else operands


def _spelt(argument: object, colours: Mapping[fx.Node, str]) -> str:
    if isinstance(argument, fx.Node):
        return colours[argument]
    if isinstance(argument, list | tuple):
        return f"[{','.join(_spelt(a, colours) for a in argument)}]"
    return repr(argument)


def _uses(node: fx.Node, colours: Mapping[fx.Node, str]) -> Iterable[str]:
    """Who reads a node, and at which places among the arguments."""
    for user in node.users:
        places = [f"{k}.{at}" for k, v in enumerate(_values(user)) for at in _places(v, node)]
        yield f"{colours[user]} {'' if is_commutative(user) else places}"


def _places(argument: object, node: fx.Node) -> list[int]:
    listed = argument if isinstance(argument, list | tuple) else [argument]
    return [k for k, a in enumerate(listed) if a is node]


def is_commutative(node: fx.Node) -> bool:
    """Whether the two operands of a call are values that may change places."""
    if node.op != "call_function" or not isinstance(node.target, torch._ops.OpOverload):
        return False
    is_pair = row_of(packet_of(node.target)).kind in _COMMUTATIVE and is_plain(node)
    return is_pair and len(node.args) == 2 and all(isinstance(a, fx.Node) for a in node.args)


def _digest(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


# ---- arranging ----------------------------------------------------------------------------------


def _swap(edit: Edit, colours: Mapping[fx.Node, str]) -> None:
    for node in edit.nodes:
        if is_commutative(node):
            first, second = node.args
            if colours[second] < colours[first]:  # type: ignore[index]
                node.args = (second, first)


def _arrange(edit: Edit) -> None:
    """Every node right before the first that reads it, operands in the order of arguments."""
    output = edit.output
    ordered = _reached(output)
    for node in ordered:
        if node.op == "call_function" or node.op == "get_attr":
            output.prepend(node)
    edit.order_weights([n for n in ordered if n.op == "placeholder"])


def _reached(output: fx.Node) -> list[fx.Node]:
    """Everything that the output depends on, operands first."""
    done: dict[fx.Node, None] = {}
    pending: list[tuple[fx.Node, bool]] = [(output, False)]
    while pending:
        node, is_open = pending.pop()
        if node in done:
            continue
        if is_open:
            done[node] = None
            continue
        pending.append((node, True))
        pending += [(n, False) for n in reversed(_operands(node))]
    return [n for n in done if n is not output]


def _operands(node: fx.Node) -> list[fx.Node]:
    """What a node reads, in the order of its schema."""
    found: list[fx.Node] = []
    pending = _values(node)[::-1]
    while pending:
        value = pending.pop()
        if isinstance(value, fx.Node):
            found.append(value)
        elif isinstance(value, list | tuple):
            pending += value[::-1]
    return found
