"""onnxruntime: the graph as ONNX, run with every graph optimisation of its CPU provider."""

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ridgeline.backends.backend import Backend, Dtype, Runnable, Setting
from ridgeline.backends.environment import silent
from ridgeline.backends.stateless import Raw, Stateless, has_attention, stateless
from ridgeline.errors import BackendError
from ridgeline.graph import Graph

if TYPE_CHECKING:
    import numpy
    import onnx

MODEL, WEIGHTS = "model.onnx", "model.onnx.data"
# ONNX's numbers for element types (onnx.proto, TensorProto.DataType).
_ELEMENTS = {
    torch.float32: 1,
    torch.uint8: 2,
    torch.int8: 3,
    torch.int16: 5,
    torch.int32: 6,
    torch.int64: 7,
    torch.bool: 9,
    torch.float16: 10,
    torch.float64: 11,
    torch.bfloat16: 16,
}


class OnnxRuntime(Backend):
    """Its CPU provider has no bf16 kernels; int8 takes the ranges of activations from the
    calibration inputs, or from each run where there is attention, whose ranges vary more.

    Its files are data: ONNX operators, and weights.
    """

    name = "onnxruntime"
    dtypes = ("fp32", "int8")
    extra = "onnxruntime"
    modules = ("onnxruntime", "onnx", "onnxscript")
    files = (MODEL, WEIGHTS)
    declines = ("join_linears",)

    def build(self, graph: Graph, setting: Setting) -> Runnable:
        """The session of the exported model, which is kept when a folder is given."""
        form = stateless(graph)
        with silent(), tempfile.TemporaryDirectory(prefix="ridgeline-") as scratch:
            folder = setting.keep or Path(scratch)
            _export(form, folder)
            if setting.dtype == "int8":
                sets = form.calibration(setting.calibration)
                _quantize(folder, sets, is_dynamic=has_attention(graph))
            return form.runnable(_session(folder / MODEL, form))

    def load(self, graph: Graph, folder: Path, dtype: Dtype) -> Runnable:
        """The session of a saved model. Raises BackendError for one that reads other files."""
        require_own_files(folder / MODEL)
        form = stateless(self.lower(graph, dtype))
        return form.runnable(_session(folder / MODEL, form))


def _export(form: Stateless, folder: Path) -> None:
    """Writes the model, its weights beside it: one file cannot hold more than 2 GiB."""
    program = torch.onnx.export(form.program(), dynamo=True, optimize=True, verbose=False)
    assert program is not None
    program.save(folder / MODEL, external_data=True)


def _quantize(folder: Path, sets: Sequence[Sequence[Tensor]], *, is_dynamic: bool) -> None:
    """Replaces the model in `folder` by its form in int8, weights per channel."""
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic, quantize_static

    model = onnx.load(folder / MODEL)
    del model.graph.value_info[:]  # of the optimiser's leavings some no longer hold
    model = onnx.shape_inference.infer_shapes(model)
    names = [entry.name for entry in model.graph.input]
    (folder / WEIGHTS).unlink(missing_ok=True)
    shared = {"per_channel": True, "weight_type": QuantType.QInt8}
    if is_dynamic:
        quantize_dynamic(model, folder / MODEL, use_external_data_format=True, **shared)
    else:
        reader = _Sets(names, sets)
        quantize_static(model, folder / MODEL, reader, use_external_data_format=True, **shared)


class _Sets:
    """Calibration inputs as onnxruntime reads them: one dict of arrays at a time, then None."""

    def __init__(self, names: Sequence[str], sets: Sequence[Sequence[Tensor]]) -> None:
        self._pending = iter(
            [{n: x.numpy() for n, x in zip(names, given, strict=True)} for given in sets]
        )

    def get_next(self) -> "dict[str, numpy.ndarray] | None":
        """The next set; None after the last."""
        return next(self._pending, None)


def _session(path: Path, form: Stateless) -> Raw:
    """Runs the model on as many threads as torch has, on the tensors' own memory; every call fills
    new output tensors.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    names = [i.name for i in session.get_inputs()]
    results = [o.name for o in session.get_outputs()]
    binding = session.io_binding()

    def run(inputs: Sequence[Tensor]) -> list[Tensor]:
        held, outputs = [x.contiguous() for x in inputs], form.blank()
        binding.clear_binding_inputs()
        binding.clear_binding_outputs()
        for name, x in zip(names, held, strict=True):
            binding.bind_input(name, "cpu", 0, _ELEMENTS[x.dtype], x.shape, x.data_ptr())
        for name, y in zip(results, outputs, strict=True):
            binding.bind_output(name, "cpu", 0, _ELEMENTS[y.dtype], y.shape, y.data_ptr())
        session.run_with_iobinding(binding)
        return outputs

    return run


def require_own_files(path: Path) -> None:
    """Raises BackendError if the ONNX model at `path` reads a file other than its own weights, or
    cannot be read.
    """
    import onnx

    try:
        model = onnx.load(path, load_external_data=False)
    except Exception as error:  # protobuf raises its own kinds
        raise BackendError(f"its {MODEL} is no ONNX model.") from error
    for tensor in _tensors(model.graph):
        for entry in tensor.external_data:
            if entry.key == "location" and entry.value != WEIGHTS:
                raise BackendError(f"its {MODEL} reads {entry.value!r}; refusing it.")


def _tensors(graph: "onnx.GraphProto") -> Iterator["onnx.TensorProto"]:
    """Every constant of a graph, those in its nodes and in the graphs within them included."""
    yield from graph.initializer
    for node in graph.node:
        for attribute in node.attribute:
            yield from (attribute.t, *attribute.tensors)
            for inner in (attribute.g, *attribute.graphs):
                yield from _tensors(inner)
