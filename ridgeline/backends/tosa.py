"""IREE: the graph as MLIR (TOSA, linalg or torch-mlir's own dialect), compiled to native code."""

import io
from collections.abc import Callable, Mapping, Sequence
from math import sqrt
from pathlib import Path

import msgspec
import torch
from torch import Tensor, fx
from torch.export import ExportedProgram, default_decompositions

from ridgeline.backends.backend import Backend, Dtype, Runnable, Setting, first_line
from ridgeline.backends.environment import silent
from ridgeline.backends.stateless import Raw, Stateless, has_attention, stateless
from ridgeline.errors import BackendError
from ridgeline.graph import Graph

_aten = torch.ops.aten
MODULE, ROUTE = "iree.vmfb", "iree.json"
# torch-mlir's name of each dialect, and IREE's. Convolutions are fast as TOSA alone (it holds them
# channels last); products are as fast as linalg, which takes more ops; torch takes nearly all.
_INPUT_TYPES = {"tosa": "tosa", "linalg-on-tensors": "none", "torch": "torch"}
_FOR_CONVOLUTIONS = ("tosa", "linalg-on-tensors", "torch")
_FOR_ATTENTION = ("linalg-on-tensors", "tosa", "torch")
# The processor that compiles is the one that runs; data tiling packs operands for its products and
# is off unless asked for.
_FLAGS = (
    "--iree-hal-target-device=local",
    "--iree-hal-local-target-device-backends=llvm-cpu",
    "--iree-llvmcpu-target-cpu=host",
    "--iree-opt-data-tiling",
)
_MAX_REASON = 160


class Route(msgspec.Struct, forbid_unknown_fields=True):
    """How a graph reached IREE: the dialect it went in by, and why those before it did not take
    it.
    """

    taken: str
    refused: dict[str, str]


class Iree(Backend):
    """Compiles ahead of time, weights included; its module is native code."""

    name = "iree"
    extra = "iree"
    modules = ("iree.compiler", "iree.runtime", "torch_mlir")
    files = (MODULE, ROUTE)
    is_native = True

    def build(self, graph: Graph, setting: Setting) -> Runnable:
        """The loaded module of the first route that compiles; both are kept when a folder is
        given.
        """
        form = stateless(graph)
        routes = _FOR_ATTENTION if has_attention(graph) else _FOR_CONVOLUTIONS
        with silent():
            code, route = _compiled(form, routes)
        if setting.keep is not None:
            (setting.keep / MODULE).write_bytes(code)
            (setting.keep / ROUTE).write_bytes(msgspec.json.encode(route))
        return form.runnable(_loaded(code, form))

    def load(self, graph: Graph, folder: Path, dtype: Dtype) -> Runnable:
        """The saved module's callable."""
        form = stateless(self.lower(graph, dtype))
        return form.runnable(_loaded((folder / MODULE).read_bytes(), form))


def _compiled(form: Stateless, routes: Sequence[str]) -> tuple[bytes, Route]:
    """Native code by the first route that leads there. Raises BackendError with the reason of each
    where none does.
    """
    _prepare(form.module)
    program = form.program().run_decompositions(_decompositions())
    refused: dict[str, str] = {}
    for name in routes:
        try:
            return _native(_bytecode(program, name), _INPUT_TYPES[name]), Route(
                taken=name, refused=refused
            )
        except Exception as error:  # compilers raise every kind of exception
            refused[name] = _reason(error)
    reasons = "; ".join(f"{name}: {reason}" for name, reason in refused.items())
    raise BackendError(f"no route to IREE takes it ({reasons}).")


def _prepare(module: fx.GraphModule) -> None:
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


def _bytecode(program: ExportedProgram, dialect: str) -> bytes:
    """The program in a dialect of MLIR; as bytecode, because the two libraries differ in how they
    spell it as text.
    """
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
        module = importers.export_and_import(program, output_type=dialect, fx_importer=importer)
    except Exception as error:
        raise BackendError(said[-1] if said else first_line(error)) from error
    buffer = io.BytesIO()
    module.operation.write_bytecode(buffer)
    return buffer.getvalue()


def _native(bytecode: bytes, input_type: str) -> bytes:
    from iree import compiler

    code: bytes = compiler.compile_str(bytecode, input_type=input_type, extra_args=list(_FLAGS))
    return code


def _reason(error: Exception) -> str:
    """The first error in a compiler's complaint, else its first line."""
    lines = str(error).splitlines()
    found = next((line.partition("error: ")[2] for line in lines if "error: " in line), None)
    reason = found or (lines[0] if isinstance(error, BackendError) else first_line(error))
    return reason.strip()[:_MAX_REASON]


def _loaded(code: bytes, form: Stateless) -> Raw:
    """Runs the module's entry on as many threads as torch has; this loads native code."""
    from iree import runtime

    # read when the first device is made, so the first module of a process decides
    runtime.flags.parse_flags(f"--task_topology_group_count={torch.get_num_threads()}")
    device = runtime.get_device("local-task")
    instance = runtime.VmInstance()
    hal = runtime.create_hal_module(instance, device)
    module = runtime.VmModule.copy_buffer(instance, code)
    context = runtime.VmContext(instance, modules=[hal, module])
    entry = module.lookup_function("main")
    usage = int(runtime.BufferUsage.DEFAULT | runtime.BufferUsage.MAPPING)
    memory = int(runtime.MemoryType.DEVICE_LOCAL | runtime.MemoryType.HOST_VISIBLE)
    elements = _elements()

    def run(inputs: Sequence[Tensor]) -> list[Tensor]:
        given = runtime.VmVariantList(len(inputs))
        for x in inputs:
            array = _words(x.contiguous()).numpy()
            element = elements[x.dtype]
            given.push_ref(
                device.allocator.allocate_buffer_copy(memory, usage, device, array, element)
            )
        found = runtime.VmVariantList(len(form.results))
        context.invoke(entry, given, found)
        outputs = form.blank()
        for number, y in enumerate(outputs):
            view = found.get_as_ref(number).deref(runtime.HalBufferView)
            words = _words(y)
            mapped = view.map().asarray(list(view.shape), words.numpy().dtype)
            words.copy_(torch.from_numpy(mapped))
        return outputs

    return run


def _elements() -> Mapping[torch.dtype, int]:
    from iree.runtime import HalElementType as Element

    return {
        torch.bool: int(Element.BOOL_8),
        torch.uint8: int(Element.UINT_8),
        torch.int8: int(Element.SINT_8),
        torch.int16: int(Element.SINT_16),
        torch.int32: int(Element.SINT_32),
        torch.int64: int(Element.SINT_64),
        torch.float16: int(Element.FLOAT_16),
        torch.bfloat16: int(Element.BFLOAT_16),
        torch.float32: int(Element.FLOAT_32),
        torch.float64: int(Element.FLOAT_64),
    }


def _words(tensor: Tensor) -> Tensor:
    """The same memory in a type that NumPy has."""
    return tensor.view(torch.int16) if tensor.dtype is torch.bfloat16 else tensor


def _decompositions() -> Mapping[object, Callable[..., object]]:
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
