"""Folds runs of identical layers before capture: 126 alike cost one trace, not 126.

Of each run one layer is traced; a stand-in takes the place of each of the others and hands on the
traced one's output. So the model's own loop runs in full, and whatever it does between layers or by
index is traced as it is. A run is folded only if every stand-in was called once, with what the
traced layer was called with or with the output of the layer before it.
"""

import operator
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn
from torch.utils._pytree import tree_leaves
from torch.utils.hooks import RemovableHandle

from ridgeline.errors import CaptureError

# Attributes that number a layer; one that computes with its number is not folded (`_Index`).
_INDEX_NAMES = frozenset({"layer_idx", "layer_id", "layer_index", "block_idx", "index", "idx"})
_MODULE_STATE = frozenset(nn.Module().__dict__)

Container = nn.ModuleList | nn.Sequential


@dataclass(slots=True, eq=False)
class _Run:
    """A run of `count` layers alike and what its traced layer, at `path`, was seen to do."""

    path: str
    count: int
    is_training: bool
    calls: int = 0
    is_exact: bool = True
    inputs: list[object] = field(default_factory=list)
    output: object = None

    def lead(self, inputs: list[object], output: object) -> None:
        """Records the call of the traced layer."""
        self.is_exact &= self.calls == 0
        self.calls += 1
        self.inputs, self.output = inputs, output

    def follow(self, inputs: list[object]) -> object:
        """Records the call of a stand-in; returns what it must return.

        Raises CaptureError where the layer it stands for would do something else: the rest of the
        trace would be thrown away.
        """
        outputs = [leaf for leaf in tree_leaves(self.output) if isinstance(leaf, Tensor)]
        self.is_exact &= self.calls > 0 and len(inputs) == len(self.inputs)
        self.is_exact &= all(
            _is_alike(mine, first, outputs, self.is_training)
            for mine, first in zip(inputs, self.inputs, strict=False)
        )
        self.calls += 1
        if not self.is_exact:
            raise CaptureError(f"layers like {self.path} are not called alike")
        return self.output


@dataclass(slots=True)
class Collapsed:
    """What was folded, complete once the model has been traced, once or several times.

    is_training: layers alike must also be alike in backward.
    """

    is_training: bool = False
    runs: list[_Run] = field(default_factory=list)

    def restart(self) -> None:
        """Forgets the calls of the trace before."""
        for run in self.runs:
            run.calls = 0

    @property
    def repeats(self) -> dict[str, int]:
        """Path of each traced layer -> how many layers alike it stands for."""
        return {run.path: run.count for run in self.runs}

    @property
    def has_misfit(self) -> bool:
        """Whether a layer was seen to do something else than the one that stands for it."""
        return not all(run.is_exact for run in self.runs)

    @property
    def is_exact(self) -> bool:
        """Whether the traced layers, repeated, do what the whole model does."""
        return all(run.is_exact and run.calls == run.count for run in self.runs)


class _StandIn(nn.Module):
    """Takes a folded layer's place: forwards its attributes, returns the traced layer's output."""

    def __init__(self, layer: nn.Module, run: _Run) -> None:
        super().__init__()
        self.__dict__["_layer"], self.__dict__["_run"] = layer, run

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["_layer"], name)

    def forward(self, *args: object, **kwargs: object) -> object:
        return self.__dict__["_run"].follow(tree_leaves((args, kwargs)))


@contextmanager
def collapse(model: nn.Module, *, first: int = 0, is_training: bool = False) -> Iterator[Collapsed]:
    """Within the block, of every run of identical layers in a ModuleList or Sequential only one is
    traced: member `first`; those before it are left alone, those after it are stood in for.

    The model is restored on leaving.
    """
    folded = Collapsed(is_training=is_training)
    undo: list[Callable[[], None]] = [
        model.register_forward_pre_hook(lambda module, args: folded.restart()).remove
    ]
    try:
        for path, module in list(model.named_modules()):
            if isinstance(module, Container) and not _is_gone(model, path, module):
                undo.append(_restorer(module))
                for start, run in _runs(list(module)):
                    if len(run) > first + 1:
                        _fold(path, module, start + first, run[first:], folded, undo)
        yield folded
    finally:
        for restore in reversed(undo):
            restore()


def _restorer(container: Container) -> Callable[[], None]:
    children = dict(container._modules)

    def restore() -> None:
        container._modules.clear()
        container._modules.update(children)

    return restore


def _is_gone(model: nn.Module, path: str, module: nn.Module) -> bool:
    """Whether an outer fold already removed this container."""
    current: nn.Module | None = model
    for name in path.split(".") if path else ():
        current = None if current is None else current._modules.get(name)
    return current is not module


def _fold(
    path: str,
    container: Container,
    start: int,
    layers: list[nn.Module],
    folded: Collapsed,
    undo: list[Callable[[], None]],
) -> None:
    """Stands in for all but the first of `layers`, which begin at position `start`."""
    names = list(container._modules)
    name = names[start]
    run = _Run(
        path=f"{path}.{name}" if path else name, count=len(layers), is_training=folded.is_training
    )
    for offset, layer in enumerate(layers[1:], start=1):
        container._modules[names[start + offset]] = _StandIn(layer, run)
    handle: RemovableHandle = layers[0].register_forward_hook(
        lambda module, args, kwargs, output: run.lead(tree_leaves((args, kwargs)), output),
        with_kwargs=True,
    )
    undo.append(handle.remove)
    for module in layers[0].modules():
        undo.extend(_watch_index(module, run))
    folded.runs.append(run)


def _is_alike(mine: object, first: object, outputs: list[Tensor], is_training: bool) -> bool:
    """Whether a stand-in's argument is what its traced layer would have treated the same way.

    Training, a layer fed by the data spares the gradient that those fed by a layer must compute.
    """
    if isinstance(mine, Tensor) and isinstance(first, Tensor):
        has_same_backward = not is_training or mine.requires_grad == first.requires_grad
        is_output = any(mine is o for o in outputs)
        return mine is first or (is_output and has_same_backward and _spec(mine) == _spec(first))
    return _attribute(mine) == _attribute(first)


def _spec(value: Tensor) -> tuple[object, ...]:
    return tuple(value.shape), value.dtype, value.stride(), value.device


class _Index(int):
    """A layer's number that reports being computed with; looking things up by it goes unnoticed."""

    run: _Run


def _reporting(name: str) -> Callable[..., object]:
    def method(self: _Index, *others: object) -> object:
        self.run.is_exact = False
        return getattr(int, name)(int(self), *others)

    return method


for _name in (
    "lt",
    "le",
    "gt",
    "ge",
    "eq",
    "ne",
    "add",
    "sub",
    "mul",
    "truediv",
    "floordiv",
    "mod",
):
    setattr(_Index, f"__{_name}__", _reporting(f"__{_name}__"))
for _name in ("radd", "rsub", "rmul", "rtruediv", "rfloordiv", "rmod", "pow", "and", "bool"):
    setattr(_Index, f"__{_name}__", _reporting(f"__{_name}__"))
_Index.__hash__ = int.__hash__  # type: ignore[method-assign]


def _watch_index(module: nn.Module, run: _Run) -> Iterator[Callable[[], None]]:
    """Makes the layer's numbers report being computed with; yields what undoes it."""
    for name in _INDEX_NAMES & module.__dict__.keys():
        value = module.__dict__[name]
        if type(value) is int:
            watched = _Index(value)
            watched.run = run
            module.__dict__[name] = watched
            yield lambda name=name, value=value: operator.setitem(module.__dict__, name, value)  # type: ignore[misc]


def _runs(children: list[nn.Module]) -> Iterator[tuple[int, list[nn.Module]]]:
    """Maximal runs of neighbours with equal signatures, each with its start."""
    start, previous = 0, None
    signatures = [signature(child) for child in children]
    for position, current in enumerate(signatures):
        if position and current != previous:
            yield start, children[start:position]
            start = position
        previous = current
    if children:
        yield start, children[start:]


def signature(module: nn.Module) -> tuple[object, ...]:
    """Equal for two modules when they compute the same function of input and weights."""
    tensors = tuple(
        (name, tuple(t.shape), t.dtype, t.requires_grad)
        for name, t in (*module._parameters.items(), *module._buffers.items())
        if t is not None
    )
    attributes = tuple(
        (name, _attribute(value))
        for name, value in sorted(module.__dict__.items())
        if name not in _MODULE_STATE and name not in _INDEX_NAMES
    )
    own_hooks = (*module._forward_hooks.values(), *module._forward_pre_hooks.values())
    hooks = tuple(id(hook) for hook in own_hooks)
    children = tuple((n, signature(c)) for n, c in module._modules.items() if c is not None)
    return (type(module), module.training, tensors, attributes, hooks, children)


def _attribute(value: object) -> object:
    """A comparable stand-in: plain data by value, everything else by identity."""
    if value is None or isinstance(value, bool | int | float | str | bytes):
        return value
    if isinstance(value, tuple | list):
        return tuple(_attribute(v) for v in value)
    if isinstance(value, dict):
        return tuple((k, _attribute(v)) for k, v in value.items())
    return id(value)
