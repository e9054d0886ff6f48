"""IREE: modules of MLIR compiled to native code for this processor, and run."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ridgeline.backends.mlir.writer import SCOPE
from ridgeline.backends.stateless import Raw

if TYPE_CHECKING:
    from iree.runtime import ParameterIndex

TARGET = (
    "--iree-hal-target-device=local",
    "--iree-hal-local-target-device-backends=llvm-cpu",
)
# The processor that compiles is the one that runs; data tiling packs operands for its products and
# is off unless asked for. Loops start on a line of the cache (2^6 bytes): without, what lies before
# one in the code decides whether it takes a quarter longer (convolutions over volumes).
TUNED = (
    "--iree-llvmcpu-target-cpu=host",
    "--iree-opt-data-tiling",
    "--align-all-nofallthru-blocks=6",
)


def compiled(module: str | bytes, input_type: str, flags: Sequence[str] = TUNED) -> bytes:
    """Native code of a module. input_type: IREE's word for its dialect."""
    from iree import compiler

    code: bytes = compiler.compile_str(module, input_type=input_type, extra_args=[*TARGET, *flags])
    return code


def index_of(weights: Mapping[str, Tensor]) -> "ParameterIndex":
    """The weights as IREE reads them, in the tensors' own memory."""
    from iree import runtime

    index = runtime.ParameterIndex()
    for name, tensor in weights.items():
        index.add_buffer(name, words(tensor).numpy())
    return index


def write_weights(weights: Mapping[str, Tensor], path: Path) -> None:
    """Writes the weights as an archive for `read_weights`."""
    index_of(weights).create_archive_file(str(path))


def read_weights(path: Path) -> "ParameterIndex":
    """The weights of an archive, read rather than mapped: a file's pages stay small."""
    from iree import runtime

    index = runtime.ParameterIndex()
    index.load(str(path), mmap=False)
    return index


def loaded(
    code: bytes,
    results: Sequence[Tensor],
    index: "ParameterIndex | None" = None,
    *,
    entry: str = "main",
) -> Raw:
    """Runs one function of a module on as many threads as torch has; this loads native code.

    results: the specs of what it returns. index: the weights, where they are not in the module.
    """
    from iree import runtime

    # read when the first device is made, so the first module of a process decides
    runtime.flags.parse_flags(f"--task_topology_group_count={torch.get_num_threads()}")
    device = runtime.get_device("local-task")
    instance = runtime.VmInstance()
    modules = [runtime.create_hal_module(instance, device)]
    if index is not None:
        provider = index.create_provider(scope=SCOPE)
        modules.append(runtime.create_io_parameters_module(instance, provider))
    modules.append(runtime.VmModule.copy_buffer(instance, code))
    context = runtime.VmContext(instance, modules=modules)
    function = modules[-1].lookup_function(entry)
    usage = int(runtime.BufferUsage.DEFAULT | runtime.BufferUsage.MAPPING)
    memory = int(runtime.MemoryType.DEVICE_LOCAL | runtime.MemoryType.HOST_VISIBLE)
    elements = _elements()

    def run(inputs: Sequence[Tensor]) -> list[Tensor]:
        given = runtime.VmVariantList(len(inputs))
        for x in inputs:
            array, element = words(x.contiguous()).numpy(), elements[x.dtype]
            given.push_ref(
                device.allocator.allocate_buffer_copy(memory, usage, device, array, element)
            )
        found = runtime.VmVariantList(len(results))
        context.invoke(function, given, found)
        return [_read(found, number, spec) for number, spec in enumerate(results)]

    def _read(found: "runtime.VmVariantList", number: int, spec: Tensor) -> Tensor:
        view = found.get_as_ref(number).deref(runtime.HalBufferView)
        out = torch.empty(tuple(spec.shape), dtype=spec.dtype)
        raw = words(out)
        raw.copy_(torch.from_numpy(view.map().asarray(list(view.shape), raw.numpy().dtype)))
        return out

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


def words(tensor: Tensor) -> Tensor:
    """The same memory in a type that NumPy has."""
    return tensor.view(torch.int16) if tensor.dtype is torch.bfloat16 else tensor
