"""Our own kernels behind the backend: every graph, its memory, and what torch does for it."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import reduce
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from backend_suite import BackendSuite
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_zoo import ZOO, tiny
from torch import Tensor, nn

from ridgeline.backends.agreement import compare
from ridgeline.backends.native.backend import Native
from ridgeline.backends.native.builder import AllBut, Builder, Instruction
from ridgeline.backends.native.cycles import Work
from ridgeline.backends.native.lower import Lowered, lower
from ridgeline.backends.native.memory import plan
from ridgeline.backends.native.value import Buffer, Kind, Place, as_matrix, rows_of
from ridgeline.backends.reference import Reference
from ridgeline.backends.registry import TOLERANCES
from ridgeline.backends.stateless import stateless
from ridgeline.errors import BackendError
from ridgeline.frontends.torch_export import capture
from ridgeline.graph import Graph
from ridgeline.native import library
from ridgeline.native.library import Library
from ridgeline.native.program import Type

MAX_ERROR = 1e-5


class TestNative(BackendSuite):
    make = Native

    @pytest.mark.parametrize("name", ZOO)
    def test_the_zoo_agrees(self, name: str) -> None:
        graph, inputs = tiny(name)
        run, expected = Native().compile(graph), Reference().compile(graph)(*inputs)
        for _ in range(2):
            assert compare(expected, run(*inputs)).max_error < MAX_ERROR

    @pytest.mark.parametrize("name", ZOO)
    def test_the_zoo_needs_no_torch(self, name: str) -> None:
        assert not lowered(tiny(name)[0]).fallbacks

    @pytest.mark.parametrize("name", ZOO)
    def test_the_zoo_agrees_in_bf16(self, name: str) -> None:
        if not Library().has_bf16:
            pytest.skip("this processor has no products of bf16")
        graph, inputs = tiny(name)
        found = Native().compile(graph, "bf16")(*inputs)
        error = compare(Reference().compile(graph)(*inputs), found).max_error
        assert 0 < error < TOLERANCES["bf16"]

    @pytest.mark.parametrize("name", ZOO)
    def test_the_zoo_agrees_in_int8(self, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
        if not Library().has_int8:
            pytest.skip("this processor has no products of int8")
        # what is so small would stay in bf16
        monkeypatch.setattr(Work, "cycles", property(lambda self: self.weight_nbytes))
        graph, inputs = tiny(name)
        steps = lower(
            stateless(graph, keeps_groups=True), Library(), rounded=AllBut()
        ).builder.steps
        assert any(isinstance(s, Instruction) and s.name == "gemm_int8" for s in steps)
        found = Native().compile(graph, "int8")(*inputs)
        error = compare(Reference().compile(graph)(*inputs), found).max_error
        assert 0 < error < TOLERANCES["int8"]

    def test_each_call_has_outputs_of_its_own(self) -> None:
        graph, (x,) = tiny("mlp")
        run = Native().compile(graph)
        (first,) = run(x)
        kept = first.clone()
        (second,) = run(2 * x)
        assert torch.equal(first, kept)
        assert not torch.equal(first, second)


class Function(nn.Module):
    """A function of its inputs and two layers as a module."""

    def __init__(self, function: Callable[..., object]) -> None:
        super().__init__()
        self.function = function
        self.conv, self.linear = nn.Conv2d(4, 6, 3, padding=1), nn.Linear(6, 4)

    def forward(self, *inputs: Tensor) -> object:
        return self.function(self, *inputs)


def lowered(graph: Graph) -> Lowered:
    return lower(stateless(graph, keeps_groups=True), Library())


def names(graph: Graph) -> list[str]:
    return [s.name for s in lowered(graph).builder.steps if isinstance(s, Instruction)]


class Wide(nn.Module):
    """Products of one input, wide enough for eight bits, one more, a pointwise convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(100, 256), nn.Linear(100, 300)
        self.third, self.conv = nn.Linear(256, 256), nn.Conv2d(64, 256, 1)

    def forward(self, x: Tensor, image: Tensor) -> tuple[Tensor, ...]:
        y = self.third(self.first(x).relu()) + self.first(x)
        return y, self.second(x).sigmoid(), self.conv(image).relu()


HAS_INT8 = library.library_path() is not None and Library().has_int8


@pytest.mark.skipif(not HAS_INT8, reason="no products of int8")
@pytest.mark.parametrize("rows", [1, 7, 40])
def test_products_of_int8_round_each_row_once(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Work, "cycles", property(lambda self: self.weight_nbytes))
    torch.manual_seed(0)
    model, inputs = Wide().eval(), (torch.randn(rows, 100), torch.randn(2, 64, 5, 5))
    graph = capture(model, inputs)
    in_bf16 = Native().lower(graph, "int8")
    own = lower(stateless(in_bf16, keeps_groups=True), Library(), rounded=AllBut()).builder.steps
    found = [s.name for s in own if isinstance(s, Instruction)]
    assert found.count("gemm_int8") == 5
    assert found.count("quantize") == 3  # of x, of what follows `first`, of the image
    run = Native().compile(graph, "int8")
    for factor in (1, -3, 1):
        given = tuple(x * factor for x in inputs)
        assert 0 < compare(model(*given), run(*given)).max_error < 2e-2
    shared = {
        s.fields["w_ref"] for s in own if isinstance(s, Instruction) and s.name == "gemm_int8"
    }
    assert len(shared) == 4  # `first` is packed once


class Shared(nn.Module):
    """One dilated layer on two sizes, whose grids are of two kinds."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(48, 512, 3, padding=2, dilation=2)

    def forward(self, large: Tensor, small: Tensor) -> tuple[Tensor, Tensor]:
        return self.conv(large), self.conv(small)


def int8_steps(graph: Graph) -> list[Instruction]:
    in_bf16 = Native().lower(graph, "int8")
    builder = lower(stateless(in_bf16, keeps_groups=True), Library(), rounded=AllBut()).builder
    return [s for s in builder.steps if isinstance(s, Instruction)]


@pytest.mark.skipif(not HAS_INT8, reason="no products of int8")
def test_a_weight_is_packed_for_each_kind_of_grid() -> None:
    torch.manual_seed(0)
    model, inputs = Shared().eval(), (torch.randn(1, 48, 80, 80), torch.randn(1, 48, 7, 7))
    graph = capture(model, inputs)
    own = [s for s in int8_steps(graph) if s.name == "conv_grid"]
    assert all(s.fields["x_type"] == Type.U8 for s in own)
    assert len({s.fields["kind"] for s in own}) == len({s.fields["w_ref"] for s in own}) == 2
    assert compare(model(*inputs), Native().compile(graph, "int8")(*inputs)).max_error < 2e-2


@pytest.mark.skipif(not HAS_INT8, reason="no products of int8")
def test_convolutions_that_share_an_input_lay_it_out_once() -> None:
    layers = nn.ModuleList(nn.Conv2d(64, 96, 3, padding=1) for _ in range(2))
    model = nn.Sequential(nn.Conv2d(8, 64, 1), nn.ReLU(), Sum(layers)).eval()
    graph = capture(model, (torch.randn(1, 8, 28, 28),))
    found = [s.name for s in int8_steps(graph)]
    assert (found.count("grid"), found.count("conv_grid")) == (1, 2)


class Sum(nn.Module):
    """The sum of what layers make of one input."""

    def __init__(self, layers: nn.ModuleList) -> None:
        super().__init__()
        self.layers = layers

    def forward(self, x: Tensor) -> Tensor:
        return reduce(torch.add, [layer(x) for layer in self.layers])


@pytest.mark.skipif(not HAS_INT8, reason="no products of int8")
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_finite_stays_where_it_can_be_seen(value: float) -> None:
    torch.manual_seed(0)
    model = nn.Conv2d(64, 64, 3, padding=1).eval()
    x = torch.randn(3, 64, 28, 28)
    graph, spoilt = capture(model, (x,)), x.clone()
    spoilt[1, 7, 10, 10] = value
    (found,) = Native().compile(graph, "int8")(spoilt)
    assert found[1].isnan().all()  # its range is no number
    assert compare(model(x)[::2], found[::2]).max_error < 2e-2
    (found,) = Native().compile(graph, "bf16")(spoilt)
    assert torch.equal(found.isfinite(), model(spoilt).isfinite())


@pytest.mark.skipif(not HAS_INT8, reason="no products of int8")
def test_a_saved_model_rounds_the_products_that_it_rounded(tmp_path: Path) -> None:
    torch.manual_seed(0)
    layers = [nn.Conv2d(64, 64, 3, padding=1), nn.ReLU(), nn.Conv2d(64, 64, 3, stride=2)]
    model, x = nn.Sequential(*layers).eval(), torch.randn(1, 64, 28, 28)
    graph = capture(model, (x,))
    run = Native().compile(graph, "int8", keep=tmp_path, calibration=[(x,)], tolerance=0.1)
    loaded = Native().load(graph, tmp_path, "int8")
    assert torch.equal(run(x)[0], loaded(x)[0])
    in_bf16 = Native().compile(graph, "bf16")(x)[0]
    assert not torch.equal(run(x)[0], in_bf16)
    (tmp_path / "products.json").write_bytes(b'{"rounded": []}')
    assert torch.equal(Native().load(graph, tmp_path, "int8")(x)[0], in_bf16)


@pytest.mark.parametrize("shape", [(2, 3, 4, 5), (2, 3, 1, 4)])
def test_a_window_as_large_as_its_image_is_one_product(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    model, x = nn.Conv2d(3, 70, shape[2:]).eval(), torch.randn(shape)
    graph = capture(model, (x,))
    assert "gemm" in names(graph)
    assert compare([model(x)], Native().compile(graph)(x)).max_error < MAX_ERROR


def test_rows_are_rounded_again_where_that_step_was_taken_back() -> None:
    builder = Builder(Library(), rounded=AllBut())
    x = builder.blank(torch.empty(3, 70, device="meta"))
    first = builder.quantized(x, 70, 3, 70)
    assert builder.quantized(x, 70, 3, 70) is first
    del builder.steps[-1]
    builder.emit("fill", {"y_ref": x.place, "y_type": x.type, "count": 1, "value_bits": 0.0})
    assert builder.quantized(x, 70, 3, 70) is not first
    assert [s.name for s in builder.steps if isinstance(s, Instruction)] == ["fill", "quantize"]


def test_what_this_processor_lacks_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("has_bf16", "has_int8"):
        monkeypatch.setattr(Library, name, False, raising=False)
    monkeypatch.setattr(Library, "__init__", lambda self: setattr(self, "isa", "avx2"))
    with pytest.raises(BackendError, match="no products of int8 for this processor"):
        Native.require("int8")


IMAGE = torch.randn(2, 4, 5, 7)
ROWS = torch.randn(2, 5, 6)
CASES: dict[str, tuple[Callable[..., object], tuple[Tensor, ...]]] = {
    "two readers of one product": (
        lambda m, x: (m.conv(x).relu(), m.conv(x).relu() * 2), (IMAGE,)),
    "a sum of two products": (lambda m, x: m.linear(x) + m.linear(x * 2).tanh(), (ROWS,)),
    "a product read twice": (lambda m, x: (y := m.linear(x)) * y.sigmoid(), (ROWS,)),
    "the same tensor twice": (lambda m, x: x.exp() * x.exp() + x, (ROWS,)),
    "an operand that spreads over rows": (
        lambda m, x, y: m.linear(x) * y, (ROWS, torch.randn(5, 1))),
    "an operand of another batch": (
        lambda m, x, y: m.linear(x) + y, (ROWS, torch.randn(5, 4))),
    "channels that join": (
        lambda m, x: torch.cat([m.conv(x).relu(), x, m.conv(x * 2)], 1).sigmoid(), (IMAGE,)),
    "a join within a join": (
        lambda m, x: torch.cat([torch.cat([x, x.relu()], 1), m.conv(x)], 1), (IMAGE,)),
    "a part that is read elsewhere": (
        lambda m, x: (y := m.conv(x).relu(), torch.cat([y, x], 1) * 2, y.mean((2, 3)))[1:],
        (IMAGE,)),
    "a row that is repeated": (
        lambda m, x: (m.linear((y := x[:1, :1].exp()).expand(2, 5, 6)),
                      y.expand(2, 5, 6).softmax(-1),
                      m.conv(y[..., :4].permute(2, 0, 1).reshape(1, 4, 1, 1).expand(1, 4, 5, 7)),
                      F.layer_norm(y.expand(2, 5, 6), (6,))), (ROWS,)),
    "rows that join": (lambda m, x: torch.cat([m.linear(x), m.linear(-x)], 1), (ROWS,)),
    "views and their results": (
        lambda m, x: m.linear(x).view(2, 5, 2, 2).transpose(1, 2).reshape(2, 2, 10) + 1, (ROWS,)),
    "returned twice, and as it came": (lambda m, x: (y := x.relu(), y, x)[0:], (ROWS,)),
    "a view of a result": (lambda m, x: (m.conv(x), m.conv(x).permute(0, 2, 3, 1)), (IMAGE,)),
    "attention with a mask": (
        lambda m, q, k: F.scaled_dot_product_attention(q, k, k, attn_mask=q[:1, :1, :, :3] > 0),
        (torch.randn(2, 4, 5, 8), torch.randn(2, 4, 3, 8))),
    "stacks of products": (
        lambda m, x, y, z: ((x @ y).relu() + z[:1], (x @ y) * z[..., :1] - z[:, :, 0, None]),
        (torch.randn(2, 3, 8, 9), torch.randn(3, 9, 5), torch.randn(2, 3, 8, 5))),
    "products of what was permuted": (
        lambda m, x, y, z: (
            (x.transpose(1, 2) @ y.transpose(1, 2) + z).transpose(1, 2).reshape(2, 8, 15)),
        (torch.randn(2, 8, 3, 9), torch.randn(2, 9, 3, 5), torch.randn(2, 3, 8, 5))),
    "comparisons": (
        lambda m, x: torch.where(x > 0.3, x.sqrt(), x * 0).masked_fill(x < -1, 3.0), (ROWS,)),
    "whole numbers": (lambda m, i: (i * 2 + 1, i.float() * 0.5), (torch.arange(12).view(3, 4),)),
    "what torch does": (lambda m, x: m.linear(x.cumsum(1).sort(-1)[0]).relu(), (ROWS,)),
    "reductions": (
        lambda m, x: (x.mean(1), x.sum((0, 3), keepdim=True), x.amax(-1), x.mean()), (IMAGE,)),
    "softmax across rows": (lambda m, x: x.softmax(1).log_softmax(0), (ROWS,)),
    "pads and rolls": (lambda m, x: F.pad(x, (1, 2, 0, 1), value=2.0).roll(2, -1) * 2, (IMAGE,)),
    "a rotation": (
        lambda m, x, c: (x * c + x.roll(3, -1) * c.sin() + 1, x.roll(2, 1), x.roll(-1, 0)),
        (ROWS, torch.randn(5, 6))),
    "rolls of two kinds": (lambda m, x: x.roll(1, -1) + x.roll(2, -1) + x.roll(1, 0), (ROWS,)),
    "more operands than an expression has": (
        lambda m, *xs: sum((x.sigmoid() * i for i, x in enumerate(xs)), m.linear(xs[0]).sum()),
        tuple(torch.randn(2, 5, 6) for _ in range(40))),
    "a tree that leans right": (
        lambda m, *xs: reduce(lambda a, x: x - a.exp() / 9, xs),
        tuple(torch.randn(3) for _ in range(30))),
    "stacks": (lambda m, x: torch.stack([x, x.relu()], 1).flatten(2), (ROWS,)),
    "pools": (
        lambda m, x: (F.avg_pool2d(x, 2, padding=1), F.max_pool2d(x, 3, 2, 1),
                      F.adaptive_avg_pool2d(x[..., :4, :6], 2)), (IMAGE,)),
    "an image that lies channels last": (
        lambda m, x: m.conv(x).relu(), (IMAGE.contiguous(memory_format=torch.channels_last),)),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_a_case_agrees(name: str) -> None:
    function, inputs = CASES[name]
    graph = capture(Function(function).eval(), inputs)
    run, expected = Native().compile(graph), Reference().compile(graph)(*inputs)
    for _ in range(2):
        found = run(*inputs)
        assert [(o.dtype, o.shape) for o in found] == [(o.dtype, o.shape) for o in expected]
        assert compare(expected, found).max_error < MAX_ERROR


def test_what_follows_a_product_is_done_with_it() -> None:
    def block(m: Function, x: Tensor, y: Tensor) -> Tensor:
        return F.gelu(m.linear(x)) * 0.5 + y

    graph = capture(Function(block).eval(), (ROWS, torch.randn(2, 5, 4)))
    assert names(graph) == ["gemm"]


def test_parts_are_written_where_they_are_joined() -> None:
    def fire(m: Function, x: Tensor) -> Tensor:
        return torch.cat([m.conv(x).relu(), m.conv(x * 2).relu()], 1).sigmoid()

    graph = capture(Function(fire).eval(), (IMAGE,))
    assert names(graph).count("copy") == 1  # the image, to channels last
    assert names(graph).count("conv") == 2


def test_convolutions_take_the_way_that_suits_them() -> None:
    layers = nn.Sequential(
        nn.Conv2d(24, 40, 3, padding=1), nn.ReLU(), nn.Conv2d(40, 16, 3, padding=(0, 1)),
        nn.Conv2d(16, 16, 3, stride=2), nn.Conv2d(16, 16, 3, groups=2), nn.Conv2d(16, 18, 1),
        nn.Conv2d(18, 18, 3, groups=6), nn.Conv2d(18, 18, 3, groups=18), nn.Conv2d(18, 1, 3),
        nn.Conv2d(1, 1, 3, padding=1), nn.ConstantPad2d(400, 0.5),
        nn.Conv2d(1, 16, 1), nn.Conv2d(16, 16, 3, groups=4, dilation=200),
    ).eval()  # fmt: skip
    x = torch.randn(1, 24, 30, 27)
    graph = capture(layers, (x,))
    ways = [n for n in names(graph) if n in ("winograd", "conv", "grouped", "gemm", "depthwise")]
    assert ways == [
        "winograd", "winograd",
        "conv", "grouped", "gemm",  # a stride; narrow groups; one tap
        "conv", "depthwise", "conv",  # groups of three; of one; one filter
        "depthwise",
        "gemm", "conv",  # groups of four that read too far around
    ]  # fmt: skip
    (found,), (expected,) = Native().compile(graph)(x), Reference().compile(graph)(x)
    assert compare((expected,), (found,)).max_error < MAX_ERROR


def test_a_product_that_two_read_is_done_once() -> None:
    def both(m: Function, x: Tensor) -> tuple[Tensor, Tensor]:
        y = m.linear(x)
        return y.relu(), y.tanh()

    assert names(capture(Function(both).eval(), (ROWS,))) == ["gemm", "map", "map"]


def test_calls_from_several_threads_do_not_mix() -> None:
    graph, (x,) = tiny("mlp")
    run = Native().compile(graph)
    inputs = [x * i for i in range(1, 9)]
    expected = [run(i)[0] for i in inputs]
    with ThreadPoolExecutor(8) as pool:
        for _ in range(20):
            found = [f[0] for f in pool.map(run, inputs)]
            assert all(map(torch.equal, expected, found))


def test_fallbacks_say_why() -> None:
    graph = capture(Function(lambda m, x: x.cumsum(1) + 1).eval(), (ROWS,))
    (reason,) = lowered(graph).fallbacks.values()
    assert reason == "aten.cumsum.default: the table has no row for it"


def test_sizes_beyond_scratch_memory_are_left_to_torch() -> None:
    model = nn.Conv2d(1, 1, 65, padding=32).eval()
    graph = capture(model, (x := torch.randn(1, 1, 8, 8),))
    (reason,) = lowered(graph).fallbacks.values()
    assert reason.endswith("it has 4,225 taps, and our kernels take 4,096")
    found, expected = (b.compile(graph)(x) for b in (Native(), Reference()))
    assert compare(expected, found).max_error < MAX_ERROR


def test_kernels_that_were_not_built_are_said_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library, "library_path", lambda: None)
    with pytest.raises(BackendError, match="native kernels were not built; install a C\\+\\+17"):
        Native.require("fp32")


@settings(max_examples=100)
@given(data=st.data())
def test_buffers_in_use_together_never_overlap(data: st.DataObject) -> None:
    sizes = data.draw(st.lists(st.integers(1, 500), min_size=1, max_size=12))
    buffers = [Buffer(Kind.ARENA, nbytes) for nbytes in sizes]
    uses = data.draw(
        st.lists(st.lists(st.sampled_from(range(len(buffers))), max_size=4), max_size=12)
    )
    steps = [
        Instruction(name="x", fields={f"f{i}": Place(buffers[u]) for i, u in enumerate(used)})
        for used in uses
    ]
    room = plan(steps)
    live = [b for b in buffers if b.first >= 0]
    for a in live:
        assert a.offset % 64 == 0
        assert a.offset + a.nbytes <= room
        for b in live:
            if a is not b and a.first <= b.last and b.first <= a.last:
                assert a.offset + a.nbytes <= b.offset or b.offset + b.nbytes <= a.offset


def test_rows_of_strided_tensors() -> None:
    whole = torch.empty(2, 3, 4, 8, device="meta")
    assert rows_of(whole) == (8, 1)
    assert as_matrix(whole[..., :5]) == 8
    assert rows_of(whole[:, :2]) is None
    assert rows_of(torch.empty(1, 1, 8, device="meta").expand(2, 3, 8)) == (0, 1)
    assert as_matrix(whole.permute(0, 3, 1, 2)) is None
