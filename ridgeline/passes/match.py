"""Patterns over graph nodes, written as Python expressions, and where they occur.

    mul(x, sigmoid(x))              op kinds with their leading operands; add and mul commute
    product(x, 0.5, erf(y))         any tree of mul, and of div by numbers, in any order
    a | b                           either
    (m := mean(x))                  the node itself, for the rewrite to look at

A name stands for any value, and for the same one wherever it recurs. A number stands for itself,
written in the graph as a scalar, as a weight of one element or as a fill of one.
"""

import ast
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from itertools import permutations
from math import isclose

import torch
from torch import Tensor, fx
from torch.fx.node import Argument

from ridgeline.graph import row_of
from ridgeline.graph.edit import Edit
from ridgeline.graph.read import packet_of

Value = fx.Node | int | float | bool
# Constants arrive rounded to fp32, or typed in by hand with a few digits.
_CONSTANT_TOLERANCE = 1e-5
_COMMUTATIVE = ("add", "mul", "maximum", "minimum")
_FILLS = ("aten.full", "aten.scalar_tensor", "aten.full_like")
_MOST_FACTORS = 6


@dataclass(frozen=True, slots=True)
class Bound:
    """One occurrence under way. names: what each name stands for; inner: the nodes that the
    pattern spells out, the root among them.
    """

    names: Mapping[str, Value]
    inner: frozenset[fx.Node]

    def node(self, name: str) -> fx.Node:
        """The node bound to `name`."""
        value = self.names[name]
        assert isinstance(value, fx.Node)
        return value


@lru_cache(maxsize=256)
def parse(pattern: str) -> ast.expr:
    """The expression of a pattern."""
    return ast.parse(pattern.strip(), mode="eval").body


class Matcher:
    """Finds patterns in the graph of one Edit."""

    def __init__(self, edit: Edit) -> None:
        self._edit = edit

    def find(self, pattern: str, root: fx.Node) -> Bound | None:
        """The first occurrence of `pattern` that ends in `root` and from which nothing but the
        root is read elsewhere; None where there is none.
        """
        start = Bound({}, frozenset())
        for bound in self._match(parse(pattern), root, start):
            if all(n is root or set(n.users) <= bound.inner for n in bound.inner):
                return bound
        return None

    def number(self, value: object) -> float | None:
        """The number that an argument is, however the graph spells it; None for a tensor."""
        if isinstance(value, int | float):
            return float(value)
        if not isinstance(value, fx.Node):
            return None
        if value in self._edit.weights():
            tensor = self._edit.weights()[value]
            is_one = tensor.numel() == 1 and not tensor.is_complex() and not tensor.is_meta
            return float(tensor.item()) if is_one and tensor.dim() <= 1 else None
        if value.op == "call_function" and packet_of(value.target) in _FILLS:
            spec, filled = value.meta["val"], value.args[0 if len(value.args) == 1 else 1]
            is_one = isinstance(spec, Tensor) and spec.dim() == 0
            return float(filled) if is_one and isinstance(filled, int | float) else None
        return None

    def constant(self, value: object) -> Tensor | None:
        """The weight that an argument is, or a number as a tensor; None for anything computed."""
        if isinstance(value, fx.Node) and value in self._edit.weights():
            return self._edit.weights()[value].detach()
        number = self.number(value)
        return None if number is None else torch.tensor(number, dtype=torch.float64)

    def _match(self, pattern: ast.expr, value: object, bound: Bound) -> Iterator[Bound]:
        match pattern:
            case ast.BinOp(left=left, op=ast.BitOr(), right=right):
                yield from self._match(left, value, bound)
                yield from self._match(right, value, bound)
            case ast.NamedExpr(target=name, value=inner):
                for found in self._match(inner, value, bound):
                    yield from self._name(name.id, value, found)
            case ast.Name(id=name):
                yield from self._name(name, value, bound)
            case ast.Call(func=ast.Name(id="product"), args=parts):
                yield from self._product(parts, value, bound)
            case ast.Call(func=ast.Name(id=kind), args=parts):
                if isinstance(value, fx.Node) and is_call(value, kind) and is_plain(value):
                    yield from self._call(kind, parts, value, bound)
            case _:
                wanted, number = ast.literal_eval(pattern), self.number(value)
                is_absent = wanted is None and value is None
                is_both = wanted is not None and number is not None
                if is_absent or (is_both and _is_near(float(number or 0), wanted)):
                    yield bound

    def _name(self, name: str, value: object, bound: Bound) -> Iterator[Bound]:
        if not isinstance(value, fx.Node | int | float):
            return
        if name not in bound.names:
            yield Bound({**bound.names, name: value}, bound.inner)
        elif bound.names[name] is value or (
            not isinstance(value, fx.Node) and bound.names[name] == value
        ):
            yield bound

    def _call(
        self, kind: str, parts: list[ast.expr], node: fx.Node, bound: Bound
    ) -> Iterator[Bound]:
        operands: list[object] = list(node.args[: len(parts)])
        if len(operands) < len(parts):
            return
        inner = Bound(bound.names, bound.inner | {node})
        orders = [operands]
        if kind in _COMMUTATIVE and len(parts) == 2:
            orders.append(operands[::-1])
        for order in orders:
            yield from self._all(parts, order, inner)

    def _all(self, parts: list[ast.expr], values: list[object], bound: Bound) -> Iterator[Bound]:
        if not parts:
            yield bound
            return
        for found in self._match(parts[0], values[0], bound):
            yield from self._all(parts[1:], values[1:], found)

    def _product(self, parts: list[ast.expr], value: object, bound: Bound) -> Iterator[Bound]:
        numbers = [p for p in parts if isinstance(p, ast.Constant | ast.UnaryOp)]
        patterns = [p for p in parts if p not in numbers]
        wanted = 1.0
        for number in numbers:
            wanted *= ast.literal_eval(number)
        if not isinstance(value, fx.Node):
            return
        product = self.factors(value)
        right_size = len(product.factors) == len(patterns) <= _MOST_FACTORS
        if not product.inner or not right_size or not _is_near(product.coefficient, wanted):
            return
        inner = Bound(bound.names, bound.inner | product.inner)
        for order in permutations(product.factors):
            yield from self._all(patterns, list(order), inner)

    def factors(self, root: fx.Node) -> "Product":
        """`root` as a number times factors: mul and div by numbers, opened as far as nothing else
        reads them.
        """
        coefficient, factors, inner = 1.0, [], set()
        pending: list[Argument] = [root]
        while pending:
            value = pending.pop(0)
            number = self.number(value)
            if number is not None and value is not root:
                coefficient *= number
                continue
            if not isinstance(value, fx.Node):
                return Product(1.0, (root,), frozenset())
            is_open = value is root or len(value.users) == 1
            divisor = self.number(value.args[1]) if is_call(value, "div") else None
            if is_open and is_call(value, "mul") and is_plain(value):
                pending += value.args[:2]
                inner.add(value)
            elif is_open and divisor and is_plain(value):
                pending.append(value.args[0])
                coefficient /= divisor
                inner.add(value)
            else:
                factors.append(value)
        return Product(coefficient, tuple(factors), frozenset(inner))


@dataclass(frozen=True, slots=True)
class Product:
    """A number times factors. inner: the nodes that multiply them."""

    coefficient: float
    factors: tuple[fx.Node, ...]
    inner: frozenset[fx.Node]


def is_call(value: object, kind: str) -> bool:
    """Whether a value is a call of an op of that kind."""
    if not isinstance(value, fx.Node) or value.op != "call_function":
        return False
    return row_of(packet_of(value.target)).kind == kind


def is_plain(node: fx.Node) -> bool:
    """Whether an arithmetic call has neither a factor (`alpha`, `beta`) nor a rounding of its
    own.
    """
    factors = [node.kwargs.get(name, 1) for name in ("alpha", "beta")]
    return factors == [1, 1] and node.kwargs.get("rounding_mode") is None


def operand(node: fx.Node, index: int) -> fx.Node:
    """Operand number `index` of a call, where that is a value."""
    value = node.args[index]
    assert isinstance(value, fx.Node)
    return value


def arguments(node: fx.Node) -> dict[str, Argument]:
    """Every argument of a call by name, defaults included."""
    target = node.target
    assert isinstance(target, torch._ops.OpOverload)
    given: dict[str, Argument] = {}
    for index, entry in enumerate(target._schema.arguments):
        default = entry.default_value if entry.has_default_value() else None
        value = node.args[index] if index < len(node.args) else default
        given[entry.name] = node.kwargs.get(entry.name, value)
    return given


def argument(node: fx.Node, name: str) -> Argument:
    """Argument `name` of a call, default included."""
    return arguments(node)[name]


def set_arguments(node: fx.Node, **changes: Argument) -> None:
    """Changes some arguments of a call, by name."""
    target = node.target
    assert isinstance(target, torch._ops.OpOverload)
    given = {**arguments(node), **changes}
    named = [a.name for a in target._schema.arguments if a.kwarg_only]
    node.args = tuple(value for name, value in given.items() if name not in named)
    node.kwargs = {name: given[name] for name in named if given[name] is not None}


def _is_near(found: float, wanted: float) -> bool:
    return isclose(found, wanted, rel_tol=_CONSTANT_TOLERANCE)
