"""KerasModule: a Keras model as an `nn.Module`, its layers and weights under their own names."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from ridgeline.errors import CaptureError, RidgelineError, UnsupportedOp
from ridgeline.frontends.keras.arguments import dtypes_of, policy_name, resolved
from ridgeline.frontends.keras.call import Call, WeightSpec
from ridgeline.frontends.keras.layers import row_of
from ridgeline.frontends.keras.records import Argument, KerasLayer, KerasModel, Ref
from ridgeline.frontends.keras.table import Result, Row
from ridgeline.frontends.keras.value import Value
from ridgeline.frontends.keras.weights import Store

_NOT_A_NAME = re.compile(r"\W+", re.ASCII)
# What torch and the functions of the table raise on shapes and types that do not fit.
_MISFITS = (
    RuntimeError,
    ValueError,
    TypeError,
    IndexError,
    KeyError,
    OverflowError,
    ZeroDivisionError,
)


@dataclass(slots=True, eq=False)
class Home:
    """What all layers of one model share. layers: those that several models hold, by identity;
    is_shape_run: nothing is computed, weights are registered.
    """

    store: Store
    device: str
    layers: dict[int, "Layer"] = field(default_factory=dict)
    is_shape_run: bool = False


class Layer(nn.Module):
    """Runs one layer. Its weights become parameters and buffers when they are first asked for."""

    def __init__(self, record: KerasLayer, home: Home) -> None:
        super().__init__()
        self.record, self.home = record, home
        self.row = _require_row(record)
        policy = policy_name(record.config.get("dtype"), record.title)
        self.dtype, self.stored = dtypes_of(policy, record.title)
        self._written: dict[int, str] = {}
        self._inner_names: dict[str, str] = {}
        for key, inner in record.inner.items():
            self._inner_names[key] = name = _free_name(self, inner.name)
            self.add_module(name, made(inner, home))

    def forward(
        self, args: tuple[Argument, ...], kwargs: Mapping[str, Argument]
    ) -> tuple[Value, ...]:
        """The outputs of one call."""
        call = self.call(args, kwargs)
        try:
            outputs = _listed(self.row.run(call))
        except UnsupportedOp:
            raise
        except _MISFITS as error:
            if isinstance(error, RidgelineError):
                raise
            raise CaptureError(_named(self.record, call, error)) from error
        _require_asked(self.row, call)
        mask = call.list_of(args)[0].mask if self.row.keeps_mask else None
        return outputs if mask is None else (replace(outputs[0], mask=mask), *outputs[1:])

    def call(self, args: Sequence[Argument], kwargs: Mapping[str, Argument]) -> Call:
        """One call as the functions of the table see it."""
        return Call(
            layer=self.record,
            args=tuple(self._cast(a) for a in args),
            kwargs={name: self._cast(a) for name, a in kwargs.items()},
            dtype=self.dtype,
            stored=self.stored,
            weights=self._weight,
            run_inner=self._run_inner,
            inner=self._inner,
            constants=self._constant,
        )

    def _inner(self, key: str) -> Call:
        module = self.get_submodule(self._inner_names[key])
        if not isinstance(module, Layer):
            raise CaptureError(f"{self.record.title} is around a model; it takes a single layer.")
        return module.call((), {})

    def _cast(self, value: Argument) -> Argument:
        """The argument with its tensors as values: floating-point ones in what the layer computes
        in, written-out ones from a buffer.
        """
        match value:
            case Tensor():
                name = self._written.setdefault(id(value), f"constant_{len(self._written)}")
                return self._cast(Value(tensor=self._constant(name, lambda: value)))
            case Value(tensor=tensor) if tensor.is_floating_point() and tensor.dtype != self.dtype:
                is_layer = not self.record.kind.startswith("ops.")
                return replace(value, tensor=tensor.to(self.dtype)) if is_layer else value
            case tuple():
                return tuple(self._cast(v) for v in value)
        return value

    def _run_inner(
        self, key: str, args: Sequence[Argument], kwargs: Mapping[str, Argument]
    ) -> tuple[Value, ...]:
        outputs: tuple[Value, ...] = self.get_submodule(self._inner_names[key])(args, kwargs)
        return outputs

    def _constant(self, name: str, make: Callable[[], Tensor]) -> Tensor:
        if name not in self._buffers:
            self.register_buffer(name, make().contiguous().to(self.home.device))
        tensor: Tensor = getattr(self, name)
        return tensor.to("meta") if self.home.is_shape_run else tensor

    def _weight(self, spec: WeightSpec) -> Tensor:
        holder: nn.Module = self
        *path, name = spec.name.split(".")
        for part in path:
            if part not in holder._modules:
                holder.add_module(part, nn.Module())
            holder = holder.get_submodule(part)
        if name not in holder._parameters and name not in holder._buffers:
            self._register(holder, name, spec)
        tensor: Tensor = getattr(holder, name)
        return tensor.to("meta") if self.home.is_shape_run else tensor

    def _register(self, holder: nn.Module, name: str, spec: WeightSpec) -> None:
        with torch.no_grad():
            tensor = self._load(spec)
        if spec.is_buffer or not tensor.is_floating_point():
            holder.register_buffer(name, tensor)
        else:
            holder.register_parameter(name, nn.Parameter(tensor, requires_grad=False))

    def _load(self, spec: WeightSpec) -> Tensor:
        if self.home.device == "meta":
            tensor = torch.empty(spec.shape, device="meta")
        else:
            title = f"{spec.name} of {self.record.title}"
            tensor = self.home.store.read(spec.place, spec.shape, title)
        if spec.change is not None:
            tensor = spec.change(tensor)
        tensor = tensor.contiguous().to(self.home.device, spec.dtype)
        if self.home.store.is_blank and not tensor.is_meta:
            return _draw(tensor, spec.fill)
        return tensor


class Body(nn.Module):
    """Runs the calls of one model, each inside the module of its layer."""

    def __init__(self, model: KerasModel, home: Home) -> None:
        super().__init__()
        self.model = model
        self._names: dict[str, str] = {}
        for name, record in model.layers.items():
            if record.kind != "InputLayer":
                self._names[name] = _free_name(self, name)
                self.add_module(self._names[name], made(record, home))

    def run(self, inputs: Sequence[Value]) -> tuple[Value, ...]:
        """The outputs for inputs in the order of `model.inputs`."""
        if len(inputs) != len(self.model.inputs):
            raise CaptureError(
                f"{self.model.name} takes {len(self.model.inputs)} inputs "
                f"({', '.join(i.name for i in self.model.signature)}), not {len(inputs)}."
            )
        values: dict[Ref, Argument] = dict(zip(self.model.inputs, inputs, strict=True))
        for name, number in self.model.order:
            record = self.model.layers[name]
            if record.kind == "InputLayer":
                continue
            call = record.calls[number]
            args = tuple(_resolved(a, values) for a in call.args)
            kwargs = {key: _resolved(a, values) for key, a in call.kwargs.items()}
            outputs = self.get_submodule(self._names[name])(args, kwargs)
            values |= {Ref(layer=name, call=number, output=k): v for k, v in enumerate(outputs)}
        return tuple(_output(_resolved(ref, values)) for ref in self.model.outputs)


class Nested(Body):
    """A model inside a model."""

    def forward(
        self, args: tuple[Argument, ...], kwargs: Mapping[str, Argument]
    ) -> tuple[Value, ...]:
        """The outputs of one call."""
        for name, value in list(kwargs.items())[not args :]:
            if _values(value):
                raise UnsupportedOp(
                    f"model {self.model.name} is called with the tensor {name[:60]}, which is not "
                    "read; give its layers what they need of it as inputs."
                )
        return self.run(_values(args[:1] or tuple(kwargs.values())[:1]))


class KerasModule(Body):
    """Runs a Keras model with torch. Inputs and outputs are those of the Keras model, in its order
    and layout.

    Weights are read from `store` on `device`; "meta" needs none of their values, and a store that
    is blank has them drawn: matrices from N(0, 1 / fan-in), norms as they start. `prepare` reads
    them all.
    """

    def __init__(self, model: KerasModel, store: Store, device: str = "cpu") -> None:
        home = Home(store=store, device=device)
        super().__init__(model, home)
        self.home = home

    def forward(self, *inputs: Tensor) -> object:
        """The output, or a tuple of several."""
        outputs = tuple(v.plain() for v in self.run([Value(tensor=i) for i in inputs]))
        return outputs[0] if len(outputs) == 1 else outputs

    def prepare(self, *inputs: Tensor) -> None:
        """Registers every weight; nothing is computed. Raises CaptureError where the model does not
        fit its inputs, TargetError where the file does not fit the model.
        """
        self.home.is_shape_run = True
        try:
            self.forward(*(i.to("meta") for i in inputs))
        finally:
            self.home.is_shape_run = False


def made(record: KerasLayer, home: Home) -> nn.Module:
    """The module that runs a layer; the same for layers that are one object."""
    if record.model is not None:
        return Nested(record.model, home)
    if record.identity is None:
        return Layer(record, home)
    if record.identity not in home.layers:
        home.layers[record.identity] = Layer(record, home)
    return home.layers[record.identity]


def _require_row(record: KerasLayer) -> Row:
    row = record.row or row_of(record.kind)
    if row is None:
        raise UnsupportedOp(
            f"{record.title} is of a class that has no row yet; export the model to ONNX: "
            "model.export('model.onnx', format='onnx')."
        )
    return row


def _require_asked(row: Row, call: Call) -> None:
    """Raises UnsupportedOp where a call has a tensor by a name that its row never asked for."""
    for name, value in call.kwargs.items():
        if name not in call.asked and name not in row.ignores and _values(value):
            raise call.refuse(f"the tensor {name[:60]} of its call", "call it without")


def _listed(result: Result) -> tuple[Value, ...]:
    parts = result if isinstance(result, tuple) else (result,)
    return tuple(p if isinstance(p, Value) else Value(tensor=p) for p in parts)


def _values(value: Argument) -> list[Value]:
    """The tensors in an argument, of a mapping by sorted names."""
    match value:
        case Value():
            return [value]
        case Tensor():
            return [Value(tensor=value)]
        case tuple():
            return [v for item in value for v in _values(item)]
        case dict():
            return [v for name in sorted(value) for v in _values(value[name])]
    return []


def _resolved(value: Argument, values: Mapping[Ref, Argument]) -> Argument:
    try:
        return resolved(value, values)
    except KeyError as error:
        (ref,) = error.args
        raise CaptureError(
            f"output {ref.output} of {ref.layer} is read; it has fewer outputs."
        ) from error


def _output(value: Argument) -> Value:
    assert isinstance(value, Value)
    return value


def _draw(tensor: Tensor, fill: float | None) -> Tensor:
    if fill is not None or tensor.dim() < 2:
        return tensor.fill_(fill or 0.0)
    return nn.init.normal_(tensor, std=(tensor.numel() / tensor.shape[0]) ** -0.5)


def _named(record: KerasLayer, call: Call, error: Exception) -> str:
    """The first line of an error with the layer it happened in."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    reason = (lines[0] if lines else type(error).__name__)[:300].rstrip(".")
    shapes = ", ".join(str(list(v.shape)) for v in _values(call.args)) or "(it has none)"
    return f"{record.title} does not fit its inputs {shapes}: {reason}."


def _free_name(parent: nn.Module, name: str) -> str:
    """`name` as one that `parent` can give to a module."""
    free = _NOT_A_NAME.sub("_", name)
    while not free or hasattr(parent, free):
        free += "_"
    return free
