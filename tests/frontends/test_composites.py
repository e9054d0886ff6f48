"""Decomposing with a program's own composites overridden is the same as with all of torch's."""

import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import pytest
import torch
from torch import Tensor, nn
from torch.export import exported_program

from ridgeline.frontends import Request, capture, capture_target
from ridgeline.frontends import composites as module
from ridgeline.frontends.composites import own_composites
from ridgeline.graph import Graph, Phase


class Views(nn.Module):
    """Every composite that becomes views and copies, and some that stay whole."""

    def forward(self, x: Tensor) -> Tensor:
        a, b = x.chunk(2, dim=1)
        c = a.transpose(0, 1).contiguous().reshape(-1).view_as(a.flatten())
        d = c[:1].expand_as(b.narrow(1, 0, 1).reshape(-1)) + b.reshape_as(a).to(torch.float64).sum()
        e = nn.functional.layer_norm(d.to(x), d.shape).to(torch.bfloat16)
        return nn.functional.linear(e.unflatten(0, (2, -1)), e.unflatten(0, (2, -1)))


class InABranch(nn.Module):
    """A composite that occurs in a branch alone."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.cond(
            x.sum() > 0, lambda y: nn.functional.linear(y, y), lambda y: y[:, :4] * 2, (x,)
        )


class Hiding(nn.Module):
    """Composites that are not known to hold no other."""

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.batch_norm(x, x.mean(0), x.var(0)) + torch.atleast_2d(x)


def _graph(target: str | nn.Module, phase: Phase) -> Graph:
    if isinstance(target, str):
        return capture_target(Request(target=target, phase=phase))
    return capture(target.eval(), (torch.ones(4, 6),), phase=phase)


@pytest.mark.parametrize(
    ("target", "phase", "is_narrowed"),
    [
        (Views(), Phase.FORWARD, True),
        (InABranch(), Phase.FORWARD, True),
        (Hiding(), Phase.FORWARD, False),
        ("zoo:llama-3.1-405b", Phase.PREFILL, True),
        ("zoo:llama-tiny", Phase.DECODE, True),
        ("zoo:mixtral-tiny", Phase.TRAIN, True),
        ("zoo:bert-base", Phase.FORWARD, True),
        ("zoo:sd-v1-block", Phase.TRAIN, True),
        ("zoo:resnet50", Phase.FORWARD, False),
    ],
)
def test_the_graph_is_the_one_that_keeping_all_composites_gives(
    target: str | nn.Module, phase: Phase, is_narrowed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    narrowed: list[bool] = []

    @contextmanager
    def watched(program: torch.export.ExportedProgram) -> Iterator[None]:
        narrowed.append(_is_narrowed(program))
        with own_composites(program):
            yield

    monkeypatch.setattr("ridgeline.frontends.torch_export.own_composites", watched)
    own = _graph(target, phase)
    assert any(narrowed) is is_narrowed
    monkeypatch.setattr("ridgeline.frontends.torch_export.own_composites", _all)
    assert own.digest == _graph(target, phase).digest


def _all(program: torch.export.ExportedProgram) -> AbstractContextManager[object]:
    return nullcontext()


def _is_narrowed(program: torch.export.ExportedProgram) -> bool:
    before = getattr(exported_program, module._COLLECT)
    with own_composites(program):
        return getattr(exported_program, module._COLLECT) is not before


@pytest.mark.parametrize(("model", "expected"), [(Views(), True), (Hiding(), False)])
def test_all_are_kept_where_one_may_hide_in_another(model: nn.Module, expected: bool) -> None:
    assert _is_narrowed(torch.export.export(model.eval(), (torch.ones(4, 6),))) is expected


def test_another_torch_decomposes_as_it_does(monkeypatch: pytest.MonkeyPatch) -> None:
    program = torch.export.export(Views(), (torch.ones(4, 6),))
    monkeypatch.setattr(module, "_COLLECT", "_renamed")
    with own_composites(program):
        assert not hasattr(exported_program, "_renamed")


def test_what_torch_had_is_there_again_after_two_threads() -> None:
    before = getattr(exported_program, module._COLLECT)
    program = torch.export.export(Views().eval(), (torch.ones(4, 6),))
    started, inside = threading.Event(), threading.Event()

    def second() -> None:
        started.set()
        with own_composites(program):
            inside.set()

    with own_composites(program):
        other = threading.Thread(target=second)
        other.start()
        started.wait()
        assert not inside.wait(0.2)
    other.join()
    assert getattr(exported_program, module._COLLECT) is before
