"""The graph: one functional core-ATen program, its nodes, its text, its file."""

from ridgeline.graph.graph import Graph, GraphInput, InputKind, Phase
from ridgeline.graph.node import Node, Ref
from ridgeline.graph.ops import OPS, Category, Engine, OpRow, row_of
from ridgeline.graph.spec import TensorSpec, dtype_name, spec_of
from ridgeline.graph.store import load, save
from ridgeline.graph.text import diff, to_text
from ridgeline.graph.verify import verify

__all__ = [
    "OPS",
    "Category",
    "Engine",
    "Graph",
    "GraphInput",
    "InputKind",
    "Node",
    "OpRow",
    "Phase",
    "Ref",
    "TensorSpec",
    "diff",
    "dtype_name",
    "load",
    "row_of",
    "save",
    "spec_of",
    "to_text",
    "verify",
]
