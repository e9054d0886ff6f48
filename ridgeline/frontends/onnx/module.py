"""OnnxModule: an ONNX model as an `nn.Module`, its weights under their own names."""

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor, nn

from ridgeline.errors import CaptureError
from ridgeline.frontends.onnx.call import Value, dtype_of, outside_trace
from ridgeline.frontends.onnx.dtypes import to_tensor
from ridgeline.frontends.onnx.fuse import fused
from ridgeline.frontends.onnx.interpret import Interpreter
from ridgeline.frontends.onnx.records import OnnxModel
from ridgeline.frontends.onnx.weights import SMALL, Known

_CONSTANTS = "constants"
_NOT_A_NAME = re.compile(r"\W+", re.ASCII)


class Scope(nn.Module):
    """A module that holds weights and other scopes; what is called in it is traced as its own."""

    def forward(self, function: Callable[[], list[Value]]) -> list[Value]:
        """What `function` returns."""
        return function()


class OnnxModule(nn.Module):
    """Runs an ONNX model with torch. Inputs and outputs are those of the ONNX graph, in its order.

    Weights become parameters (floating point) or buffers when they are first read, on `device`;
    "meta" needs none of their values. `prepare` reads them all.
    """

    def __init__(self, model: OnnxModel, device: str = "cpu") -> None:
        super().__init__()
        self.model = model = replace(model, body=fused(model.body))
        self.device = device
        self._homes: dict[object, tuple[nn.Module, str]] = {}
        self._scopes = {node.path: self._scope(node.path) for node in model.body.nodes}
        self._is_shape_run = False

    def forward(self, *inputs: Tensor) -> object:
        """The output, or a tuple of several."""
        if len(inputs) != len(self.model.inputs):
            raise CaptureError(
                f"{self.model.name} takes {len(self.model.inputs)} inputs "
                f"({', '.join(self.model.inputs)}), not {len(inputs)}."
            )
        outputs = [self._plain(v) for v in self.interpret(inputs)]
        return outputs[0] if len(outputs) == 1 else tuple(outputs)

    def interpret(self, inputs: Sequence[Value]) -> list[Value]:
        """The outputs as the interpreter has them: values that are known stay apart."""
        interpreter = Interpreter(
            self.model,
            device=torch.device("meta" if self._is_shape_run else self.device),
            materialise=self._tensor,
            within=self._within,
        )
        return interpreter.run(inputs)

    def prepare(self, *inputs: Tensor) -> None:
        """Registers every weight that a run on such inputs reads; nothing is computed.

        Raises CaptureError where the model does not fit its inputs or needs their values.
        """
        self._is_shape_run = True
        try:
            self.forward(*(i.to("meta") for i in inputs))
        finally:
            self._is_shape_run = False

    def _plain(self, value: Value) -> object:
        if isinstance(value, tuple):
            return tuple(self._plain(v) for v in value)
        return self._tensor(value) if isinstance(value, Known) else value

    def _within(self, path: tuple[str, ...], function: Callable[[], list[Value]]) -> list[Value]:
        """Runs a node inside the scopes of its path, so that a trace says where it came from."""
        if not torch.compiler.is_exporting():
            return function()
        for scope in reversed(self._scopes[path]):
            function = partial(scope, function)
        return function()

    def _scope(self, path: Sequence[str]) -> tuple[Scope, ...]:
        """The scopes of a path, outermost first; made where there are none yet."""
        chain: list[Scope] = []
        parent: nn.Module = self
        for part in path:
            name = _free_name(parent, part, Scope)
            if name not in parent._modules:
                parent.add_module(name, Scope())
            child = parent._modules[name]
            assert isinstance(child, Scope)
            chain.append(child)
            parent = child
        return tuple(chain)

    def _tensor(self, value: Known) -> Tensor:
        """The parameter or buffer that holds a known value."""
        key = _content(value)
        if key not in self._homes:
            self._homes[key] = self._register(value)
        holder, name = self._homes[key]
        tensor: Tensor = getattr(holder, name)
        return tensor.to("meta") if self._is_shape_run else tensor

    def _register(self, value: Known) -> tuple[nn.Module, str]:
        *path, leaf = _parts(value.name) or (_CONSTANTS, str(len(self._homes)))
        holder = (self, *self._scope(path))[-1]
        name = _free_name(holder, leaf, None)
        with outside_trace():
            tensor = self._load(value)
        if value.name and tensor.is_floating_point() and value.shape:
            holder.register_parameter(name, nn.Parameter(tensor, requires_grad=False))
        else:
            holder.register_buffer(name, tensor)
        return holder, name

    def _load(self, value: Known) -> Tensor:
        if self.device == "meta":
            return torch.empty(value.shape, dtype=dtype_of(value.element), device="meta")
        return to_tensor(value.read()).to(self.device)


def _content(value: Known) -> object:
    """Equal for small values alike, and for one that is large and itself."""
    if value.numel > 2 * SMALL or value.element.name == "string":
        return value
    return value.name, value.element.name, value.shape, value.read().tobytes()


def _parts(name: str) -> tuple[str, ...]:
    return tuple(part for part in re.split(r"[/.]", name) if part)


def _free_name(parent: nn.Module, part: str, kind: type[nn.Module] | None) -> str:
    """`part` as a name that `parent` can give to a tensor, or to a module of `kind`."""
    name = _NOT_A_NAME.sub("_", part)
    while True:
        found = parent._modules.get(name)
        if kind is not None and isinstance(found, kind):
            return name
        if name and not hasattr(parent, name):
            return name
        name += "_"
