"""Removes what tracing leaves behind: assertions, lifted constants, copies that copy nothing."""

import operator

import torch
from torch import Tensor, fx
from torch.export import ExportedProgram

from ridgeline.graph.ops import Category, row_of
from ridgeline.graph.read import packet_of

_COPIES = ("aten.clone", "aten._to_copy", "aten.to", "aten.contiguous")
_ALIASES = (
    "aten.alias",
    "aten.lift",
    "aten.lift_fresh",
    "aten.lift_fresh_copy",
    "aten.view_of",
)
_DETACH = "aten.detach"
_REGION = "higher_order.wrap_with_set_grad_enabled"
_IDENTITIES = ("aten.view", "aten.reshape", "aten.expand", "aten._unsafe_view")


def drop_noise(program: ExportedProgram, *, keep_detach: bool) -> int:
    """Removes noise nodes from a program that the caller alone owns; returns how many.

    Valid because the graph is functional: an alias, or a copy with its input's dtype and strides,
    holds the same values for ever. Kept where the value is returned, so that outputs never alias
    inputs. keep_detach: when training, a detach says where gradients stop.
    """
    graph = program.graph_module.graph
    removed = sum(_remove(program, node, keep_detach) for node in list(graph.nodes))
    removed += _sweep(graph)
    program.graph_module.recompile()
    return removed


def mark_stopped_gradients(program: ExportedProgram) -> None:
    """Detaches what regions under no_grad return, in a program that the caller alone owns:
    decomposing inlines such regions, and forgets them.
    """
    graph = program.graph_module.graph
    for node in list(graph.nodes):
        if node.target is operator.getitem and _stops_gradients(node.args[0]):
            with graph.inserting_after(node):
                stopped = graph.call_function(torch.ops.aten.detach.default, (node,))
            stopped.meta.update(node.meta)
            node.replace_all_uses_with(stopped)
            stopped.args = (node,)
            program.graph_signature.replace_all_uses(node.name, stopped.name)
    program.graph_module.recompile()


def _stops_gradients(node: object) -> bool:
    is_region = isinstance(node, fx.Node) and packet_of(node.target) == _REGION
    return is_region and isinstance(node, fx.Node) and node.args[0] is False


def _remove(program: ExportedProgram, node: fx.Node, keep_detach: bool) -> bool:
    if node.op != "call_function" or not _is_noise(node, keep_detach):
        return False
    if node.users:
        source = node.args[0]
        if not isinstance(source, fx.Node):
            return False
        program.graph_signature.replace_all_uses(node.name, source.name)
        node.replace_all_uses_with(source)
    program.graph.erase_node(node)
    return True


def _is_noise(node: fx.Node, keep_detach: bool) -> bool:
    packet = packet_of(node.target)
    if row_of(packet).category is Category.NOISE and not node.users:
        return True
    if packet in _ALIASES or (packet == _DETACH and not keep_detach):
        return not _is_returned(node)
    if packet in _COPIES or packet in _IDENTITIES:
        return _keeps_layout(node) and not _is_returned(node)
    return False


def _is_returned(node: fx.Node) -> bool:
    """Whether removing it would return a graph input, which must stay a value of its own."""
    if all(user.op != "output" for user in node.users):
        return False
    source = node.args[0]
    return not isinstance(source, fx.Node) or source.op == "placeholder"


def _keeps_layout(node: fx.Node) -> bool:
    """Whether the result equals the input in shape, dtype and strides."""
    source = node.args[0]
    if not isinstance(source, fx.Node):
        return False
    before, after = source.meta.get("val"), node.meta.get("val")
    if not isinstance(before, Tensor) or not isinstance(after, Tensor):
        return False
    return (
        before.dtype == after.dtype
        and before.device == after.device
        and before.shape == after.shape
        and before.stride() == after.stride()
    )


def _sweep(graph: fx.Graph) -> int:
    """Erases nodes that nothing reads, e.g. tuple look-ups of unused outputs; random draws stay."""
    removed = 0
    for node in reversed(list(graph.nodes)):
        if node.op in ("placeholder", "output") or node.users or _has_effect(node):
            continue
        graph.erase_node(node)
        removed += 1
    return removed


def _has_effect(node: fx.Node) -> bool:
    if node.op != "call_function" or node.target is operator.getitem:
        return False
    if not isinstance(node.target, torch._ops.OpOverload):
        return True
    return row_of(packet_of(node.target)).category is Category.RANDOM
