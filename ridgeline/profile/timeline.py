"""Memory as it really is at each step: bytes of live tensors, and what the process grew by."""

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ridgeline.profile.interpret import Interpreter, StepKind, Values

_STATM = Path("/proc/self/statm")


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryStep:
    """What is held right after a node ran, before anything is freed.

    live_bytes: every storage that a weight, an input or a value occupies, once. rss_bytes: growth
    of the process since the run began, allocator included; None where the system does not tell.
    """

    name: str
    live_bytes: int
    rss_bytes: int | None


def measure_memory(interpreter: Interpreter) -> tuple[MemoryStep, ...]:
    """One run of the graph, looking at memory after every node."""
    with torch.inference_mode():
        return tuple(_steps(interpreter))


def _steps(interpreter: Interpreter) -> Iterator[MemoryStep]:
    values = interpreter.start()
    held = _Held()
    held.add([*interpreter.inputs, *interpreter.module.state_dict(keep_vars=True).values()])
    rss = _rss_bytes()
    for step in interpreter.steps:
        args, kwargs = step.bind(values)
        values[step.node] = step.call(*args, **kwargs)
        del args, kwargs
        held.add(_tensors(values[step.node]))
        if step.kind is StepKind.NODE:
            now = _rss_bytes()
            grown = None if rss is None or now is None else now - rss
            yield MemoryStep(name=step.name, live_bytes=held.nbytes, rss_bytes=grown)
        _free(step.frees, values, held)


def _free(nodes: Iterable[torch.fx.Node], values: Values, held: "_Held") -> None:
    for node in nodes:
        held.drop(_tensors(values.pop(node)))


class _Held:
    """Storages in use, by how many tensors each."""

    def __init__(self) -> None:
        self.nbytes = 0
        self._users: dict[int, int] = {}

    def add(self, tensors: Iterable[Tensor]) -> None:
        for tensor in tensors:
            storage = tensor.untyped_storage()
            users = self._users.get(storage._cdata, 0)
            self._users[storage._cdata] = users + 1
            self.nbytes += 0 if users else storage.nbytes()

    def drop(self, tensors: Iterable[Tensor]) -> None:
        for tensor in tensors:
            storage = tensor.untyped_storage()
            self._users[storage._cdata] -= 1
            if not self._users[storage._cdata]:
                del self._users[storage._cdata]
                self.nbytes -= storage.nbytes()


def _tensors(value: object) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, tuple | list):
        for item in value:
            yield from _tensors(item)


def output_bytes(value: object) -> int:
    """Bytes of the tensors in a step's result, as shaped."""
    return sum(t.numel() * t.element_size() for t in _tensors(value))


def _rss_bytes() -> int | None:
    """Bytes of this process in main memory now."""
    if not _STATM.is_file():
        return None
    return int(_STATM.read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGESIZE")
