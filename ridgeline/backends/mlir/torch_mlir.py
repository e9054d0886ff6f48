"""torch-mlir's way to MLIR, for graphs with an operator that our own tables lack."""

import io
from collections.abc import Callable, Mapping, Sequence
from math import sqrt
from typing import TYPE_CHECKING

import torch
from torch import Tensor, fx
from torch.export import ExportedProgram, default_decompositions

from ridgeline.backends.backend import first_line
from ridgeline.backends.stateless import Stateless
from ridgeline.errors import BackendError

if TYPE_CHECKING:
    from torch_mlir.ir import Module

_aten = torch.ops.aten
# torch-mlir's name of each dialect, and IREE's. Convolutions are fast as TOSA alone (it holds them
# channels last); products are as fast as linalg, which takes more ops; torch takes nearly all.
INPUT_TYPES: Mapping[str, str] = {"tosa": "tosa", "linalg-on-tensors": "none", "torch": "torch"}
FOR_CONVOLUTIONS = ("tosa", "linalg-on-tensors", "torch")
FOR_ATTENTION = ("linalg-on-tensors", "tosa", "torch")


def converted(form: Stateless, dialect: str) -> bytes:
    """The graph in a dialect of MLIR, as bytecode. Raises BackendError with torch-mlir's reason."""
    prepare(form.module)
    return bytecode(form.program().run_decompositions(decompositions()), dialect)


def prepare(module: fx.GraphModule) -> None:
    """Rewrites what our attention and torch-mlir's importer stumble over: views that rely on the
    strides of torch's attention, and lists that hold both weights and values.
    """
    for node in list(module.graph.nodes):
        if node.target is _aten.view.default:
            node.target = _aten.reshape.default
        if node.target is _aten.cat.default:
            for weight in [n for n in node.all_input_nodes if n.op == "get_attr"]:
                with module.graph.inserting_before(node):
                    value = module.graph.call_function(_aten.clone.default, (weight,))
                node.replace_input_with(weight, value)
    module.recompile()


def bytecode(program: ExportedProgram, dialect: str) -> bytes:
    """The program in a dialect of MLIR. Raises BackendError with torch-mlir's reason."""
    return serialised(imported(program, dialect))


def imported(program: ExportedProgram, dialect: str) -> "Module":
    """torch-mlir's module of the program. Raises BackendError with torch-mlir's reason."""
    from torch_mlir import fx as importers
    from torch_mlir import ir
    from torch_mlir.dialects import torch as dialects
    from torch_mlir.extras.fx_importer import FxImporter

    said: list[str] = []
    context = ir.Context()
    dialects.register_dialect(context)

    def keep(diagnostic: object) -> bool:
        said.append(str(diagnostic))
        return True

    context.attach_diagnostic_handler(keep)
    importer = FxImporter(context=context)
    try:
        module: Module = importers.export_and_import(
            program, output_type=dialect, fx_importer=importer
        )
    except Exception as error:
        raise BackendError(said[-1] if said else first_line(error)) from error
    return module


def serialised(module: "Module") -> bytes:
    """A module as bytecode, because torch-mlir and IREE differ in how they spell it as text."""
    buffer = io.BytesIO()
    module.operation.write_bytecode(buffer)
    return buffer.getvalue()


def decompositions() -> Mapping[object, Callable[..., object]]:
    """torch's own, and three of ours: torch-mlir's forms of norm and attention hold 64-bit floats,
    which are not legal TOSA, and torch's form of `roll` a remainder that it does not lower.
    """
    table = dict(default_decompositions())
    table[_aten.layer_norm.default] = _layer_norm
    table[_aten.scaled_dot_product_attention.default] = _attention
    table[_aten.roll.default] = _roll
    return table


def _roll(x: Tensor, shifts: Sequence[int], dims: Sequence[int] = ()) -> Tensor:
    """Each dimension cut in two, and the parts exchanged."""
    if not dims:
        return _roll(x.flatten(), shifts, (0,)).reshape(x.shape)
    for shift, dim in zip(shifts, dims, strict=True):
        size = x.shape[dim]
        cut = -shift % size if size else 0
        x = torch.cat([x.narrow(dim, cut, size - cut), x.narrow(dim, 0, cut)], dim)
    return x


def _layer_norm(
    x: Tensor,
    shape: Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    cudnn_enable: bool = True,
) -> Tensor:
    """Layer norm by sums times one over the count: no division by a whole number."""
    dims = list(range(x.dim() - len(shape), x.dim()))
    share = 1.0 / torch.Size(shape).numel()
    centred = x - x.sum(dims, keepdim=True) * share
    variance = (centred * centred).sum(dims, keepdim=True) * share
    normal = centred * torch.rsqrt(variance + eps)
    scaled = normal if weight is None else normal * weight
    return scaled if bias is None else scaled + bias


def _attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    *,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """Attention as two products and a softmax, without the test for rows that are masked whole."""
    scores = torch.matmul(query * (scale or 1 / sqrt(query.shape[-1])), key.transpose(-2, -1))
    lowest = torch.finfo(scores.dtype).min
    if is_causal:
        attn_mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=query.device).tril()
    if attn_mask is not None and attn_mask.dtype is torch.bool:
        scores = torch.where(attn_mask, scores, lowest)
    elif attn_mask is not None:
        scores = scores + attn_mask
    return torch.matmul(torch.softmax(scores, -1), value)
