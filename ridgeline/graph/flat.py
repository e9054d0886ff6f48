"""The graph as a plain module: tensors in, a tuple of tensors out. What every backend starts
from.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, fx, nn
from torch.export.graph_signature import ConstantArgument, InputKind, InputSpec, OutputKind
from torch.fx.node import Argument
from torch.utils._pytree import tree_leaves

from ridgeline.errors import GraphError
from ridgeline.graph.edit import copy_module
from ridgeline.graph.graph import Graph
from ridgeline.graph.graph import InputKind as GraphInputKind
from ridgeline.graph.spec import DTYPES, dtype_name

_WEIGHTS = (InputKind.PARAMETER, InputKind.BUFFER, InputKind.CONSTANT_TENSOR)


def flat_module(graph: Graph) -> fx.GraphModule:
    """A module that takes the graph's user inputs one by one and returns its tensor outputs.

    Weights are shared with the graph, except for buffers that the graph writes: those are the
    module's own copies, so that running it never changes the graph. Raises GraphError for a graph
    that cannot run.
    """
    if not graph.is_runnable:
        raise GraphError(
            f"graph {graph.name} is a description (folded layers or weights on meta), not a model "
            "that runs; capture it with real weights and fold_layers=False."
        )
    module = copy_module(graph.program.graph_module)
    placeholders = [n for n in module.graph.nodes if n.op == "placeholder"]
    values: dict[str, fx.Node] = {}
    written = {s.target for s in graph.program.graph_signature.output_specs if s.target}
    specs = graph.program.graph_signature.input_specs
    for index, (spec, node) in enumerate(zip(specs, placeholders, strict=True)):
        if spec.kind in _WEIGHTS:
            values[spec.target or ""] = _attach(module, graph, spec, node, index, written)
        elif isinstance(spec.arg, ConstantArgument):
            _substitute(module, node, spec.arg.value)
        else:
            values[spec.arg.name] = node
    _return_tensors(module, graph, values)
    module.graph.lint()
    module.recompile()
    return module


def _attach(
    module: fx.GraphModule,
    graph: Graph,
    spec: InputSpec,
    node: fx.Node,
    index: int,
    written: set[str],
) -> fx.Node:
    """Turns a weight's placeholder into an attribute of the module."""
    target = spec.target or ""
    program = graph.program
    tensor = program.state_dict.get(target, program.constants.get(target))
    if not isinstance(tensor, Tensor):
        raise GraphError(f"input {target} of graph {graph.name} has no value.")
    value = tensor.detach().clone() if target in written else tensor.detach()
    name = f"weight_{index}"
    if spec.kind is InputKind.PARAMETER:
        module.register_parameter(name, nn.Parameter(value, requires_grad=False))
    else:
        module.register_buffer(name, value)
    with module.graph.inserting_before(node):
        attribute = module.graph.get_attr(name)
    attribute.meta.update(node.meta)
    node.replace_all_uses_with(attribute)
    module.graph.erase_node(node)
    return attribute


def _substitute(module: fx.GraphModule, node: fx.Node, value: Argument) -> None:
    for user in list(node.users):
        user.args = fx.map_arg(user.args, lambda n: value if n is node else n)
        user.kwargs = fx.map_arg(user.kwargs, lambda n: value if n is node else n)
    module.graph.erase_node(node)


def _return_tensors(module: fx.GraphModule, graph: Graph, values: dict[str, fx.Node]) -> None:
    (output,) = (n for n in module.graph.nodes if n.op == "output")
    returned = []
    specs = graph.program.graph_signature.output_specs
    for spec, value in zip(specs, output.args[0], strict=True):
        if not isinstance(value, fx.Node):
            continue
        if spec.kind in (OutputKind.BUFFER_MUTATION, OutputKind.USER_INPUT_MUTATION):
            with module.graph.inserting_before(output):
                target = values[spec.target or ""]
                module.graph.call_function(torch.ops.aten.copy_.default, (target, value))
        elif isinstance(value.meta.get("val"), Tensor):
            returned.append(value)
    output.args = (tuple(returned),)


def check_inputs(graph: Graph, inputs: Sequence[object]) -> None:
    """Raises GraphError naming the first input that is not what the graph was captured with."""
    wanted = tuple(graph.of_kind(GraphInputKind.INPUT))
    if len(inputs) != len(wanted):
        listing = ", ".join(f"{i.path}: {i.spec}" for i in wanted)
        raise GraphError(
            f"graph {graph.name} takes {len(wanted)} tensors ({listing}), not {len(inputs)}."
        )
    for entry, value in zip(wanted, inputs, strict=True):
        if not isinstance(value, Tensor):
            raise GraphError(
                f"input {entry.path} of graph {graph.name} is a {type(value).__name__}, "
                f"not a tensor {entry.spec}."
            )
        symbols = entry.spec.symbols or (None,) * len(entry.spec.shape)
        fits = value.dim() == len(entry.spec.shape) and all(
            symbol is not None or have == want
            for have, want, symbol in zip(value.shape, entry.spec.shape, symbols, strict=True)
        )
        found = f"{dtype_name(value.dtype)}[{','.join(str(d) for d in value.shape)}]"
        if not fits or dtype_name(value.dtype) != entry.spec.dtype:
            raise GraphError(
                f"input {entry.path} of graph {graph.name} is {found}; it must be {entry.spec}."
            )


def align_inputs(graph: Graph) -> Callable[[Sequence[Tensor]], tuple[Tensor, ...]]:
    """A function that gives inputs the strides that the graph was traced with; compiled code
    relies on them.
    """
    names = {i.name for i in graph.of_kind(GraphInputKind.INPUT)}
    strides = [
        _static_strides(node.meta["val"])
        for node in graph.program.graph.nodes
        if node.op == "placeholder" and node.name in names
    ]

    def align(inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
        return tuple(_with_strides(x, s) for x, s in zip(inputs, strides, strict=True))

    return align


def _static_strides(value: Tensor) -> tuple[int, ...] | None:
    strides = value.stride()
    return strides if all(isinstance(s, int) for s in strides) else None


def _with_strides(value: Tensor, strides: tuple[int, ...] | None) -> Tensor:
    if strides is None:
        return value.contiguous()
    if value.stride() == strides:
        return value
    return torch.empty_strided(value.shape, strides, dtype=value.dtype).copy_(value)


def example_inputs(graph: Graph) -> tuple[Tensor, ...]:
    """Inputs to compile with: those of the capture where it kept them, else zeros."""
    wanted = tuple(graph.of_kind(GraphInputKind.INPUT))
    kept = [v for v in tree_leaves(graph.program.example_inputs) if isinstance(v, Tensor)]
    if len(kept) == len(wanted) and not any(v.is_meta for v in kept):
        return tuple(v.detach() for v in kept)
    return tuple(torch.zeros(i.spec.shape, dtype=DTYPES[i.spec.dtype]) for i in wanted)
