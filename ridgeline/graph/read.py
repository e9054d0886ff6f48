"""Reads an ExportedProgram into the nodes and inputs of a Graph."""

import operator
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import fx
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind as ExportInputKind
from torch.export.graph_signature import OutputKind, TensorArgument

from ridgeline.errors import GraphError
from ridgeline.graph.graph import GraphInput, InputKind
from ridgeline.graph.node import Argument, Node, Ref
from ridgeline.graph.ops import Category, row_of
from ridgeline.graph.spec import DTYPE_NAMES, TensorSpec, size_hint, spec_of

_KINDS = {
    ExportInputKind.PARAMETER: InputKind.PARAMETER,
    ExportInputKind.BUFFER: InputKind.BUFFER,
    ExportInputKind.CONSTANT_TENSOR: InputKind.CONSTANT,
    ExportInputKind.USER_INPUT: InputKind.INPUT,
}
_FRAME = re.compile(r'File "([^"]+)", line (\d+)')
# Files whose lines the user did not write: torch's own, and the code FX makes of a graph.
_NOT_WRITTEN = (f"{torch.__path__[0]}/", "<eval_with_key>")
_MUTATIONS = (OutputKind.BUFFER_MUTATION, OutputKind.USER_INPUT_MUTATION)
# What a backward op returns for an operand that wants no gradient.
_ABSENT = TensorSpec((0,), "fp32")
# Sizes computed at run time (`x.shape[0] * 2` under dynamic shapes) are arithmetic on ints, not
# tensor work.
_SCALAR_TARGETS = (operator.getitem,)


def read_inputs(program: ExportedProgram, repeats: Mapping[str, int]) -> tuple[GraphInput, ...]:
    """The tensor inputs of a program, weights first, as torch.export orders them."""
    placeholders = {n.name: n for n in program.graph.nodes if n.op == "placeholder"}
    mutated = {s.target for s in program.graph_signature.output_specs if s.kind in _MUTATIONS}
    inputs = []
    seen: set[tuple[object, ...]] = set()
    for entry in program.graph_signature.input_specs:
        if not isinstance(entry.arg, TensorArgument) or entry.kind not in _KINDS:
            continue
        path = entry.target or entry.arg.name
        inputs.append(
            GraphInput(
                name=entry.arg.name,
                path=path,
                kind=_KINDS[entry.kind],
                spec=spec_of(placeholders[entry.arg.name].meta["val"]),
                repeat=repeat_of(path, repeats) if entry.target else 1,
                is_mutated=path in mutated,
                is_shared=_is_shared(program, path, seen),
            )
        )
    return tuple(inputs)


def _is_shared(program: ExportedProgram, path: str, seen: set[tuple[object, ...]]) -> bool:
    """Whether an earlier weight is the same tensor, e.g. an embedding tied to the output head."""
    tensor = program.state_dict.get(path)
    if not isinstance(tensor, torch.Tensor):
        return False
    key = (tensor.untyped_storage()._cdata, tensor.storage_offset(), tensor.shape)
    is_known = key in seen
    seen.add(key)
    return is_known


def read_outputs(program: ExportedProgram) -> tuple[Ref, ...]:
    """Every tensor the program returns, mutated buffers first; numbers are not among them."""
    (output,) = (n for n in program.graph.nodes if n.op == "output")
    values = (n for n in output.args[0] if isinstance(n, fx.Node))
    return tuple(_reference(n) for n in values if _spec_of_node(n) is not None)


def read_nodes(program: ExportedProgram, repeats: Mapping[str, int]) -> tuple[Node, ...]:
    """Every tensor operation of a program in execution order."""
    return tuple(_read(program.graph_module, repeats))


def _read(module: fx.GraphModule, repeats: Mapping[str, int]) -> Iterator[Node]:
    for node in module.graph.nodes:
        if node.op != "call_function" or node.target in _SCALAR_TARGETS:
            continue
        values = _tensor_outputs(node)
        if values is None:
            continue
        packet, target = _names(node.target)
        row = row_of(packet)
        if row.category is Category.NOISE and not values:
            continue
        path = module_path(node)
        arguments = dict(_arguments(node))
        refs = tuple(r for a in arguments.values() for r in _fx_nodes(a))
        yield Node(
            name=node.name,
            row=row,
            target=target,
            module=path,
            args={name: _convert(a) for name, a in arguments.items()},
            specs={_reference(n): spec for n in refs if (spec := _spec_of_node(n))},
            outputs=values,
            repeat=repeat_of(path, repeats),
            source=_source_line(node),
            branches=tuple(_branches(node, module, repeats)),
        )


def _tensor_outputs(node: fx.Node) -> tuple[TensorSpec, ...] | None:
    """Specs of the tensors a node makes; None for a node that makes a size (SymInt arithmetic)."""
    value = node.meta.get("val")
    if isinstance(value, torch.Tensor):
        return (spec_of(value),)
    if isinstance(value, (list, tuple)):
        return tuple(_specs_of(value))
    return () if value is None else None


def _specs_of(values: Sequence[object]) -> list[TensorSpec]:
    """The specs of several outputs by position; an output that was not asked for is empty."""
    specs = [spec_of(v) if isinstance(v, torch.Tensor) else _ABSENT for v in values]
    while specs and specs[-1] is _ABSENT:
        specs.pop()
    return specs


def _spec_of_node(node: fx.Node) -> TensorSpec | None:
    value = node.meta.get("val")
    return spec_of(value) if isinstance(value, torch.Tensor) else None


def _reference(node: fx.Node) -> Ref:
    """A node's value; a tuple look-up is output k of the node it looks into."""
    if node.target is operator.getitem:
        producer, index = node.args
        if isinstance(producer, fx.Node) and isinstance(index, int):
            return Ref(producer.name, index)
    return Ref(node.name)


@lru_cache(maxsize=4096)
def _names(target: Callable[..., object]) -> tuple[str, str]:
    """(packet, full target) of a call target: ("aten.linear", "aten.linear.default")."""
    if isinstance(target, torch._ops.OpOverload):
        packet = str(target.overloadpacket)
        return packet, f"{packet}.{target._overloadname}"
    if isinstance(target, torch._ops.HigherOrderOperator):
        return f"higher_order.{target._name}", f"higher_order.{target._name}"
    name = getattr(target, "__name__", repr(target))
    return name, name


@lru_cache(maxsize=4096)
def _schema(target: Callable[..., object]) -> tuple[tuple[str, Any], ...]:
    if not isinstance(target, torch._ops.OpOverload):
        return ()
    return tuple(
        (a.name, a.default_value if a.has_default_value() else None)
        for a in target._schema.arguments
    )


def _arguments(node: fx.Node) -> Iterator[tuple[str, Any]]:
    """(schema name, FX argument) of a call, defaults filled in."""
    schema = _schema(node.target)
    if not schema:
        yield from ((f"arg{i}", a) for i, a in enumerate(node.args))
        yield from node.kwargs.items()
        return
    for index, (name, default) in enumerate(schema):
        value = node.args[index] if index < len(node.args) else node.kwargs.get(name, default)
        yield name, value


def _fx_nodes(argument: Any) -> Iterator[fx.Node]:
    if isinstance(argument, fx.Node):
        yield argument
    elif isinstance(argument, (list, tuple)):
        for item in argument:
            yield from _fx_nodes(item)


def _convert(argument: Any) -> Argument:
    """An FX argument as plain data; symbolic sizes become the example's."""
    if isinstance(argument, fx.Node):
        value = argument.meta.get("val")
        if isinstance(value, torch.SymInt):
            return size_hint(value)
        if isinstance(value, (torch.SymFloat, torch.SymBool)):
            return argument.name  # a number that data decides (`x.max().item()`), not a tensor
        return argument.name if argument.op == "get_attr" else _reference(argument)
    if isinstance(argument, (list, tuple)):
        return tuple(_convert(a) for a in argument)
    if isinstance(argument, torch.dtype):
        return DTYPE_NAMES.get(argument, str(argument))
    if isinstance(argument, torch.SymInt):
        return size_hint(argument)
    if argument is None or isinstance(argument, (bool, int, float, complex, str)):
        return argument
    return str(argument)


def _branches(
    node: fx.Node, module: fx.GraphModule, repeats: Mapping[str, int]
) -> Iterator[tuple[Node, ...]]:
    """The sub-graphs a higher-order op was called with."""
    for argument in _fx_nodes(list(node.args)):
        if argument.op == "get_attr":
            inner = getattr(module, str(argument.target), None)
            if isinstance(inner, fx.GraphModule):
                yield tuple(_read(inner, repeats))


def module_path(node: fx.Node) -> str:
    """Dotted path of the innermost module a node came from; "" is the model itself."""
    stack = node.meta.get("nn_module_stack")
    if not stack:
        return ""
    path = next(reversed(stack.values()))[0]
    if not isinstance(path, str):
        raise GraphError(f"node {node.name} has no readable module stack.")
    return path


def repeat_of(path: str, repeats: Mapping[str, int]) -> int:
    """How many layers alike stand behind `path`: the product over every folded prefix of it."""
    count = 1
    for prefix, times in repeats.items():
        if path == prefix or path.startswith(f"{prefix}."):
            count *= times
    return count


def _source_line(node: fx.Node) -> str:
    """ "file.py:57" of the user's line that made the node, torch's lines aside, or ""."""
    trace = node.meta.get("stack_trace")
    if not isinstance(trace, str):
        return ""
    frames = _FRAME.findall(trace)
    own = [f for f in frames if not f[0].startswith(_NOT_WRITTEN)] or frames
    return f"{own[-1][0].rsplit('/', 1)[-1]}:{own[-1][1]}" if own else ""


def packet_of(target: Callable[..., object] | str) -> str:
    """The overload packet of a call target, "aten.linear"."""
    return target if isinstance(target, str) else _names(target)[0]
