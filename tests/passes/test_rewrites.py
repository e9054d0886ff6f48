"""Each rewrite on what it is for and on what it must leave alone, against the reference."""

from collections.abc import Callable

import pytest
import torch
from rewriting import Net, check, graph_of, ops
from small_models import randomise_norms
from torch import Tensor, nn
from torch.nn import functional as F

from ridgeline.backends.agreement import compare
from ridgeline.backends.reference import Reference
from ridgeline.frontends.torch_export import capture
from ridgeline.graph import Graph, Phase
from ridgeline.passes.affine import fold_affine
from ridgeline.passes.casts import cancel_casts, holds
from ridgeline.passes.cse import share_common
from ridgeline.passes.dead import drop_dead_code
from ridgeline.passes.join import join_linears
from ridgeline.passes.layout import cancel_permutes
from ridgeline.passes.linear import recover_linears
from ridgeline.passes.pad import absorb_pads

# ---- share_common -------------------------------------------------------------------------------


def test_equal_calls_are_one() -> None:
    x = torch.randn(3, 4)
    graph = graph_of(lambda m, x: (x.exp() + 1) * (x.exp() + 1) + x.exp().sum(1, keepdim=True), x)
    assert ops(graph)["exp"] == 3
    after = check(graph, share_common, x)
    assert ops(after) == {"exp": 1, "add": 2, "mul": 1, "sum": 1}


def test_calls_that_only_look_alike_stay_apart() -> None:
    def forward(m: Net, x: Tensor) -> tuple[Tensor, ...]:
        return x + 1, x + 1.0, x * 0.0, x * -0.0, x.sum(0), x.sum(1), x.bool(), x.double()

    x = torch.randint(0, 9, (3, 3))
    graph = graph_of(forward, x)
    assert ops(check(graph, share_common, x)) == ops(graph)


def test_random_draws_and_new_memory_stay_apart() -> None:
    graph = graph_of(lambda m, x: (torch.rand_like(x) - torch.rand_like(x)) * x, torch.ones(4))
    assert ops(share_common(graph))["random"] == 2


def test_a_buffer_is_read_before_and_after_it_changes() -> None:
    class Counted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("seen", torch.zeros(3))

        def forward(self, x: Tensor) -> Tensor:
            before = self.seen * 2
            self.seen.add_(x)
            return before + self.seen * 2

    x = torch.randn(3)
    graph = capture(Counted().eval(), (x,))
    first, second = (Reference().compile(g) for g in (graph, share_common(graph)))
    for _ in range(3):
        assert torch.equal(first(x)[0], second(x)[0])


def test_small_constants_alike_are_one_and_others_are_not() -> None:
    zero, x = torch.zeros(2), torch.randn(2)
    weights = {"a": zero, "b": zero.clone(), "c": -zero, "d": zero.double()}
    graph = graph_of(lambda m, x: (x + m.a, x - m.b, x / m.c, x * m.d), x, **weights)
    assert [i.path for i in check(graph, share_common, x).inputs] == ["a", "c", "d", "inputs_0"]


# ---- drop_dead_code -----------------------------------------------------------------------------


def test_arithmetic_that_changes_nothing_goes() -> None:
    def forward(m: Net, x: Tensor) -> Tensor:
        y = torch.cat([(x.exp() * 1 - 0) / m.one]).pow(1)
        return y[:, :].expand(3, 4).relu()

    x = torch.randn(3, 4)
    graph = graph_of(forward, x, one=torch.ones(()))
    after = check(graph, drop_dead_code, x)
    assert ops(after) == {"exp": 1, "relu": 1}
    assert [i.path for i in after.inputs] == ["inputs_0"]


def test_arithmetic_that_changes_type_shape_or_sign_stays() -> None:
    def forward(m: Net, x: Tensor, n: Tensor) -> tuple[Tensor, ...]:
        return x + 0.0, n * 1.0, n / 1, x * torch.ones(2, 1, 4), x - m.zero, x.expand(2, 3, 4)

    x, n = torch.tensor([[-0.0, 1, 2, 3]] * 3), torch.arange(4)
    graph = graph_of(forward, x, n, zero=torch.zeros(2, 1, 1))
    assert ops(check(graph, drop_dead_code, x, n)) == ops(graph)


def test_an_input_is_not_returned_as_it_is() -> None:
    graph = graph_of(lambda m, x: x * 1, torch.ones(2))
    assert ops(drop_dead_code(graph)) == {"mul": 1}


# ---- cancel_casts -------------------------------------------------------------------------------


def test_a_type_gone_to_and_back_from_is_not_gone_to() -> None:
    def forward(m: Net, x: Tensor) -> Tensor:
        return x.relu().double().view(2, 6).t().float() + x.exp().double().to(torch.int64).view(
            6, 2
        )

    x = torch.randn(3, 4)
    after = check(graph_of(forward, x), cancel_casts, x)
    assert ops(after) == {"relu": 1, "view": 2, "permute": 1, "exp": 1, "copy": 1, "add": 1}


def test_a_type_that_loses_values_stays() -> None:
    def forward(m: Net, x: Tensor, n: Tensor) -> tuple[Tensor, ...]:
        return x.bfloat16().float(), x.half().bfloat16(), n.float().long(), x.long().float()

    x, n = torch.randn(9), torch.arange(9) + 2**24
    graph = graph_of(forward, x, n)
    assert ops(check(graph, cancel_casts, x, n)) == {"copy": 8}


@pytest.mark.parametrize("narrow", [torch.bool, torch.uint8, torch.int8, torch.int16])
@pytest.mark.parametrize(
    "wide", [torch.int8, torch.uint8, torch.int32, torch.float16, torch.bfloat16, torch.float32]
)
def test_what_holds_every_value_is_what_brings_each_back(
    wide: torch.dtype, narrow: torch.dtype
) -> None:
    every = torch.arange(-(2**15), 2**15).to(narrow)
    there_and_back = every.to(wide).double()
    assert holds(wide, narrow) == torch.equal(there_and_back, every.double())


# ---- cancel_permutes ----------------------------------------------------------------------------


def test_permutes_around_pointwise_work_cancel() -> None:
    """As Keras and TensorFlow write a network whose channels come last."""

    def forward(m: Net, x: Tensor) -> Tensor:
        y = F.conv2d(x.permute(0, 3, 1, 2), m.w).permute(0, 2, 3, 1)
        y = (y * m.scale + m.shift).relu()
        y = F.conv2d(y.permute(0, 3, 1, 2), m.v).permute(0, 2, 3, 1)
        return y.mean((1, 2))

    x = torch.randn(2, 5, 6, 3)
    weights = {"w": torch.randn(4, 3, 1, 1), "v": torch.randn(7, 4, 3, 3)}
    affine = {"scale": torch.randn(4), "shift": torch.randn(1, 1, 1, 4)}
    after = check(graph_of(forward, x, **weights, **affine), cancel_permutes, x)
    assert ops(after) == {
        "permute": 1, "convolution": 2, "mul": 1, "add": 1, "relu": 1, "mean": 1,
    }  # fmt: skip


def test_permutes_pass_joins_softmaxes_and_kept_reductions() -> None:
    def forward(m: Net, x: Tensor, y: Tensor) -> Tensor:
        joined = torch.cat([x.permute(2, 0, 1), y.permute(2, 0, 1)], 1)
        soft = joined.softmax(0) * joined.amax((1,), keepdim=True)
        return soft.permute(1, 2, 0)

    x, y = torch.randn(2, 3, 4), torch.randn(5, 3, 4)
    after = check(graph_of(forward, x, y), cancel_permutes, x, y)
    assert ops(after) == {"cat": 1, "softmax": 1, "amax": 1, "mul": 1}


def test_reshapes_of_reshapes_are_one_and_never_copy_more() -> None:
    def forward(m: Net, x: Tensor) -> tuple[Tensor, ...]:
        y = x.exp()
        return (
            y.view(12).unsqueeze(0).view(2, 6),
            y.view(2, 6).view(4, 3).sin(),
            y.t().reshape(2, 6).reshape(12),
        )

    x = torch.randn(4, 3)
    after = check(graph_of(forward, x), cancel_permutes, x)
    assert ops(after) == {"exp": 1, "view": 2, "sin": 1, "permute": 1, "clone": 1}


def test_one_permuted_operand_beside_a_plain_one_stays() -> None:
    x, y = torch.randn(3, 4), torch.randn(4, 3)
    graph = graph_of(lambda m, x, y: (x.t() + y, F.glu(x.t() * y.sum(), 0)), x, y)
    assert ops(check(graph, cancel_permutes, x, y)) == ops(graph)


# ---- recover_linears ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "product",
    [
        lambda m, x: x @ m.w + m.b,
        lambda m, x: x.matmul(m.wt.t()) + m.b,
        lambda m, x: torch.addmm(m.b, x.view(6, 4), m.w).view(2, 3, 5),
        lambda m, x: torch.einsum("btc,co->bto", x, m.w) + m.b,
        lambda m, x: (x.view(6, 4) @ m.w).view(2, 3, 5) + m.b,
    ],
)
def test_every_spelling_of_a_linear(product: Callable[..., Tensor]) -> None:
    x, w = torch.randn(2, 3, 4), torch.randn(4, 5)
    graph = graph_of(product, x, w=w, wt=w.t().contiguous(), b=torch.randn(5))
    after = check(graph, [recover_linears, fold_affine], x)
    assert ops(after) == {"linear": 1}


def test_heads_by_einsum_are_a_linear_and_a_view() -> None:
    """As Keras' EinsumDense projects to heads and back."""

    def forward(m: Net, x: Tensor) -> Tensor:
        heads = torch.einsum("btc,chd->bthd", x, m.w)
        return torch.einsum("bthd,hdc->btc", heads.exp(), m.v)

    x = torch.randn(2, 5, 6)
    graph = graph_of(forward, x, w=torch.randn(6, 2, 3), v=torch.randn(2, 3, 6))
    assert ops(check(graph, recover_linears, x)) == {"linear": 2, "view": 2, "exp": 1}


def einsum(equation: str, x: Tensor, y: Tensor) -> Graph:
    return graph_of(lambda m, x, y: torch.einsum(equation, x, y), x, y)


@pytest.mark.parametrize(
    ("equation", "a", "b"),
    [
        ("acd,bcd->abc", (2, 3, 4), (5, 3, 4)),
        ("aecd,abcd->acbe", (2, 3, 4, 5), (2, 6, 4, 5)),
        ("acbe,aecd->abcd", (2, 3, 4, 5), (2, 5, 3, 6)),
        ("abxy,bxyc->ac", (2, 3, 4, 5), (3, 4, 5, 6)),
        ("ij,kj->ki", (2, 3), (4, 3)),
    ],
)
def test_an_einsum_of_two_is_a_matmul(
    equation: str, a: tuple[int, ...], b: tuple[int, ...]
) -> None:
    x, y = torch.randn(a), torch.randn(b)
    after = check(
        graph_of(lambda m, x, y: torch.einsum(equation, x, y), x, y), recover_linears, x, y
    )
    assert "einsum" not in ops(after)
    assert ops(after)["matmul"] == 1


@pytest.mark.parametrize("equation", ["ii,ij->j", "ij,jk->k", "ij,kl->ijkl", "ij,ij->ij", "i,i->"])
def test_an_einsum_of_another_kind_stays(equation: str) -> None:
    sizes = [(3,) * len(term) for term in equation.split("->")[0].split(",")]
    x, y = (torch.randn(s) for s in sizes)
    after = check(
        graph_of(lambda m, x, y: torch.einsum(equation, x, y), x, y), recover_linears, x, y
    )
    assert ops(after) == {"einsum": 1}


def test_products_that_are_no_linears_stay() -> None:
    def forward(m: Net, x: Tensor, y: Tensor) -> tuple[Tensor, ...]:
        return x @ y, m.w @ x, torch.addmm(m.w, x, m.w), torch.addmm(m.b, x, m.w, alpha=2), m.w + x

    x, y = torch.randn(4, 4), torch.randn(4, 4)
    graph = graph_of(forward, x, y, w=torch.randn(4, 4), b=torch.randn(4))
    assert ops(check(graph, recover_linears, x, y)) == ops(graph)


# ---- fold_affine --------------------------------------------------------------------------------


class Affine(nn.Module):
    """A layer, then y = (x * a + b) / c - d as a fine-tuning wrapper writes it."""

    def __init__(self, layer: nn.Module, shape: tuple[int, ...], *, has_shift: bool = True) -> None:
        super().__init__()
        self.layer, self.has_shift = layer, has_shift
        for name in "abcd":
            self.register_buffer(name, torch.rand(shape) + 0.5)

    def forward(self, x: Tensor) -> Tensor:
        y = self.layer(x) * self.a / self.c
        return 3 - (y + self.b - self.d) if self.has_shift else y


@pytest.mark.parametrize(
    ("layer", "shape", "x"),
    [
        (nn.Linear(4, 5, bias=False), (5,), (2, 3, 4)),
        (nn.Conv2d(3, 4, 3, groups=1), (4, 1, 1), (2, 3, 5, 5)),
        (nn.Conv1d(4, 4, 3, groups=2, bias=False), (1, 4, 1), (2, 4, 5)),
        (nn.ConvTranspose2d(4, 6, 2, groups=2), (6, 1, 1), (2, 4, 3, 3)),
        (nn.LayerNorm(6), (6,), (2, 3, 6)),
        (nn.LayerNorm((3, 6), elementwise_affine=False), (3, 1), (2, 3, 6)),
        (nn.LayerNorm(6), (1,), (2, 3, 6)),
        (nn.GroupNorm(2, 4), (4, 1, 1), (2, 4, 3, 3)),
        (nn.BatchNorm2d(4, affine=False), (1, 4, 1, 1), (2, 4, 3, 3)),
    ],
)
def test_affines_fold_into_every_layer(
    layer: nn.Module, shape: tuple[int, ...], x: tuple[int, ...]
) -> None:
    model, inputs = randomise_norms(Affine(layer, shape)), torch.randn(x)
    after = check(capture(model, (inputs,)), fold_affine, inputs)
    assert len(after.nodes) == 1


def test_an_rms_norm_takes_a_scale_and_no_shift() -> None:
    x = torch.randn(2, 6)
    scaled = capture(Affine(nn.RMSNorm(6), (6,), has_shift=False).eval(), (x,))
    assert ops(check(scaled, fold_affine, x)) == {"rms_norm": 1}
    shifted = graph_of(lambda m, x: F.rms_norm(x, [6], m.w) + m.w, x, w=torch.rand(6))
    assert ops(check(shifted, fold_affine, x)) == {"rms_norm": 1, "add": 1}


def test_affines_stay_where_they_vary_elsewhere_or_the_result_is_read_twice() -> None:
    def forward(m: Net, x: Tensor) -> tuple[Tensor, ...]:
        y = F.linear(x, m.w)
        return F.linear(x, m.w) * m.rows, y, y * m.columns, F.linear(x, x) * m.columns

    x = torch.randn(4, 4)
    weights = {"w": torch.randn(4, 4), "rows": torch.rand(4, 1), "columns": torch.rand(4)}
    graph = graph_of(forward, x, **weights)
    assert ops(check(graph, fold_affine, x)) == ops(graph)


def test_folding_affines_rounds_once() -> None:
    model = Affine(nn.Linear(64, 32), (32,))
    x = torch.randn(8, 64)
    folded = fold_affine(capture(model, (x,)))
    exact = model.double()(x.double())
    (found,) = Reference().compile(folded)(x)
    assert compare([exact], [found]).max_error < 16 * torch.finfo(torch.float32).eps


def test_training_keeps_its_parameters() -> None:
    graph = capture(Affine(nn.Linear(4, 4), (4,)), (torch.randn(2, 4),), phase=Phase.TRAIN)
    assert fold_affine(graph) is graph
    assert join_linears(graph) is graph


# ---- absorb_pads --------------------------------------------------------------------------------


def test_even_zeros_become_padding() -> None:
    def forward(m: Net, x: Tensor) -> Tensor:
        y = F.conv2d(F.pad(x, (1, 1, 2, 2)), m.w, padding=(0, 1), stride=2)
        return F.conv2d(F.pad(y, (1, 1)), m.v, padding="same", dilation=2)

    x = torch.randn(2, 3, 7, 8)
    graph = graph_of(forward, x, w=torch.randn(4, 3, 3, 3), v=torch.randn(4, 4, 3, 5))
    after = check(graph, absorb_pads, x)
    assert ops(after) == {"convolution": 2}
    assert [n.args["padding"] for n in after.nodes] == [(2, 2), (2, 5)]


@pytest.mark.parametrize(
    "pad",
    [
        lambda x: F.pad(x, (0, 1, 0, 1)),
        lambda x: F.pad(x, (1, 1, 1, 1), value=1.0),
        lambda x: F.pad(x, (1, 1, 1, 1), mode="reflect"),
        lambda x: F.pad(x, (-1, -1, 0, 0)),
        lambda x: F.pad(x, (0, 0, 0, 0, 1, 1))[:, :3],
    ],
)
def test_other_pads_stay(pad: Callable[[Tensor], Tensor]) -> None:
    x = torch.randn(2, 3, 6, 6)
    graph = graph_of(lambda m, x: F.conv2d(pad(x), m.w), x, w=torch.randn(4, 3, 3, 3))
    assert ops(check(graph, absorb_pads, x)) == ops(graph)


# ---- join_linears -------------------------------------------------------------------------------


class Projections(nn.Module):
    """Query, key and value of unequal widths, one without bias, then gate and up."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k = nn.Linear(8, 8), nn.Linear(8, 4)
        self.v = nn.Linear(8, 4, bias=False)
        self.gate, self.up = nn.Linear(8, 16, bias=False), nn.Linear(8, 16, bias=False)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        q, k, v = self.q(x).view(2, 5, 2, 4), self.k(x).view(2, 5, 1, 4), self.v(x)
        y = q.relu().flatten(2) + 1
        return q, k, v, F.silu(self.gate(y)) * self.up(y)


def test_projections_of_one_input_are_joined() -> None:
    x = torch.randn(2, 5, 8)
    after = check(capture(Projections().eval(), (x,)), join_linears, x)
    assert ops(after)["linear"] == 2
    assert ops(after)["split"] == 2
    shapes = {i.path: i.spec.shape for i in after.inputs}
    assert shapes["q.joined_weight"] == (16, 8)
    assert shapes["q.joined_bias"] == (16,)
    assert shapes["gate.joined_weight"] == (32, 8)


def test_parts_are_made_before_their_first_reader() -> None:
    def forward(m: Net, x: Tensor) -> Tensor:
        y, z, w = F.linear(x, m.a), F.linear(x, m.b), F.linear(x, m.c)
        return y.relu() * (z + w)

    x = torch.randn(2, 4)
    graph = graph_of(forward, x, **{name: torch.randn(4, 4) for name in "abc"})
    assert ops(check(graph, join_linears, x))["linear"] == 1


def test_linears_of_a_shared_weight_or_another_input_stay() -> None:
    def forward(m: Net, x: Tensor, y: Tensor) -> tuple[Tensor, ...]:
        return F.linear(x, m.a), F.linear(x, m.b), F.linear(y, m.c), F.embedding(y.long(), m.b)

    x, y = torch.randn(2, 4), torch.rand(2, 4)
    graph = graph_of(forward, x, y, a=torch.randn(4, 4), b=torch.randn(4, 4), c=torch.randn(4, 4))
    assert ops(check(graph, join_linears, x, y)) == ops(graph)


def test_linears_whose_parts_would_have_to_be_copied_stay() -> None:
    def forward(m: Net, x: Tensor) -> tuple[Tensor, ...]:
        return F.linear(x, m.a).view(-1), F.linear(x, m.b).view(-1)

    x = torch.randn(64, 512)
    graph = graph_of(forward, x, a=torch.randn(512, 512), b=torch.randn(512, 512))
    assert ops(check(graph, join_linears, x)) == ops(graph)
