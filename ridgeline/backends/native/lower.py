"""From a graph to steps: every node through the table, what the table lacks through torch."""

import operator
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, fx
from torch.utils._pytree import tree_map

from ridgeline.backends.ahead import computed
from ridgeline.backends.native.builder import Builder, Size, TorchCall
from ridgeline.backends.native.call import Call, Result
from ridgeline.backends.native.table import TABLE
from ridgeline.backends.native.tree import Pending
from ridgeline.backends.native.value import Buffer, Kind, Value, channels_last, laid
from ridgeline.backends.stateless import Stateless
from ridgeline.errors import UnsupportedOp
from ridgeline.native.library import Library
from ridgeline.passes.match import arguments

_aten = torch.ops.aten
_CAT = _aten.cat.default


@dataclass(frozen=True, slots=True, kw_only=True)
class Lowered:
    """A graph as steps. outputs: the value that each result is a copy of, in its own memory.

    fallbacks: the nodes that no kernel takes, and why.
    """

    builder: Builder
    num_inputs: int
    num_outputs: int
    fallbacks: Mapping[str, str]


def lower(form: Stateless, library: Library, *, rounded: Container[Size] = frozenset()) -> Lowered:
    """The steps that compute a stateless graph. rounded: the sizes of products by weights that are
    done in eight bits where that pays.
    """
    return _Lowering(form, Builder(library, rounded=rounded)).run()


class _Lowering:
    """One graph under way."""

    def __init__(self, form: Stateless, builder: Builder) -> None:
        self._form = form
        self._builder = builder
        self._values: dict[fx.Node, object] = {}
        self._fallbacks: dict[str, str] = {}
        listed = form.module.graph.output_node().args[0]
        assert isinstance(listed, list | tuple)
        self._returned: list[fx.Node] = [n for n in listed if isinstance(n, fx.Node)]
        self._homes = self._settle()

    def run(self) -> Lowered:
        """All nodes, then what is returned."""
        given = 0
        for node in self._form.module.graph.nodes:
            if node.op == "placeholder":
                self._values[node] = _input(given, self._form.examples[given])
                given += 1
            elif node.op == "get_attr":
                self._values[node] = _attribute(self._form.module, node)
            elif node.op == "call_function" and node.users:
                self._values[node] = self._kept(node, self._lowered(node))
        for number, node in enumerate(self._returned):
            self._return(number, self._values[node])
        return Lowered(
            builder=self._builder,
            num_inputs=given,
            num_outputs=len(self._returned),
            fallbacks=self._fallbacks,
        )

    # homes

    def _settle(self) -> dict[fx.Node, Value]:
        """Where results are wanted: returned ones in the outputs, the parts of a concatenation in
        its memory.
        """
        homes: dict[fx.Node, Value] = {}
        for number, node in enumerate(self._returned):
            homes.setdefault(node, self._output(number))
        for node in reversed(self._form.module.graph.nodes):
            if node.target is _CAT and isinstance(node.meta.get("val"), Tensor):
                whole = homes.setdefault(node, self._whole(_spec(node)))
                for part, slot in _slots(node, whole):
                    if part.op == "call_function" and part.target is not operator.getitem:
                        homes.setdefault(part, slot)
        return homes

    def _output(self, number: int) -> Value:
        result = self._form.results[number]
        spec = torch.empty(result.shape, dtype=result.dtype, device="meta")
        nbytes = spec.numel() * spec.element_size()
        return Value(Buffer(Kind.OUTPUT, nbytes, number), spec)

    def _whole(self, spec: Tensor) -> Value:
        """Memory for a concatenation: channels last where there are channels and positions."""
        order = channels_last(spec.dim()) if spec.dim() > 3 else range(spec.dim())
        return self._builder.blank(laid(spec, order))

    def _return(self, number: int, found: object) -> None:
        target = self._output(number)
        if isinstance(found, Tensor):
            found = self._builder.constant(found)
        if isinstance(found, Pending):
            self._builder.written(found, into=target)
            return
        assert isinstance(found, Value)
        is_there = found.buffer.kind is Kind.OUTPUT and found.buffer.number == number
        if not is_there or found.spec.stride() != target.spec.stride():
            self._builder.copy(found, target)

    # nodes

    def _kept(self, node: fx.Node, result: object) -> object:
        """The result, written if more than one node reads it."""
        if isinstance(result, Pending) and (len(node.users) != 1 or self._is_returned(node)):
            return self._builder.written(result, into=self._home(node, result.spec))
        return result

    def _is_returned(self, node: fx.Node) -> bool:
        return any(user.op == "output" for user in node.users)

    def _home(self, node: fx.Node, spec: Tensor) -> Value | None:
        home = self._homes.get(node)
        fits = home is not None and home.dtype == spec.dtype and home.spec.shape == spec.shape
        return home if fits else None

    def _lowered(self, node: fx.Node) -> object:
        if node.target is operator.getitem:
            several, index = node.args
            assert isinstance(several, fx.Node)
            return self._values[several][index]  # type: ignore[index]
        if not isinstance(node.target, torch._ops.OpOverload):
            return self._by_torch(node, "it is no operator")
        named = {name: self._bound(given) for name, given in arguments(node).items()}
        known = computed(node.target, named, (Value, Pending))
        if known is not None:
            return known
        position = len(self._builder.steps)
        try:
            return self._by_table(node, node.target, named)
        except UnsupportedOp as error:
            del self._builder.steps[position:]
            return self._by_torch(node, str(error))

    def _by_table(
        self, node: fx.Node, target: torch._ops.OpOverload, named: Mapping[str, object]
    ) -> Result:
        packet = str(target).rpartition(".")[0]
        row = TABLE.get(str(target)) or TABLE.get(packet)
        if row is None:
            raise UnsupportedOp("the table has no row for it")
        outs = _specs(node)
        if outs[0].numel() == 0:
            raise UnsupportedOp("it has no elements")
        result = row(Call(self._builder, named, outs, self._home(node, outs[0])))
        _check(result, outs)
        return result

    def _by_torch(self, node: fx.Node, reason: str) -> object:
        """The node as a call of torch on the same memory."""
        self._fallbacks[node.name] = f"{node.target}: {reason}"
        position = [self._written(_bound(v, self._values)) for v in node.args]
        named = {n: self._written(_bound(v, self._values)) for n, v in node.kwargs.items()}
        reads: list[Value] = []
        tree_map(lambda v: reads.append(v) if isinstance(v, Value) else None, [position, named])
        results = _blanks(node, self._builder)
        assert callable(node.target)
        self._builder.steps.append(
            TorchCall(
                target=node.target,
                positional=tuple(position),
                named=named,
                results=results,
                reads=tuple(reads),
            )
        )
        return results if isinstance(node.meta["val"], list | tuple) else results[0]

    def _written(self, argument: object) -> object:
        """An argument in dense memory: some of torch's kernels, group norm's backward among them,
        take it for granted.
        """
        if isinstance(argument, Pending):
            return self._written(self._builder.written(argument))
        if isinstance(argument, Value) and not argument.spec.is_contiguous():
            target = self._builder.blank(laid(argument.spec, range(argument.spec.dim())))
            self._builder.copy(argument, target)
            return target
        if isinstance(argument, list | tuple):
            return [self._written(a) for a in argument]
        return argument

    def _bound(self, argument: object) -> object:
        return _bound(argument, self._values)


def _bound(argument: object, values: Mapping[fx.Node, object]) -> object:
    """An argument with what its nodes gave."""
    if isinstance(argument, list | tuple):
        return [_bound(item, values) for item in argument]
    return values[argument] if isinstance(argument, fx.Node) else argument


def _input(number: int, example: Tensor) -> Value:
    spec = torch.empty(example.shape, dtype=example.dtype, device="meta")
    nbytes = spec.numel() * spec.element_size()
    return Value(Buffer(Kind.INPUT, nbytes, number), spec)


def _attribute(module: fx.GraphModule, node: fx.Node) -> object:
    found: object = module
    for part in str(node.target).split("."):
        found = getattr(found, part)
    return found.detach() if isinstance(found, Tensor) else found


def _slots(node: fx.Node, whole: Value) -> Iterator[tuple[fx.Node, Value]]:
    """The parts of a concatenation and where they lie in it."""
    named = arguments(node)
    dim = int(named.get("dim") or 0) % whole.spec.dim()  # type: ignore[arg-type]
    parts, start = named["tensors"], 0
    assert isinstance(parts, list | tuple)
    for part in parts:
        assert isinstance(part, fx.Node)
        if "val" not in part.meta or tuple(_spec(part).shape) == (0,):
            return
        size = _spec(part).shape[dim]
        yield part, whole.like(whole.spec.narrow(dim, start, size))
        start += size


def _spec(node: fx.Node) -> Tensor:
    return _specs(node)[0]


def _specs(node: fx.Node) -> tuple[Tensor, ...]:
    """What a node gives, on the meta device, dense."""
    value = node.meta["val"]
    listed = value if isinstance(value, list | tuple) else (value,)
    if not all(isinstance(v, Tensor) for v in listed):
        raise UnsupportedOp("not all of its results are tensors")
    return tuple(torch.empty(v.shape, dtype=v.dtype, device="meta") for v in listed)


def _blanks(node: fx.Node, builder: Builder) -> tuple[Value | None, ...]:
    """Memory for what torch gives; None where it gives nothing."""
    value = node.meta["val"]
    listed = value if isinstance(value, list | tuple) else (value,)
    return tuple(
        builder.blank(torch.empty(v.shape, dtype=v.dtype, device="meta"))
        if isinstance(v, Tensor)
        else None
        for v in listed
    )


def _check(result: Result, outs: Sequence[Tensor]) -> None:
    """Every result has the shape and type that the graph says."""
    for found, spec in zip(result if isinstance(result, tuple) else (result,), outs, strict=False):
        own = found if isinstance(found, Tensor) else found.spec
        if own.shape != spec.shape or own.dtype is not spec.dtype:
            wanted = f"{spec.dtype}{tuple(spec.shape)}"
            raise UnsupportedOp(f"its row gives {own.dtype}{tuple(own.shape)}, not {wanted}")
