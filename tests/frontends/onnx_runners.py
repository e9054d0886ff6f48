"""Who runs a conformance case: our interpreter, our graph, onnxruntime."""

from collections.abc import Sequence

import numpy as np
import torch
from onnx import ModelProto, numpy_helper
from onnx_cases import Data
from torch import Tensor

from ridgeline.backends.reference import Reference
from ridgeline.errors import GraphError
from ridgeline.frontends import capture
from ridgeline.frontends.onnx import OnnxModule, read_model
from ridgeline.frontends.onnx.call import Value
from ridgeline.frontends.onnx.dtypes import to_array, to_tensor
from ridgeline.frontends.onnx.weights import Known, known
from ridgeline.graph import verify


def interpret(model: ModelProto, inputs: Sequence[Data]) -> list[Data]:
    """The outputs of OnnxModule, run as it is."""
    module = OnnxModule(read_model(model, name="case"))
    with torch.no_grad():
        return [_data(v) for v in module.interpret([_value(i) for i in inputs])]


def _value(data: Data) -> Value:
    if isinstance(data, list | tuple):
        return tuple(_value(d) for d in data)
    if data is None:
        return None
    array = np.asarray(data)
    return known(array.astype(object)) if array.dtype.kind in "OUS" else to_tensor(array)


def _data(value: Value) -> Data:
    if isinstance(value, tuple):
        return [_data(v) for v in value]
    if isinstance(value, Known):
        return value.read()
    return to_array(value) if isinstance(value, Tensor) else None


def capture_and_run(model: ModelProto, inputs: Sequence[Data]) -> list[Data]:
    """The outputs of the graph that is captured, run by the reference backend.

    Shapes, limits and the like, inputs after the first of at most one dimension, become weights: a
    graph has them fixed.
    """
    bound = ModelProto.FromString(model.SerializeToString())
    free: list[Tensor] = []
    for position, (value, data) in enumerate(zip(model.graph.input, inputs, strict=True)):
        if data is None or isinstance(data, list):
            raise GraphError(f"input {value.name} is no tensor")
        array = np.asarray(data)
        if position and array.ndim <= 1:
            bound.graph.initializer.append(numpy_helper.from_array(array, value.name))
        else:
            free.append(to_tensor(array))
    module = OnnxModule(read_model(bound, name="case"))
    module.prepare(*free)
    graph = capture(module, tuple(free), is_trusted=True)
    verify(graph)
    return [to_array(t) for t in Reference().compile(graph)(*free)]


def run_onnxruntime(model: ModelProto, inputs: Sequence[Data]) -> list[Data]:
    """The outputs of onnxruntime on the CPU."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    names = [i.name for i in session.get_inputs()]
    outputs: list[Data] = session.run(None, dict(zip(names, inputs, strict=False)))
    return outputs
