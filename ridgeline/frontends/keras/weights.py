"""Weights of a Keras file: read where they lie in its HDF5, never more than the file holds."""

import math
from typing import Protocol

import h5py
import numpy as np
import torch
from torch import Tensor

from ridgeline.errors import TargetError

# A compressed array may declare so many times what is stored of it; Keras itself compresses none.
_MAX_EXPANSION = 100
# Of all arrays together, what they may declare beyond that.
_SMALL_BYTES = 2**24
# Of all weights together that are made up because a model comes without.
_MAX_MADE = 2**31
# As Keras 2.13 named the group that Keras 3 calls layers.
_OLD_GROUP = "_layer_checkpoint_dependencies"


class Store(Protocol):
    """Where the weights of a model come from."""

    is_blank: bool

    def read(self, place: str, shape: tuple[int, ...], title: str) -> Tensor:
        """The array at a place, which must have this shape."""


class BlankStore:
    """Undrawn memory, for a model that comes without weights."""

    is_blank = True

    def __init__(self) -> None:
        self._made = 0

    def read(self, place: str, shape: tuple[int, ...], title: str) -> Tensor:
        """A tensor of this shape. Raises TargetError where all together would be too large."""
        self._made += math.prod(shape)
        if self._made > _MAX_MADE:
            raise TargetError(
                f"{title} makes the model larger than {_MAX_MADE} weights, and its file holds "
                "none: too many to make up; inspect needs none."
            )
        return torch.empty(shape)


class H5Store:
    """The weights in an HDF5 file that Keras 3 wrote: `layers/dense/vars/0`."""

    is_blank = False

    def __init__(self, file: h5py.File) -> None:
        self._file = file
        self._is_old = _OLD_GROUP in file and "layers" not in file
        self._unbacked = 0
        self._places: dict[int, str] = {}

    def read(self, place: str, shape: tuple[int, ...], title: str) -> Tensor:
        """The array at a place. Raises TargetError where there is none of this shape, or where it
        lies outside the file.
        """
        path = place.replace("layers", _OLD_GROUP) if self._is_old else place
        try:
            dataset = _dataset(self._file, path, title)
            _require_fit(dataset, shape, title)
            self._require_backed(dataset, path, title)
            return _tensor(np.asarray(dataset[()]), _dtype_name(dataset))
        except (OSError, RuntimeError, KeyError, ValueError, TypeError) as error:
            if isinstance(error, TargetError):
                raise
            raise TargetError(f"{title} cannot be read from the file ({path}): {error}.") from error

    def _require_backed(self, dataset: h5py.Dataset, path: str, title: str) -> None:
        """Raises TargetError where an array makes all that were read much larger than the file; one
        array at several places is stored at the first of them.
        """
        declared = math.prod(dataset.shape) * dataset.dtype.itemsize
        is_first = self._places.setdefault(h5py.h5o.get_info(dataset.id).addr, path) == path
        room = self._file.id.get_filesize()
        stored = min(dataset.id.get_storage_size(), room) if is_first else 0
        self._unbacked += max(0, declared - _MAX_EXPANSION * stored)
        if self._unbacked > _SMALL_BYTES:
            raise TargetError(
                f"{title} declares {declared} bytes, of which the file holds {stored}; with the "
                f"arrays before it that makes up more than {_SMALL_BYTES} bytes and is not read."
            )


def _dataset(file: h5py.File, path: str, title: str) -> h5py.Dataset:
    """The array at a path. Raises TargetError where a link or an outside file is on the way."""
    found: object = file
    for part in path.split("/"):
        if not isinstance(found, h5py.Group) or part not in found:
            raise TargetError(f"{title} is not in the file ({path}).")
        if not isinstance(found.get(part, getlink=True), h5py.HardLink):
            raise TargetError(f"{title} is a link in the file ({path}); links are not followed.")
        found = found[part]
    if not isinstance(found, h5py.Dataset):
        raise TargetError(f"{title} is no array in the file ({path}).")
    if found.external or found.is_virtual:
        raise TargetError(f"{title} lies outside the file ({path}); that is not read.")
    return found


def _require_fit(dataset: h5py.Dataset, shape: tuple[int, ...], title: str) -> None:
    """Raises TargetError unless an array has this shape and holds numbers."""
    if tuple(dataset.shape or ()) != shape:
        raise TargetError(
            f"{title} is {list(dataset.shape or ())} in the file; the config and the inputs make "
            f"it {list(shape)}."
        )
    dtype = dataset.dtype
    is_bfloat16 = _dtype_name(dataset) == "bfloat16" and dtype.itemsize == 2
    if dtype.kind not in "fiub" and not is_bfloat16:
        raise TargetError(f"{title} holds {str(dtype)[:60]} in the file, which is no number.")


def _dtype_name(dataset: h5py.Dataset) -> str:
    """What Keras notes beside an array that HDF5 has no type for."""
    return str(dataset.attrs.get("dtype", ""))


def _tensor(array: np.ndarray, name: str) -> Tensor:
    if name == "bfloat16":
        return torch.from_numpy(array.view(np.int16).copy()).view(torch.bfloat16)
    return torch.from_numpy(np.array(array, order="C"))
