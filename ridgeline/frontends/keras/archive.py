"""From a file to a model and its weights: what may be read of it, and how much."""

import io
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO

import h5py

from ridgeline.errors import TargetError, UnsupportedOp
from ridgeline.frontends.keras.read import parse, read_model
from ridgeline.frontends.keras.records import KerasModel
from ridgeline.frontends.keras.table import Row
from ridgeline.frontends.keras.weights import BlankStore, H5Store, Store

_CONFIG, _WEIGHTS = "config.json", "model.weights.h5"
_MAX_CONFIG_BYTES = 2**26
# A member may grow so many times when it is unpacked; Keras itself packs none.
_MAX_EXPANSION = 100
_MAX_UNPACKED_BYTES = 2**31


@contextmanager
def opened(path: Path, rows: Sequence[Row] = ()) -> Iterator[tuple[KerasModel, Store]]:
    """The model in a file and where its weights come from, while the file is open. rows: for
    classes that are not Keras's own, by registered name ("my_package>MyLayer").

    Raises TargetError where the file holds no model that can be read, UnsupportedOp for classes
    that have no row.
    """
    if not path.is_file():
        raise TargetError(f"no file {path}; give FILE.keras, or the JSON of model.to_json().")
    if path.suffix == ".json":
        if path.stat().st_size > _MAX_CONFIG_BYTES:
            raise TargetError(f"{path} has more than {_MAX_CONFIG_BYTES} bytes; that is no config.")
        yield _read(path.read_bytes(), path, rows), BlankStore()
        return
    with _archive(path) as archive:
        names = _names(archive, path)
        if _CONFIG not in names:
            raise TargetError(f"{path} holds no {_CONFIG}; keras writes one: model.save(...).")
        model = _read(_member(archive, _CONFIG, path, _MAX_CONFIG_BYTES), path, rows)
        with _weights(archive, names, path) as store:
            yield model, store


def _read(config: bytes, path: Path, rows: Sequence[Row]) -> KerasModel:
    try:
        return read_model(parse(config, _CONFIG), name=path.stem, rows=rows)
    except TargetError as error:
        raise TargetError(f"{path}: {error}") from error
    except UnsupportedOp as error:
        raise UnsupportedOp(f"{path}: {error}") from error


def _archive(path: Path) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(path)
    except (zipfile.BadZipFile, EOFError, NotImplementedError, OSError) as error:
        raise TargetError(f"{path} is no .keras file, or a damaged one: {error}.") from error


def _names(archive: zipfile.ZipFile, path: Path) -> list[str]:
    """The archive's members. Raises TargetError where one lies outside of it."""
    names = archive.namelist()
    for name in names:
        parts = PurePosixPath(name.replace("\\", "/"))
        if parts.is_absolute() or ".." in parts.parts:
            raise TargetError(f"{path} holds {name[:80]!r}, outside of itself; it is not read.")
    return names


def _member(archive: zipfile.ZipFile, name: str, path: Path, limit: int) -> bytes:
    """A member's bytes. Raises TargetError where it would grow beyond what it is stored as."""
    info = archive.getinfo(name)
    if info.file_size > limit or info.file_size > _MAX_EXPANSION * max(info.compress_size, 2**12):
        raise TargetError(
            f"{path}: {name} declares {info.file_size} bytes, stored as {info.compress_size}; "
            "that is not read."
        )
    try:
        return archive.read(info)
    except (zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError, zlib.error) as error:
        raise TargetError(f"{path}: {name} cannot be unpacked: {error}.") from error


@contextmanager
def _weights(archive: zipfile.ZipFile, names: list[str], path: Path) -> Iterator[Store]:
    """Where the weights of an archive come from: read in place where they are stored as they
    are.
    """
    if _WEIGHTS not in names:
        raise TargetError(f"{path} holds no {_WEIGHTS}; keras writes one: model.save(...).")
    info = archive.getinfo(_WEIGHTS)
    try:
        if info.compress_type == zipfile.ZIP_STORED:
            source: IO[bytes] = archive.open(info)
        else:
            source = io.BytesIO(_member(archive, _WEIGHTS, path, _MAX_UNPACKED_BYTES))
        file = h5py.File(source, "r")
    except (OSError, zipfile.BadZipFile, RuntimeError) as error:
        raise TargetError(f"{path}: {_WEIGHTS} is no HDF5, or a damaged one: {error}.") from error
    with source, file:
        yield H5Store(file)
