"""Keras itself, on its torch backend, beside what Ridgeline reads of the file that Keras writes."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

pytest.importorskip("h5py", reason="needs the extra keras: pip install 'ridgeline[keras]'")
pytest.importorskip("keras", reason="needs keras, a test extra")

import keras
import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from ridgeline.frontends import LoadedModel, Request, load_model

# Of sums in another order, against the largest output.
TOLERANCE = 2e-5


@contextmanager
def keras_alone() -> Iterator[None]:
    """Within the block only Keras's own code runs, whose warnings are not ours to mend."""
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        yield


def randomise(model: keras.Model) -> None:
    """Weights none of which is where it starts; variances stay above zero."""
    rng = np.random.default_rng(0)
    for variable in model.variables:
        if "seed" in variable.path or not keras.backend.is_float_dtype(variable.dtype):
            continue
        value = rng.normal(size=variable.shape) * 0.5
        if "variance" in variable.path:
            value = np.abs(value) + 0.5
        with keras_alone():
            variable.assign(value)


def saved(model: keras.Model, folder: Path) -> Path:
    """The file that Keras writes."""
    path = folder / "model.keras"
    with keras_alone():
        model.save(path)
    return path


def read_back(model: keras.Model, folder: Path) -> LoadedModel:
    """What Ridgeline reads of it."""
    return load_model(Request(target=str(saved(model, folder))))


def run_keras(model: keras.Model, inputs: tuple[Tensor, ...]) -> list[Tensor]:
    """Keras's own outputs."""
    with keras_alone():
        given = list(inputs) if len(inputs) > 1 else inputs[0]
        return tree_leaves(model(given, training=False))


def error_of(found: list[Tensor], wanted: list[Tensor]) -> float:
    """The largest difference over the largest value; infinite where shapes differ."""
    assert len(found) == len(wanted)
    errors = [0.0]
    for mine, theirs in zip(found, wanted, strict=True):
        theirs = theirs.detach()
        if mine.shape != theirs.shape:
            return float("inf")
        if mine.numel():
            scale = max(float(theirs.double().abs().max()), 1e-3)
            errors.append(float((mine.double() - theirs.double()).abs().max()) / scale)
    return max(errors)


def check(model: keras.Model, folder: Path, tolerance: float = TOLERANCE) -> LoadedModel:
    """Reads the model back and holds its outputs against Keras's own."""
    randomise(model)
    loaded = read_back(model, folder)
    found = tree_leaves(loaded.module(*loaded.inputs))
    error = error_of(found, run_keras(model, loaded.inputs))
    assert error <= tolerance, f"{error:.2e}"
    return loaded
