"""Inputs from files or drawn at random, for calibration and for running a saved model.

Files: `.npz` (arrays by input name, or in order), `.npy` (a model of one input), `.pt` (a tensor,
a list, or a dict by input name). Nothing is unpickled, and no file is read that is larger than
these inputs can be.
"""

import io
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ridgeline.errors import GraphError
from ridgeline.graph import Graph, GraphInput, InputKind
from ridgeline.graph.flat import check_inputs
from ridgeline.graph.spec import DTYPES
from ridgeline.graph.store import write_atomically

_SUFFIXES = (".npz", ".npy", ".pt")
# A file may hold each value as the widest type there is, and headers.
_WIDEST_BYTES, _HEADER_BYTES = 8, 2**20
# More sets hardly move a range, and each is one run of the model.
_MAX_SETS = 64
_RANDOM_SETS = 8

Inputs = tuple[Tensor, ...]


def calibration_sets(source: str, graph: Graph, like: Sequence[Tensor]) -> tuple[Inputs, ...]:
    """What `--calibrate` names: "random" draws inputs in the range of `like`; else the files of a
    folder, in order of their names, at most 64. Raises GraphError naming the file that does not
    fit.
    """
    if source == "random":
        return tuple(random_inputs(graph, like, seed) for seed in range(_RANDOM_SETS))
    folder = Path(source)
    if not folder.is_dir():
        raise GraphError(f"no folder {folder}; --calibrate takes a folder of inputs, or random.")
    files = sorted(p for p in folder.iterdir() if p.suffix in _SUFFIXES and p.is_file())
    if not files:
        raise GraphError(f"{folder} holds no .npz, .npy or .pt file to calibrate with.")
    return tuple(read_inputs(file, graph) for file in files[:_MAX_SETS])


def random_inputs(graph: Graph, like: Sequence[Tensor], seed: int = 0) -> Inputs:
    """Inputs drawn between the smallest and the largest value of `like`, tensor by tensor,
    normally where those are one; the same for the same seed.
    """
    check_inputs(graph, like)
    generator = torch.Generator().manual_seed(seed)
    return tuple(_drawn(x, generator) for x in like)


def _drawn(like: Tensor, generator: torch.Generator) -> Tensor:
    if like.dtype is torch.bool or not like.numel():
        return like.clone()
    low, high = like.min().item(), like.max().item()
    if low == high and like.is_floating_point():
        return torch.randn(like.shape, generator=generator).to(like.dtype)
    if like.is_floating_point():
        drawn = torch.rand(like.shape, generator=generator, dtype=torch.float32)
        return (low + (high - low) * drawn).to(like.dtype)
    return torch.randint(int(low), int(high) + 1, like.shape, generator=generator, dtype=like.dtype)


def read_inputs(path: Path, graph: Graph) -> Inputs:
    """One set of inputs from a file. Raises GraphError, naming the file and what is wrong."""
    if not path.is_file():
        raise GraphError(f"no file {path}; inputs come from a .npz, .npy or .pt file.")
    if path.suffix not in _SUFFIXES:
        raise GraphError(f"{path} is no file of inputs; those end in {', '.join(_SUFFIXES)}.")
    wanted = tuple(graph.of_kind(InputKind.INPUT))
    _check_size(path, wanted)
    try:
        inputs = _in_order(_content(path), wanted)
        check_inputs(graph, inputs)
    except GraphError as error:
        raise GraphError(f"{path}: {error}") from error
    except Exception as error:  # damaged files raise every kind of exception
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise GraphError(f"{path} is no readable file of arrays: {reason[:200]}.") from error
    return inputs


def _check_size(path: Path, wanted: Sequence[GraphInput]) -> None:
    """Raises GraphError for a file that unpacks to more than the inputs can be."""
    limit = _HEADER_BYTES + sum(_WIDEST_BYTES * i.spec.numel for i in wanted)
    size = path.stat().st_size
    if path.suffix != ".npy" and zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            size = max(size, sum(entry.file_size for entry in archive.infolist()))
    if size > limit:
        raise GraphError(f"{path} holds {size} bytes; these inputs take at most {limit}.")


def _content(path: Path) -> Mapping[str, Tensor] | list[Tensor]:
    """The tensors in a file, by name or in order."""
    if path.suffix == ".pt":
        value = torch.load(path, weights_only=True, map_location="cpu")
        if isinstance(value, Tensor):
            return [value]
        return value if isinstance(value, dict) else list(value)
    if path.suffix == ".npy":
        return [torch.from_numpy(np.load(path, mmap_mode="r", allow_pickle=False).copy())]
    with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
        arrays = {name: torch.from_numpy(archive[name]) for name in archive.files}
    is_in_order = all(name.startswith("arr_") for name in arrays)
    return list(arrays.values()) if is_in_order else arrays


def _in_order(content: Mapping[str, Tensor] | list[Tensor], wanted: Sequence[GraphInput]) -> Inputs:
    if isinstance(content, list):
        found = content
    else:
        missing = [i.path for i in wanted if i.path not in content]
        strange = sorted(set(content) - {i.path for i in wanted})
        if missing or strange:
            what = f"lacks {missing[0]}" if missing else f"has {strange[0]}"
            names = ", ".join(i.path for i in wanted)
            raise GraphError(f"it {what}; the inputs are {names}.")
        found = [content[i.path] for i in wanted]
    if len(found) != len(wanted) or not all(isinstance(x, Tensor) for x in found):
        return tuple(found)  # for `check_inputs` to say what is wrong
    return tuple(_as(x, DTYPES[i.spec.dtype]) for x, i in zip(found, wanted, strict=True))


def _as(value: Tensor, dtype: torch.dtype) -> Tensor:
    """`value` in `dtype` where both are floating-point, or both whole numbers: NumPy's own are
    wide.
    """
    is_same_kind = value.is_floating_point() == dtype.is_floating_point
    is_number = torch.bool not in (value.dtype, dtype)
    return value.to(dtype) if is_same_kind and is_number else value


def write_arrays(path: Path, tensors: Sequence[Tensor]) -> None:
    """Writes tensors to a `.npz` file, in order; bf16, which NumPy lacks, as fp32."""
    buffer = io.BytesIO()
    np.savez(buffer, *(_array(t) for t in tensors))
    write_atomically(path, buffer.getbuffer())


def _array(tensor: Tensor) -> np.ndarray:
    has_numpy_type = tensor.dtype is not torch.bfloat16
    return (tensor if has_numpy_type else tensor.float()).detach().numpy()
