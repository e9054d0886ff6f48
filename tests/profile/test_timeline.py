"""The measured memory timeline against sizes added up by hand."""

import subprocess
import sys

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


_GROWING = """
import torch
from torch import nn
from ridgeline.frontends.torch_export import capture
from ridgeline.profile import Interpreter
from ridgeline.profile.timeline import measure_memory
class Grow(nn.Module):
    def forward(self, x):
        return x.repeat(65536, 64).relu()  # twice 16 MiB
step = measure_memory(Interpreter(capture(Grow(), (torch.ones(1),))))[-1]
print(step.live_bytes, step.rss_bytes)
"""


def test_growth_of_the_process_is_seen() -> None:
    """In a process of its own: one that ran other tests has free memory to reuse."""
    command = [sys.executable, "-W", "ignore", "-c", _GROWING]
    live, grown = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
    assert int(live) >= 2 * 16 * KIB * KIB
    assert grown == "None" or int(grown) > 16 * KIB * KIB
