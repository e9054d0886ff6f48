"""Folds runs of identical layers before capture: 126 alike cost one trace, not 126."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

# Attributes that number a layer without changing what it computes.
_INDEX_NAMES = frozenset({"layer_idx", "layer_id", "layer_index", "block_idx", "index", "idx"})
_MODULE_STATE = frozenset(nn.Module().__dict__)

Shape = tuple[int, ...]
Hook = Callable[[nn.Module, tuple[object, ...], object], None]


@dataclass(slots=True)
class Collapsed:
    """What was folded. repeats: module path -> count. pairs: paths of two adjacent kept copies of
    one layer.
    """

    repeats: dict[str, int] = field(default_factory=dict)
    pairs: list[tuple[str, str]] = field(default_factory=list)
    shapes: dict[str, tuple[Shape | None, Shape | None]] = field(default_factory=dict)

    def keeps_shape(self) -> bool:
        """Whether every folded layer ran once per trace and gave back the shape that it got."""
        return all(
            path in self.shapes and self.shapes[path][0] == self.shapes[path][1] is not None
            for path in self.repeats
        )


@contextmanager
def collapse(model: nn.Module, *, keep: int) -> Iterator[Collapsed]:
    """Within the block, every run of identical layers in a ModuleList or Sequential has `keep`
    members at most.

    The last kept one stands for the rest of its run. The model is restored on leaving.
    """
    folded = Collapsed()
    originals: list[tuple[nn.ModuleList | nn.Sequential, dict[str, nn.Module]]] = []
    handles: list[RemovableHandle] = []
    try:
        for path, module in list(model.named_modules()):
            if isinstance(module, nn.ModuleList | nn.Sequential) and len(module) > keep:
                if _is_gone(model, path, module):
                    continue
                originals.append((module, dict(module.named_children())))
                _fold(path, module, keep, folded, handles)
        yield folded
    finally:
        for handle in handles:
            handle.remove()
        for module, children in originals:
            module._modules.clear()
            module._modules.update(children)


def _is_gone(model: nn.Module, path: str, module: nn.Module) -> bool:
    """Whether an outer fold already removed this container."""
    try:
        return model.get_submodule(path) is not module
    except AttributeError:
        return True


def _fold(
    path: str,
    container: nn.ModuleList | nn.Sequential,
    keep: int,
    folded: Collapsed,
    handles: list[RemovableHandle],
) -> None:
    children = list(container)
    container._modules.clear()
    for run in _runs(children):
        first = len(container._modules)
        for child in run[:keep]:
            container._modules[str(len(container._modules))] = child
        if len(run) <= keep:
            continue
        names = [f"{path}.{i}" if path else str(i) for i in range(first, first + keep)]
        folded.repeats[names[-1]] = len(run) - keep + 1
        folded.pairs += pairwise(names)
        handles.append(run[keep - 1].register_forward_hook(_shape_hook(names[-1], folded)))


def _shape_hook(path: str, folded: Collapsed) -> Hook:
    def hook(module: nn.Module, args: tuple[object, ...], output: object) -> None:
        seen = (_first_shape(args), _first_shape(output))
        again = path in folded.shapes
        folded.shapes[path] = (None, None) if again else seen

    return hook


def _first_shape(value: object) -> Shape | None:
    if isinstance(value, Tensor):
        return tuple(value.shape)
    if isinstance(value, tuple | list) and value:
        return _first_shape(value[0])
    return None


def _runs(children: list[nn.Module]) -> Iterator[list[nn.Module]]:
    """Maximal runs of neighbours with equal signatures."""
    run: list[nn.Module] = []
    previous: object = None
    for child in children:
        current = signature(child)
        if run and current != previous:
            yield run
            run = []
        run.append(child)
        previous = current
    if run:
        yield run


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
