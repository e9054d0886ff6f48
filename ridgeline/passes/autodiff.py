"""Gradients as graphs: a whole training step, or the derivative of a captured graph.

torch's own autograd runs under a trace; what it calls is the graph. No derivative rule is ours.
"""

import difflib
from collections.abc import Callable, Sequence
from dataclasses import replace

from torch import Tensor, nn
from torch.utils import _pytree as pytree

from ridgeline.errors import GraphError
from ridgeline.frontends import capture
from ridgeline.graph import Graph, Phase
from ridgeline.passes.function import GraphFunction
from ridgeline.passes.optimizers import Optimizer, OptimizerName, named_optimizer
from ridgeline.passes.retrace import fake_inputs, gradients, program_of, trace
from ridgeline.passes.train_step import Loss, TrainStep, leaf_names, scalar


def train_graph(
    model: nn.Module | Graph,
    loss: Loss,
    example_inputs: Sequence[Tensor] = (),
    *,
    targets: Sequence[Tensor] = (),
    optimizer: Optimizer | OptimizerName | None = None,
) -> Graph:
    """The graph of one training step: forward, backward and, if named, the optimizer's update.

    A pure function, so that any backend runs it. With an optimizer it takes (carry, learning rate,
    *inputs, *targets) and returns (loss, carry); the carry holds "parameters", "state" (the
    optimizer's) and "buffers" (those that the model updates), and the graph's example inputs hold
    its first value. Without one it takes no learning rate, and returns loss, "gradients" and
    "buffers". Parameters that want no gradient stay weights of the graph.

    loss: from what the model returns and the targets to a scalar. A module is captured in the mode
    that it is in. Raises GraphError for a loss that is no scalar, and UnsupportedOp where torch
    has no derivative.
    """
    if not isinstance(model, Graph):
        model = capture(model, example_inputs, phase=Phase.TRAIN)
    update = named_optimizer(optimizer) if isinstance(optimizer, str) else optimizer
    return TrainStep(GraphFunction(model), loss, targets, update).graph()


def total(*outputs: object) -> Tensor:
    """The sum of the first output."""
    return _first(outputs).sum()


def logsumexp(*outputs: object) -> Tensor:
    """The log-sum-exp over dimension 1 of the first output, summed over the rest: minus the energy
    of a classifier (Grathwohl et al. 2020, eq. 5), so that its gradient is the score.
    """
    return _first(outputs).logsumexp(1).sum()


def _first(outputs: tuple[object, ...]) -> Tensor:
    return next(v for v in pytree.tree_leaves(outputs) if isinstance(v, Tensor))


def differentiate(
    graph: Graph,
    *,
    wrt: Sequence[str] = (),
    of: Callable[..., Tensor] = total,
    has_outputs: bool = False,
) -> Graph:
    """The graph of the gradients of a scalar made of `graph`'s outputs.

    wrt: paths of inputs or parameters; every floating-point input where none is named. of: from
    what the graph returns to the scalar. Returns "gradients" by path and, with has_outputs,
    "outputs", the graph's own, before them. Weights stay weights, so the result folds, compiles and
    can be differentiated again. Raises GraphError for a name that is no input, and UnsupportedOp
    where torch has no derivative.
    """
    function = GraphFunction(graph)
    chosen = _positions(function, wrt)
    tree: list[pytree.TreeSpec] = []

    def run(values: Sequence[Tensor]) -> list[object]:
        outputs, written = function(dict(enumerate(values)))
        found = gradients(scalar(of(outputs), graph.name), [values[k] for k in chosen.values()])
        own = {"outputs": outputs} if has_outputs else {}
        leaves, spec = pytree.tree_flatten(
            {**own, "gradients": dict(zip(chosen, found, strict=True))}
        )
        tree.append(spec)
        return [*written.values(), *leaves]

    fakes = fake_inputs(function.examples)
    for position in chosen.values():
        fakes[position].requires_grad_()
    module = trace(run, fakes, function.names)
    program = program_of(
        module,
        inputs=function.specs,
        written=function.written,
        in_spec=graph.program.call_spec.in_spec,
        out_spec=tree[0],
        state=graph.program.state_dict,
        constants=graph.program.constants,
        examples=graph.program.example_inputs,
    )
    return replace(graph, name=f"{graph.name}-gradient", program=program)


def _positions(function: GraphFunction, wrt: Sequence[str]) -> dict[str, int]:
    """path -> position of what to differentiate by."""
    name = function.graph.name
    known = {function.path(k): function.first[k] for k in range(len(function.specs))}
    floating = {p: k for p, k in known.items() if function.examples[k].is_floating_point()}
    inputs = {p: k for p, k in floating.items() if function.is_input(k)}
    for path in wrt:
        if path not in known:
            close = difflib.get_close_matches(path, known, cutoff=0.3)
            raise GraphError(
                f"graph {name} has no input or weight {path!r}; near it are {', '.join(close)}."
            )
        if path not in floating:
            kind = function.examples[known[path]].dtype
            raise GraphError(f"input {path} of graph {name} is {kind}, which has no gradient.")
    if not wrt and not inputs:
        raise GraphError(f"graph {name} has no floating-point input; name parameters in `wrt`.")
    return {path: floating[path] for path in wrt} if wrt else inputs


def named_outputs(graph: Graph, outputs: Sequence[Tensor]) -> dict[str, Tensor]:
    """A graph's outputs by the names under which it returns them, "gradients.conv.weight"."""
    return dict(zip(leaf_names(graph.program.call_spec.out_spec), outputs, strict=True))
