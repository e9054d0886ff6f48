"""Interprets an ONNX model: node by node, what is known computed ahead, the rest with torch."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from math import prod
from typing import Any

import onnx
import torch
from onnx import defs, helper
from onnx.defs import onnx_opset_version
from torch import Tensor

from ridgeline.errors import CaptureError, RidgelineError, UnsupportedOp
from ridgeline.frontends.onnx.call import Call, Result, TooLarge, Value, outside_trace
from ridgeline.frontends.onnx.dtypes import to_array, to_tensor, type_of
from ridgeline.frontends.onnx.ops import row_of
from ridgeline.frontends.onnx.read import DOMAIN, function_of
from ridgeline.frontends.onnx.records import Attribute, Body, Function, OnnxModel, OnnxNode
from ridgeline.frontends.onnx.table import Row
from ridgeline.frontends.onnx.weights import SMALL, Known, known

# Loops are unrolled: one that runs more nodes than this is no graph anyone would read.
MAX_STEPS = 200_000
# Of what inputs broadcast to, where it is computed ahead.
_MAX_REACH = 2**22
# Runs a node inside the modules that its path names.
Within = Callable[[tuple[str, ...], Callable[[], list[Value]]], list[Value]]
# What torch, NumPy and the functions of the table raise on shapes and types that do not fit.
_MISFITS = (RuntimeError, ValueError, TypeError, IndexError, KeyError, OverflowError)


@dataclass(slots=True, eq=False)
class Frame:
    """The names in force in one body. attributes: of the function being run."""

    values: dict[str, Value]
    opsets: Mapping[str, int]
    attributes: Mapping[str, Attribute | None] = field(default_factory=dict)
    outer: "Frame | None" = None

    def find(self, name: str) -> Value:
        """The value of a name, here or in the bodies around."""
        frame: Frame | None = self
        while frame is not None:
            if name in frame.values:
                return frame.values[name]
            frame = frame.outer
        raise CaptureError(f"value {name!r} is read before it is made.")


class Interpreter:
    """Runs one model. device: where tensors are made; materialise: a known value as a tensor;
    within: see `Within`.
    """

    def __init__(
        self,
        model: OnnxModel,
        *,
        device: torch.device,
        materialise: Callable[[Known], Tensor],
        within: Within,
    ) -> None:
        self.model = model
        self.device = device
        self.materialise = materialise
        self.within = within
        self.steps = 0

    def run(self, inputs: Sequence[Value]) -> list[Value]:
        """The model's outputs for inputs in the order of `model.inputs`."""
        self.steps = 0
        names = tuple(self.model.inputs)
        frame = Frame(dict(zip(names, inputs, strict=True)), self.model.opsets)
        return self._body(self.model.body, frame, is_top=True)

    def _body(self, body: Body, frame: Frame, *, is_top: bool = False) -> list[Value]:
        frame.values.update(body.weights)
        for node in body.nodes:
            if is_top:
                results = self.within(node.path, lambda node=node: self._node(node, frame))  # type: ignore[misc]
            else:
                results = self._node(node, frame)
            for name, value in zip(node.outputs, results, strict=False):
                if name:
                    frame.values[name] = value
        return [frame.find(name) if name else None for name in body.outputs]

    def _node(self, node: OnnxNode, frame: Frame) -> list[Value]:
        """The outputs of one node."""
        self.steps += 1
        if self.steps > MAX_STEPS:
            raise CaptureError(
                f"{self.model.name} runs more than {MAX_STEPS} nodes with its loops unrolled."
            )
        inputs = tuple(frame.find(name) if name else None for name in node.inputs)
        try:
            return self._dispatch(node, frame, inputs)
        except UnsupportedOp as error:
            raise UnsupportedOp(_named(node, inputs, error)) from error
        except _MISFITS as error:
            if isinstance(error, RidgelineError):
                raise
            raise CaptureError(_named(node, inputs, error)) from error

    def _dispatch(self, node: OnnxNode, frame: Frame, inputs: tuple[Value, ...]) -> list[Value]:
        attributes = _attributes(node, frame)
        function = self.model.functions.get((node.domain, node.op, node.overload))
        if function is not None:
            return self._function(function, inputs, attributes)
        version = frame.opsets.get(node.domain) or _newest(node.domain)
        row = row_of(node.domain, node.op, version)
        if row is not None:
            return self._row(row, node, version, frame, inputs, attributes)
        return self._function(_expansion(node, version, inputs), inputs, attributes)

    def _row(
        self,
        row: Row,
        node: OnnxNode,
        version: int,
        frame: Frame,
        inputs: tuple[Value, ...],
        attributes: Mapping[str, Attribute],
    ) -> list[Value]:
        def run(body: Body, values: Sequence[Value]) -> list[Value]:
            given = dict(zip(body.inputs, values, strict=True))
            return self._body(body, Frame(given, frame.opsets, frame.attributes, frame))

        def enter(
            body: Body, rebound: Mapping[str, Value], materialise: Callable[[Known], Tensor]
        ) -> list[Value]:
            usual, self.materialise = self.materialise, materialise
            try:
                return self._body(body, Frame(dict(rebound), frame.opsets, frame.attributes, frame))
            finally:
                self.materialise = usual

        def call(materialise: Callable[[Known], Tensor], *, is_ahead: bool) -> list[Value]:
            made = Call(
                node=node,
                version=version,
                inputs=inputs,
                attributes=attributes,
                device=torch.device("cpu") if is_ahead else self.device,
                materialise=materialise,
                run=run,
                find=frame.find,
                enter=enter,
                is_ahead=is_ahead,
            )
            return _listed(row.run(made))

        if row.is_pure and _are_known(inputs) and _reach(inputs) <= _MAX_REACH:
            try:
                with outside_trace():
                    return [_as_known(v) for v in call(_plain_tensor, is_ahead=True)]
            except TooLarge:
                pass
        return call(self.materialise, is_ahead=False)

    def _function(
        self, function: Function, inputs: tuple[Value, ...], attributes: Mapping[str, Attribute]
    ) -> list[Value]:
        names = function.body.inputs
        values: dict[str, Value] = {
            **dict.fromkeys(names),
            **dict(zip(names, inputs, strict=False)),
        }
        frame = Frame(values, function.opsets, {**function.attributes, **attributes})
        return self._body(function.body, frame)


def _plain_tensor(value: Known) -> Tensor:
    return to_tensor(value.read())


def _are_known(inputs: Sequence[Value]) -> bool:
    """Whether all of them are small and known."""
    return all(_are_known(v) if isinstance(v, tuple) else v is None or _is_small(v) for v in inputs)


def _reach(inputs: Sequence[Value]) -> int:
    """The elements of what these inputs broadcast to, if they do."""
    shapes = [v.shape[::-1] for v in inputs if isinstance(v, Known)]
    return prod(max(sizes) for sizes in zip_longest(*shapes, fillvalue=1))


def _is_small(value: Value) -> bool:
    return isinstance(value, Known) and value.numel <= SMALL


def _as_known(value: Value) -> Value:
    """A value computed ahead as what it is: known."""
    if isinstance(value, Tensor):
        if value.numel() > 2 * SMALL:
            raise TooLarge
        return known(to_array(value))
    return tuple(_as_known(v) for v in value) if isinstance(value, tuple) else value


def _listed(result: Result) -> list[Value]:
    return result if isinstance(result, list) else [result]


def _attributes(node: OnnxNode, frame: Frame) -> Mapping[str, Attribute]:
    """The node's attributes, those of the function around it filled in."""
    if not node.references:
        return node.attributes
    filled = {name: frame.attributes.get(ref) for name, ref in node.references.items()}
    return {**node.attributes, **{n: v for n, v in filled.items() if v is not None}}


def _named(node: OnnxNode, inputs: Sequence[Value], error: Exception) -> str:
    """The first line of an error with the node it happened in."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    reason = (lines[0] if lines else type(error).__name__)[:300].rstrip(".")
    if isinstance(error, UnsupportedOp):
        return reason if reason.startswith("node ") else f"{node.title}: {reason}."
    return f"{node.title} does not fit its inputs {_shapes(inputs)}: {reason}."


def _shapes(inputs: Sequence[Value]) -> str:
    shapes = [
        f"{type_of(v).name if isinstance(v, Tensor) else v.element.name}{list(v.shape)}"
        if isinstance(v, Tensor | Known)
        else "none"
        for v in inputs
    ]
    return ", ".join(shapes) or "(it has none)"


def _expansion(node: OnnxNode, version: int, inputs: Sequence[Value]) -> Function:
    """The specification's own spelling of an operator. Raises UnsupportedOp if it has none."""
    try:
        schema = defs.get_schema(node.op, version, node.domain)
    except defs.SchemaError as error:
        raise UnsupportedOp(
            f"{node.title}: there is no operator {node.qualified} in version {version} of its "
            "operator set, nor a row for it; export the model without it."
        ) from error
    found: Any = schema  # its stubs lack the bodies
    fixed = [v for v in found.function_opset_versions if v <= version]
    free = [v for v in found.context_dependent_function_opset_versions if v <= version]
    if not fixed and not free:
        raise UnsupportedOp(f"{node.title}: {node.qualified} has no row yet; export without it.")
    if fixed:
        body = found.get_function_with_opset_version(max(fixed))
    else:
        spelt, kinds = node.proto.SerializeToString(), [_type_proto(v) for v in inputs]
        body = found.get_context_dependent_function_with_opset_version(max(free), spelt, kinds)
    return function_of(onnx.FunctionProto.FromString(body))


def _newest(domain: str) -> int:
    """The version of an operator set that a model uses and does not declare."""
    return onnx_opset_version() if domain == DOMAIN else 1


def _type_proto(value: Value) -> bytes:
    if not isinstance(value, Tensor | Known):
        return b""
    number = (type_of(value) if isinstance(value, Tensor) else value.element).number
    proto: bytes = helper.make_tensor_type_proto(number, list(value.shape)).SerializeToString()
    return proto
