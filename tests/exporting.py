"""Torch's own exporter to ONNX, quietly."""

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator

import torch
from onnx import ModelProto
from torch import Tensor, nn


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """torch's exporter warns and logs about itself."""
    logging.disable(logging.ERROR)
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        try:
            yield
        finally:
            logging.disable(logging.NOTSET)


def exported(model: nn.Module, inputs: tuple[Tensor, ...]) -> ModelProto:
    """The model as torch.onnx.export writes it."""
    with quiet():
        program = torch.onnx.export(model, inputs, dynamo=True)
    assert program is not None
    return program.model_proto
