"""The peers of bench_optimize: what their users would run, on the model as it was captured.

Each is a backend, so that it lives in a process of its own and takes turns with all others. None
sees what our passes made of the graph: `CAPTURED` names the file of the graph as captured; and none
has its memory put into large pages.
"""

import os
from pathlib import Path

import torch

from ridgeline import graph as graphs
from ridgeline.backends.aoti import load_package
from ridgeline.backends.backend import Backend, Dtype, Runnable, Setting
from ridgeline.backends.environment import compiling
from ridgeline.backends.inductor import Inductor
from ridgeline.backends.onnxruntime import OnnxRuntime
from ridgeline.backends.openvino import OpenVino
from ridgeline.backends.stateless import Stateless
from ridgeline.backends.torchao import Torchao
from ridgeline.backends.tosa import Iree, Way, by_torch_mlir
from ridgeline.graph import Graph
from ridgeline.graph.flat import align_inputs, example_inputs, flat_module

CAPTURED = "RIDGELINE_BENCH_CAPTURED"


def captured() -> Graph:
    """The graph as captured, no pass run."""
    return graphs.load(Path(os.environ[CAPTURED]))


class PeerEager(Backend):
    """The exported module, run by torch op by op."""

    name = "torch eager"
    large_pages = False
    dtypes = ("fp32",)

    def lower(self, graph: Graph, dtype: Dtype) -> Graph:
        """The captured graph in the dtype."""
        return super().lower(captured(), dtype)

    def build(self, graph: Graph, setting: Setting) -> Runnable:
        """The module's own forward."""
        run: Runnable = flat_module(graph).forward
        return run


class PeerCompile(PeerEager):
    """`torch.compile(model)`, nothing set."""

    name = "torch.compile"
    dtypes = ("fp32", "bf16")
    mode: str | None = None

    def build(self, graph: Graph, setting: Setting) -> Runnable:
        """The compiled module, run once."""
        run: Runnable = torch.compile(flat_module(graph).forward, mode=self.mode)
        with compiling(), torch.no_grad():
            run(*align_inputs(graph)(example_inputs(graph)))
        return run


class PeerMaxAutotune(PeerCompile):
    """`torch.compile(model, mode="max-autotune")`."""

    name = "torch.compile max-autotune"
    dtypes = ("fp32",)
    mode = "max-autotune"


class PeerAoti(PeerEager):
    """`torch._inductor.aoti_compile_and_package(program)`, nothing set."""

    name = "AOTInductor"
    dtypes = ("fp32", "bf16")

    def build(self, graph: Graph, setting: Setting) -> Runnable:
        """The loaded package."""
        assert setting.keep is not None
        path = setting.keep / "package.pt2"
        with compiling(), torch.no_grad():
            torch._inductor.aoti_compile_and_package(graph.program, package_path=str(path))
        return load_package(path)


class PeerInductorFrozen(Inductor):
    """`torch.compile` with freezing, which also packs bf16 products."""

    name = "torch.compile frozen"
    large_pages = False
    dtypes = ("bf16",)

    def lower(self, graph: Graph, dtype: Dtype) -> Graph:
        """The captured graph in the dtype."""
        return super().lower(captured(), dtype)


class PeerOnnxRuntime(OnnxRuntime):
    """onnxruntime on torch.onnx's export."""

    name = "onnxruntime (peer)"
    large_pages = False

    def lower(self, graph: Graph, dtype: Dtype) -> Graph:
        """The captured graph."""
        return super().lower(captured(), dtype)


class PeerOpenVino(OpenVino):
    """OpenVINO on the exported program, its precision hint, nncf for int8."""

    name = "OpenVINO (peer)"
    large_pages = False

    def lower(self, graph: Graph, dtype: Dtype) -> Graph:
        """The captured graph."""
        return super().lower(captured(), dtype)


class PeerTorchao(Torchao):
    """torchao's int8 through frozen Inductor."""

    name = "torchao (peer)"
    large_pages = False

    def lower(self, graph: Graph, dtype: Dtype) -> Graph:
        """The captured graph."""
        return super().lower(captured(), dtype)


class PeerIree(Iree):
    """torch-mlir and IREE, for this processor and with data tiling."""

    name = "IREE (peer)"
    large_pages = False
    dtypes = ("fp32",)

    def lower(self, graph: Graph, dtype: Dtype) -> Graph:
        """The captured graph."""
        return super().lower(captured(), dtype)

    def ways(self, graph: Graph, form: Stateless) -> dict[str, Way]:
        """torch-mlir's alone."""
        return by_torch_mlir(graph, form)


FP32_PEERS: tuple[type[Backend], ...] = (
    PeerEager,
    PeerCompile,
    PeerMaxAutotune,
    PeerAoti,
    PeerOnnxRuntime,
    PeerOpenVino,
    PeerIree,
)
LOWER_PEERS: tuple[type[Backend], ...] = (
    PeerInductorFrozen,
    PeerOnnxRuntime,
    PeerOpenVino,
    PeerTorchao,
)
