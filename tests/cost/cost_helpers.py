"""Nodes from real schemas, and what torch itself counts and keeps: the oracles of these tests."""

from collections.abc import Callable

import torch
from torch import Tensor, fx, nn
from torch.utils.flop_counter import FlopCounterMode

from ridgeline.cost import OpCost, cost_of
from ridgeline.graph import Graph, Node, Ref
from ridgeline.graph.read import _read

Op = Callable[..., object]
Captured = Callable[..., Graph]


def meta(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """A tensor without data."""
    return torch.empty(shape, dtype=dtype, device="meta")


def node_of(op: Op, *args: object, out: object = None, **kwargs: object) -> Node:
    """The graph node that calling `op` makes; its distinct tensor arguments are called a0, a1, ...

    The argument names come from the op's schema, the outputs from running it, or `out` where it
    does not run without its device.
    """
    graph, known = fx.Graph(), dict[int, fx.Node]()

    def placeholder(value: object) -> object:
        if isinstance(value, list | tuple):
            return type(value)(placeholder(v) for v in value)
        if not isinstance(value, Tensor):
            return value
        if id(value) not in known:
            known[id(value)] = graph.placeholder(f"a{len(known)}")
            known[id(value)].meta["val"] = value
        return known[id(value)]

    call = graph.call_function(
        op, tuple(map(placeholder, args)), {k: placeholder(v) for k, v in kwargs.items()}
    )
    call.meta["val"] = op(*args, **kwargs) if out is None else out
    graph.output(call)
    (node,) = _read(fx.GraphModule({}, graph), {})
    return node


def cost(op: Op, *args: object, out: object = None, **kwargs: object) -> OpCost:
    """What one call costs."""
    return cost_of(node_of(op, *args, out=out, **kwargs))


def macs(op: Op, *args: object, out: object = None, **kwargs: object) -> int:
    """Multiply-accumulates of one call."""
    flops = cost(op, *args, out=out, **kwargs).flops
    assert flops % 2 == 0
    return flops // 2


def counted_flops(function: Callable[[], object]) -> int:
    """What torch's own counter says."""
    with FlopCounterMode(display=False) as counter:
        function()
    return int(counter.get_total_flops())


def kept_by_autograd(function: Callable[[], object], without: list[Tensor]) -> int:
    """Bytes that autograd keeps of a forward run on the CPU, each storage once, `without` some."""
    storages: dict[int, int] = {}
    alive = []

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        storages[storage.data_ptr()] = storage.nbytes()
        alive.append(tensor)  # so that no later tensor takes its address
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        alive.append(function())
    for tensor in without:
        storages.pop(tensor.untyped_storage().data_ptr(), None)
    return sum(storages.values())


def live_refs(node: Node, *numbers: int) -> frozenset[Ref]:
    """The values that want gradients: tensor arguments by number, and every output."""
    made = {Ref(node.name, k) for k in range(len(node.outputs))}
    return frozenset({Ref(f"a{n}") for n in numbers} | made)


class Wrapped(nn.Module):
    """A function with a module's parameters, so that it can be captured."""

    def __init__(self, function: Callable[..., Tensor], *weights: Tensor) -> None:
        super().__init__()
        self.function = function
        self.weights = nn.ParameterList([nn.Parameter(w) for w in weights])

    def forward(self, *inputs: Tensor) -> Tensor:
        return self.function(*inputs, *self.weights)
