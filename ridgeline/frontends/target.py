"""From a TARGET string to a graph or a model: the table of kinds."""

from collections.abc import Callable
from dataclasses import dataclass

from ridgeline.errors import RidgelineError, TargetError
from ridgeline.frontends.exported import is_exported, load_exported, load_graph
from ridgeline.frontends.huggingface import is_huggingface, load_huggingface
from ridgeline.frontends.keras_file import is_keras, load_keras
from ridgeline.frontends.onnx_file import is_onnx, load_onnx
from ridgeline.frontends.pyfile import is_pyfile, load_pyfile
from ridgeline.frontends.request import LoadedModel, Request
from ridgeline.frontends.tensorflow_file import is_tensorflow, load_tensorflow
from ridgeline.frontends.torch_export import capture
from ridgeline.frontends.zoo import is_zoo, load_zoo
from ridgeline.graph import Graph


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """One kind of target. load: (request, device) -> model; on "meta" no weights are needed."""

    pattern: str
    matches: Callable[[str], bool]
    load: Callable[[Request, str], LoadedModel]


KINDS = (
    Kind(pattern="zoo:NAME", matches=is_zoo, load=load_zoo),
    Kind(pattern="FILE.py:FUNCTION", matches=is_pyfile, load=load_pyfile),
    Kind(pattern="FILE.pt2", matches=is_exported, load=load_exported),
    Kind(pattern="FILE.onnx", matches=is_onnx, load=load_onnx),
    Kind(pattern="FILE.keras or the JSON of a Keras model", matches=is_keras, load=load_keras),
    Kind(
        pattern="a TensorFlow SavedModel folder or a frozen FILE.pb",
        matches=is_tensorflow,
        load=load_tensorflow,
    ),
    Kind(
        pattern="a Hugging Face folder, config.json or hub id ORG/NAME",
        matches=is_huggingface,
        load=load_huggingface,
    ),
)


def capture_target(request: Request) -> Graph:
    """The graph of a target for inspection: no weights, layers that repeat folded unless `full`.

    Raises TargetError where the target or a size is wrong, CaptureError where the model does not
    export.
    """
    if is_exported(request.target):
        return load_graph(request)
    loaded = _load_on_meta(request)
    return capture(
        loaded.module,
        loaded.inputs,
        kwargs=loaded.kwargs,
        phase=request.phase,
        name=loaded.name,
        fold_layers=loaded.has_uniform_layers and not request.full,
        is_trusted=loaded.is_trusted,
    )


def _load_on_meta(request: Request) -> LoadedModel:
    """The target without weights. Raises TargetError where its sizes exceed what torch counts."""
    try:
        return _kind_of(request.target).load(request, "meta")
    except (RuntimeError, TypeError) as error:
        if isinstance(error, RidgelineError) or "overflow" not in str(error).lower():
            raise
        raise TargetError(
            f"{request.target} at these sizes has a tensor of more than 2**63 elements; "
            "ask for less."
        ) from error


def load_model(request: Request, device: str = "cpu") -> LoadedModel:
    """The target as a module to run on `device`: its weights, or random ones where it has none."""
    return _kind_of(request.target).load(request, device)


def _kind_of(target: str) -> Kind:
    for kind in KINDS:
        if kind.matches(target):
            return kind
    patterns = "; ".join(kind.pattern for kind in KINDS)
    raise TargetError(
        f"{target!r} is no file, folder or name that exists. A target is: {patterns}."
    )
