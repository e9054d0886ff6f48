"""From any `torch.nn.Module` to a Graph, through `torch.export`."""

import gc
import io
import logging
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from functools import partial
from itertools import zip_longest
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.export import ExportedProgram

from ridgeline.errors import CaptureError, GraphError, RidgelineError
from ridgeline.frontends.collapse import collapse
from ridgeline.frontends.composites import own_composites
from ridgeline.frontends.noise import drop_noise, mark_stopped_gradients
from ridgeline.graph import Graph, Phase

# Drawn constants are small; comparing large tables as text would only cost time.
_MAX_COMPARED = 4096

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
    if isinstance(model, torch.jit.ScriptModule):
        raise CaptureError(
            f"{title} is TorchScript, which does not export; give the module it was made from."
        )
    args = tuple(example_inputs)
    trace = partial(
        export,
        model,
        args,
        kwargs,
        dynamic,
        title,
        is_trusted=is_trusted,
        keep_detach=model.training or phase is Phase.TRAIN,
    )
    with _paused_garbage_collection():
        program, repeats = (fold_layers and _folded(model, trace, phase)) or (trace(), {})
        return _graph(title, program, phase, repeats)


@contextmanager
def _paused_garbage_collection() -> Iterator[None]:
    """Export allocates much and drops little: collecting meanwhile takes a quarter of its time."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _folded(
    model: nn.Module, trace: Callable[[], ExportedProgram], phase: Phase
) -> tuple[ExportedProgram, dict[str, int]] | None:
    """The program with runs of identical layers folded, and their counts; None if not exact.

    The first layer of a run may see another memory layout than the rest; then the second stands for
    the rest.
    """
    for first in (0, 1):
        with collapse(model, first=first, is_training=phase is Phase.TRAIN) as folded:
            if not folded.runs:
                return None
            try:
                program = trace()
            except CaptureError:
                if folded.has_misfit:
                    continue
                return None  # the full capture will say what is really wrong
        if folded.is_exact:
            return program, folded.repeats
    return None


def _graph(title: str, program: ExportedProgram, phase: Phase, repeats: Mapping[str, int]) -> Graph:
    """The graph of a program, read at once so that sizes without a value fail here."""
    graph = Graph(name=title, program=program, phase=phase, repeats=repeats)
    try:
        _ = graph.nodes
    except GraphError as error:
        raise CaptureError(f"{title} cannot be counted: {error}") from error
    return graph


def export(
    model: nn.Module,
    args: tuple[object, ...],
    kwargs: Mapping[str, object] | None,
    dynamic: DynamicShapes,
    title: str,
    *,
    is_trusted: bool,
    keep_detach: bool,
) -> ExportedProgram:
    """One functional export of `model`, noise removed; unless trusted, shown to be repeatable.
    keep_detach: keep the marks of where gradients stop.

    Raises CaptureError with torch's own first line, or naming what differs.
    """
    program = _trace(model, args, kwargs, dynamic, title)
    if not is_trusted:
        _require_same(title, program, _trace(model, args, kwargs, dynamic, title))
    if keep_detach:
        mark_stopped_gradients(program)
    with _explained(title), own_composites(program):
        functional: ExportedProgram = program.run_decompositions({})
    drop_noise(functional, keep_detach=keep_detach)
    return functional


def _trace(
    model: nn.Module,
    args: tuple[object, ...],
    kwargs: Mapping[str, object] | None,
    dynamic: DynamicShapes,
    title: str,
) -> ExportedProgram:
    with _explained(title):
        program: ExportedProgram = torch.export.export(
            model,
            args,
            dict(kwargs or {}),
            dynamic_shapes=_as_export_argument(dynamic),
            strict=False,
        )
    return program


@contextmanager
def _explained(title: str) -> Iterator[None]:
    """Runs torch's part of an export, and says in one sentence what it found wrong."""
    try:
        with _quiet():
            yield
    except RidgelineError:
        raise
    except Exception as error:  # torch raises dozens of types; each means the same to the user
        if _is_refusal(error):
            raise CaptureError(f"{title} refuses these inputs: {error}.") from error
        raise CaptureError(
            f"{title} does not export: {_reason(error)}\n"
            "  Make the failing line exportable (torch.cond for data-dependent branches, static "
            "shapes), or capture a sub-module of it."
        ) from error


def _is_refusal(error: Exception) -> bool:
    """Whether the model's own code, not torch, found a value that it does not take."""
    frames = traceback.extract_tb(error.__traceback__)
    return type(error) is ValueError and not frames[-1].filename.startswith(torch.__path__[0])


def _require_same(title: str, first: ExportedProgram, second: ExportedProgram) -> None:
    """Raises CaptureError unless two exports of one model agree, constants' values included."""
    for before, after in zip_longest(_lines(first), _lines(second), fillvalue="nothing"):
        if before != after:
            raise CaptureError(
                f"{title} exports differently each time: its forward draws from Python's or "
                "NumPy's random, so one draw would be frozen into the graph "
                f"({before[:90]} / {after[:90]}).\n"
                "  Draw with torch (torch.rand, torch.bernoulli), or pass the random values in as "
                "inputs."
            )


def _lines(program: ExportedProgram) -> Iterator[str]:
    """The program as text, sub-graphs included, then the values of its constants."""
    for module in program.graph_module.modules():
        if isinstance(module, fx.GraphModule):
            yield from (node.format_node() or "" for node in module.graph.nodes)
    for name, value in program.constants.items():
        if isinstance(value, Tensor) and not value.is_meta and value.numel() <= _MAX_COMPARED:
            yield f"{name} = {value.tolist()}"


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
    """Hides torch's export-time warnings and dumps, which are about torch's code, and what the
    model prints, which would come once per trace.
    """
    previous = logging.root.manager.disable
    logging.disable(logging.ERROR)
    lost = io.StringIO()
    with warnings.catch_warnings(), redirect_stdout(lost), redirect_stderr(lost):
        warnings.simplefilter("ignore")
        try:
            yield
        finally:
            logging.disable(previous)
