"""`.onnx`: a model in ONNX's own format, its inputs made up from what the file says of them."""

from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ridgeline.errors import MissingExtra, TargetError
from ridgeline.frontends.request import LoadedModel, Request, set_mode
from ridgeline.graph import Phase

if TYPE_CHECKING:
    from ridgeline.frontends.onnx.records import Kind, OnnxModel

# Words by which exporters name the sizes of inputs, in lower case.
_LENGTH_WORDS = ("seq", "length", "len", "time", "tokens", "height", "width", "size")
_DEFAULT_TOKENS, _DEFAULT_PIXELS = 128, 224
# Of a dimension; of an input where it is only described; of one that is made.
_MAX_ELEMENTS, _MAX_MADE = 2**31, 2**28


def is_onnx(target: str) -> bool:
    """Whether the target is an ONNX file."""
    return target.endswith(".onnx")


def load_onnx(request: Request, device: str) -> LoadedModel:
    """The file's model with inputs of the sizes asked for, where the file leaves them open.

    Raises TargetError where the file or a size is wrong, MissingExtra without onnx.
    """
    request.require_phase(Phase.FORWARD)
    if request.dtype is not None:
        raise TargetError(
            f"--dtype does not apply to {request.target}: it is fixed in the file; "
            "export the model in another one."
        )
    try:
        from ridgeline.frontends.onnx import OnnxModule, read_file
    except ImportError as error:
        raise MissingExtra(
            f"{request.target} needs the extra onnx: pip install 'ridgeline[onnx]'."
        ) from error
    model = read_file(Path(request.target))
    shapes = shapes_of(model, request)
    inputs = tuple(_example(model, name, shapes[name], device) for name in model.inputs)
    module = OnnxModule(model, device)
    module.prepare(*inputs)
    return LoadedModel(
        module=set_mode(module, request.phase), inputs=inputs, name=model.name, is_trusted=True
    )


def shapes_of(model: "OnnxModel", request: Request) -> dict[str, tuple[int, ...]]:
    """The shape of every input: the file's sizes, --batch and --seq where it names others."""
    used: set[str] = set()
    shapes = {
        name: tuple(
            _size(request, name, kind, position, size, used)
            for position, size in enumerate(_dims(name, kind))
        )
        for name, kind in model.inputs.items()
    }
    for option in ("batch", "seq"):
        if getattr(request, option) is not None and option not in used:
            raise TargetError(
                f"--{option} does not apply to {request.target}: its inputs have no such size "
                f"open ({_signature(model)})."
            )
    return shapes


def _dims(name: str, kind: "Kind") -> tuple[int | str | None, ...]:
    if kind.container or kind.element.carrier is None:
        raise TargetError(
            f"input {name} is a {kind.container or 'tensor'} of {kind.element.name}; "
            "only tensors of numbers can be made up."
        )
    if kind.dims is None:
        raise TargetError(
            f"input {name} has no known rank; save the model with the shapes of its inputs."
        )
    return kind.dims


def _size(
    request: Request,
    name: str,
    kind: "Kind",
    position: int,
    size: int | str | None,
    used: set[str],
) -> int:
    """One size: fixed by the file, else what its name or its place says it counts."""
    if isinstance(size, int):
        if not 0 <= size < _MAX_ELEMENTS:
            raise TargetError(f"input {name} declares a dimension of {size}.")
        return size
    word = (size or "").lower()
    is_image = kind.dims is not None and len(kind.dims) >= 4
    if any(w in word for w in _LENGTH_WORDS) or position > 0:
        used.add("seq")
        return request.seq or (_DEFAULT_PIXELS if is_image and position > 1 else _DEFAULT_TOKENS)
    used.add("batch")
    return request.batch or 1


def _signature(model: "OnnxModel") -> str:
    return ", ".join(
        f"{name}: {list(kind.dims) if kind.dims is not None else 'any'}"
        for name, kind in model.inputs.items()
    )


def _example(model: "OnnxModel", name: str, shape: tuple[int, ...], device: str) -> Tensor:
    """Random numbers; integers below what they index, where the file shows it; masks of ones."""
    dtype = model.inputs[name].element.carrier
    assert dtype is not None
    count = torch.Size(shape).numel()
    if count > (_MAX_ELEMENTS if device == "meta" else _MAX_MADE):
        raise TargetError(
            f"input {name} declares {list(shape)}, {count} elements: too many to make."
        )
    if dtype.is_floating_point and dtype.itemsize > 1:
        return torch.randn(shape, device=device).to(dtype)
    if dtype in (torch.float8_e4m3fn, torch.float8_e5m2) or dtype.is_complex:
        return torch.zeros(shape, device=device).to(dtype)
    if dtype is torch.bool or "mask" in name.lower():
        return torch.ones(shape, dtype=dtype, device=device)
    return torch.randint(0, _rows_indexed(model, name), shape, device=device).to(dtype)


def _rows_indexed(model: "OnnxModel", name: str) -> int:
    """How many rows the weights have that this input looks up; 2 where it looks up none."""
    rows = [
        weight.shape[0]
        for node in model.body.nodes
        if node.op == "Gather"
        and node.inputs[1:2] == (name,)
        and (weight := model.body.weights.get(node.inputs[0])) is not None
        and weight.shape
    ]
    return max(1, min(rows, default=2))
