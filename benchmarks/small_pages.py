"""The backends that keep weights in what malloc gives, left in its pages of 4 KiB."""

from ridgeline.backends.onnxruntime import OnnxRuntime
from ridgeline.backends.openvino import OpenVino


class SmallOpenVino(OpenVino):
    """OpenVINO as it is without us."""

    name = "openvino, small pages"
    large_pages = False


class SmallOnnxRuntime(OnnxRuntime):
    """onnxruntime as it is without us."""

    name = "onnxruntime, small pages"
    large_pages = False
