"""A graph as a list of steps to run one by one, each freeing what nobody reads any more."""

import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

from torch import Tensor, fx

from ridgeline.graph import Graph
from ridgeline.graph.flat import check_inputs, example_inputs, flat_module

Values = dict[fx.Node, object]
Call = Callable[..., object]


class StepKind(Enum):
    """What a step is: a node of the graph, a tuple look-up, arithmetic on sizes, or the write of a
    new state into its buffer after the last node.
    """

    NODE = "node"
    LOOKUP = "look-up"
    SIZE = "size"
    STATE = "state"


@dataclass(frozen=True, slots=True, eq=False)
class Step:
    """One call. frees: the values that it is the last to read, itself if nobody reads it."""

    name: str
    node: fx.Node
    call: Call
    kind: StepKind
    frees: tuple[fx.Node, ...]

    def bind(self, values: Values) -> tuple[tuple[object, ...], dict[str, object]]:
        """Arguments to call it with."""
        args, kwargs = _look_up((self.node.args, dict(self.node.kwargs)), values)
        return args, kwargs

    def free(self, values: Values) -> None:
        """Lets go of the values that nobody will read."""
        for node in self.frees:
            del values[node]


class Interpreter:
    """Runs a graph step by step. `module` is the same program to be called whole: tensors in, a
    tuple of tensors out; both share weights and the state that the graph updates.

    Raises GraphError for a graph that cannot run (layers folded, or weights on meta), and for
    inputs that are not the graph's.
    """

    def __init__(self, graph: Graph, inputs: Sequence[Tensor] | None = None) -> None:
        self.module = flat_module(graph)
        given = example_inputs(graph) if inputs is None else tuple(inputs)
        check_inputs(graph, given)
        self.inputs = tuple(x.detach().clone() for x in given)  # the graph may write into them
        self.steps = tuple(_steps(graph, self.module))

    def start(self) -> Values:
        """The values before the first step: inputs, weights and state."""
        inputs, values = iter(self.inputs), Values()
        for node in self.module.graph.nodes:
            if node.op == "placeholder":
                values[node] = next(inputs)
            elif node.op == "get_attr":
                values[node] = operator.attrgetter(str(node.target))(self.module)
        return values

    def results(self, values: Values) -> tuple[Tensor, ...]:
        """What the graph returns, taken from the values after the last step."""
        results = _look_up(self.module.graph.output_node().args[0], values)
        return tuple(r for r in results if isinstance(r, Tensor))

    def run(self) -> tuple[Tensor, ...]:
        """One whole run, step by step."""
        values = self.start()
        for step in self.steps:
            args, kwargs = step.bind(values)
            values[step.node] = step.call(*args, **kwargs)
            del args, kwargs
            step.free(values)
        return self.results(values)


def _look_up(argument: Any, values: Values) -> Any:
    """An FX argument with every node in it replaced by its value."""
    return fx.map_arg(argument, values.__getitem__)  # type: ignore[arg-type]


def _last_reads(graph: fx.Graph) -> Mapping[fx.Node, tuple[fx.Node, ...]]:
    """step -> values to free after it. Inputs and weights live on with the caller."""
    reader: dict[fx.Node, fx.Node] = {}
    for node in graph.nodes:
        for value in node.all_input_nodes:
            reader[value] = node
        if node.op == "call_function":
            reader.setdefault(node, node)
    last: dict[fx.Node, tuple[fx.Node, ...]] = {}
    for value, node in reader.items():
        if value.op == "call_function":
            last[node] = (*last.get(node, ()), value)
    return last


def _steps(graph: Graph, module: fx.GraphModule) -> Iterator[Step]:
    """The calls of `module`, which are those of the program, then writes of state."""
    known = {node.name for node in graph.nodes}
    names = (n.name for n in graph.program.graph.nodes if n.op == "call_function")
    last = _last_reads(module.graph)
    for node in module.graph.nodes:
        if node.op != "call_function":
            continue
        assert callable(node.target)
        name = next(names, "")  # "" for a write of state, which the program does not have
        kind = _kind(node, name, known)
        yield Step(name or node.name, node, node.target, kind, last.get(node, ()))


def _kind(node: fx.Node, name: str, known: set[str]) -> StepKind:
    if node.target is operator.getitem:
        return StepKind.LOOKUP
    if not name:
        return StepKind.STATE
    return StepKind.NODE if name in known else StepKind.SIZE
