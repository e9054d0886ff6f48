"""Traces a function of tensors into a functional FX graph, and such a graph into a program.

Every node remembers the module it came from: a node of backward that of the node it differentiates.
"""

import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
import torch.fx.traceback as fx_traceback
from torch import Tensor, fx
from torch._functorch._aot_autograd.logging_utils import (
    setup_stacktrace_preservation_hooks_from_tensors,
)
from torch._subclasses import FakeTensorMode
from torch.export import ExportedProgram
from torch.export.exported_program import ModuleCallEntry, ModuleCallSignature
from torch.export.graph_signature import (
    ConstantArgument,
    ExportGraphSignature,
    InputSpec,
    OutputKind,
    OutputSpec,
    TensorArgument,
)
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils._pytree import TreeSpec

from ridgeline.errors import UnsupportedOp
from ridgeline.frontends.noise import drop_noise
from ridgeline.passes.twice import differentiable_form

_PROVENANCE = ("nn_module_stack", "stack_trace")


def fake_inputs(values: Iterable[Tensor]) -> tuple[Tensor, ...]:
    """Stand-ins with the shapes, strides and dtypes of `values`, all on the CPU and in one mode.

    On meta, torch would take other kernels for attention and recurrence than where a model runs.
    """
    with FakeTensorMode():
        return tuple(
            torch.empty_strided(tuple(v.shape), v.stride(), dtype=v.dtype, device="cpu")
            for v in values
        )


def trace(
    function: Callable[[Sequence[Tensor]], Sequence[object]],
    inputs: Sequence[Tensor],
    names: Sequence[str],
) -> fx.GraphModule:
    """The functional graph of `function` on fake inputs; placeholders are called `names`.

    The function may take gradients. Raises UnsupportedOp where torch has no derivative.
    """

    def run(*args: Tensor) -> list[object]:
        return list(function(args))

    mode = inputs[0].fake_mode  # type: ignore[attr-defined]
    with mode, fx_traceback.preserve_node_meta():
        try:
            module: fx.GraphModule = make_fx(run, _allow_non_fake_inputs=True)(*inputs)
        except RuntimeError as error:  # NotImplementedError is one
            if "derivative for" not in str(error):
                raise
            reason = str(error).splitlines()[0]
            raise UnsupportedOp(f"torch has no such derivative: {reason}") from error
        _name_modules(module.graph)
        if any(_writes(node) for node in module.graph.nodes):
            module = _functionalised(module, inputs)
    _drop_unread_parts(module.graph)
    _name_placeholders(module.graph, names)
    module.recompile()
    return module


def _writes(node: fx.Node) -> bool:
    return isinstance(node.target, torch._ops.OpOverload) and node.target._schema.is_mutable


def _functionalised(module: fx.GraphModule, inputs: Sequence[Tensor]) -> fx.GraphModule:
    """The same graph without in-place updates, by which autograd sums up."""

    def run(*args: Tensor) -> object:
        return fx.Interpreter(module).run(*args)

    functional = torch.func.functionalize(run, remove="mutations")
    with torch.no_grad():
        values = [x.detach() for x in inputs]
        result: fx.GraphModule = make_fx(functional, _allow_non_fake_inputs=True)(*values)
    return result


def _drop_unread_parts(graph: fx.Graph) -> None:
    """Removes look-ups that nothing reads; a gradient that nobody wants is None, not a tensor."""
    for node in reversed(graph.nodes):
        if node.target is operator.getitem and not node.users:
            graph.erase_node(node)


def _name_modules(graph: fx.Graph) -> None:
    """Gives every node of backward the module of the forward node that it differentiates."""
    forward: dict[int, fx.Node] = {}
    for node in graph.nodes:
        number = node.meta.get("seq_nr")
        if number is None:
            continue
        if not node.meta.get("autograd_backward"):
            forward.setdefault(number, node)
        elif origin := forward.get(number):
            node.meta.update({k: origin.meta[k] for k in _PROVENANCE if k in origin.meta})


def _name_placeholders(graph: fx.Graph, names: Sequence[str]) -> None:
    taken = set(names)
    for node in graph.nodes:
        if node.op != "placeholder" and node.name in taken:
            node._rename(f"{node.name}_call")
    placeholders = [n for n in graph.nodes if n.op == "placeholder"]
    for node, name in zip(placeholders, names, strict=True):
        node.target = node.name = name


class Replay(fx.Interpreter):
    """Runs a captured graph under a trace: meta tensors become real, and an op that torch
    differentiates only once is spelt so that it can do so again.
    """

    def call_function(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> object:
        """The value of one call."""
        if kwargs.get("device") is not None:
            kwargs = {**kwargs, "device": torch.device("cpu")}
        form = differentiable_form(target)
        if form is not None and any(map(_wants_gradient, (*args, *kwargs.values()))):
            return form(*args, **kwargs)
        if target is torch.ops.aten.view.default:  # another spelling may have other strides
            target = torch.ops.aten.reshape.default
        return super().call_function(target, args, kwargs)


def _wants_gradient(value: object) -> bool:
    return isinstance(value, Tensor) and value.requires_grad


def gradients(of: Tensor, wrt: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """The gradients of a scalar, by torch's autograd; zeros where it does not depend."""
    setup_stacktrace_preservation_hooks_from_tensors(of)
    return torch.autograd.grad(of, list(wrt), allow_unused=True, materialize_grads=True)


def program_of(
    module: fx.GraphModule,
    *,
    inputs: Sequence[InputSpec],
    written: Sequence[OutputSpec],
    in_spec: TreeSpec,
    out_spec: TreeSpec,
    state: Mapping[str, Tensor],
    constants: Mapping[str, Tensor],
    examples: tuple[tuple[object, ...], dict[str, object]] | None,
) -> ExportedProgram:
    """The ExportedProgram around a traced graph, as torch.export would make it, noise removed.

    written: the first outputs of the graph, new values of what the program writes.
    """
    values: list[Any] = list(module.graph.output_node().args[0])  # type: ignore[arg-type]
    outputs = [
        OutputSpec(spec.kind, TensorArgument(value.name), spec.target)
        for spec, value in zip(written, values, strict=False)
    ]
    outputs += [_returned(value) for value in values[len(written) :]]
    call = ModuleCallSignature(inputs=[], outputs=[], in_spec=in_spec, out_spec=out_spec)
    program = ExportedProgram(
        root=module,
        graph=module.graph,
        graph_signature=ExportGraphSignature(list(inputs), outputs),
        state_dict=dict(state),
        range_constraints={},
        module_call_graph=[ModuleCallEntry(fqn="", signature=call)],
        example_inputs=examples,
        constants=dict(constants),
    )
    drop_noise(program, keep_detach=False)
    return program


def _returned(value: Any) -> OutputSpec:
    is_node = isinstance(value, fx.Node)
    argument = TensorArgument(value.name) if is_node else ConstantArgument("", value)
    return OutputSpec(OutputKind.USER_OUTPUT, argument, None)
