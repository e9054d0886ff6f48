"""From any `torch.nn.Module` to a Graph, through `torch.export`."""

import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.export import ExportedProgram

from ridgeline.errors import CaptureError
from ridgeline.frontends.collapse import Collapsed, collapse
from ridgeline.frontends.noise import drop_noise
from ridgeline.graph import Graph, Phase

DynamicShapes = Mapping[str, object] | Sequence[object] | None


def capture(
    model: nn.Module,
    example_inputs: Sequence[object] = (),
    *,
    kwargs: Mapping[str, object] | None = None,
    dynamic: DynamicShapes = None,
    phase: Phase = Phase.FORWARD,
    name: str | None = None,
    fold_layers: bool = False,
    is_trusted: bool = False,
) -> Graph:
    """The graph of `model` on `example_inputs`: traced, functional, composites whole, noise
    removed.

    The model's own mode decides the form: `model.eval()` for inference, `model.train()` for
    training. Meta tensors are enough. dynamic: as `torch.export`'s `dynamic_shapes`. fold_layers:
    capture one of each run of identical layers and count the rest (for inspection; such a graph is
    not runnable). is_trusted: skip the second export that proves that no Python-side randomness is
    frozen into the graph.

    Raises CaptureError, naming the cause, when the model does not export or exports differently
    each time.
    """
    title = name or type(model).__name__
    if fold_layers:
        folded = _capture_folded(model, tuple(example_inputs), kwargs, phase, title, is_trusted)
        if folded is not None:
            return folded
    program = export(model, tuple(example_inputs), kwargs, dynamic, title)
    graph = Graph(name=title, program=program, phase=phase)
    if not is_trusted:
        again = export(model, tuple(example_inputs), kwargs, dynamic, title)
        _require_same(graph, Graph(name=title, program=again, phase=phase))
    return graph


def export(
    model: nn.Module,
    args: tuple[object, ...],
    kwargs: Mapping[str, object] | None,
    dynamic: DynamicShapes,
    title: str,
) -> ExportedProgram:
    """One functional export of `model`, noise removed. Raises CaptureError with torch's own first
    line.
    """
    try:
        with _quiet():
            program: ExportedProgram = torch.export.export(
                model,
                args,
                dict(kwargs or {}),
                dynamic_shapes=_as_export_argument(dynamic),
                strict=False,
            ).run_decompositions({})
    except Exception as error:  # torch raises dozens of types; each means the same to the user
        raise CaptureError(
            f"{title} does not export: {_reason(error)}\n"
            "  Make the failing line exportable (torch.cond for data-dependent branches, static "
            "shapes), or capture a sub-module of it."
        ) from error
    drop_noise(program)
    return program


def _capture_folded(
    model: nn.Module,
    args: tuple[object, ...],
    kwargs: Mapping[str, object] | None,
    phase: Phase,
    title: str,
    is_trusted: bool,
) -> Graph | None:
    """The graph with runs of identical layers folded; None where folding would not be exact."""
    with collapse(model, keep=1 if is_trusted else 2) as folded:
        if not folded.repeats:
            return None
        try:
            program = export(model, args, kwargs, None, title)
            graph = Graph(name=title, program=program, phase=phase, repeats=dict(folded.repeats))
            return graph if _is_exact(graph, folded) else None
        except CaptureError:
            return (
                None  # e.g. layers taken by index; the full capture will say what is really wrong
            )


def _is_exact(graph: Graph, folded: Collapsed) -> bool:
    """Whether each folded layer maps its input's shape to itself and nothing runs between two
    copies of it.
    """
    if not folded.keeps_shape():
        return False
    paths = [node.module for node in graph.nodes]
    for first, second in folded.pairs:
        last = max((i for i, p in enumerate(paths) if _inside(p, first)), default=-1)
        start = min((i for i, p in enumerate(paths) if _inside(p, second)), default=-1)
        if last < 0 or start != last + 1:
            return False
    return True


def _inside(path: str, prefix: str) -> bool:
    return path == prefix or path.startswith(f"{prefix}.")


def _require_same(first: Graph, second: Graph) -> None:
    if first.digest == second.digest:
        return
    from ridgeline.graph import diff

    changed = [line for line in diff(first, second).splitlines() if line[:1] in "+-"][3:5]
    raise CaptureError(
        f"{first.name} exports differently each time: its forward draws from Python's or "
        "NumPy's random, so one draw "
        f"would be frozen into the graph ({' / '.join(c.strip()[:90] for c in changed)}).\n"
        "  Draw with torch (torch.rand, torch.bernoulli), or pass the random values in as inputs."
    )


def _as_export_argument(dynamic: DynamicShapes) -> Any:
    if dynamic is None or isinstance(dynamic, dict):
        return dynamic
    return dict(dynamic) if isinstance(dynamic, Mapping) else tuple(dynamic)


def _reason(error: Exception) -> str:
    """The line of torch's many that says what is wrong."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0][:300]}" if lines else type(error).__name__


@contextmanager
def _quiet() -> Iterator[None]:
    """Hides torch's export-time warnings and dumps: they are about torch's code."""
    previous = logging.root.manager.disable
    logging.disable(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            yield
        finally:
            logging.disable(previous)
