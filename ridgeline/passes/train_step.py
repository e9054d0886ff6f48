"""A training step as one pure function: what it carries from step to step, and what it computes."""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.export.graph_signature import InputKind, InputSpec, TensorArgument
from torch.utils import _pytree as pytree

from ridgeline.errors import GraphError
from ridgeline.graph import Graph, Phase
from ridgeline.graph.flat import example_inputs
from ridgeline.passes.function import WEIGHTS, GraphFunction
from ridgeline.passes.optimizers import Optimizer
from ridgeline.passes.retrace import fake_inputs, gradients, program_of, trace

# (what the model returns, *targets) -> a scalar
Loss = Callable[..., Tensor]
_EXAMPLE_RATE = 1e-3


class TrainStep:
    """One step of training `model`. A path is a weight's dotted name; a position, a placeholder's.

    trained, buffers: path -> position of what changes from step to step. fixed: positions of
    weights that stay. inputs: positions of what the caller gives.
    """

    def __init__(
        self,
        model: GraphFunction,
        loss: Loss,
        targets: Sequence[Tensor],
        optimizer: Optimizer | None,
    ) -> None:
        self.model, self.loss, self.optimizer = model, loss, optimizer
        self.targets = tuple(targets)
        own = [k for k in range(len(model.specs)) if model.first[k] == k]
        written = {spec.target for spec in model.written}
        self.trained = {model.path(k): k for k in own if self._is_trained(k)}
        self.buffers = {model.path(k): k for k in own if model.path(k) in written}
        taken = {*self.trained.values(), *self.buffers.values()}
        self.fixed = [k for k in own if model.specs[k].kind in WEIGHTS and k not in taken]
        self.inputs = [k for k in own if model.is_input(k)]
        if not self.trained:
            raise GraphError(f"no parameter of graph {model.graph.name} wants a gradient.")

    def _is_trained(self, position: int) -> bool:
        value = self.model.weight(position)
        is_parameter = self.model.specs[position].kind is InputKind.PARAMETER
        return is_parameter and value is not None and value.requires_grad

    def graph(self) -> Graph:
        """The step, traced."""
        examples = self._examples()
        leaves, in_spec = pytree.tree_flatten((examples, {}))
        fixed = [self.model.examples[k] for k in self.fixed]
        fakes = fake_inputs([*fixed, *leaves])
        for fake in fakes[len(fixed) : len(fixed) + len(self.trained)]:
            fake.requires_grad_()
        tree: list[pytree.TreeSpec] = []

        def run(values: Sequence[Tensor]) -> list[object]:
            args, _ = pytree.tree_unflatten(values[len(fixed) :], in_spec)
            outputs, spec = pytree.tree_flatten(self._outputs(values[: len(fixed)], *args))
            tree.append(spec)
            return outputs

        names = _unique([*(self.model.names[k] for k in self.fixed), *self._names(examples)])
        module = trace(run, fakes, names)
        weights = [self.model.specs[k] for k in self.fixed]
        inputs = [
            InputSpec(w.kind, TensorArgument(name), w.target, w.persistent)
            for w, name in zip(weights, names, strict=False)
        ]
        inputs += [
            InputSpec(InputKind.USER_INPUT, TensorArgument(name), None)
            for name in names[len(fixed) :]
        ]
        source, kept = self.model.graph.program, {w.target for w in weights}
        program = program_of(
            module,
            inputs=inputs,
            written=(),
            in_spec=in_spec,
            out_spec=tree[0],
            state={n: v for n, v in source.state_dict.items() if n in kept},
            constants={n: v for n, v in source.constants.items() if n in kept},
            examples=(examples, {}),
        )
        return Graph(name=f"{self.model.graph.name}-step", program=program, phase=Phase.STEP)

    def _examples(self) -> tuple[Any, ...]:
        """An example of everything that the step takes; the carry is that of the first step."""
        trained = {path: self._weight(k).detach() for path, k in self.trained.items()}
        carry: dict[str, Mapping[str, object]] = {"parameters": trained}
        if self.optimizer:
            carry["state"] = self.optimizer.start(trained)
        carry["buffers"] = {path: self._weight(k) for path, k in self.buffers.items()}
        rate = (torch.tensor(_EXAMPLE_RATE),) if self.optimizer else ()
        return (carry, *rate, *example_inputs(self.model.graph), *self.targets)

    def _weight(self, position: int) -> Tensor:
        value = self.model.weight(position)
        if value is None:
            raise GraphError(f"{self.model.path(position)} has no value to start from.")
        return value

    def _names(self, examples: tuple[Any, ...]) -> list[str]:
        """A placeholder's name for every leaf of the examples."""
        return [
            *leaf_names(pytree.tree_structure(examples[0])),
            *(["learning_rate"] if self.optimizer else []),
            *(self.model.names[k] for k in self.inputs),
            *(f"target_{k}" if k else "target" for k in range(len(self.targets))),
        ]

    def _outputs(
        self, fixed: Sequence[Tensor], carry: Mapping[str, Any], *rest: Tensor
    ) -> dict[str, object]:
        """What the step returns."""
        rate, batch = (rest[0], rest[1:]) if self.optimizer else (None, rest)
        inputs, targets = batch[: len(self.inputs)], batch[len(self.inputs) :]
        values: dict[int, Tensor] = dict(zip(self.fixed, fixed, strict=True))
        values |= {k: carry["parameters"][path] for path, k in self.trained.items()}
        values |= {k: carry["buffers"][path] for path, k in self.buffers.items()}
        values |= dict(zip(self.inputs, inputs, strict=True))
        outputs, written = self.model(values)
        loss = scalar(self.loss(outputs, *targets), self.model.graph.name)
        found = gradients(loss, list(carry["parameters"].values()))
        slopes = dict(zip(self.trained, found, strict=True))
        buffers = {path: written[path] for path in self.buffers}
        if self.optimizer is None or rate is None:
            return {"loss": loss, "gradients": slopes, "buffers": buffers}
        with torch.no_grad():
            new, state = self.optimizer.update(carry["parameters"], slopes, carry["state"], rate)
        return {"loss": loss, "parameters": new, "state": state, "buffers": buffers}


def scalar(value: object, name: str) -> Tensor:
    """`value`, if it is a scalar that a gradient flows into; else raises GraphError."""
    if not isinstance(value, Tensor) or value.numel() != 1:
        found = f"{tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
        raise GraphError(f"a gradient is that of a scalar; for graph {name} it is {found}.")
    if not value.requires_grad:
        raise GraphError(f"the scalar of graph {name} depends on nothing that wants a gradient.")
    return value.reshape(())


def leaf_names(spec: pytree.TreeSpec) -> list[str]:
    """The dotted path of every leaf, "gradients.conv.weight"."""
    tree = pytree.tree_unflatten(range(spec.num_leaves), spec)
    paths = (path for path, _ in pytree.tree_flatten_with_path(tree)[0])
    return [".".join(_key(entry) for entry in path) for path in paths]


def _key(entry: Any) -> str:
    return str(entry.key if isinstance(entry, pytree.MappingKey) else entry.idx)


def _unique(names: Sequence[str]) -> list[str]:
    """The names as identifiers, no two alike."""
    found: list[str] = []
    taken: set[str] = set()
    for name in (re.sub(r"\W", "_", n) for n in names):
        number = 2
        unique = name
        while unique in taken:
            unique, number = f"{name}_{number}", number + 1
        taken.add(unique)
        found.append(unique)
    return found
