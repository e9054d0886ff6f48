"""Our own MLIR: every row against torch, through one module with a function per case."""

from collections.abc import Sequence
from math import prod
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from mlir_cases import FAMILIES, Case, Of
from small_models import MODELS
from tiny_zoo import ZOO, tiny
from torch import Tensor, nn
from torch.nn import functional as F

from ridgeline.backends.agreement import compare
from ridgeline.backends.mlir import emit as emission
from ridgeline.backends.mlir import iree
from ridgeline.backends.mlir.emit import Emitted, emit, emit_all
from ridgeline.backends.mlir.table import TABLE
from ridgeline.backends.mlir.value import Value, plain
from ridgeline.backends.mlir.views import viewed_order
from ridgeline.backends.mlir.writer import literal
from ridgeline.backends.stateless import Stateless, stateless
from ridgeline.backends.tosa import Iree
from ridgeline.errors import MissingExtra, UnsupportedOp
from ridgeline.frontends.torch_export import capture

torch.manual_seed(0)
FAMILY_CASES = {family: make() for family, make in FAMILIES.items()}
NAMES = [(family, name) for family, own in FAMILY_CASES.items() for name in own]


def form_of(*cases: Case) -> Stateless:
    """The graph of the cases as captured, no pass run."""
    inputs = tuple(x for case in cases for x in case.inputs)
    return stateless(capture(Of(*cases).eval(), inputs))


@pytest.fixture(scope="module")
def forms() -> dict[str, Stateless]:
    return {family: form_of(*own.values()) for family, own in FAMILY_CASES.items()}


@pytest.fixture(scope="module")
def found(forms: dict[str, Stateless]) -> dict[tuple[str, str], tuple[Tensor, ...]]:
    """The outputs of every case, from one module with a function per family."""
    try:
        Iree.require("fp32")
    except MissingExtra as error:
        pytest.skip(str(error))
    emitted = emit_all(forms)
    code, index = iree.compiled(emitted.text, "tosa"), iree.index_of(emitted.weights)
    outputs: dict[tuple[str, str], tuple[Tensor, ...]] = {}
    for family, form in forms.items():
        own = FAMILY_CASES[family]
        run = form.runnable(iree.loaded(code, form.results, index, entry=family))
        listed = list(run(*(x.contiguous() for case in own.values() for x in case.inputs)))
        for name, case in own.items():
            count = len(Of(case)(*case.inputs)[0])
            outputs[family, name] = tuple(listed[:count])
            del listed[:count]
    return outputs


@pytest.mark.parametrize(("family", "name"), NAMES)
def test_a_row_computes_what_torch_does(
    family: str, name: str, found: dict[tuple[str, str], tuple[Tensor, ...]]
) -> None:
    case = FAMILY_CASES[family][name]
    with torch.no_grad():
        (expected,) = Of(case)(*case.inputs)
    own = found[family, name]
    assert [(o.dtype, o.shape) for o in own] == [(e.dtype, e.shape) for e in expected]
    assert compare(expected, own).max_error <= case.tolerance


@pytest.fixture(scope="module")
def zoo_forms() -> dict[str, Stateless]:
    return {name: stateless(tiny(name)[0]) for name in ZOO}


def test_every_row_has_a_case(forms: dict[str, Stateless], zoo_forms: dict[str, Stateless]) -> None:
    nodes = [n for f in (*forms.values(), *zoo_forms.values()) for n in f.module.graph.nodes]
    targets = {str(node.target) for node in nodes if node.op == "call_function"}
    reached = targets | {target.rpartition(".")[0] for target in targets}
    assert set(TABLE) - reached == {"aten.conv_transpose3d"}  # it only refuses


def words(emitted: Emitted) -> list[str]:
    """The names of the operations in the text, constants left out."""
    lines = [line.strip() for line in emitted.text.splitlines() if " = " in line]
    names = [line.partition(" = ")[2].lstrip('"').split()[0].partition('"')[0] for line in lines]
    constants = ("tosa.const", "arith.constant", "util.global", "#flow", "dense")
    return [name for name in names if not name.startswith(constants)]


def test_a_convolutional_net_is_turned_once(zoo_forms: dict[str, Stateless]) -> None:
    """One transpose where the image enters; batch norms are in the weights."""
    emitted = emit(zoo_forms["resnet"])
    names = words(emitted)
    assert names.count("tosa.transpose") == 1
    assert next(n for n in names if n.startswith("tosa")) == "tosa.transpose"
    assert "f64" not in emitted.text


def test_what_a_small_net_becomes() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)).eval()
    emitted = emit(stateless(capture(model, (torch.randn(5, 3),))))
    starts = ["tensor.empty()", "linalg.fill"]
    layer = ["linalg.matmul", "tosa.add"]
    assert words(emitted) == [*starts, *starts, *layer, "tosa.maximum", *layer]
    assert {tuple(w.shape) for w in emitted.weights.values()} == {(4, 3), (1, 4), (2, 4), (1, 2)}
    assert all(w.is_contiguous() for w in emitted.weights.values())


@pytest.mark.parametrize("name", ZOO)
def test_the_zoo_has_no_wide_floats(name: str, zoo_forms: dict[str, Stateless]) -> None:
    assert "f64" not in emit(zoo_forms[name]).text


def test_the_example_of_the_docs_is_what_is_written(repository: Path) -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU()).eval()
    page = (repository / "docs" / "tosa.md").read_text()
    _, _, rest = page.partition("```mlir\n")
    assert emit(stateless(capture(model, (torch.randn(5, 3),)))).text == rest.partition("```")[0]


class Counting(nn.Module):
    """Counts in a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("count", torch.zeros(2))

    def forward(self, x: Tensor) -> Tensor:
        self.count.add_(1)
        return x * self.count


def test_a_state_goes_in_and_comes_out() -> None:
    text = emit(stateless(capture(Counting().eval(), (torch.randn(3, 2),)))).text
    signature = "(%arg0: tensor<3x2xf32>, %arg1: tensor<2xf32>) -> (tensor<3x2xf32>, tensor<2xf32>)"
    assert f"func.func @main{signature}" in text


def test_a_weight_that_is_read_twice_is_written_once() -> None:
    x, table = torch.randn(2, 3), torch.randn(3, 3)
    case = Case(function=lambda x, w: (x @ w) @ w, inputs=(x,), buffers=(table,))
    assert len(emit(form_of(case)).weights) == 1


REFUSALS: dict[str, tuple[Case, str]] = {
    "no row": (
        Case(function=lambda x: x.cumsum(0), inputs=(torch.randn(3),)),
        r"no lowering for aten.cumsum.default \(node cumsum\): the table has no row for it\.",
    ),
    "computed weight": (
        Case(function=F.conv2d, inputs=(torch.randn(1, 2, 4, 4), torch.randn(2, 2, 3, 3))),
        "its weight is computed, not a weight",
    ),
    "wide floats": (
        Case(function=lambda x: x + 1, inputs=(torch.randn(3, dtype=torch.float64),)),
        "no torch.float64 in TOSA",
    ),
    "uneven windows": (
        Case(function=lambda x: F.adaptive_avg_pool2d(x, 3), inputs=(torch.randn(1, 2, 4, 4),)),
        "its windows are of unequal size",
    ),
    "fraction": (
        Case(
            function=lambda x: F.interpolate(x, scale_factor=1.5), inputs=(torch.randn(1, 2, 4, 4),)
        ),
        "it scales by a fraction",
    ),
    "scattered places": (
        Case(
            function=lambda x, s: x.index_copy(0, torch.tensor([0, 2]), s),
            inputs=(torch.randn(3, 2), torch.randn(2, 2)),
        ),
        "its places are no run",
    ),
    "computed places": (
        Case(
            function=lambda x, i, s: x.index_copy(0, i, s),
            inputs=(torch.randn(3, 2), torch.tensor([0, 2]), torch.randn(2, 2)),
        ),
        "its index is computed, not a weight",
    ),
    "statistics of the batch": (
        Case(
            function=lambda x: F.batch_norm(x, None, None, training=True),
            inputs=(torch.randn(2, 3, 4, 4),),
        ),
        "no lowering for aten",
    ),
    "reflection": (
        Case(function=lambda x: F.pad(x, (1, 1), mode="reflect"), inputs=(torch.randn(1, 3, 4),)),
        "no lowering for aten",
    ),
    "rounded quotient": (
        Case(function=lambda x: torch.div(x, 0.3, rounding_mode="floor"), inputs=(torch.randn(4),)),
        "it rounds its quotient",
    ),
    "vector": (
        Case(function=torch.mv, inputs=(torch.randn(3, 4), torch.randn(4))),
        "no lowering for aten",
    ),
    "transposed volume": (
        Case(
            function=F.conv_transpose3d,
            inputs=(torch.randn(1, 2, 3, 3, 3),),
            buffers=(torch.randn(2, 2, 2, 2, 2),),
        ),
        "not in two dimensions",
    ),
    "no degree of freedom": (
        Case(function=lambda x: x.var(1), inputs=(torch.randn(3, 1),)),
        "no degree of freedom",
    ),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_what_has_no_lowering_is_told(name: str) -> None:
    case, reason = REFUSALS[name]
    with pytest.raises(UnsupportedOp, match=reason):
        emit(form_of(case))


def test_a_branch_is_refused() -> None:
    model, inputs = MODELS["many_outputs"]()
    assert emit(stateless(capture(model, inputs))).text.count("func.func") == 1

    class Forked(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.cond(x.sum() > 0, lambda y: y + 1, lambda y: y - 1, (x,))

    with pytest.raises(UnsupportedOp, match="no lowering for cond"):
        emit(stateless(capture(Forked(), (torch.randn(3),))))


def test_a_row_that_gives_another_shape_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(call: emission.Call) -> Value:
        return call.algebra.reduce("tosa.reduce_sum", call.value("self"), (0,))

    monkeypatch.setattr(emission, "TABLE", {"aten.relu": wrong})
    with pytest.raises(UnsupportedOp, match=r"its row gives torch.float32\(1, 2\), not"):
        emit(form_of(Case(function=F.relu, inputs=(torch.randn(3, 2),))))


@given(
    st.lists(st.integers(1, 4), min_size=1, max_size=5),
    st.randoms(use_true_random=False),
    st.data(),
)
def test_a_view_of_moved_memory_holds_the_same_elements(
    sizes: list[int], random: object, data: st.DataObject
) -> None:
    """Wherever `viewed_order` finds a way, the memory read in that order is torch's view."""
    order = tuple(data.draw(st.permutations(range(len(sizes)))))
    shape = _another_shape(sizes, data)
    tensor = torch.arange(prod(sizes)).reshape(sizes)
    stored = tensor.permute(order).contiguous()
    value = Value("%x", tuple(stored.shape), torch.int64, order)
    found = viewed_order(value, shape)
    if value.is_plain:
        assert found == plain(len(shape))
    if found is None:
        return
    laid = stored.reshape([shape[dim] for dim in found])
    back = laid.permute([found.index(dim) for dim in range(len(shape))])
    assert torch.equal(back, tensor.reshape(shape))


def _another_shape(sizes: Sequence[int], data: st.DataObject) -> tuple[int, ...]:
    """The sizes with neighbours joined, ones put in, and some sizes split."""
    shape: list[int] = []
    for size in sizes:
        kind = data.draw(st.sampled_from(["keep", "join", "one", "split"]))
        if kind == "join" and shape:
            shape[-1] *= size
        elif kind == "split" and size % 2 == 0:
            shape += [2, size // 2]
        else:
            shape += [1, size] if kind == "one" else [size]
    return tuple(shape)


@given(st.floats(width=32))
def test_numbers_keep_their_bits(number: float) -> None:
    bits = int(literal(number, torch.float32), 16)
    found = torch.tensor(bits, dtype=torch.int64).to(torch.int32).view(torch.float32)
    expected = torch.tensor(number, dtype=torch.float32)
    assert torch.equal(found.isnan(), expected.isnan())
    assert found.isnan() or found.view(torch.int32) == expected.view(torch.int32)


@pytest.mark.parametrize(
    ("number", "dtype", "text"),
    [
        (1.0, torch.float32, "0x3F800000"),
        (-2.0, torch.bfloat16, "0xC000"),
        (1.5, torch.float16, "0x3E00"),
        (-3.4028234663852886e38, torch.float32, "0xFF7FFFFF"),
        (1e300, torch.float32, "0x7F800000"),
        (7, torch.int64, "7"),
        (1, torch.bool, "true"),
    ],
)
def test_numbers_are_spelled_as_mlir_reads_them(
    number: float, dtype: torch.dtype, text: str
) -> None:
    assert literal(number, dtype) == text
