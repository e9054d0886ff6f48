"""Products with weights: one spelling, `linear`, whatever a framework wrote."""

from collections.abc import Sequence
from math import prod

import torch
from torch import Tensor, fx

from ridgeline.graph import Graph, Phase
from ridgeline.graph.edit import Edit
from ridgeline.passes.layout import is_restriding, order_of
from ridgeline.passes.match import is_call, is_plain, operand
from ridgeline.passes.rewrite import replace

_aten = torch.ops.aten
_PRODUCTS = (_aten.matmul.default, _aten.mm.default)


def recover_linears(graph: Graph) -> Graph:
    """The graph with einsums of two values as matmuls, products with a constant matrix as linears,
    and reshapes that only merge leading dimensions around a linear left out.
    """
    if graph.phase is Phase.TRAIN:
        return graph
    edit = Edit(graph)
    is_changed = False
    for node in edit.nodes:
        if node.op != "call_function" or not node.users:
            continue
        if node.target is _aten.einsum.default:
            is_changed |= _split_einsum(edit, node)
    for node in edit.nodes:
        if node.op != "call_function" or not node.users:
            continue
        if node.target in _PRODUCTS:
            is_changed |= _to_linear(edit, node, operand(node, 0), operand(node, 1), None)
        elif node.target is _aten.addmm.default:
            is_changed |= _addmm_to_linear(edit, node)
        elif is_restriding(node):
            is_changed |= _widen(edit, node)
    if is_changed:
        edit.refresh()
    return edit.finish()


def _addmm_to_linear(edit: Edit, node: fx.Node) -> bool:
    bias, x, matrix = (operand(node, index) for index in range(3))
    is_row = tuple(bias.meta["val"].shape) == tuple(node.meta["val"].shape[-1:])
    return is_plain(node) and is_row and _to_linear(edit, node, x, matrix, bias)


def _to_linear(
    edit: Edit, node: fx.Node, x: fx.Node, matrix: fx.Node, bias: fx.Node | None
) -> bool:
    """x @ matrix becomes linear(x, matrix transposed) where the matrix is a weight."""
    weight = _transposed_weight(edit, matrix)
    if weight is None or matrix.meta["val"].dim() != 2:
        return False
    operands = (x, weight) if bias is None else (x, weight, bias)
    return replace(edit, node, edit.call(_aten.linear.default, operands, node))


def _transposed_weight(edit: Edit, matrix: fx.Node) -> fx.Node | None:
    """A weight that is `matrix` transposed: what it is the transpose of, or a new one, if nothing
    else reads the old.
    """
    weights = edit.weights()
    if order_of(matrix) == (1, 0) and matrix.args[0] in weights:
        source = matrix.args[0]
        assert isinstance(source, fx.Node)
        return source
    chain = _views_of_weight(matrix, weights)
    if chain is None:
        return None
    root = chain[-1]
    value = weights[root].detach()
    if value.is_meta or any(len(n.users) != 1 for n in chain):
        return None
    for view in reversed(chain[:-1]):
        value = view.target(*fx.map_arg(view.args, lambda _, v=value: v))  # type: ignore[operator, misc]
    return edit.add_weight(f"{edit.path_of(root)}_transposed", value.t().contiguous())


def _views_of_weight(node: fx.Node, weights: dict[fx.Node, Tensor]) -> list[fx.Node] | None:
    """`node`, what it is a view of, and so on down to a weight; None where that is no weight."""
    chain = [node]
    while is_restriding(chain[-1]):
        (source,) = chain[-1].all_input_nodes
        chain.append(source)
    return chain if chain[-1] in weights else None


def _widen(edit: Edit, node: fx.Node) -> bool:
    """view(linear(view(x))) becomes linear(x) where both views concern leading dimensions only."""
    inner = node.args[0]
    if not is_call(inner, "linear") or order_of(node) is not None:
        return False
    assert isinstance(inner, fx.Node)
    before = inner.args[0]
    if not isinstance(before, fx.Node) or not is_restriding(before) or order_of(before):
        return False
    source = before.args[0]
    assert isinstance(source, fx.Node)
    outer, original = node.meta["val"].shape, source.meta["val"].shape
    if len(inner.users) != 1 or outer[:-1] != original[:-1] or len(outer) != len(original):
        return False
    if original[-1] != before.meta["val"].shape[-1]:
        return False
    new = edit.call(_aten.linear.default, (source, *inner.args[1:]), node)
    return replace(edit, node, new)


def _split_einsum(edit: Edit, node: fx.Node) -> bool:
    """einsum of two values becomes permute, matmul, permute; reshapes where letters share a role.

    Letters: batch in both and in the result, rows in the first and in the result, columns in the
    second and in the result, inner in both and summed.
    """
    equation, operands = node.args[:2]
    assert isinstance(equation, str)
    assert isinstance(operands, list | tuple)
    left, arrow, result = equation.replace(" ", "").partition("->")
    terms = left.split(",")
    if not arrow or len(terms) != 2 or len(operands) != 2 or "." in equation:
        return False
    (one, other), (x, y) = terms, operands
    assert isinstance(x, fx.Node)
    assert isinstance(y, fx.Node)
    if _first_place(result, other, one) < _first_place(result, one, other):
        one, other, x, y = other, one, y, x
    sizes = _sizes(one, x, other, y)
    if sizes is None or set(result) - set(sizes) or len(set(result)) != len(result):
        return False
    batch = [c for c in result if c in one and c in other]
    rows = [c for c in result if c in one and c not in other]
    columns = [c for c in result if c in other and c not in one]
    inner = [c for c in one if c in other and c not in result]
    is_covered = set(one) == {*batch, *rows, *inner} and set(other) == {*batch, *columns, *inner}
    if not is_covered or not (rows and columns and inner):
        return False
    counts = [[sizes[c] for c in group] for group in (batch, rows, columns, inner)]
    num_batch, num_rows, num_columns, num_inner = counts
    k, n = prod(num_inner), prod(num_columns)
    merged = num_rows if not batch else [prod(num_rows)]
    a = _shaped(edit, x, one, [*batch, *rows, *inner], [*num_batch, *merged, k], node)
    b = _shaped(edit, y, other, [*batch, *inner, *columns], [*num_batch, k, n], node)
    product = edit.call(_aten.matmul.default, (a, b), node)
    shaped = _shaped(edit, product, "", [], [*num_batch, *num_rows, *num_columns], node)
    made = [*batch, *rows, *columns]
    order = [made.index(c) for c in result]
    new = shaped
    if order != sorted(order):
        new = edit.call(_aten.permute.default, (shaped, order), node)
    return replace(edit, node, new)


def _first_place(result: str, one: str, other: str) -> int:
    """Where the first of an operand's own letters stands in the result."""
    places = [result.index(c) for c in one if c in result and c not in other]
    return min(places, default=len(result))


def _sizes(one: str, x: fx.Node, other: str, y: fx.Node) -> dict[str, int] | None:
    """letter -> size; None where a letter recurs in a term, or has two sizes or one that varies."""
    sizes: dict[str, int] = {}
    for letters, value in ((one, x), (other, y)):
        shape = value.meta["val"].shape
        if len(set(letters)) != len(letters) or len(shape) != len(letters):
            return None
        for letter, size in zip(letters, shape, strict=True):
            if not isinstance(size, int) or sizes.setdefault(letter, size) != size:
                return None
    return sizes


def _shaped(
    edit: Edit, x: fx.Node, letters: str, wanted: list[str], shape: Sequence[int], at: fx.Node
) -> fx.Node:
    """`x` with its letters in the order wanted, in that shape."""
    order = [letters.index(c) for c in wanted] if letters else []
    if order != sorted(order):
        x = edit.call(_aten.permute.default, (x, order), at)
    return x if tuple(x.meta["val"].shape) == tuple(shape) else edit.view(x, shape, at)
