"""Emit: the graph becomes the text of one module."""

import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, fx

from ridgeline.backends.ahead import called, computed
from ridgeline.backends.mlir.call import Call
from ridgeline.backends.mlir.row import Lowering, Result
from ridgeline.backends.mlir.table import TABLE
from ridgeline.backends.mlir.value import Value, plain, tensor_type
from ridgeline.backends.mlir.writer import Writer
from ridgeline.backends.stateless import Stateless
from ridgeline.errors import UnsupportedOp
from ridgeline.passes.match import arguments


@dataclass(frozen=True, slots=True, kw_only=True)
class Emitted:
    """text: a module whose function `main` takes the graph's inputs, then its state, and returns
    the results of the stateless form. weights: what the text names as parameters, by name.
    """

    text: str
    weights: Mapping[str, Tensor]


def emit(form: Stateless) -> Emitted:
    """The module of a stateless graph. Raises UnsupportedOp naming the first node that has no
    lowering, and why.
    """
    return emit_all({"main": form})


def emit_all(forms: Mapping[str, Stateless]) -> Emitted:
    """One module with a function per graph, by name."""
    parts: list[str] = []
    weights: dict[str, Tensor] = {}
    for name, form in forms.items():
        writer = Writer(prefix="" if name == "main" else f"{name}_")
        parts += _function(name, form, writer)
        weights |= writer.weights
    return Emitted(text="\n".join([*parts, ""]), weights=weights)


def _function(name: str, form: Stateless, writer: Writer) -> list[str]:
    values: dict[fx.Node, object] = {}
    given: list[str] = []
    for node in form.module.graph.nodes:
        if node.op == "placeholder":
            spec = form.examples[len(given)]
            shape = tuple(spec.shape)
            value = Value(f"%arg{len(given)}", shape, spec.dtype, plain(len(shape)))
            given.append(f"{value.name}: {value.type}")
            values[node] = value
        elif node.op == "get_attr":
            values[node] = _weight(form.module, node)
        elif node.op == "call_function":
            values[node] = _lowered(node, values, writer)
    results = [_result(writer, values[n]) for n in _returned(form)]
    for value, spec in zip(results, form.results, strict=True):
        wanted = tensor_type(spec.shape, spec.dtype)
        if value.type != wanted:
            raise UnsupportedOp(f"result {value.name} came out as {value.type}, not {wanted}.")
    types = ", ".join(v.type for v in results)
    names = ", ".join(v.name for v in results)
    globals_, body = writer.finish(results)
    return [
        *globals_,
        f"func.func @{name}({', '.join(given)}) -> ({types}) {{",
        *body,
        f"  return {names} : {types}",
        "}",
    ]


def _returned(form: Stateless) -> Sequence[fx.Node]:
    (listed,) = form.module.graph.output_node().args
    assert isinstance(listed, list | tuple)
    return [node for node in listed if isinstance(node, fx.Node)]


def _weight(module: fx.GraphModule, node: fx.Node) -> object:
    found = module
    for part in str(node.target).split("."):
        found = getattr(found, part)
    return found.detach() if isinstance(found, Tensor) else found


def _result(writer: Writer, operand: object) -> Value:
    if isinstance(operand, Tensor):
        return writer.constant(operand)
    assert isinstance(operand, Value)
    return writer.move(operand, plain(operand.rank))


def _lowered(node: fx.Node, values: Mapping[fx.Node, object], writer: Writer) -> object:
    """What a node gives: a value, a known tensor, or several."""
    if node.target is operator.getitem:
        several, index = node.args
        assert isinstance(several, fx.Node)
        listed = values[several]
        assert isinstance(listed, tuple)
        return listed[index]  # type: ignore[index]
    if not isinstance(node.target, torch._ops.OpOverload):
        raise UnsupportedOp(f"no lowering for {node.target} (node {node.name}).")
    named = {name: _bound(given, values) for name, given in arguments(node).items()}
    known = computed(node.target, named, (Value,))
    if known is not None:
        return known
    call = Call(writer, named, _specs(node, node.target, named))
    try:
        found = _row(node.target)(call)
        _check(found, call)
    except UnsupportedOp as error:
        reason = str(error).rstrip(".")
        raise UnsupportedOp(
            f"no lowering for {node.target} (node {node.name}): {reason}."
        ) from error
    return found


def _row(target: torch._ops.OpOverload) -> Lowering:
    packet = str(target).rpartition(".")[0]
    lowering = TABLE.get(str(target)) or TABLE.get(packet)
    if lowering is None:
        raise UnsupportedOp("the table has no row for it")
    return lowering


def _bound(argument: object, values: Mapping[fx.Node, object]) -> object:
    """An argument with what its nodes gave."""
    if isinstance(argument, list | tuple):
        return [_bound(item, values) for item in argument]
    return values[argument] if isinstance(argument, fx.Node) else argument


def _specs(
    node: fx.Node, target: torch._ops.OpOverload, named: Mapping[str, object]
) -> tuple[Tensor, ...]:
    """What the node gives, in shape and type; computed for one put in after the capture."""
    if "val" in node.meta:
        value = node.meta["val"]
    else:
        value = called(target, {name: _blank(given) for name, given in named.items()})
    return (value,) if isinstance(value, Tensor) else tuple(value)


def _check(found: Result, call: Call) -> None:
    """Every result has the shape and type that the graph says."""
    for value, spec in zip(found if isinstance(found, tuple) else (found,), call.outs, strict=True):
        shape = value.logical if isinstance(value, Value) else tuple(value.shape)
        if shape != tuple(spec.shape) or value.dtype is not spec.dtype:
            wanted = f"{spec.dtype}{tuple(spec.shape)}"
            raise UnsupportedOp(f"its row gives {value.dtype}{shape}, not {wanted}")


def _blank(argument: object) -> object:
    """An argument without data."""
    if isinstance(argument, list | tuple):
        return [_blank(item) for item in argument]
    if isinstance(argument, Value):
        return torch.empty(argument.logical, dtype=argument.dtype, device="meta")
    return argument.to("meta") if isinstance(argument, Tensor) else argument
