"""The measured memory timeline against sizes added up by hand."""

import torch
from torch import Tensor, nn

from ridgeline.frontends import capture
from ridgeline.profile import Interpreter
from ridgeline.profile.timeline import measure_memory

KIB = 1024


class Diamond(nn.Module):
    """x -> a -> (view b, c) -> d: `a` lives until its view's last reader."""

    def forward(self, x: Tensor) -> Tensor:
        a = x.relu()
        b = a.view(-1, 2)
        c = x.sigmoid()
        d = b.exp()
        return d.sum() + c.sum()


def test_live_bytes_by_hand() -> None:
    graph = capture(Diamond(), (torch.randn(KIB, 1),))  # every full tensor is 4 KiB
    names = [node.op for node in graph.nodes]
    assert names == ["relu", "view", "sigmoid", "exp", "sum", "sum", "add"]
    steps = measure_memory(Interpreter(graph))
    full, scalar = 4 * KIB, 4
    assert [s.live_bytes for s in steps] == [
        2 * full,  # x, a
        2 * full,  # b is a view of a
        3 * full,  # c
        4 * full,  # d; then a goes, with b, its last reader served
        3 * full + scalar,  # x, c, d and its sum; then d goes
        2 * full + 2 * scalar,  # x, c and both sums; then c goes
        full + 3 * scalar,
    ]


def test_weights_are_counted_once_and_from_the_start() -> None:
    first, last = nn.Linear(8, 16, bias=False), nn.Linear(16, 8, bias=False)
    last.weight = nn.Parameter(first.weight.detach().t())  # a view of the same storage
    model = nn.Sequential(first, nn.ReLU(), last)
    steps = measure_memory(Interpreter(capture(model, (torch.randn(4, 8),))))
    weights, x, wide, narrow = 4 * 8 * 16, 4 * 4 * 8, 4 * 4 * 16, 4 * 4 * 8
    assert [s.live_bytes for s in steps] == [
        weights + x + wide,
        weights + x + 2 * wide,
        weights + x + wide + narrow,
    ]


def test_growth_of_the_process_is_seen() -> None:
    class Grow(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.repeat(64 * KIB, 64).relu()  # twice 16 MiB

    steps = measure_memory(Interpreter(capture(Grow(), (torch.ones(1),))))
    assert steps[-1].live_bytes >= 2 * 16 * KIB * KIB
    grown = steps[-1].rss_bytes
    assert grown is None or grown > 16 * KIB * KIB
