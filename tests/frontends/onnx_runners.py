"""Who runs a conformance case: our interpreter, our graph, onnxruntime."""

import ctypes
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from onnx import ModelProto, TensorProto, numpy_helper
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
    """The outputs of onnxruntime on the CPU; types that NumPy lacks are handed over as bytes."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    names = [i.name for i in session.get_inputs()]
    given = [np.asarray(i) if isinstance(i, np.generic) else i for i in inputs]
    are_arrays = all(isinstance(i, np.ndarray) and i.dtype.kind not in "OUS" for i in given)
    if not are_arrays or not all(o.type.startswith("tensor") for o in session.get_outputs()):
        outputs: list[Data] = session.run(None, dict(zip(names, given, strict=False)))
        return outputs
    values = {n: _to_ort(i) for n, i in zip(names, given, strict=False)}
    return [_from_ort(v) for v in session.run_with_ort_values(None, values)]


def _to_ort(data: Any) -> Any:
    from onnxruntime import OrtValue

    tensor = numpy_helper.from_array(data)
    value = OrtValue.ortvalue_from_shape_and_type(list(data.shape), tensor.data_type)
    ctypes.memmove(value.data_ptr(), tensor.raw_data, len(tensor.raw_data))
    return value


def _from_ort(value: Any) -> Data:
    if value.data_type() == "tensor(string)":
        texts: Data = value.numpy()
        return texts
    raw = ctypes.string_at(value.data_ptr(), value.tensor_size_in_bytes())
    tensor = TensorProto(data_type=value.element_type(), dims=value.shape(), raw_data=raw)
    array: Data = numpy_helper.to_array(tensor)
    return array
