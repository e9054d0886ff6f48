"""Frontends: from what people have (modules, files, configs, names) to a Graph."""

from ridgeline.frontends.request import LoadedModel, Request
from ridgeline.frontends.target import capture_target, load_model
from ridgeline.frontends.torch_export import capture

__all__ = ["LoadedModel", "Request", "capture", "capture_target", "load_model"]
