"""Importing torch's tracer for `inspect`, without the part of it that tracing never calls.

`torch.export` imports Dynamo, which imports sharded tensors (a table of rules for every operator)
and networkx (to draw recomputation plans): with what they bring, a tenth of the time in which a
405B config is inspected. torch itself runs without them: there are builds without
`torch.distributed`. So in a process that does nothing but trace, placeholders stand for both;
whoever asks for more than their names, transformers for one, gets the real modules.
"""

import gc
import importlib
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from importlib.machinery import ModuleSpec
from types import ModuleType
from unittest.mock import patch

_TRACER = "torch.export._trace"
_SHARDED_MODULES = "torch.distributed.fsdp"
# What Dynamo and AOT autograd import, and only compiling or sharding calls, and what of it tracing
# asks for: which files' frames to leave out of a stack trace.
_SPARED: Mapping[str, Mapping[str, object]] = {
    "networkx": {},
    "torch.distributed.tensor": {},
    "torch._dynamo.polyfills.loader": {"POLYFILLED_MODULES": ()},
    "torch._functorch.partitioners": {},
    "torch._inductor.codecache": {},
    "torch._inductor.test_operators": {},
}
_PACKAGES = ("networkx", "torch.distributed.tensor")


def load_tracer(*, is_alone: bool) -> None:
    """Imports what the first capture would, to be shared by forked processes.

    is_alone: this process traces, then ends; nothing in it compiles or shards.
    """
    if _TRACER in sys.modules:
        return
    with _sparing() if is_alone else nullcontext():
        importlib.import_module(_TRACER)
    if is_alone:
        gc.freeze()  # what was imported stays: no collection, here or in a fork, walks it


@contextmanager
def _sparing() -> Iterator[None]:
    """Within the block torch looks as if built without `torch.distributed`, and networkx waits."""
    import torch.distributed

    later = [_Later(name) for name in _SPARED if name not in sys.modules]
    sys.modules.update({module.__name__: module for module in later})
    sys.modules[_SHARDED_MODULES] = None  # type: ignore[assignment]  # imported, it is not found
    try:
        with patch.object(torch.distributed, "is_available", lambda: False):
            yield
        _dispatch_once()
    finally:
        del sys.modules[_SHARDED_MODULES]
        for module in later:
            module.is_waiting = False


def _dispatch_once() -> None:
    """The first operator seen by a tracer asks for the class of sharded tensors, and keeps it."""
    import torch
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode():
        traced = torch.ones(1)
    traced.neg()


class _Later(ModuleType):
    """Stands for a module while others import it; after that, is it for whoever looks inside."""

    is_waiting = True

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.__spec__ = ModuleSpec(name, loader=None)
        self.__dict__.update(_SPARED[name])

    def __getattr__(self, name: str) -> object:
        is_path = name == "__path__" and self.__name__ in _PACKAGES
        if name.startswith("__") and (self.is_waiting or not is_path):
            raise AttributeError(name)  # `inspect` walks all modules, asking for their files
        if self.is_waiting:
            return _Nothing
        if sys.modules.get(self.__name__) is self:
            del sys.modules[self.__name__]
        return getattr(importlib.import_module(self.__name__), name)


class _Nothing:
    """Of this class nothing is: what a waiting module gives for every name in it."""

    def __class_getitem__(cls, item: object) -> type["_Nothing"]:
        return cls  # a base class with a type parameter
