"""Edit: one rewriting of a graph under way, on a copy that shares its weights with the original."""

import copy
import operator
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property

import torch
from torch import Tensor, fx, nn
from torch._guards import detect_fake_mode
from torch._subclasses import FakeTensorMode
from torch.export.graph_signature import (
    ExportGraphSignature,
    InputKind,
    InputSpec,
    OutputKind,
    TensorArgument,
)
from torch.fx.node import Argument

from ridgeline.errors import GraphError
from ridgeline.graph.graph import Graph

_WEIGHTS = (InputKind.PARAMETER, InputKind.BUFFER, InputKind.CONSTANT_TENSOR)
# What a node inherits from the one it stands in for: module, line of the user's code.
_PLACE = ("nn_module_stack", "stack_trace")
VIEWS = (torch.ops.aten.view.default, torch.ops.aten._unsafe_view.default)
_MUTATIONS = (OutputKind.BUFFER_MUTATION, OutputKind.USER_INPUT_MUTATION)


class Edit:
    """A copy of a graph's program, to be changed node by node; `finish` gives the new Graph.

    module, state and constants are the copy's own; the tensors in them belong to the original, so
    they are replaced, never written.
    """

    def __init__(self, graph: Graph) -> None:
        program = graph.program
        self._graph = graph
        self._signature = copy.deepcopy(program.graph_signature)
        self.module: fx.GraphModule = copy_module(program.graph_module)
        self.state: dict[str, Tensor] = dict(program.state_dict)
        self.constants: dict[str, Tensor] = dict(program.constants)
        self._weights: dict[fx.Node, Tensor] | None = None

    @property
    def nodes(self) -> list[fx.Node]:
        """Every FX node as it stands now, in order."""
        return list(self.module.graph.nodes)

    @property
    def placeholders(self) -> dict[str, fx.Node]:
        """Graph inputs by name."""
        return {n.name: n for n in self.module.graph.nodes if n.op == "placeholder"}

    @property
    def output(self) -> fx.Node:
        """The node that returns."""
        node: fx.Node = self.module.graph.output_node()
        return node

    @cached_property
    def fake_mode(self) -> FakeTensorMode:
        """The mode that the specs of this program's values live in."""
        values = [n.meta.get("val") for n in self.module.graph.nodes]
        mode = detect_fake_mode([v for v in values if v is not None])
        return mode or FakeTensorMode()

    def weights(self) -> dict[fx.Node, Tensor]:
        """Placeholder -> tensor of every weight that the graph itself never changes."""
        if self._weights is None:
            self._weights = self._read_weights()
        return self._weights

    def _read_weights(self) -> dict[fx.Node, Tensor]:
        written = {s.target for s in self._signature.output_specs if s.kind in _MUTATIONS}
        nodes = self.placeholders
        return {
            nodes[spec.arg.name]: self._tensor(spec)
            for spec in self._signature.input_specs
            if spec.kind in _WEIGHTS
            and spec.target not in written
            and isinstance(spec.arg, TensorArgument)
        }

    def path_of(self, placeholder: fx.Node) -> str:
        """The dotted name of a weight."""
        return self._spec(placeholder).target or placeholder.name

    def replace_uses(self, node: fx.Node, by: fx.Node) -> None:
        """Everything that read `node`, the outputs included, reads `by` instead."""
        self._signature.replace_all_uses(node.name, by.name)
        node.replace_all_uses_with(by)

    def call(
        self,
        target: torch._ops.OpOverload,
        args: Sequence[Argument],
        at: fx.Node,
        kwargs: Mapping[str, Argument] | None = None,
    ) -> fx.Node:
        """A new call before node `at`, whose place in the model it takes, with its spec."""
        with self.module.graph.inserting_before(at):
            node: fx.Node = self.module.graph.call_function(target, tuple(args), dict(kwargs or {}))
        node.meta |= {k: at.meta[k] for k in _PLACE if k in at.meta}
        propagate(self.fake_mode, node)
        return node

    def item(self, source: fx.Node, index: int, at: fx.Node) -> fx.Node:
        """Result number `index` of a call that makes several, before node `at`."""
        with self.module.graph.inserting_before(at):
            node: fx.Node = self.module.graph.call_function(operator.getitem, (source, index))
        node.meta["val"] = source.meta["val"][index]
        return node

    def contiguous(self, source: fx.Node, at: fx.Node) -> fx.Node:
        """A contiguous copy of `source`, made before node `at`."""
        how = {"memory_format": torch.contiguous_format}
        return self.call(torch.ops.aten.clone.default, (source,), at, how)

    def view(self, source: fx.Node, shape: Sequence[int], at: fx.Node) -> fx.Node:
        """`source` in another shape, before node `at`: a view, of a copy where its strides need
        one.
        """
        target = torch.ops.aten.view.default
        try:
            return self.call(target, (source, list(shape)), at)
        except (RuntimeError, ValueError):
            self.module.graph.erase_node(at.prev)
            return self.call(target, (self.contiguous(source, at), list(shape)), at)

    def sweep(self, node: fx.Node) -> None:
        """Erases a call that nothing reads, then what only it read; inputs stay for `finish`."""
        pending = [node]
        while pending:
            one = pending.pop()
            if one.users or one.op != "call_function" or one._erased:
                continue
            pending += one.all_input_nodes
            self.module.graph.erase_node(one)

    def refresh(self) -> None:
        """Recomputes every spec, after a change of strides; what can no longer be viewed is copied
        first.
        """
        mode = self.fake_mode
        for node in self.nodes:
            if not isinstance(node.target, torch._ops.OpOverload):
                if node.target is operator.getitem:
                    source, index = node.args
                    node.meta["val"] = source.meta["val"][index]  # type: ignore[union-attr]
                continue
            if node.target in VIEWS and not _is_viewable(mode, node):
                (source,) = node.all_input_nodes[:1]
                node.replace_input_with(source, self.contiguous(source, node))
            propagate(mode, node)

    def rename_output(self, node: fx.Node, by: fx.Node) -> None:
        """The signature's outputs that named `node` name `by`; its other readers stay."""
        for spec in self._signature.output_specs:
            if isinstance(spec.arg, TensorArgument) and spec.arg.name == node.name:
                spec.arg = TensorArgument(by.name)

    def set_weight(self, placeholder: fx.Node, tensor: Tensor) -> None:
        """Gives a weight a new value of any shape."""
        spec = self._spec(placeholder)
        is_parameter = spec.kind is InputKind.PARAMETER
        value = nn.Parameter(tensor, requires_grad=False) if is_parameter else tensor
        home = self.state if spec.target in self.state else self.constants
        home[spec.target or ""] = value
        self._weights = None
        placeholder.meta["val"] = self._fake(tensor)

    def add_weight(self, path: str, tensor: Tensor) -> fx.Node:
        """A new buffer near `path`, before the first user input."""
        specs = self._signature.input_specs
        taken = {*self.state, *self.constants, *(s.target for s in specs)}
        path = next(p for p in _spellings(path) if p not in taken)
        position = sum(1 for _ in _leading_weights(specs))
        following = list(self.module.graph.nodes)[position]
        with self.module.graph.inserting_before(following):
            node = self.module.graph.placeholder(f"b_{path.replace('.', '_')}")
        node.meta["val"] = self._fake(tensor)
        spec = InputSpec(InputKind.BUFFER, TensorArgument(node.name), path, persistent=True)
        specs.insert(position, spec)
        self.state[path] = tensor
        self._weights = None
        return node

    def order_weights(self, first: Sequence[fx.Node]) -> None:
        """Puts weights in the order given, those not named after them, inputs last in their own."""
        nodes = self.placeholders
        place = {node.name: k for k, node in enumerate(first)}
        specs = self._signature.input_specs
        leading = [s for s in specs if s.kind in _WEIGHTS]
        others = [s for s in specs if s.kind not in _WEIGHTS]
        leading.sort(key=lambda s: place.get(s.arg.name, len(place)))
        specs[:] = [*leading, *others]
        body = next((n for n in self.nodes if n.op != "placeholder"), self.output)
        for spec in specs:
            body.prepend(nodes[spec.arg.name])

    def settle_weights(self) -> None:
        """Makes buffers of weights that the graph never writes, and constants of those among them
        that hold whole numbers or truth values.
        """
        for node, tensor in self.weights().items():
            spec = self._spec(node)
            path, value = spec.target or "", tensor.detach()
            is_whole = not (tensor.is_floating_point() or tensor.is_complex())
            self.state.pop(path, None)
            self.constants.pop(path, None)
            if is_whole:
                spec.kind, spec.persistent = InputKind.CONSTANT_TENSOR, None
                self.constants[path] = value
            else:
                spec.kind, spec.persistent = InputKind.BUFFER, True
                self.state[path] = value
        self._weights = None

    def finish(self) -> Graph:
        """The edited graph: what nothing reads is gone, unread weights included."""
        graph = self.module.graph
        graph.eliminate_dead_code(is_impure_node=lambda n: n.op in ("placeholder", "output"))
        self._drop_unread_weights()
        graph.lint()
        self.module.recompile()
        with warnings.catch_warnings():  # torch 2.13 copies tree specs by a spelling it deprecated
            warnings.filterwarnings("ignore", ".*LeafSpec", FutureWarning)
            program = self._graph.program._update(
                self.module,
                ExportGraphSignature(self._signature.input_specs, self._signature.output_specs),
                state_dict=self.state,
                constants=self.constants,
            )
        return replace(self._graph, program=program)

    def _spec(self, placeholder: fx.Node) -> InputSpec:
        specs: list[InputSpec] = self._signature.input_specs
        for spec in specs:
            if isinstance(spec.arg, TensorArgument) and spec.arg.name == placeholder.name:
                return spec
        raise GraphError(f"graph {self._graph.name} has no input %{placeholder.name}.")

    def _tensor(self, spec: InputSpec) -> Tensor:
        target = spec.target or ""
        return self.state[target] if target in self.state else self.constants[target]

    def _fake(self, tensor: Tensor) -> Tensor:
        return self.fake_mode.from_tensor(tensor.detach(), static_shapes=True)

    def _drop_unread_weights(self) -> None:
        written = {s.target for s in self._signature.output_specs if s.kind in _MUTATIONS}
        nodes = self.placeholders
        kept = []
        for spec in self._signature.input_specs:
            node = nodes[spec.arg.name]
            if spec.kind in _WEIGHTS and not node.users and spec.target not in written:
                self.module.graph.erase_node(node)
                self.state.pop(spec.target or "", None)
                self.constants.pop(spec.target or "", None)
            else:
                kept.append(spec)
        self._signature.input_specs[:] = kept


def copy_module(module: fx.GraphModule) -> fx.GraphModule:
    """A copy with the same node names: FX renames those that Python's builtins have, as `input`."""
    duplicate: fx.GraphModule = copy.deepcopy(module)
    for old, new in zip(module.graph.nodes, duplicate.graph.nodes, strict=True):
        if new.name != old.name:
            new.name = old.name
            if new.op == "placeholder":
                new.target = old.target
    return duplicate


def _spellings(path: str) -> Iterator[str]:
    """`path`, then `path_folded`, then `path_folded2`, and so on."""
    yield path
    yield f"{path}_folded"
    number = 2
    while True:
        yield f"{path}_folded{number}"
        number += 1


def _leading_weights(specs: list[InputSpec]) -> Iterator[InputSpec]:
    for spec in specs:
        if spec.kind is InputKind.USER_INPUT:
            return
        yield spec


def _is_viewable(mode: FakeTensorMode, node: fx.Node) -> bool:
    try:
        propagate(mode, node)
    except (RuntimeError, ValueError):
        return False
    return True


def propagate(mode: FakeTensorMode, node: fx.Node) -> None:
    """Recomputes the spec of one call from the specs of what it reads."""
    args = fx.map_arg(node.args, lambda n: n.meta["val"])
    kwargs = fx.map_arg(node.kwargs, lambda n: n.meta["val"])
    with mode, torch.no_grad():
        node.meta["val"] = node.target(*args, **kwargs)  # type: ignore[operator]
