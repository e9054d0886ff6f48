"""A model's products and convolutions on their own: each in a loop, and all in turn.

Calibration times each kernel in a loop; a network calls fifty different ones, each with weights
and code that the others have displaced. What the two differ by is the place, not the size.
"""

from collections.abc import Callable, Sequence

import msgspec
import torch
from torch import Tensor

from ridgeline.cost import Estimate, Execution
from ridgeline.cost.calls import matrix_call
from ridgeline.graph import Graph, InputKind, Node, TensorSpec
from ridgeline.graph.spec import DTYPES
from ridgeline.machines.timing import summarise, take_samples

ALONE_S, IN_TURN_S = 0.02, 0.5

Call = Callable[[], object]
# Of each shape and dtype one.
Inputs = dict[tuple[tuple[int, ...], str], Tensor]


class Place(msgspec.Struct):
    """Seconds of all `count` products and convolutions by weights: as predicted, the wait for
    weights included; each in a loop of its own, where there is no such wait; one after the other.
    """

    count: int
    predicted_s: float
    alone_s: float
    in_turn_s: float


def place(graph: Graph, prediction: Estimate) -> Place | None:
    """Measures those of `graph`, in the dtypes that it has, as `prediction` executes them; None
    where it has none.
    """
    weights = {i.name for i in graph.inputs if i.kind is not InputKind.INPUT}
    by_name = {node.name: node for node in graph.nodes}
    calls: list[Call] = []
    inputs: Inputs = {}
    predicted_s = 0.0
    for estimated in prediction.nodes:
        node = by_name[estimated.name]
        call = _call(node, graph, weights, prediction.execution, inputs)
        if call is not None:
            calls.append(call)
            predicted_s += estimated.time_s
    if not calls:
        return None
    with torch.inference_mode():
        alone_s = sum(_time_s(call, ALONE_S) for call in calls)
        in_turn_s = _time_s(lambda: _each(calls), IN_TURN_S)
    return Place(count=len(calls), predicted_s=predicted_s, alone_s=alone_s, in_turn_s=in_turn_s)


def _each(calls: Sequence[Call]) -> None:
    """All of them; no result outlives the next call, whose buffer it may become."""
    for call in calls:
        call()


def _time_s(call: Call, budget_s: float) -> float:
    return summarise(take_samples(call, budget_s=budget_s, wait=lambda: None)).time_s


def _call(
    node: Node, graph: Graph, weights: set[str], execution: Execution, inputs: Inputs
) -> Call | None:
    """The node's call with weights of its own, and an input that others of its shape share, for the
    one before has just written it in a network; None for what is no product by weights.
    """
    make = _MAKERS.get((node.op, execution))
    roots = {graph.storage[ref].name for ref in node.operands}
    return make(node, inputs) if make and matrix_call(node) and roots & weights else None


def _full(spec: TensorSpec) -> Tensor:
    return torch.full(spec.shape, 0.5, dtype=DTYPES[spec.dtype])


def _input(spec: TensorSpec, inputs: Inputs) -> Tensor:
    return inputs.setdefault((spec.shape, spec.dtype), _full(spec))


def _eager_linear(node: Node, inputs: Inputs) -> Call:
    x, w, bias = _input(node.spec("input"), inputs), _full(node.spec("weight")), _bias(node)
    return lambda: torch.nn.functional.linear(x, w, bias)


def _packed_linear(node: Node, inputs: Inputs) -> Call:
    x, w, bias = _input(node.spec("input"), inputs), _full(node.spec("weight")), _bias(node)
    ops = torch.ops.mkldnn
    x = x.reshape(-1, x.shape[-1])
    packed = ops._reorder_linear_weight(w, x.shape[0])
    return lambda: ops._linear_pointwise(x, packed, bias, "none", [], "")


def _eager_conv(node: Node, inputs: Inputs) -> Call:
    x, w, bias = _input(node.spec("input"), inputs), _full(node.spec("weight")), _bias(node)
    how, is_transposed = _how(node), _is_transposed(node)
    output_padding = [0] * (w.ndim - 2)
    return lambda: torch.ops.aten.convolution(
        x, w, bias, how[1], how[0], how[2], is_transposed, output_padding, how[3]
    )


def _packed_conv(node: Node, inputs: Inputs) -> Call | None:
    if _is_transposed(node) or len(node.spec("weight").shape) < 4:
        return None
    last = (torch.channels_last, torch.channels_last_3d)[len(node.spec("weight").shape) - 4]
    x = _input(node.spec("input"), inputs)
    if not x.is_contiguous(memory_format=last):  # from now on for all of this shape
        x = x.contiguous(memory_format=last)
        inputs[node.spec("input").shape, node.spec("input").dtype] = x
    w, bias = _full(node.spec("weight")).contiguous(memory_format=last), _bias(node)
    how, ops = _how(node), torch.ops.mkldnn
    packed = ops._reorder_convolution_weight(w, *how, list(x.shape))
    return lambda: ops._convolution_pointwise(x, packed, bias, *how, "none", [], "")


def _bias(node: Node) -> Tensor | None:
    return _full(node.spec("bias")) if node.has("bias") else None


def _is_transposed(node: Node) -> bool:
    return node.has("transposed") and bool(node.arg("transposed"))


def _how(node: Node) -> tuple[list[int], list[int], list[int], int]:
    """padding, stride, dilation, groups."""
    dims = len(node.spec("weight").shape) - 2
    padding, stride, dilation = (
        _numbers(node.arg(name), dims) for name in ("padding", "stride", "dilation")
    )
    return padding, stride, dilation, node.int_arg("groups") if node.has("groups") else 1


def _numbers(value: object, count: int) -> list[int]:
    found = list(value) if isinstance(value, Sequence) else [value]
    return [int(n) for n in (found * count if len(found) == 1 else found)]  # type: ignore[call-overload]


def _experts(node: Node, inputs: Inputs) -> Call:
    """As torch runs it on a CPU: a product per expert, of as many rows each."""
    x, w = _input(node.tensors[0], inputs), _full(node.tensors[1])
    rows = -(-x.shape[0] // w.shape[0])
    pairs = [(x[n * rows : (n + 1) * rows], w[n]) for n in range(w.shape[0])]
    return lambda: [torch.mm(left, right) for left, right in pairs if len(left)]


_MAKERS: dict[tuple[str, Execution], Callable[[Node, Inputs], Call | None]] = {
    ("linear", Execution.EAGER): _eager_linear,
    ("linear", Execution.COMPILED): _packed_linear,
    ("convolution", Execution.EAGER): _eager_conv,
    ("convolution", Execution.COMPILED): _packed_conv,
    ("grouped_mm", Execution.EAGER): _experts,
    ("grouped_mm", Execution.COMPILED): _experts,
}
