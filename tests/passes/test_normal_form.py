"""Each pass of the normal form on what it is for and on what it must leave alone."""

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_rewrites import check, graph_of, ops
from torch import Tensor, nn
from torch.nn import functional as F

from ridgeline.backends.agreement import compare
from ridgeline.backends.reference import Reference
from ridgeline.frontends.torch_export import capture
from ridgeline.graph import Graph
from ridgeline.passes.bake import bake_constants, settle_constants
from ridgeline.passes.divide import divide_linears
from ridgeline.passes.index_map import IndexMap, identity
from ridgeline.passes.join import join_linears
from ridgeline.passes.normal import normal_form
from ridgeline.passes.order import order_nodes
from ridgeline.passes.recurrent import unstack_lstms
from ridgeline.passes.spelling import spell_alike
from ridgeline.passes.views import compose_views, sink_views


def views_of(graph: Graph) -> list[str]:
    return [node.op for node in graph.nodes if node.row.is_free]


# ---- IndexMap -----------------------------------------------------------------------------------

Step = tuple[str, int, int]
STEPS = st.lists(
    st.tuples(
        st.sampled_from(["reshape", "permute", "slice", "expand", "stride", "repeat"]),
        st.integers(0, 7),
        st.integers(0, 7),
    ),
    max_size=6,
)


def shapes_of(numel: int) -> list[tuple[int, ...]]:
    """Every shape of so many elements with up to three dimensions above one, and one of one."""
    pairs = [(a, numel // a) for a in range(1, numel + 1) if numel % a == 0]
    triples = [(a, *rest) for a, n in pairs for rest in _pairs(n)]
    return [(numel,), *pairs, *triples]


def _pairs(numel: int) -> list[tuple[int, int]]:
    return [(a, numel // a) for a in range(1, numel + 1) if numel % a == 0]


def step_both(step: Step, x: Tensor, m: IndexMap | None) -> tuple[Tensor, IndexMap | None]:
    """One view of a tensor, and of the map that should say the same."""
    kind, a, b = step
    rank = x.dim()
    dim = a % rank
    size = x.shape[dim]
    if kind == "reshape":
        shapes = shapes_of(x.numel())
        shape = shapes[(8 * a + b) % len(shapes)]
        return x.reshape(shape), m and m.reshaped(shape)
    if kind == "permute":
        order = list(range(rank))
        order[dim], order[b % rank] = order[b % rank], order[dim]
        return x.permute(order), m and m.permuted(order)
    if kind == "slice":
        start = b % size
        return x.narrow(dim, start, (size - start + 1) // 2), m and m.sliced(
            dim, start, (size - start + 1) // 2, 1
        )
    if kind == "stride":
        length = (size + 1) // 2
        index = [slice(None)] * dim + [slice(0, None, 2)]
        return x[tuple(index)], m and m.sliced(dim, 0, length, 2)
    if kind == "repeat":
        times = [1 + (k == dim) * (b % 2) for k in range(rank)]
        return x.repeat(times), m and m.repeated(times)
    shape = (2, *(3 if s == 1 else s for s in x.shape))
    return (x.expand(shape), m and m.expanded(shape)) if x.numel() < 500 else (x, m)


def elements(m: IndexMap) -> Tensor:
    """The source's elements that a map names."""
    places = torch.tensor(m.offset)
    for size, stride in m.digits:
        places = places[..., None] + torch.arange(size) * stride
    return places.reshape(m.shape)


@settings(max_examples=150)
@given(steps=STEPS)
def test_a_map_is_the_view_and_the_only_one_that_is(steps: list[Step]) -> None:
    x, m = torch.arange(48).reshape(4, 6, 2), identity((4, 6, 2))
    for step in steps:
        y, n = step_both(step, x, m)
        if n is not None:
            x, m = y, n
            assert torch.equal(elements(m), x)
    assert digits_of(x) == m.digits


def digits_of(x: Tensor) -> tuple[tuple[int, int], ...]:
    """The digits of a view of consecutive numbers, read off the numbers: the fewest that count as
    they do, whatever the chain of views was.
    """
    flat, found = x.flatten(), []
    while flat.numel() > 1:
        stride = int(flat[1] - flat[0])
        size = 1
        while size < flat.numel() and int(flat[size] - flat[0]) == stride * size:
            size += 1
        while flat.numel() % size:
            size -= 1
        found.append((size, stride))
        flat = flat.reshape(-1, size)[:, 0]
    return tuple(reversed(found))


# ---- compose_views ------------------------------------------------------------------------------


@settings(max_examples=60)
@given(steps=STEPS.filter(len))
def test_any_chain_of_views_gives_what_it_gave_in_one_spelling(steps: list[Step]) -> None:
    def forward(m: nn.Module, x: Tensor) -> Tensor:
        y = x.exp()
        for step in steps:
            y, _ = step_both(step, y, None)
        return y.neg()

    x = torch.randn(4, 6, 2)
    check(graph_of(forward, x), compose_views, x)


def test_a_chain_of_views_is_a_reshape_a_permute_and_a_reshape() -> None:
    def forward(m: nn.Module, x: Tensor) -> Tensor:
        y = x.exp().view(2, 3, 4, 5).transpose(1, 2).unsqueeze(0).flatten(1, 2).contiguous()
        return y.view(2, 4, 15).squeeze().sin()

    x = torch.randn(2, 12, 5)
    graph = graph_of(forward, x)
    assert views_of(graph) == ["view", "permute", "unsqueeze", "view", "view", "squeeze"]
    after = check(graph, compose_views, x)
    assert views_of(after) == ["view", "permute", "view"]
    assert "clone" not in ops(after)


def test_views_that_come_back_are_gone() -> None:
    def forward(m: nn.Module, x: Tensor) -> Tensor:
        return x.exp().permute(2, 0, 1).reshape(5, 6).t().reshape(2, 3, 5)[:, :].sin()

    x = torch.randn(2, 3, 5)
    assert views_of(check(graph_of(forward, x), compose_views, x)) == []


def test_a_cut_across_digits_stays_a_view_of_its_own() -> None:
    """[2, 3] turned to [3, 2] and seen as [2, 3] cannot be turned again by digits alone."""

    def forward(m: nn.Module, x: Tensor) -> Tensor:
        return x.exp().t().reshape(2, 3).t().sin()

    x = torch.randn(2, 3)
    after = check(graph_of(forward, x), compose_views, x)
    assert views_of(after) == ["permute", "view", "permute"]


def test_an_input_stays_no_output() -> None:
    x = torch.randn(2, 3)
    after = check(graph_of(lambda m, x: x.t().t(), x), compose_views, x)
    (found,) = Reference().compile(after)(x)
    assert ops(after) == {"view": 1}
    assert torch.equal(found, x)


# ---- sink_views ---------------------------------------------------------------------------------


def test_views_come_after_what_works_on_each_element_and_row() -> None:
    def forward(m: nn.Module, x: Tensor) -> Tensor:
        y = F.linear(x.exp().reshape(6, 5), m.w).reshape(2, 3, 4)
        y = F.layer_norm(y.permute(1, 0, 2), [4]).relu().permute(1, 0, 2)
        y = (y.view(2, 3, 2, 2) + m.b).view(2, 3, 4)
        return y.reshape(6, 4).softmax(-1).view(2, 3, 4)

    x = torch.randn(2, 3, 5)
    graph = graph_of(forward, x, w=torch.randn(4, 5), b=torch.randn(2, 2))
    after = check(graph, [sink_views, bake_constants, compose_views], x)
    assert views_of(after) == []
    assert ops(after) == {
        "exp": 1, "linear": 1, "layer_norm": 1, "relu": 1, "add": 1, "softmax": 1,
    }  # fmt: skip


def test_work_on_two_views_is_in_the_shape_of_the_one_with_most_dimensions() -> None:
    def forward(m: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        return x.exp() * y.sin().flatten()

    x, y = torch.randn(6), torch.randn(2, 3)
    after = check(graph_of(forward, x, y), [sink_views, compose_views], x, y)
    assert [str(n.out) for n in after.nodes if n.op == "mul"] == ["fp32[2,3]"]


def test_rows_that_are_taken_apart_keep_their_view_in_front() -> None:
    def forward(m: nn.Module, x: Tensor) -> Tensor:
        heads = x.exp().view(2, 3, 2, 4).transpose(1, 2)
        return F.linear(heads.reshape(2, 2, 12), m.w)

    x = torch.randn(2, 3, 8)
    after = check(graph_of(forward, x, w=torch.randn(5, 12)), [sink_views, compose_views], x)
    assert [n.op for n in after.nodes] == ["exp", "view", "permute", "view", "linear", "view"]
    assert [str(n.out) for n in after.nodes if n.op == "linear"] == ["fp32[4,5]"]


@pytest.mark.parametrize("kv_heads", [4, 2])
def test_attention_by_batched_products_is_the_attention_by_heads(kv_heads: int) -> None:
    def by_heads(m: nn.Module, x: Tensor) -> Tensor:
        q, k, v = (t.view(2, 5, -1, 3).transpose(1, 2) for t in parts(x))
        y = F.scaled_dot_product_attention(q, k, v, enable_gqa=kv_heads != 4)
        return y.transpose(1, 2).reshape(2, 5, 12)

    def by_products(m: nn.Module, x: Tensor) -> Tensor:
        q, k, v = (t.view(2, 5, -1, 3).transpose(1, 2) for t in parts(x))
        k, v = (t.repeat_interleave(4 // kv_heads, 1) for t in (k, v))
        q, k, v = (t.reshape(8, 5, 3) for t in (q, k, v))
        y = (torch.bmm(q, k.transpose(1, 2)) / 3**0.5).softmax(-1).bmm(v)
        return y.view(2, 4, 5, 3).permute(0, 2, 1, 3).reshape(2, 5, 12)

    def parts(x: Tensor) -> tuple[Tensor, ...]:
        return x.exp(), x.sin()[..., : 3 * kv_heads], x.cos()[..., : 3 * kv_heads]

    x = torch.randn(2, 5, 12)
    one, other = (normal_form(graph_of(f, x)) for f in (by_heads, by_products))
    assert [str(n.out) for n in one.nodes if n.op == "sdpa"] == ["fp32[1,8,5,3]"]
    assert compare(*(Reference().compile(g)(x) for g in (one, other))).max_error < 1e-5
    if kv_heads == 4:
        assert one.digest == other.digest


def test_attention_whose_mask_differs_between_samples_keeps_its_samples() -> None:
    def forward(m: nn.Module, x: Tensor) -> Tensor:
        y = x.view(2, 5, 4, 3).transpose(1, 2)
        return F.scaled_dot_product_attention(y, y, y, m.mask).exp()

    x = torch.randn(2, 5, 12)
    graph = graph_of(forward, x, mask=torch.rand(2, 1, 5, 5))
    after = check(graph, [sink_views, compose_views], x)
    assert [str(n.out) for n in after.nodes if n.op == "sdpa"] == ["fp32[2,4,5,3]"]


@pytest.mark.parametrize(
    "forward",
    [
        lambda m, x: F.glu(x.exp().transpose(0, 1).reshape(3, 8), 1),
        lambda m, x: F.layer_norm(x.exp().transpose(1, 2), [3]),
        lambda m, x: x.exp().transpose(1, 2).cumsum(1),
        lambda m, x: x[:, :2].sin(),
        lambda m, x: x[:, None].expand(2, 5, 3, 4).sin(),
        lambda m, x: x.exp().transpose(1, 2) + x.view(2, 4, 3),
    ],
    ids=["halves", "other rows", "a direction", "a slice", "an expand", "two orders"],
)
def test_other_work_keeps_its_view(forward: Callable[..., Tensor]) -> None:
    x = torch.randn(2, 3, 4)
    graph = graph_of(forward, x)
    after = check(graph, [sink_views, compose_views], x)
    work = [n for n in graph.nodes if not n.row.is_free][-1].op
    assert [n.op for n in after.nodes if not n.row.is_free][-1] == work
    before_work = [n.op for n in after.nodes].index(work)
    assert any(n.row.is_free for n in after.nodes[:before_work])


# ---- divide_linears -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "take",
    [
        lambda y: y.chunk(3, -1),
        lambda y: y.view(2, 3, 3, 4).unbind(2),
        lambda y: y.view(2, 3, 4, 3).unbind(-1),
        lambda y: y.reshape(2, 3, 3, 2, 2).permute(2, 0, 3, 1, 4).unbind(0),
        lambda y: (y[..., :2], y[..., 2:10], y[..., 10:]),
        lambda y: (y[..., :4], y[..., 5::3]),
    ],
    ids=["chunks", "thirds", "every third", "heads", "uneven", "some"],
)
def test_a_linear_read_in_slices_is_one_for_each(
    take: Callable[[Tensor], tuple[Tensor, ...]],
) -> None:
    def forward(m: nn.Module, x: Tensor) -> tuple[Tensor, ...]:
        return tuple(part.exp() for part in take(F.linear(x, m.w, m.b)))

    x = torch.randn(2, 3, 5)
    graph = graph_of(forward, x, w=torch.randn(12, 5), b=torch.randn(12))
    after = check(graph, [spell_alike, divide_linears], x)
    assert ops(after)["linear"] == len(take(torch.zeros(2, 3, 12)))
    assert "slice" not in ops(compose_views(after))


def test_slices_that_share_features_are_of_one_linear() -> None:
    """A query turned by angles is read whole and in halves, beside a key."""

    def forward(m: nn.Module, x: Tensor) -> tuple[Tensor, ...]:
        q, k = F.linear(x, m.w).chunk(2, -1)
        return q + torch.cat([-q[..., 3:], q[..., :3]], -1), k.exp()

    x = torch.randn(2, 3, 5)
    after = check(graph_of(forward, x, w=torch.randn(12, 5)), [spell_alike, divide_linears], x)
    assert [n.spec("weight").shape for n in after.nodes if n.op == "linear"] == [(6, 5), (6, 5)]


@pytest.mark.parametrize(
    "forward",
    [
        lambda m, x: F.linear(x, m.w).exp() + F.linear(x, m.w)[..., :1],
        lambda m, x: F.linear(x, m.w)[:, :2].exp(),
        lambda m, x: F.linear(x, m.w).flatten()[2:14].exp(),
        lambda m, x: F.linear(x, m.w).transpose(0, 1).exp(),
        lambda m, x: F.linear(x, m.w * x.sum()).chunk(3, -1)[0].exp(),
    ],
    ids=["all too", "of rows", "across rows", "all", "no weight"],
)
def test_a_linear_read_otherwise_stays(forward: Callable[..., Tensor]) -> None:
    x = torch.randn(2, 3, 5)
    graph = spell_alike(graph_of(forward, x, w=torch.randn(12, 5)))
    after = check(graph, divide_linears, x)
    assert ops(after)["linear"] == ops(graph)["linear"]


def test_what_is_joined_is_divided_again() -> None:
    def forward(m: nn.Module, x: Tensor) -> Tensor:
        return F.silu(F.linear(x, m.gate)) * F.linear(x, m.up)

    x = torch.randn(1, 64, 128)
    graph = graph_of(forward, x, gate=torch.randn(256, 128), up=torch.randn(256, 128))
    joined = join_linears(graph)
    assert ops(joined)["linear"] == 1
    after = check(joined, [spell_alike, divide_linears, compose_views], x)
    assert ops(after) == ops(graph)


# ---- spell_alike --------------------------------------------------------------------------------

SAME: dict[str, tuple[Callable[..., Tensor], Callable[..., Tensor]]] = {
    "relu": (lambda m, x: x.relu(), lambda m, x: x.clamp(min=0)),
    "relu from below": (lambda m, x: x.relu(), lambda m, x: torch.maximum(x, torch.tensor(0.0))),
    "relu6": (lambda m, x: F.relu6(x), lambda m, x: F.hardtanh(x, 0, 6)),
    "square": (lambda m, x: x * x, lambda m, x: x**2),
    "root": (lambda m, x: x.abs().sqrt(), lambda m, x: x.abs() ** 0.5),
    "difference": (lambda m, x: 1 - x, lambda m, x: -x + 1.0),
    "less": (lambda m, x: x - 0.1, lambda m, x: x + torch.tensor(-0.1)),
    "quarter": (lambda m, x: x / 4, lambda m, x: 0.25 * x),
    "mean": (lambda m, x: x.mean((-1, -2)), lambda m, x: x.mean((2, 3), keepdim=True).view(2, 4)),
    "global pool": (
        lambda m, x: F.adaptive_avg_pool2d(x, 1).flatten(1),
        lambda m, x: x.mean((2, 3)).view(2, 4),
    ),
    "max pool": (
        lambda m, x: F.max_pool2d(x, 2),
        lambda m, x: F.max_pool2d(x, (2, 2), (2, 2), return_indices=True)[0],
    ),
    "halves": (lambda m, x: x.chunk(2, 1)[1].exp(), lambda m, x: x[:, 2:].exp()),
    "rows": (lambda m, x: x.unbind(1)[1].exp(), lambda m, x: x[:, 1].exp()),
    "softmax": (lambda m, x: x.softmax(-1), lambda m, x: torch._softmax(x, 3, False)),
    "fill": (lambda m, x: x + torch.zeros_like(x), lambda m, x: x + x.new_zeros(2, 4, 6, 6)),
    "conv": (
        lambda m, x: F.conv2d(x, m.w),
        lambda m, x: torch.convolution(x, m.w, None, [1, 1], [0, 0], [1, 1], False, [0, 0], 1),
    ),
    "product": (lambda m, x: x[0] @ x[1], lambda m, x: torch.bmm(x[0], x[1])),
}


@pytest.mark.parametrize("name", SAME)
def test_two_spellings_are_one(name: str) -> None:
    x, w = torch.randn(2, 4, 6, 6), torch.randn(3, 4, 2, 2)
    one, other = (
        check(graph_of(f, x, w=w), [spell_alike, bake_constants, compose_views, order_nodes], x)
        for f in SAME[name]
    )
    assert one.digest == other.digest


@pytest.mark.parametrize(
    ("forward", "kept"),
    [
        (lambda m, x: x / 3, "div"),
        (lambda m, x: torch.sub(x, 2.0, alpha=3), "sub"),
        (lambda m, x: x.pow(3), "pow"),
        (lambda m, x: x.clamp(0, 5), "clamp"),
        (lambda m, x: x.long() - 1, "sub"),
        (lambda m, x: x.long() * torch.tensor(2.5), "mul"),
        (lambda m, x: F.adaptive_avg_pool2d(x, 2), "adaptive_avg_pool"),
        (lambda m, x: torch.div(x, 2, rounding_mode="floor"), "div"),
        (lambda m, x: 1 / x, "reciprocal"),
    ],
)
def test_what_only_looks_alike_keeps_its_spelling(
    forward: Callable[..., Tensor], kept: str
) -> None:
    x = torch.randn(2, 4, 6, 6) * 5
    assert kept in ops(check(graph_of(forward, x), spell_alike, x))


# Calls whose simpler spelling gives another type or shape, and that spelling.
WHOLE = torch.tensor([[3, -2], [0, 5]])
UNLIKE: dict[str, tuple[Callable[..., Tensor], Callable[..., Tensor], Tensor]] = {
    "clamp": (lambda m, x: x.clamp(min=0.0), lambda m, x: x.clamp(min=0), WHOLE),
    "clamp_min": (lambda m, x: torch.clamp_min(x, 0.0), lambda m, x: x.relu(), WHOLE),
    "maximum": (lambda m, x: torch.maximum(x, torch.zeros(())), lambda m, x: x.relu(), WHOLE),
    "maximum of truths": (
        lambda m, x: torch.maximum(x, torch.zeros(())),
        lambda m, x: torch.maximum(x, torch.tensor(False)),
        WHOLE > 0,
    ),
    "wider maximum": (
        lambda m, x: torch.maximum(x, torch.zeros(1)),
        lambda m, x: x.relu(),
        torch.tensor(-2.0),
    ),
    "power": (lambda m, x: x**2.0, lambda m, x: x**2, WHOLE),
    "one row": (
        lambda m, i: m.w.index_select(0, i),
        lambda m, i: F.embedding(i, m.w),
        torch.tensor(2),
    ),
}


@pytest.mark.parametrize("name", UNLIKE)
def test_a_spelling_keeps_type_and_shape(name: str) -> None:
    *forwards, x = UNLIKE[name]
    w = torch.randn(3, 4)
    graphs = [graph_of(f, x, w=w) for f in forwards]
    for graph in graphs:
        assert check(graph, spell_alike, x).nodes[-1].out == graph.nodes[-1].out
    one, other = (normal_form(graph) for graph in graphs)
    assert one.digest != other.digest


def test_splits_by_copy_are_slices() -> None:
    x = torch.randn(2, 6)
    graph = graph_of(lambda m, x: torch.split_with_sizes_copy(x, [2, 4], 1)[1].exp(), x)
    other = graph_of(lambda m, x: x[:, 2:].exp(), x)
    one, two = (check(g, [spell_alike, compose_views], x) for g in (graph, other))
    assert one.digest == two.digest


def test_a_number_is_the_one_that_fp32_holds_and_fp64_keeps_its_own() -> None:
    x = torch.randn(3)
    narrow, wide = (
        check(graph_of(lambda m, x: x * 0.1, v), spell_alike, v) for v in (x, x.double())
    )
    assert narrow.nodes[-1].arg("other") == torch.tensor(0.1).item() != 0.1
    assert wide.nodes[-1].arg("other") == 0.1


# ---- bake_constants, settle_constants -----------------------------------------------------------


def test_views_and_fills_of_weights_are_weights() -> None:
    def forward(m: nn.Module, x: Tensor) -> Tensor:
        token = m.token.expand(2, 1, 4)
        return torch.cat([token, x, torch.ones(2, 1, 4)], 1) + m.places[:, :5] * 2

    x = torch.randn(2, 3, 4)
    weights = {"token": torch.randn(1, 1, 4), "places": torch.randn(1, 9, 4)}
    after = check(graph_of(forward, x, **weights), bake_constants, x)
    assert ops(after) == {"cat": 1, "add": 1}
    specs = [str(i.spec) for i in after.inputs[:-1]]
    assert sorted(specs) == ["fp32[2,1,4]", "fp32[2,1,4]", "fp32[5,4]"]


def test_what_is_returned_or_written_is_no_constant() -> None:
    class Counted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("seen", torch.zeros(3))
            self.register_buffer("fixed", torch.randn(3))

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            before = self.seen * 2
            self.seen.add_(x)
            return before + self.seen, self.fixed.view(1, 3)

    x = torch.randn(3)
    graph = capture(Counted().eval(), (x,))
    after = order_nodes(settle_constants(bake_constants(graph)))
    first, second = (Reference().compile(g) for g in (graph, after))
    for _ in range(3):
        for one, other in zip(first(x), second(x), strict=True):
            assert torch.equal(one, other)


def test_equal_numbers_are_one_weight_and_zeros_are_each_readers_own() -> None:
    def forward(m: nn.Module, x: Tensor) -> Tensor:
        return (x + m.a) * (x + m.b).exp() + m.zeros - (x + m.zeros).exp() * m.other

    x, a = torch.randn(4), torch.randn(4)
    weights = {"a": a, "b": a.clone(), "zeros": torch.zeros(4), "other": torch.zeros(4)}
    after = check(graph_of(forward, x, **weights), settle_constants, x)
    assert [i.path for i in after.inputs].count("a") == 1
    assert len(after.inputs) == 1 + 3 + 1
    assert all(len(n.users) == 1 for n in after.program.graph.nodes if "zero" in n.name)


# ---- unstack_lstms ------------------------------------------------------------------------------


class Recurrent(nn.Module):
    """An LSTM, and which of its results are returned."""

    def __init__(self, how: Callable[..., object], **options: object) -> None:
        super().__init__()
        self.how = how
        self.lstm = nn.LSTM(5, 4, **options)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> object:
        y, (h, c) = self.lstm(x)
        return self.how(y, h, c)


@pytest.mark.parametrize(
    ("options", "layers"),
    [
        ({"num_layers": 3}, 3),
        ({"num_layers": 2, "batch_first": True}, 2),
        ({"num_layers": 2, "bidirectional": True}, 2),
        ({"num_layers": 2, "bias": False, "batch_first": True}, 2),
        ({"num_layers": 1, "batch_first": True}, 1),
    ],
    ids=["three", "batch first", "both ways", "no bias", "one"],
)
@pytest.mark.parametrize(
    "how",
    [
        lambda y, h, c: (y.exp(), h.exp(), c.exp()),
        lambda y, h, c: y[:, -1] * 2,
        lambda y, h, c: h[-1] + c[0],
    ],
    ids=["all", "the last output", "states"],
)
def test_a_stack_is_one_node_for_each_layer(
    how: Callable[..., object], options: dict[str, object], layers: int
) -> None:
    x = torch.randn(6, 3, 5)
    graph = capture(Recurrent(how, **options).eval(), (x,), is_trusted=True)
    after = check(graph, unstack_lstms, x)
    found = [n for n in after.nodes if n.op == "lstm"]
    assert len(found) == layers
    assert all((n.arg("num_layers"), n.arg("batch_first")) == (1, False) for n in found)


# ---- order_nodes --------------------------------------------------------------------------------


def test_the_order_of_writing_does_not_count() -> None:
    def one(m: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        a, b = F.linear(x, m.v).exp(), F.linear(y, m.w).sin()
        return a * b + (a - b)

    def other(m: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        b, a = F.linear(y, m.v).sin(), F.linear(x, m.w).exp()
        return (a - b) + b * a

    x, y = torch.randn(2, 3), torch.randn(2, 3)
    weights = {"v": torch.randn(3, 3), "w": torch.randn(3, 3)}
    graphs = [graph_of(f, x, y, **weights) for f in (one, other)]
    assert graphs[0].digest != graphs[1].digest
    found = [check(g, order_nodes, x, y) for g in graphs]
    assert found[0].digest == found[1].digest


def test_whole_numbers_count_by_value_and_others_do_not() -> None:
    x = torch.randn(3, 3)
    rows, mask = torch.tensor([0, 2, 1]), torch.eye(3, dtype=torch.bool)

    def found(rows: Tensor, mask: Tensor, scale: Tensor) -> str:
        def forward(m: nn.Module, x: Tensor) -> Tensor:
            return x[m.rows].masked_fill(m.mask, 0.5) * m.scale

        graph = graph_of(forward, x, rows=rows, mask=mask, scale=scale)
        return check(graph, order_nodes, x).digest

    first = found(rows, mask, torch.randn(3))
    assert found(rows, mask, torch.randn(3)) == first
    assert found(rows.flip(0), mask, torch.randn(3)) != first
    assert found(rows, ~mask, torch.randn(3)) != first


def test_random_draws_keep_their_order() -> None:
    graph = graph_of(
        lambda m, x: (torch.rand_like(x).exp() - torch.randn_like(x)) * x, torch.ones(4)
    )
    assert [n.op for n in order_nodes(graph).nodes] == [n.op for n in graph.nodes]
