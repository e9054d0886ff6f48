"""`.keras` and `model.to_json()`: a Keras 3 model, its inputs made up from what its config says."""

from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ridgeline.errors import MissingExtra, TargetError
from ridgeline.frontends.request import LoadedModel, Request, set_mode
from ridgeline.graph import Phase

if TYPE_CHECKING:
    from ridgeline.frontends.keras.records import KerasInput, KerasModel

# What Keras 2 wrote whole models to.
_OLD = (".h5", ".hdf5")
_HEAD_BYTES = 2**16
_DEFAULT_TOKENS, _DEFAULT_PIXELS = 128, 224
# Of a dimension; of an input where it is only described; of one that is made.
_MAX_ELEMENTS, _MAX_MADE = 2**31, 2**28


def is_keras(target: str) -> bool:
    """Whether the target is a Keras archive, or JSON that says it is a Keras model."""
    if target.endswith(".json"):
        return _says_keras(Path(target))
    return target.endswith((".keras", *_OLD))


def _says_keras(path: Path) -> bool:
    """Whether a JSON file begins as `model.to_json()` does; a Hugging Face config has no layers in
    its config.
    """
    if not path.is_file():
        return False
    with path.open("rb") as file:
        head = file.read(_HEAD_BYTES)
    return b'"class_name"' in head and b'"config"' in head


def load_keras(request: Request, device: str) -> LoadedModel:
    """The file's model with inputs of the sizes asked for, where it leaves them open.

    Raises TargetError where the file or a size is wrong, MissingExtra without h5py.
    """
    request.require_phase(Phase.FORWARD)
    if request.dtype is not None:
        raise TargetError(
            f"--dtype does not apply to {request.target}: it is fixed in the file; "
            "save the model in another one."
        )
    if request.target.endswith(_OLD):
        raise TargetError(
            f"{request.target} is in Keras 2's format; save it in Keras 3's: "
            "keras.models.load_model('m.h5').save('m.keras')."
        )
    try:
        from ridgeline.frontends.keras import KerasModule, opened
    except ImportError as error:
        raise MissingExtra(
            f"{request.target} needs the extra keras: pip install 'ridgeline[keras]'."
        ) from error
    with opened(Path(request.target)) as (model, store):
        shapes = shapes_of(model, request)
        inputs = tuple(
            _example(model, i, shape, device)
            for i, shape in zip(model.signature, shapes, strict=True)
        )
        module = KerasModule(model, store, device)
        module.prepare(*inputs)
    return LoadedModel(
        module=set_mode(module, request.phase), inputs=inputs, name=model.name, is_trusted=True
    )


def shapes_of(model: "KerasModel", request: Request) -> list[tuple[int, ...]]:
    """The shape of every input: the config's sizes, --batch and --seq where it leaves them open."""
    used: set[str] = set()
    shapes = [
        tuple(_size(request, i, position, size, used) for position, size in enumerate(i.shape))
        for i in model.signature
    ]
    for option in ("batch", "seq"):
        if getattr(request, option) is not None and option not in used:
            sizes = ", ".join(f"{i.name}: {list(i.shape)}" for i in model.signature)
            raise TargetError(
                f"--{option} does not apply to {request.target}: its inputs have no such size "
                f"open ({sizes})."
            )
    return shapes


def _size(
    request: Request, entry: "KerasInput", position: int, size: int | None, used: set[str]
) -> int:
    """One size: fixed by the config, else samples at the front, pixels or tokens behind."""
    if size is not None:
        if size >= _MAX_ELEMENTS:
            raise TargetError(f"input {entry.name} declares a dimension of {size}.")
        return size
    if position == 0:
        used.add("batch")
        return request.batch or 1
    used.add("seq")
    return request.seq or (_DEFAULT_PIXELS if len(entry.shape) >= 4 else _DEFAULT_TOKENS)


def _example(
    model: "KerasModel", entry: "KerasInput", shape: tuple[int, ...], device: str
) -> Tensor:
    """Random numbers; integers below what they index; masks of ones."""
    from ridgeline.frontends.keras.arguments import DTYPES

    count = torch.Size(shape).numel()
    if count > (_MAX_ELEMENTS if device == "meta" else _MAX_MADE):
        raise TargetError(
            f"input {entry.name} declares {list(shape)}, {count} elements: too many to make."
        )
    dtype = DTYPES.get(entry.dtype)
    if dtype is None:
        raise TargetError(f"input {entry.name} has the dtype {entry.dtype[:40]!r}, not a number's.")
    rows = _rows_indexed(model, entry.name)
    if dtype is torch.bool or "mask" in entry.name.lower():
        return torch.ones(shape, dtype=dtype, device=device)
    if rows is None and dtype.is_floating_point:
        return torch.randn(shape, device=device).to(dtype)
    return torch.randint(0, min(rows or 2, 2**31), shape, device=device).to(dtype)


def _rows_indexed(model: "KerasModel", name: str) -> int | None:
    """How many rows the tables have that an input looks up; None where it looks up none."""
    from ridgeline.frontends.keras.arguments import refs_in

    sizes: list[int] = []
    for layer in model.layers.values():
        rows = layer.config.get("input_dim")
        if layer.kind == "Embedding" and isinstance(rows, int) and rows > 0:
            reads = [ref.layer for call in layer.calls for ref in refs_in(call.args)]
            sizes += [rows] if name in reads else []
    return min(sizes, default=None)
