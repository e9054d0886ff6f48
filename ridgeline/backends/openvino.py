"""OpenVINO: a compiler and kernels of its own, with a precision setting of its own."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ridgeline.backends.agreement import compare
from ridgeline.backends.backend import Backend, Dtype, Runnable, Setting
from ridgeline.backends.environment import silent
from ridgeline.backends.stateless import Raw, has_attention, stateless
from ridgeline.graph import Graph
from ridgeline.passes.precision import set_precision

if TYPE_CHECKING:
    import openvino

MODEL, WEIGHTS = "openvino.xml", "openvino.bin"
# What the floating-point work is done in, as OpenVINO spells it; in int8, what is left of it.
_HINTS: dict[Dtype, str] = {"fp32": "f32", "bf16": "bf16", "int8": "bf16"}
# Sets of calibration inputs on which two quantised forms are compared.
_JUDGED_SETS = 4


class OpenVino(Backend):
    """Takes the graph in fp32; bf16 is a hint, which keeps fp32 where less would hurt; int8 is
    nncf's post-training quantisation, the rest in bf16.

    Its files are data: a list of operations that OpenVINO knows, and weights.
    """

    name = "openvino"
    dtypes = ("fp32", "bf16", "int8")
    extra = "openvino"
    modules = ("openvino", "nncf")
    files = (MODEL, WEIGHTS)
    declines = ("join_linears",)

    def lower(self, graph: Graph, dtype: Dtype) -> Graph:
        """The graph in fp32: OpenVINO lowers it from there."""
        return set_precision(graph, torch.float32)

    def build(self, graph: Graph, setting: Setting) -> Runnable:
        """The compiled model; its intermediate representation is kept when a folder is given."""
        form = stateless(graph)
        with silent():
            _silence_telemetry()
            import openvino

            model = openvino.convert_model(form.program(), example_input=form.examples)
            model.reshape({model.input(n): list(x.shape) for n, x in enumerate(form.examples)})
            if setting.dtype == "int8":
                sets = form.calibration(setting.calibration)
                model = _quantized(model, sets, has_attention=has_attention(graph))
            if setting.keep is not None:
                openvino.save_model(model, setting.keep / MODEL, compress_to_fp16=False)
            return form.runnable(_compiled(model, setting.dtype))

    def load(self, graph: Graph, folder: Path, dtype: Dtype) -> Runnable:
        """The compiled model of a saved representation."""
        with silent():
            _silence_telemetry()
            import openvino

            model = openvino.Core().read_model(folder / MODEL, folder / WEIGHTS)
            form = stateless(self.lower(graph, dtype))
            return form.runnable(_compiled(model, dtype))


def _silence_telemetry() -> None:
    """Keeps the library from reporting its use over the network, which it does when it is imported
    and finds the package for that, without asking.
    """
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]


def _quantized(
    model: "openvino.Model", sets: Sequence[Sequence[Tensor]], *, has_attention: bool
) -> "openvino.Model":
    """The model with 8-bit weights and activations, SmoothQuant where there is attention.

    Correcting biases by what rounding shifted helps some models and harms others, so both are made
    and the one that is nearer to fp32 on the calibration inputs is kept.
    """
    import nncf

    kind = nncf.ModelType.TRANSFORMER if has_attention else None
    exact = _compiled(model, "fp32")
    expected = [exact(given) for given in sets[:_JUDGED_SETS]]

    def error(candidate: "openvino.Model") -> float:
        run = _compiled(candidate, "int8")
        pairs = zip(expected, sets, strict=False)
        return max(compare(wanted, run(given)).max_error for wanted, given in pairs)

    made = [
        nncf.quantize(
            model,
            nncf.Dataset([[x.numpy() for x in given] for given in sets]),
            subset_size=len(sets),
            model_type=kind,
            advanced_parameters=nncf.AdvancedQuantizationParameters(
                disable_bias_correction=is_plain
            ),
        )
        for is_plain in (False, True)
    ]
    return min(made, key=error)


def _compiled(model: "openvino.Model", dtype: Dtype) -> Raw:
    """Runs the model on as many threads as torch has, on the tensors' own memory; every call fills
    new output tensors.
    """
    import openvino

    settings = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": _HINTS[dtype],
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
    }
    compiled = openvino.Core().compile_model(model, "CPU", settings)
    request = compiled.create_infer_request()
    like = [torch.from_numpy(request.get_output_tensor(i).data) for i in range(len(model.outputs))]

    def run(inputs: Sequence[Tensor]) -> list[Tensor]:
        outputs = [torch.empty_like(o) for o in like]
        held = [x.contiguous() for x in inputs]
        for number, x in enumerate(held):
            request.set_input_tensor(number, _wrapped(x))
        for number, y in enumerate(outputs):
            request.set_output_tensor(number, _wrapped(y))
        request.infer(share_outputs=True)
        return outputs

    return run


def _wrapped(tensor: Tensor) -> "openvino.Tensor":
    """The same memory as OpenVINO sees it; NumPy has no bf16."""
    import openvino

    if tensor.dtype is torch.bfloat16:
        words = tensor.view(torch.int16).numpy()
        return openvino.Tensor(words, list(tensor.shape), openvino.Type.bf16)
    return openvino.Tensor(tensor.numpy(), shared_memory=True)
