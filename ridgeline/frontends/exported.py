"""`.pt2`: an exported program, with or without Ridgeline's header."""

from pathlib import Path

from ridgeline.errors import TargetError
from ridgeline.frontends.request import LoadedModel, Request
from ridgeline.graph import Graph, Phase, load


def is_exported(target: str) -> bool:
    """Whether the target is an export archive."""
    return target.endswith(".pt2")


def load_graph(request: Request) -> Graph:
    """The graph in the file, in the phase that the file says. Never unpickles."""
    request.refuse_sizes("its shapes are fixed in the file; export it with others")
    if request.dtype is not None:
        raise TargetError(
            f"--dtype does not apply to {request.target}: it is fixed in the file; "
            "export the model in another one."
        )
    if not Path(request.target).is_file():
        raise TargetError(f"no file {request.target}; torch.export.save writes one.")
    graph = load(request.target)
    if request.phase not in (Phase.FORWARD, graph.phase):
        request.require_phase(graph.phase)
    return graph


def load_exported(request: Request, device: str) -> LoadedModel:
    """The file's program as a module, with the example inputs it was exported with."""
    graph = load_graph(request)
    if not graph.is_runnable:
        raise TargetError(f"{request.target} is a description without all weights; it cannot run.")
    if graph.program.example_inputs is None:
        raise TargetError(f"{request.target} holds no example inputs; export it with them.")
    args, kwargs = graph.program.example_inputs
    module = graph.program.module().to(device)
    return LoadedModel(module=module, inputs=tuple(args), name=graph.name, kwargs=kwargs)
