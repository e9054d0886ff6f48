"""Constants: computed or given, whole or seen through views, each in one form."""

import hashlib

import torch
from torch import Tensor, fx

from ridgeline.graph import Graph
from ridgeline.graph.edit import Edit
from ridgeline.passes.fold import constant_nodes, evaluate
from ridgeline.passes.match import Matcher
from ridgeline.passes.views import is_pointwise


def bake_constants(graph: Graph) -> Graph:
    """The graph with all that depends on weights alone as weights, views and fills among it, and
    constants that are broadcast without dimensions of one in front.
    """
    if not graph.is_runnable:
        return graph
    edit = Edit(graph)
    _bake(edit)
    _drop_leading_ones(edit)
    edit.refresh()
    return edit.finish()


def settle_constants(graph: Graph) -> Graph:
    """The graph with weights that hold the same numbers as one weight, and one for each reader of
    those whose numbers are all alike, as zeros are: who shares them is chance.
    """
    if not graph.is_runnable:
        return graph
    edit = Edit(graph)
    _share(edit)
    edit.refresh()
    return edit.finish()


def _bake(edit: Edit) -> None:
    weights, matcher = edit.weights(), Matcher(edit)
    constant = constant_nodes(edit, weights)
    values: dict[fx.Node, Tensor | tuple[Tensor, ...]] = dict(weights)
    for node in edit.nodes:
        is_read = any(user not in constant for user in node.users)
        if node not in constant or not is_read or not isinstance(node.meta["val"], Tensor):
            continue
        if matcher.number(node) is not None and not node.all_input_nodes:
            continue  # a number, which patterns and arithmetic know as one
        if any(user.op == "output" for user in node.users):
            continue
        value = evaluate(node, values)
        assert isinstance(value, Tensor)
        dense = value.detach().contiguous().clone()
        edit.replace_uses(node, edit.add_weight(f"baked.{node.name}", dense))


def _drop_leading_ones(edit: Edit) -> None:
    for node in edit.nodes:
        value = node.meta.get("val")
        if node.op != "call_function" or not isinstance(value, Tensor):
            continue
        if not is_pointwise(node):
            continue
        for operand in node.all_input_nodes:
            tensor = edit.weights().get(operand)
            if tensor is not None and _has_spare_rank(node, operand, tensor):
                trimmed = tensor.detach()
                while trimmed.dim() > 1 and trimmed.shape[0] == 1:
                    trimmed = trimmed[0]
                new = edit.add_weight(f"{edit.path_of(operand)}_row", trimmed.contiguous())
                node.replace_input_with(operand, new)


def _has_spare_rank(node: fx.Node, operand: fx.Node, tensor: Tensor) -> bool:
    """Whether another operand gives the result its rank."""
    rank = node.meta["val"].dim()
    others = [n.meta["val"].dim() for n in node.all_input_nodes if n is not operand]
    return tensor.dim() > 1 and tensor.shape[0] == 1 and rank in others


def _share(edit: Edit) -> None:
    """One weight for the same numbers; one for each reader where all numbers are alike."""
    known: dict[object, fx.Node] = {}
    for node, tensor in list(edit.weights().items()):
        if any(user.op == "output" for user in node.users):
            continue
        if _is_uniform(tensor):
            _give_each_its_own(edit, node, tensor)
        else:
            first = known.setdefault(content(tensor), node)
            if first is not node:
                node.replace_all_uses_with(first)


def _is_uniform(tensor: Tensor) -> bool:
    if not tensor.is_floating_point() or not tensor.numel():
        return False
    flat = tensor.detach().reshape(-1)
    return bool(flat[0] == flat[-1]) and bool((flat == flat[0]).all())


def _give_each_its_own(edit: Edit, node: fx.Node, tensor: Tensor) -> None:
    """A placeholder for every place of every reader, the first of which keeps the old."""
    is_taken = False

    def own(read: fx.Node) -> fx.Node:
        nonlocal is_taken
        if read is not node:
            return read
        if not is_taken:
            is_taken = True
            return read
        return edit.add_weight(edit.path_of(node), tensor.detach())

    for user in list(node.users):
        user.args = fx.map_arg(user.args, own)
        user.kwargs = fx.map_arg(user.kwargs, own)


def content(tensor: Tensor) -> tuple[object, ...]:
    """Equal for tensors of one type and shape that hold the same bits."""
    data = tensor.detach().cpu().contiguous().reshape(-1).view(dtype=torch.uint8)
    return tensor.dtype, tuple(tensor.shape), hashlib.sha256(data.numpy().tobytes()).hexdigest()
