"""int8 through torchao and Inductor: quantised in the graph, fused into oneDNN's int8 products."""

import operator
from typing import TYPE_CHECKING

import torch
from torch import Tensor, fx, nn

from ridgeline.backends.backend import Backend, Runnable, Setting
from ridgeline.backends.environment import compiling, require_compiler
from ridgeline.backends.stateless import Stateless, has_attention, stateless
from ridgeline.errors import BackendError
from ridgeline.graph import Graph

if TYPE_CHECKING:
    from collections.abc import Sequence

_aten = torch.ops.aten
# torchao finds what to quantise by the name of the function or module that a node came from.
_SOURCES = {
    _aten.linear.default: nn.Linear,
    _aten.conv2d.default: nn.Conv2d,
    _aten.relu.default: nn.ReLU,
    _aten.gelu.default: nn.GELU,
    _aten.silu.default: nn.SiLU,
    _aten.hardswish.default: nn.Hardswish,
    _aten.hardtanh.default: nn.Hardtanh,
    _aten.add.Tensor: operator.add,
    _aten.max_pool2d.default: nn.MaxPool2d,
}


class Torchao(Backend):
    """Ranges come from the calibration inputs, or from each run where there is attention. The rest
    stays fp32. Compiles at once; the callable cannot be saved.
    """

    name = "torchao"
    dtypes = ("int8",)
    extra = "torchao"
    modules = ("torchao",)

    def build(self, graph: Graph, setting: Setting) -> Runnable:
        """The quantised module, compiled with frozen weights and already run once."""
        from torch._inductor import config

        require_compiler()
        form = stateless(graph)
        sets = form.calibration(setting.calibration)
        with compiling(), torch.no_grad():
            module = _quantized(form, sets, is_dynamic=has_attention(graph))
            compiled = torch.compile(
                module.forward,
                fullgraph=True,
                dynamic=False,
                options={"guard_filter_fn": lambda guards: [False] * len(guards)},
            )
            with config.patch(freezing=True):
                compiled(*form.examples)
        return form.runnable(lambda values: compiled(*values))


def _quantized(
    form: Stateless, sets: "Sequence[Sequence[Tensor]]", *, is_dynamic: bool
) -> fx.GraphModule:
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e
    from torchao.quantization.pt2e.quantizer import x86_inductor_quantizer as x86

    module = form.program().module(check_guards=False)
    for node in module.graph.nodes:
        node.meta.pop("source_fn_stack", None)
        if node.target in _SOURCES:
            node.meta["source_fn_stack"] = [(node.name, _SOURCES[node.target])]
    quantizer = x86.X86InductorQuantizer()
    quantizer.set_global(x86.get_default_x86_inductor_quantization_config(is_dynamic=is_dynamic))
    prepared = prepare_pt2e(module, quantizer)
    for given in sets:
        prepared(*given)
    converted: fx.GraphModule = convert_pt2e(prepared)
    if not any("quantize" in str(node.target) for node in converted.graph.nodes):
        raise BackendError("torchao finds nothing in it to quantise.")
    return converted
