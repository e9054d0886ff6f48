"""Importing torch's tracer for `inspect`, without the parts of it that tracing never calls.

`torch.export` imports Dynamo and AOT autograd, which import sharded tensors (a table of rules for
every operator), networkx (to draw recomputation plans), Inductor's cache and Python functions
rewritten for Dynamo: with what they bring, a sixth of the time in which a 405B config is inspected.
So in a process that does nothing but trace, placeholders stand for them while the tracer is
imported. Whoever imports one of them later, transformers for one, gets the real module; the tracer
itself keeps the placeholders, so that it can neither compile nor shard.
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
    """Within the block torch looks as if built without `torch.distributed`, and placeholders stand
    for what is spared.
    """
    import torch.distributed

    stand_ins: dict[str, ModuleType | None] = {name: _Placeholder(name) for name in _SPARED}
    stand_ins[_SHARDED_MODULES] = None  # imported, it is not found
    added = {name: module for name, module in stand_ins.items() if name not in sys.modules}
    sys.modules.update(added)  # type: ignore[arg-type]
    try:
        with patch.object(torch.distributed, "is_available", lambda: False):
            yield
        _ask_once()
    finally:
        for name in added:
            sys.modules.pop(name, None)


def _ask_once() -> None:
    """What tracing asks for at its first operator, and keeps: the class of sharded tensors, and the
    files that no stack trace shows.
    """
    import torch
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.fx.experimental.symbolic_shapes import uninteresting_files

    with FakeTensorMode():
        traced = torch.ones(1)
    traced.neg()
    uninteresting_files()


class _Placeholder(ModuleType):
    """Stands for a module while others import it: every name in it is there, and nothing."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.__spec__ = ModuleSpec(name, loader=None)
        self.__dict__.update(_SPARED[name])

    def __getattr__(self, name: str) -> object:
        if name.startswith("__"):
            raise AttributeError(name)  # `inspect` walks all modules, asking for their files
        return _Nothing


class _Nothing:
    """Of this class nothing is."""

    def __class_getitem__(cls, item: object) -> type["_Nothing"]:
        return cls  # a base class with a type parameter
