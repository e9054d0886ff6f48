"""Recurrent layers: a stack in one node becomes one node for each layer, time first."""

import operator

import torch
from torch import fx

from ridgeline.graph import Graph
from ridgeline.graph.edit import Edit
from ridgeline.passes.match import arguments

_aten = torch.ops.aten
_LSTM = _aten.lstm.input


def unstack_lstms(graph: Graph) -> Graph:
    """The graph with every LSTM of several layers as LSTMs of one, each on the time-first outputs
    of the one before; a last hidden state is the last output.

    Left alone: stacks with active dropout between layers, which is drawn anew in each run.
    """
    edit = Edit(graph)
    stacks = [n for n in edit.nodes if n.target is _LSTM and n.users and not _is_plain(n)]
    if not stacks:
        return graph
    for node in stacks:
        _unstack(edit, node)
    edit.refresh()
    return edit.finish()


def _is_plain(node: fx.Node) -> bool:
    """Whether there is nothing to do, or active dropout."""
    given = arguments(node)
    is_one = given["num_layers"] == 1 and not given["batch_first"]
    reads_last = any(u.target is operator.getitem and u.args[1] == 1 for u in node.users)
    is_done = is_one and (not reads_last or bool(given["bidirectional"]))
    is_canonical = is_done and not given["train"] and not given["dropout"]
    return is_canonical or (bool(given["train"]) and bool(given["dropout"]))


def _unstack(edit: Edit, node: fx.Node) -> None:
    given = arguments(node)
    is_batch_first, num_layers = bool(given["batch_first"]), _whole(given["num_layers"])
    weights, states = given["params"], given["hx"]
    assert isinstance(weights, list | tuple)
    assert isinstance(states, list | tuple)
    sequence, num_directions = _node(given["input"]), 2 if given["bidirectional"] else 1
    if is_batch_first:
        sequence = edit.call(_aten.transpose.int, (sequence, 0, 1), node)
    per_layer, finals = len(weights) // num_layers, []
    for layer in range(num_layers):
        first = layer * num_directions
        part = [
            _part(edit, _node(s), first, num_directions, node) if num_layers > 1 else s
            for s in states
        ]
        own = list(weights[layer * per_layer : (layer + 1) * per_layer])
        rest = (given["has_biases"], 1, 0.0, False, given["bidirectional"], False)
        made = edit.call(_LSTM, (sequence, part, own, *rest), node)
        sequence = edit.item(made, 0, node)
        finals.append((_last(edit, made, sequence, num_directions, node), made))
    _read_elsewhere(edit, node, sequence, finals, is_batch_first=is_batch_first)


def _last(
    edit: Edit, made: fx.Node, sequence: fx.Node, num_directions: int, at: fx.Node
) -> fx.Node:
    """The last hidden state of a layer: its last output, where there is one direction."""
    length = sequence.meta["val"].shape[0]
    if num_directions == 1 and isinstance(length, int):
        return _part(edit, sequence, length - 1, 1, at)
    return edit.item(made, 1, at)


def _read_elsewhere(
    edit: Edit,
    node: fx.Node,
    sequence: fx.Node,
    finals: list[tuple[fx.Node, fx.Node]],
    *,
    is_batch_first: bool,
) -> None:
    """Puts the layers' results where the stack's were read."""
    for item in list(node.users):
        if item.target is not operator.getitem:
            continue
        if item.args[1] == 0:
            new = sequence
            if is_batch_first:
                new = edit.call(_aten.transpose.int, (sequence, 0, 1), node)
            edit.replace_uses(item, new)
        else:
            _place_state(edit, item, [_state(edit, f, _whole(item.args[1]), node) for f in finals])
        edit.sweep(item)


def _state(edit: Edit, final: tuple[fx.Node, fx.Node], index: int, at: fx.Node) -> fx.Node:
    hidden, made = final
    return hidden if index == 1 else edit.item(made, 2, at)


def _place_state(edit: Edit, item: fx.Node, states: list[fx.Node]) -> None:
    """The states of all layers, one above the other; one layer's where only that is selected."""
    for user in list(item.users):
        if user.target is _aten.select.int and user.args[1] == 0:
            place = _whole(user.args[2]) % int(item.meta["val"].shape[0])
            size = int(states[0].meta["val"].shape[0])
            state = states[place // size]
            new = edit.call(_aten.select.int, (state, 0, place % size), user)
            edit.replace_uses(user, new)
            edit.sweep(user)
    if item.users:
        whole = states[0]
        if len(states) > 1:
            whole = edit.call(_aten.cat.default, (states, 0), item)
        edit.replace_uses(item, whole)


def _part(edit: Edit, value: fx.Node, start: int, size: int, at: fx.Node) -> fx.Node:
    return edit.call(_aten.slice.Tensor, (value, 0, start, start + size, 1), at)


def _whole(value: object) -> int:
    assert isinstance(value, int)
    return value


def _node(value: object) -> fx.Node:
    assert isinstance(value, fx.Node)
    return value
