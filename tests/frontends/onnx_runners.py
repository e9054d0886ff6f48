"""Who runs a conformance case: our interpreter, our graph, onnxruntime."""

from collections.abc import Sequence

import numpy as np
import torch
from onnx import ModelProto
from onnx_cases import Data
from torch import Tensor

from ridgeline.frontends.onnx import OnnxModule, read_model
from ridgeline.frontends.onnx.call import Value
from ridgeline.frontends.onnx.dtypes import to_array, to_tensor
from ridgeline.frontends.onnx.weights import Known, known


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
