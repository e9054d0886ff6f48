"""The graph as a program without state: what it writes goes in and comes out again. What a compiler
that knows no tensors of ours is given.
"""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, fx
from torch.export import ExportedProgram

from ridgeline.errors import BackendError
from ridgeline.graph import Category, Graph, InputKind
from ridgeline.graph.flat import align_inputs, example_inputs, flat_module

_aten = torch.ops.aten
# Computes a program's outputs from its inputs, both in order.
Raw = Callable[[Sequence[Tensor]], Sequence[Tensor]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Stateless:
    """module: takes the graph's user inputs, then `state`, one by one; returns what it computes,
    each value once, then the new values of what the graph writes; `results` are their specs.

    outputs: where each output of the graph comes from: a number of a computed value, or a tensor
    that never changes, or ("input", number). written: the input that each new value goes to.
    """

    module: fx.GraphModule
    examples: tuple[Tensor, ...]
    state: tuple[Tensor, ...]
    outputs: tuple["int | Tensor | _Given", ...]
    results: tuple[Tensor, ...]
    written: tuple[int, ...]

    def runnable(self, raw: Raw) -> Callable[..., tuple[Tensor, ...]]:
        """The graph's own callable from one for the stateless module; it keeps the state."""
        if not self.state and not self.written and self._returns_all:
            return self._plain(raw)
        state = [s.clone() for s in self.state]

        def run(*inputs: Tensor) -> tuple[Tensor, ...]:
            given = [*inputs, *state]
            values = [
                value.to(spec.dtype) for value, spec in zip(raw(given), self.results, strict=True)
            ]
            fresh = values[len(values) - len(self.written) :]
            found = tuple(_pick(source, values, given) for source in self.outputs)
            for number, value in zip(self.written, fresh, strict=True):
                given[number].copy_(value)
            return found

        return run

    @property
    def _returns_all(self) -> bool:
        """Whether the results are the outputs as they come."""
        return self.outputs == tuple(range(len(self.results)))

    def _plain(self, raw: Raw) -> Callable[..., tuple[Tensor, ...]]:
        """The callable where there is nothing to keep or to pick: small models are called often."""
        dtypes = [spec.dtype for spec in self.results]

        def run(*inputs: Tensor) -> tuple[Tensor, ...]:
            found = zip(raw(inputs), dtypes, strict=True)
            return tuple(x if x.dtype is dtype else x.to(dtype) for x, dtype in found)

        return run

    def blank(self) -> list[Tensor]:
        """New tensors for the results, contiguous and not filled."""
        return [torch.empty(r.shape, dtype=r.dtype) for r in self.results]

    def calibration(self, sets: Sequence[Sequence[Tensor]]) -> list[list[Tensor]]:
        """Inputs of the module from sets of the graph's. Raises BackendError for no set."""
        if not sets:
            raise BackendError("int8 takes its ranges from calibration inputs; there are none.")
        return [[*(x.contiguous() for x in given), *self.state] for given in sets]

    def program(self) -> ExportedProgram:
        """The module as an exported program, composite ops whole."""
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            program: ExportedProgram = torch.export.export(self.module, self.examples)
        return program


@dataclass(frozen=True, slots=True)
class _Given:
    number: int


def _pick(
    source: "int | Tensor | _Given", values: Sequence[Tensor], given: Sequence[Tensor]
) -> Tensor:
    if isinstance(source, Tensor):
        return source.clone()
    return given[source.number].clone() if isinstance(source, _Given) else values[source]


def stateless(graph: Graph, *, keeps_groups: bool = False) -> Stateless:
    """The stateless form. keeps_groups: for a compiler that knows grouped-query attention. Raises
    GraphError for a graph that cannot run, BackendError for one with dynamic shapes or that
    computes nothing.
    """
    if any(any(i.spec.symbols) for i in graph.of_kind(InputKind.INPUT)):
        raise BackendError("it has dynamic shapes; capture it at one size.")
    module = flat_module(graph)
    if not keeps_groups:
        split_groups(module)
    writes = _writes(module)
    state = _take_state(module, writes)
    given = {n: i for i, n in enumerate(n for n in module.graph.nodes if n.op == "placeholder")}
    (output,) = (n for n in module.graph.nodes if n.op == "output")
    computed: dict[fx.Node, int] = {}
    outputs = tuple(_source(module, node, given, computed) for node in output.args[0])
    written = tuple(given[_target_of(write)] for write in writes)
    values = (*computed, *(write.all_input_nodes[-1] for write in writes))
    output.args = (values,)
    for write in writes:
        module.graph.erase_node(write)
    if not computed and not written:
        raise BackendError("it computes nothing.")
    module.graph.lint()
    module.recompile()
    examples = align_inputs(graph)(example_inputs(graph))
    return Stateless(
        module=module,
        examples=(*(e.contiguous() for e in examples), *state),
        state=state,
        outputs=outputs,
        results=tuple(v.meta["val"] for v in values),
        written=written,
    )


def _writes(module: fx.GraphModule) -> list[fx.Node]:
    """The copies that `flat_module` ends with: into inputs, and into buffers."""
    return [n for n in module.graph.nodes if n.target is _aten.copy_.default and not n.users]


def _target_of(write: fx.Node) -> fx.Node:
    target = write.args[0]
    assert isinstance(target, fx.Node)
    return target


def _take_state(module: fx.GraphModule, writes: Sequence[fx.Node]) -> tuple[Tensor, ...]:
    """Turns the buffers that are written into inputs after the others; returns their values."""
    targets = [_target_of(w) for w in writes]
    buffers = list(dict.fromkeys(str(t.target) for t in targets if t.op == "get_attr"))
    last = [n for n in module.graph.nodes if n.op == "placeholder"]
    for name in reversed(buffers):
        readers = [n for n in module.graph.nodes if n.op == "get_attr" and n.target == name]
        anchor = last[-1] if last else next(iter(module.graph.nodes))
        place = module.graph.inserting_after if last else module.graph.inserting_before
        with place(anchor):
            entry = module.graph.placeholder(f"state_{name}")
        for reader in readers:
            reader.replace_all_uses_with(entry)
            module.graph.erase_node(reader)
    return tuple(module.get_buffer(name).contiguous() for name in buffers)


def _source(
    module: fx.GraphModule, node: fx.Node, given: dict[fx.Node, int], computed: dict[fx.Node, int]
) -> "int | Tensor | _Given":
    if node in given:
        return _Given(given[node])
    if node.op == "get_attr":
        tensor: Tensor = getattr(module, str(node.target)).detach()
        return tensor
    return computed.setdefault(node, len(computed))


def split_groups(module: fx.GraphModule) -> None:
    """Rewrites grouped-query attention as plain attention on keys and values repeated per group:
    only PyTorch knows the former.
    """
    for node in list(module.graph.nodes):
        if node.target is _aten.scaled_dot_product_attention.default and node.kwargs.get(
            "enable_gqa"
        ):
            query, key, value, *rest = node.args
            heads = query.meta["val"].shape[-3]
            with module.graph.inserting_before(node):
                wide = [_repeat(module, kv, heads) for kv in (key, value)]
            node.args = (query, *wide, *rest)
            node.kwargs = {k: v for k, v in node.kwargs.items() if k != "enable_gqa"}


def _repeat(module: fx.GraphModule, node: fx.Node, heads: int) -> fx.Node:
    """(..., K, T, d) -> (..., heads, T, d), each of the K repeated in place."""
    *batch, own, length, size = node.meta["val"].shape
    call = module.graph.call_function
    apart = call(_aten.unsqueeze.default, (node, -3))
    spread = call(_aten.expand.default, (apart, [*batch, own, heads // own, length, size]))
    return call(_aten.reshape.default, (spread, [*batch, heads, length, size]))


def has_attention(graph: Graph) -> bool:
    """Whether the graph attends: one op for it, or a softmax between two products."""
    categories = {node.row.category for node in graph.nodes}
    products = [n for n in graph.nodes if n.op in ("bmm", "matmul", "baddbmm")]
    is_written_out = Category.SOFTMAX in categories and len(products) > 1
    return Category.ATTENTION in categories or is_written_out
