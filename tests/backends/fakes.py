"""Backends that fail in every way that a candidate can fail; children import them by name."""

import os
import signal
import threading

from torch import Tensor

from ridgeline.backends.backend import Runnable, Setting
from ridgeline.backends.eager import Eager
from ridgeline.graph import Graph


class Wrong(Eager):
    """Runs, and is off by a hundredth."""

    name = "wrong"

    def build(self, graph: Graph, setting: Setting) -> Runnable:
        run = super().build(graph, setting)

        def off(*inputs: Tensor) -> tuple[Tensor, ...]:
            return tuple(o * 1.01 for o in run(*inputs))

        return off


class Crashing(Eager):
    """Dies as a segmentation fault dies."""

    name = "crashing"

    def build(self, graph: Graph, setting: Setting) -> Runnable:
        os.kill(os.getpid(), signal.SIGSEGV)
        return super().build(graph, setting)


class Hanging(Eager):
    """Never finishes."""

    name = "hanging"

    def build(self, graph: Graph, setting: Setting) -> Runnable:
        threading.Event().wait()
        return super().build(graph, setting)


class Raising(Eager):
    """Raises what no one expects."""

    name = "raising"

    def build(self, graph: Graph, setting: Setting) -> Runnable:
        raise KeyError("a fault\nwith a second line")


class Greedy(Eager):
    """Wants more memory than it may have."""

    name = "greedy"

    def build(self, graph: Graph, setting: Setting) -> Runnable:
        hoard = bytearray(2**40)
        return super().build(graph, setting) if hoard else self.build(graph, setting)


class Late(Eager):
    """Agrees once, then dies while it is measured."""

    name = "late"

    def build(self, graph: Graph, setting: Setting) -> Runnable:
        run, calls = super().build(graph, setting), []

        def die(*inputs: Tensor) -> tuple[Tensor, ...]:
            calls.append(None)
            if len(calls) > 2:
                os._exit(3)
            return run(*inputs)

        return die


class Chatty(Eager):
    """Prints on standard output, where the parent listens."""

    name = "chatty"

    def build(self, graph: Graph, setting: Setting) -> Runnable:
        print('{"kind": "failed"}', flush=True)
        os.write(1, b"noise\n")
        return super().build(graph, setting)


class Calibrated(Eager):
    """Keeps a file that says how many calibration sets it was given."""

    name = "calibrated"
    dtypes = ("int8",)
    files = ("sets.txt",)

    def build(self, graph: Graph, setting: Setting) -> Runnable:
        assert setting.keep is not None
        (setting.keep / "sets.txt").write_text(str(len(setting.calibration)))
        return super().build(graph, setting)


class Joining(Eager):
    """Eager PyTorch that takes every pass."""

    name = "joining"
    declines = ()
