"""torch.compile with frozen weights, and oneDNN packing where it is the faster one."""

from collections.abc import Sequence
from contextlib import nullcontext

import torch
from torch import fx
from torch._inductor import config as inductor_config

from ridgeline.backends.backend import Backend, Runnable, Setting
from ridgeline.backends.environment import compiling, require_compiler
from ridgeline.backends.packing import is_onednn_faster, onednn_packing
from ridgeline.graph import Graph, InputKind
from ridgeline.graph.flat import align_inputs, example_inputs, flat_module


class Inductor(Backend):
    """Compiles at once, in this process; the kernels are cached, the callable cannot be saved."""

    name = "inductor"

    def build(self, graph: Graph, setting: Setting) -> Runnable:
        """The compiled module, already run once.

        Every FX module has a code object of its own, so that compiling one never makes Dynamo
        recompile another; `torch._dynamo.reset` would, with whatever settings stand then.
        """
        require_compiler()
        module = flat_module(graph)
        inputs = align_inputs(graph)(example_inputs(graph))
        packing = onednn_packing() if is_onednn_faster() else nullcontext()
        compiled: Runnable = torch.compile(
            module.forward,
            fullgraph=True,
            dynamic=_has_symbols(graph),
            options={"guard_filter_fn": _guards_nothing(graph)},
        )
        state = {name: b.clone() for name, b in module.named_buffers() if _is_written(module, name)}
        # as an option of torch.compile, freezing is accepted and has no effect (torch 2.13)
        with compiling(), packing, inductor_config.patch(freezing=True), torch.no_grad():
            compiled(*inputs)
        for name, value in state.items():
            module.get_buffer(name).copy_(value)
        return compiled


def _has_symbols(graph: Graph) -> bool:
    return any(any(i.spec.symbols) for i in graph.of_kind(InputKind.INPUT))


def _guards_nothing(graph: Graph):  # type: ignore[no-untyped-def]
    """Which of Dynamo's guards to keep: none, for the module is ours and its inputs are checked;
    all where sizes vary.
    """
    keep = _has_symbols(graph)

    def choose(guards: Sequence[object]) -> list[bool]:
        return [keep] * len(guards)

    return choose


def _is_written(module: fx.GraphModule, name: str) -> bool:
    return any(
        n.target is torch.ops.aten.copy_.default and n.args[0].target == name
        for n in module.graph.nodes
        if n.op == "call_function"
    )
