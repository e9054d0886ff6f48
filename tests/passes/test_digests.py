"""One network, one digest: four networks in torch, exported to ONNX and written in ONNX by hand
have equal normal forms that compute the same; networks that differ have others.
"""

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import NETWORKS, Built, Decoder, ViT, decoder
from torch import Tensor, nn
from torch.nn import functional as F

from ridgeline.backends.agreement import compare
from ridgeline.backends.reference import Reference
from ridgeline.errors import GraphError
from ridgeline.frontends.torch_export import capture
from ridgeline.graph import Graph, Phase, verify
from ridgeline.passes.join import join_linears
from ridgeline.passes.manager import run_passes
from ridgeline.passes.normal import normal_form

# Three of these networks in a row in fp32, sums in another order.
MAX_ERROR = 1e-5


def taken(model: nn.Module, inputs: tuple[Tensor, ...]) -> Graph:
    return capture(model.eval(), inputs, is_trusted=True)


def normal(built: Built) -> Graph:
    return normal_form(taken(*built))


def from_onnx(proto: object, inputs: tuple[Tensor, ...]) -> Graph:
    from ridgeline.frontends.onnx import OnnxModule, read_model

    module = OnnxModule(read_model(proto, name="network"))
    module.prepare(*inputs)
    return taken(module, inputs)


def agrees(
    graph: Graph, other: Graph, inputs: tuple[Tensor, ...], max_error: float = MAX_ERROR
) -> None:
    verify(other)
    expected, found = (Reference().compile(g)(*inputs) for g in (graph, other))
    assert [o.dtype for o in found] == [o.dtype for o in expected]
    assert compare(expected, found).max_error < max_error


# ---- one network --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NETWORKS)
def test_the_normal_form_computes_the_same_and_is_its_own(name: str) -> None:
    model, inputs = NETWORKS[name]()
    graph = taken(model, inputs)
    found = normal_form(graph)
    agrees(graph, found, inputs)
    assert found.digest != graph.digest
    assert normal_form(found).digest == found.digest
    assert taken(model, inputs).digest == graph.digest, "a pure function leaves its input alone"


@pytest.mark.parametrize("name", NETWORKS)
def test_what_passes_make_of_a_network_is_still_that_network(name: str) -> None:
    model, inputs = NETWORKS[name]()
    graph = taken(model, inputs)
    assert normal_form(run_passes(graph)[-1].graph).digest == normal_form(graph).digest


@pytest.mark.parametrize("name", NETWORKS)
def test_torch_exported_to_onnx_is_the_same_network(name: str) -> None:
    pytest.importorskip("onnx", reason="needs the extra onnx: pip install 'ridgeline[onnx]'")
    pytest.importorskip("onnxscript", reason="torch's exporter needs onnxscript, a test extra")
    from exporting import exported

    model, inputs = NETWORKS[name]()
    graph, other = taken(model, inputs), from_onnx(exported(model, inputs), inputs)
    assert other.digest != graph.digest, "or there is nothing to show"
    agrees(graph, normal_form(other), inputs)
    assert normal_form(other).digest == normal_form(graph).digest


@pytest.mark.parametrize("name", NETWORKS)
def test_written_in_onnx_is_the_same_network(name: str) -> None:
    pytest.importorskip("onnx", reason="needs the extra onnx: pip install 'ridgeline[onnx]'")
    from networks_onnx import WRITTEN

    model, inputs = NETWORKS[name]()
    graph, other = taken(model, inputs), from_onnx(WRITTEN[name](model), inputs)
    assert other.digest != graph.digest, "or there is nothing to show"
    agrees(graph, normal_form(other), inputs)
    assert normal_form(other).digest == normal_form(graph).digest


def test_names_and_weights_do_not_count() -> None:
    class Renamed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inside = Decoder()

        def forward(self, tokens: Tensor) -> Tensor:
            return self.inside(tokens)

    _, inputs = decoder()
    torch.manual_seed(1)
    assert normal((Renamed(), inputs)).digest == normal(decoder()).digest


def test_joined_linears_are_the_network_they_were() -> None:
    model, inputs = decoder(width=128, heads=2, kv_heads=2, hidden=256)
    graph = taken(model, inputs)
    joined = join_linears(graph)
    assert joined.digest != graph.digest
    assert normal_form(joined).digest == normal_form(graph).digest


# ---- other networks -----------------------------------------------------------------------------


def changed(name: str, change: Callable[[nn.Module], object]) -> Built:
    """A network with something about it changed."""
    model, inputs = NETWORKS[name]()
    change(model)
    return model, inputs


def widen_stride(model: nn.Module) -> None:
    """The stride in the other convolution of a block: the same shapes at both ends."""
    block = model.get_submodule("layers.3.0")
    block.conv1.stride, block.conv2.stride = (1, 1), (2, 2)  # type: ignore[union-attr]


def set_attribute(path: str, name: str, value: object) -> Callable[[nn.Module], object]:
    return lambda model: setattr(model.get_submodule(path), name, value)


CHANGES: dict[str, Callable[[], Built]] = {
    "resnet18 stride": lambda: changed("resnet18", widen_stride),
    "resnet18 activation": lambda: changed(
        "resnet18", set_attribute("layers.2.1", "relu", nn.ReLU6())
    ),
    "resnet18 pool": lambda: changed(
        "resnet18", set_attribute("", "maxpool", nn.AvgPool2d(3, 2, 1))
    ),
    "resnet18 groups": lambda: changed(
        "resnet18", set_attribute("layers.1.1", "conv2", nn.Conv2d(32, 32, 3, 1, 1, groups=2))
    ),
    "vit heads": lambda: (ViT(heads=2).eval(), NETWORKS["vit"]()[1]),
    "vit depth": lambda: (ViT(depth=2).eval(), NETWORKS["vit"]()[1]),
    "vit epsilon": lambda: changed("vit", set_attribute("blocks.1.norm2", "eps", 1e-5)),
    "vit norm": lambda: changed("vit", set_attribute("blocks.0", "norm1", nn.RMSNorm(48, 1e-6))),
    "lstm layers": lambda: changed(
        "lstm", set_attribute("", "lstm", nn.LSTM(12, 16, 1, batch_first=True))
    ),
    "lstm time first": lambda: changed("lstm", set_attribute("", "lstm", nn.LSTM(12, 16, 2))),
    "lstm gru": lambda: changed(
        "lstm", set_attribute("", "lstm", nn.GRU(12, 16, 2, batch_first=True))
    ),
    "decoder epsilon": lambda: decoder(epsilon=1e-6),
    "decoder mask": lambda: decoder(is_causal=False),
    "decoder window": lambda: decoder(window=3),
    "decoder other window": lambda: decoder(window=4),
    "decoder heads": lambda: decoder(kv_heads=2),
    "decoder length": lambda: decoder(length=11),
}


@pytest.fixture(scope="module")
def digests() -> dict[str, str]:
    """Change, or network -> digest."""
    builds = {**NETWORKS, **CHANGES}
    found = {}
    for name, build in builds.items():
        torch.manual_seed(0)
        found[name] = normal(build()).digest
    return found


@pytest.mark.parametrize("name", CHANGES)
def test_a_network_that_is_changed_is_another(name: str, digests: dict[str, str]) -> None:
    assert [other for other in digests if digests[other] == digests[name]] == [name]


def test_a_graph_without_weights_or_in_training_has_no_normal_form() -> None:
    model, inputs = NETWORKS["lstm"]()
    training = capture(model.train(), inputs, phase=Phase.TRAIN, is_trusted=True)
    with torch.device("meta"):
        weightless = taken(Decoder(), (torch.zeros(1, 4, dtype=torch.int64),))
    for graph in (training, weightless):
        with pytest.raises(GraphError, match="has no normal form"):
            normal_form(graph)


# ---- expressions: the same said in other ways, and others said in the same ----------------------

# An expression over inputs x and y of [2, 3, 4]: (kind, operands...).
Tree = tuple[object, ...]
LEAVES = st.sampled_from([("x",), ("y",)])
NUMBERS = st.sampled_from([0.5, 1.5, 2.0, 3.0])
ALONE = ["relu", "tanh", "square", "turn", "linear", "norm", "weigh"]


def grow(inner: st.SearchStrategy[Tree]) -> st.SearchStrategy[Tree]:
    pair = st.tuples(st.sampled_from(["add", "mul", "sub", "max"]), inner, inner)
    scaled = st.tuples(st.sampled_from(["times", "plus", "minus", "from"]), inner, NUMBERS)
    return st.one_of(pair, scaled, st.tuples(st.sampled_from(ALONE), inner))


TREES = st.recursive(LEAVES, grow, max_leaves=6)


class Expression(nn.Module):
    """A tree as a network; `choices` says which way each operation is spelt."""

    def __init__(self, tree: Tree, choices: list[bool]) -> None:
        super().__init__()
        self.tree, self.choices = tree, choices
        self.w = nn.Parameter(torch.linspace(-1, 1, 24).view(2, 3, 4))
        self.matrix = nn.Parameter(torch.linspace(-1, 1, 16).view(4, 4).sin())

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        choices = iter(self.choices * 9)
        given = {"x": x, "y": y}

        def value(tree: Tree) -> Tensor:
            kind, *rest = tree
            if kind in given:
                return given[str(kind)]
            is_other = next(choices)
            parts = [value(r) if isinstance(r, tuple) else r for r in rest]
            return SPELLINGS[str(kind)][is_other](self, *parts)

        return value(self.tree).relu() + 1


def last(m: Expression, a: Tensor) -> Tensor:
    """The linear as a product of rows in one row, with a matrix on the right."""
    return (a.reshape(-1, 4) @ m.matrix.t()).view(a.shape)


SPELLINGS: dict[str, tuple[Callable[..., Tensor], Callable[..., Tensor]]] = {
    "add": (lambda m, a, b: a + b, lambda m, a, b: torch.add(b, a)),
    "mul": (lambda m, a, b: a * b, lambda m, a, b: (b.flatten() * a.flatten()).view(2, 3, 4)),
    "sub": (lambda m, a, b: a - b, lambda m, a, b: torch.rsub(b, a)),
    "max": (lambda m, a, b: torch.maximum(a, b), lambda m, a, b: b.maximum(a)),
    "times": (lambda m, a, c: a * c, lambda m, a, c: a / (1 / c) if c == 0.5 else c * a),
    "plus": (lambda m, a, c: a + c, lambda m, a, c: a - torch.tensor(-c)),
    "minus": (lambda m, a, c: a - c, lambda m, a, c: -c + a),
    "from": (lambda m, a, c: c - a, lambda m, a, c: -a + c),
    "relu": (lambda m, a: a.relu(), lambda m, a: a.transpose(0, 1).clamp(min=0).transpose(1, 0)),
    "tanh": (lambda m, a: a.tanh(), lambda m, a: a.reshape(6, 4).tanh().unflatten(0, (2, 3))),
    "square": (lambda m, a: a * a, lambda m, a: a.pow(2)),
    "turn": (
        lambda m, a: a.flatten(1).view(2, 4, 3).transpose(1, 2),
        lambda m, a: a.reshape(2, 1, 4, 3).permute(0, 3, 2, 1)[..., 0],
    ),
    "weigh": (lambda m, a: a * m.w, lambda m, a: m.w[None].expand(1, 2, 3, 4)[0] * a),
    "linear": (lambda m, a: F.linear(a, m.matrix), last),
    "norm": (
        lambda m, a: F.layer_norm(a, [4]),
        lambda m, a: (
            (a - a.mean(-1, keepdim=True)) / (a.var(-1, correction=0, keepdim=True) + 1e-5).sqrt()
        ),
    ),
}


def spelt(tree: Tree, choices: list[bool]) -> Graph:
    inputs = torch.randn(2, 3, 4), torch.randn(2, 3, 4)
    graph = taken(Expression(tree, choices), inputs)
    found = normal_form(graph)
    agrees(graph, found, inputs, max_error=1e-3)  # a norm of what cancels out is noise
    return found


@settings(max_examples=20)
@given(tree=TREES, one=st.lists(st.booleans(), min_size=9, max_size=9))
def test_an_expression_is_the_same_however_it_is_spelt(tree: Tree, one: list[bool]) -> None:
    assert spelt(tree, one).digest == spelt(tree, [not c for c in one]).digest


OTHERS = {
    "add": "mul", "mul": "sub", "sub": "max", "max": "add", "relu": "tanh", "tanh": "norm",
    "square": "relu", "turn": "tanh", "linear": "norm", "norm": "linear", "weigh": "tanh",
}  # fmt: skip


def alter(tree: Tree, place: int) -> tuple[Tree, int]:
    """The tree with its operation number `place` changed, and how many it has."""
    kind, *rest = tree
    if not rest:
        return tree, 0
    if place == 0 and kind not in OTHERS:  # with a number
        kind, rest = "tanh", rest[:1]
    elif place == 0:
        kind = OTHERS[str(kind)]
    count, parts = 1, []
    for part in rest:
        if isinstance(part, tuple):
            part, inner = alter(part, place - count)
            count += inner
        parts.append(part)
    return (kind, *parts), count


@settings(max_examples=20)
@given(tree=TREES.filter(lambda t: len(t) > 1), place=st.integers(0, 20))
def test_an_expression_with_one_operation_changed_is_another(tree: Tree, place: int) -> None:
    _, count = alter(tree, -1)
    other, _ = alter(tree, place % count)
    assert spelt(other, [False]).digest != spelt(tree, [False]).digest


def test_operands_of_a_difference_do_not_change_places() -> None:
    x, y = (torch.randn(2, 3, 4) for _ in range(2))
    there, back = ("sub", ("tanh", ("x",)), ("y",)), ("sub", ("y",), ("tanh", ("x",)))
    a, b = (normal_form(taken(Expression(tree, [False]), (x, y))) for tree in (there, back))
    assert a.digest != b.digest
