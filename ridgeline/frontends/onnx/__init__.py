"""ONNX -> Graph: a model read, checked, and interpreted with torch, which capture then traces."""

from ridgeline.frontends.onnx.module import OnnxModule
from ridgeline.frontends.onnx.read import read_file, read_model

__all__ = ["OnnxModule", "read_file", "read_model"]
