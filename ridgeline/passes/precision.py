"""Changes the floating-point type that a graph computes in; what it takes and returns stays."""

import operator
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, fx
from torch.fx.node import Argument

from ridgeline.errors import GraphError
from ridgeline.graph import Category, Graph, dtype_name, row_of
from ridgeline.graph.edit import Edit, propagate
from ridgeline.graph.read import packet_of
from ridgeline.passes.fold import fold_constants

# Work that is large enough to be done in the new type even where only weights and positions come
# in; everything else that derives from integers (rotary angles, masks) keeps its precision.
_ALWAYS_CAST = (Category.CONVOLUTION, Category.RECURRENT, Category.ATTENTION, Category.GATHER)
_ALWAYS_CAST_KINDS = ("linear", "addmm")
# Sums that grow, and functions of large arguments: done in fp32 whatever comes in.
_KEEP_WIDE = ("cumsum", "cumprod", "logcumsumexp", "sin", "cos", "tan", "cross_entropy_loss")

# Backward kernels that read statistics in the type in which the forward kernel left them.
_READ_STATISTICS = ("sdpa_backward", "norm_backward")


def set_precision(graph: Graph, dtype: torch.dtype) -> Graph:
    """The graph with its floating-point work done in `dtype`: weights stored in it, inputs cast on
    entry, outputs cast back.

    Values that derive from integers alone stay as they are until they meet such work, so rotary
    angles keep their precision. Finite scalars beyond the range of `dtype` become its largest. A
    graph that computes in `dtype` already is returned as it is. Raises GraphError for complex
    numbers and for data-dependent branches.
    """
    if all(v.dtype == dtype for v in _floating_values(graph)):
        return graph
    edit = Edit(graph)
    caster = _Caster(edit, dtype)
    for node in edit.nodes:
        caster.visit(node)
    return fold_constants(edit.finish())


def _floating_values(graph: Graph) -> Iterator[Tensor]:
    for node in graph.program.graph.nodes:
        value = node.meta.get("val")
        if isinstance(value, Tensor) and value.is_floating_point():
            yield value


class _Caster:
    """Walks the graph once, casting operands. low: values of the new type that inputs reach."""

    def __init__(self, edit: Edit, dtype: torch.dtype) -> None:
        self.edit = edit
        self.dtype = dtype
        self.mode = edit.fake_mode
        self.weights = edit.weights()
        self.originals = {n: n.meta.get("val") for n in edit.nodes}
        self.casts: dict[tuple[fx.Node, torch.dtype], fx.Node] = {}
        self.low: set[fx.Node] = set()
        names = list(edit.placeholders.values())
        self.last_placeholder = names[-1] if names else None

    def visit(self, node: fx.Node) -> None:
        """Brings one node to the new type."""
        if node.op == "placeholder":
            if node not in self.weights and _is_floating(node.meta.get("val")):
                self.low.add(node)
        elif node.op == "output":
            self._restore_outputs(node)
        elif node.op == "call_function":
            self._visit_call(node)

    def _visit_call(self, node: fx.Node) -> None:
        if isinstance(node.target, torch._ops.HigherOrderOperator):
            raise GraphError(f"{node.target} (node {node.name}) has no {self._name} form.")
        if any(_is_complex(i.meta.get("val")) for i in (node, *node.all_input_nodes)):
            raise GraphError(f"node {node.name} is complex and has no {self._name} form.")
        self._clamp_scalars(node)
        row = row_of(packet_of(node.target))
        floats = [
            i
            for i in node.all_input_nodes
            if _is_floating(i.meta.get("val"))
            and not (row.kind in _READ_STATISTICS and _is_statistic(i))
        ]
        is_low = any(i in self.low for i in floats)
        is_low |= bool(floats) and (row.category in _ALWAYS_CAST or row.kind in _ALWAYS_CAST_KINDS)
        if is_low and floats:
            wanted = torch.float32 if row.kind in _KEEP_WIDE else self.dtype
            self._cast_operands(node, floats, wanted)
        propagate(self.mode, node)
        if is_low:
            self.low.add(node)

    @property
    def _name(self) -> str:
        return dtype_name(self.dtype)

    def _cast_operands(self, node: fx.Node, floats: list[fx.Node], dtype: torch.dtype) -> None:
        swap = {source: self.cast(source, dtype, node) for source in floats}
        node.args = fx.map_arg(node.args, lambda n: swap.get(n, n))
        node.kwargs = fx.map_arg(node.kwargs, lambda n: swap.get(n, n))

    def cast(self, source: fx.Node, dtype: torch.dtype, reader: fx.Node) -> fx.Node:
        """`source` in `dtype`: itself where it has that type, else one cast shared by all."""
        value = source.meta.get("val")
        if not isinstance(value, Tensor) or value.dtype == dtype:
            return source
        key = (source, dtype)
        if key not in self.casts and source in self.weights:
            path = f"{self.edit.path_of(source)}_{dtype_name(dtype)}"
            tensor = self.weights[source].detach().to(dtype)
            self.casts[key] = self.edit.add_weight(path, tensor)
        if key not in self.casts:
            after = self.last_placeholder if source.op == "placeholder" else source
            assert after is not None
            with self.edit.module.graph.inserting_after(after):
                node = self.edit.module.graph.call_function(
                    torch.ops.aten._to_copy.default, (source,), {"dtype": dtype}
                )
            node.meta |= {k: v for k, v in reader.meta.items() if k == "nn_module_stack"}
            propagate(self.mode, node)
            self.casts[key] = node
        return self.casts[key]

    def _clamp_scalars(self, node: fx.Node) -> None:
        largest = torch.finfo(self.dtype).max

        def clamp(argument: Argument) -> Argument:
            if isinstance(argument, float) and largest < abs(argument) < float("inf"):
                return largest if argument > 0 else -largest
            return argument

        node.args = tuple(_map_scalars(clamp, a) for a in node.args)
        node.kwargs = {k: _map_scalars(clamp, a) for k, a in node.kwargs.items()}

    def _restore_outputs(self, output: fx.Node) -> None:
        returned: list[Argument] = []
        for value in output.args[0]:  # type: ignore[union-attr]
            before = self.originals.get(value) if isinstance(value, fx.Node) else None
            if isinstance(value, fx.Node) and isinstance(before, Tensor):
                restored = self.cast(value, before.dtype, value)
                if restored is not value:
                    self.edit.rename_output(value, restored)
                returned.append(restored)
            else:
                returned.append(value)
        output.args = (tuple(returned),)


def _map_scalars(function: Callable[[Argument], Argument], argument: Argument) -> Argument:
    if isinstance(argument, list | tuple):
        return tuple(_map_scalars(function, a) for a in argument)
    return function(argument)


def _is_statistic(node: fx.Node) -> bool:
    """Whether a value is a later output of a node: a log-sum-exp, a mean, a deviation."""
    return node.target is operator.getitem and bool(node.args[1])


def _is_floating(value: object) -> bool:
    """Whether a value is floating-point, or holds one that is: what `unbind` returns."""
    if isinstance(value, list | tuple):
        return any(_is_floating(v) for v in value)
    return isinstance(value, Tensor) and value.is_floating_point()


def _is_complex(value: object) -> bool:
    return isinstance(value, Tensor) and value.is_complex()
