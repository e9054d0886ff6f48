"""`zoo:NAME`: a workload of Ridgeline's own zoo."""

import difflib

import torch

from ridgeline import zoo
from ridgeline.errors import TargetError
from ridgeline.frontends.request import LoadedModel, Request, cast, set_mode
from ridgeline.graph import Phase
from ridgeline.zoo.workload import Sizes

PREFIX = "zoo:"


def is_zoo(target: str) -> bool:
    """Whether the target names a zoo workload."""
    return target.startswith(PREFIX)


def load_zoo(request: Request, device: str) -> LoadedModel:
    """The workload's model with random weights and its inputs, on `device`."""
    name = request.target.removeprefix(PREFIX)
    if name not in zoo.names():
        raise TargetError(_unknown(name))
    workload = zoo.get(name)
    if device != "meta" and not workload.runs_here:
        raise TargetError(f"{request.target} is too large to run here; it can be inspected.")
    request.require_phase(*(p for p in Phase if _form(p) in workload.forms))
    with torch.device(device):
        model = set_mode(workload.build(), request.phase)
        if request.torch_dtype is not None:
            model = model.to(request.torch_dtype)
        sizes = Sizes(batch=request.batch, seq=request.seq, cache=request.cache)
        try:
            module, inputs = workload.forms[_form(request.phase)](model, sizes)
        except ValueError as error:
            raise TargetError(f"{request.target} cannot take these sizes: {error}.") from error
    floats = tuple(cast(i, request.torch_dtype) for i in inputs)
    return LoadedModel(module=module, inputs=floats, name=name, is_trusted=True)


def _form(phase: Phase) -> str:
    """The key of the form that a phase runs; training runs the forward form of a training model."""
    return Phase.FORWARD.value if phase is Phase.TRAIN else phase.value


def _unknown(name: str) -> str:
    close = difflib.get_close_matches(name, zoo.names(), cutoff=0.5)
    if close:
        return f"the zoo has no {name!r}; did you mean {' or '.join(close)}?"
    return f"the zoo has no {name!r}; it has {', '.join(zoo.names())}."
