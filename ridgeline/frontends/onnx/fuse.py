"""Joins what an exporter took apart and torch keeps whole, before anything is traced."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace

from ridgeline.frontends.onnx.records import Body, OnnxNode

# The operator set of nodes that only `fuse` makes.
DOMAIN = "ridgeline"


def fused(body: Body) -> Body:
    """The body with every product by a matrix of weights and the bias added to it as one Linear.

    Valid because nothing else reads the product.
    """
    counts = Counter(_reads(body))
    makers = {name: node for node in body.nodes for name in node.outputs}
    joined: dict[OnnxNode, OnnxNode] = {}
    gone: set[OnnxNode] = set()
    for node in body.nodes:
        product = _product(node, makers, counts, body)
        if product is not None:
            joined[node] = _linear(node, product)
            gone.add(product)
    nodes = (joined.get(node, node) for node in body.nodes if node not in gone)
    return replace(body, nodes=tuple(nodes))


def _reads(body: Body) -> Iterator[str]:
    for node in body.nodes:
        yield from node.inputs
        for value in node.attributes.values():
            if isinstance(value, Body):
                yield from value.captured
    yield from body.outputs


def _product(
    node: OnnxNode, makers: dict[str, OnnxNode], counts: Counter[str], body: Body
) -> OnnxNode | None:
    """The MatMul whose bias this Add adds, if it is one."""
    if node.qualified != "Add" or len(node.inputs) != 2:
        return None
    for product, bias in (node.inputs, node.inputs[::-1]):
        maker, weight = makers.get(product), body.weights.get(bias)
        if maker is None or weight is None or maker.qualified != "MatMul":
            continue
        matrix = body.weights.get(maker.inputs[1])
        if matrix is None or len(matrix.shape) != 2 or weight.shape != matrix.shape[1:]:
            continue
        if counts[product] == 1 and matrix.element.numpy.kind == "f":
            return maker
    return None


def _linear(add: OnnxNode, product: OnnxNode) -> OnnxNode:
    (bias,) = (name for name in add.inputs if name not in product.outputs)
    return replace(
        product,
        op="Linear",
        domain=DOMAIN,
        inputs=(*product.inputs, bias),
        outputs=add.outputs,
    )
