"""SavedModel folders and frozen graphs: through tf2onnx in a child, then as ONNX."""

import os
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

from ridgeline.errors import MissingExtra, RidgelineError, TargetError
from ridgeline.frontends import tensorflow_child
from ridgeline.frontends.onnx_file import load_onnx
from ridgeline.frontends.request import LoadedModel, Request
from ridgeline.graph import Phase

_LIMIT_S = 900
_WARNING = (
    "loading a SavedModel runs TensorFlow's own code for it (its initialisers); load only files "
    "you trust."
)
# Quiet, and on the CPU: the child only reads.
_SETTINGS = {
    "TF_CPP_MIN_LOG_LEVEL": "3",
    "CUDA_VISIBLE_DEVICES": "-1",
    "TF_ENABLE_ONEDNN_OPTS": "0",
}


def is_tensorflow(target: str) -> bool:
    """Whether the target is a SavedModel folder or a frozen graph."""
    return target.endswith(".pb") or (Path(target) / "saved_model.pb").is_file()


def load_tensorflow(request: Request, device: str) -> LoadedModel:
    """The model as its conversion to ONNX gives it: see `load_onnx`.

    Raises TargetError where TensorFlow or tf2onnx does not take it, MissingExtra without them.
    """
    request.require_phase(Phase.FORWARD)
    source = Path(request.target)
    if not source.exists():
        raise TargetError(f"no file {source}; give a SavedModel folder or FILE.pb.")
    with tempfile.TemporaryDirectory(prefix="ridgeline-") as folder:
        path = Path(folder) / f"{source.stem}.onnx"
        if source.is_dir():
            print(f"{source}: {_WARNING}", file=sys.stderr)
        _convert(source.resolve(), path)
        try:
            loaded = load_onnx(replace(request, target=str(path)), device)
        except RidgelineError as error:
            raise type(error)(str(error).replace(str(path), request.target)) from error
    return replace(loaded, name=source.stem)


def _convert(source: Path, target: Path) -> None:
    """Has a child write the ONNX file."""
    # -P: the script's folder has an `onnx` of its own, which the child must not import.
    command = [sys.executable, "-P", tensorflow_child.__file__, str(source), str(target)]
    try:
        child = subprocess.run(
            command,
            env={**os.environ, **_SETTINGS},
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_LIMIT_S,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise TargetError(
            f"{source}: TensorFlow took more than {_LIMIT_S} s to convert it; export it to ONNX "
            "yourself: python -m tf2onnx.convert."
        ) from error
    lines = [line.strip() for line in child.stderr.splitlines() if line.strip()]
    reason = (lines[-1] if lines else f"exit status {child.returncode}")[:300].rstrip(".")
    if child.returncode == tensorflow_child.MISSING:
        raise MissingExtra(f"{source} needs the extra tf: pip install 'ridgeline[tf]' ({reason}).")
    if child.returncode or not target.is_file():
        raise TargetError(f"{source} does not convert to ONNX: {reason}.")
