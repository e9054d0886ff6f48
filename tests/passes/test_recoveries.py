"""Norms, activations and attention recovered from what other frameworks write out."""

import math
from collections.abc import Callable

import pytest
import torch
from rewriting import Net, check, graph_of, ops
from torch import Tensor
from torch.nn import functional as F

from ridgeline.passes.affine import fold_affine
from ridgeline.passes.attention import recover_attention
from ridgeline.passes.composites import recover_composites
from ridgeline.passes.cse import share_common
from ridgeline.passes.fold import fold_constants
from ridgeline.passes.layout import cancel_permutes
from ridgeline.passes.linear import recover_linears
from ridgeline.passes.manager import run_passes

# ---- recover_composites -------------------------------------------------------------------------


def moments(x: Tensor, dim: int | tuple[int, ...] = -1) -> tuple[Tensor, Tensor]:
    mean = x.mean(dim, keepdim=True)
    return mean, (x - mean).pow(2).mean(dim, keepdim=True)


def by_division(m: Net, x: Tensor) -> Tensor:
    mean, variance = moments(x)
    return (x - mean) / torch.sqrt(variance + 1e-5) * m.g + m.b


def by_reciprocal(m: Net, x: Tensor) -> Tensor:
    mean, variance = moments(x)
    return (x - mean) * torch.reciprocal(torch.sqrt(variance + m.e)) * m.g + m.b


def by_moments(m: Net, x: Tensor) -> Tensor:
    mean, variance = moments(x)
    inverse = torch.rsqrt(variance + 1e-5) * m.g
    return x * inverse + (m.b - mean * inverse)


def by_squares(m: Net, x: Tensor) -> Tensor:
    mean = x.mean(-1, keepdim=True)
    variance = (x * x).mean(-1, keepdim=True) - mean * mean
    return (x - mean) * (variance + 1e-5) ** -0.5 * m.g + m.b


def by_variance(m: Net, x: Tensor) -> Tensor:
    spread = x.var(-1, keepdim=True, correction=0)
    return m.g * ((x - x.mean(-1, keepdim=True)) * torch.rsqrt(spread + 1e-5)) + m.b


@pytest.mark.parametrize("norm", [by_division, by_reciprocal, by_moments, by_squares, by_variance])
def test_every_way_to_write_a_layer_norm(norm: Callable[..., Tensor]) -> None:
    x, e = torch.randn(2, 3, 8), torch.tensor(1e-5)
    graph = graph_of(norm, x, g=torch.rand(8), b=torch.randn(8), e=e)
    after = check(graph, [share_common, recover_composites, fold_affine], x)
    assert ops(after) == {"layer_norm": 1}


@pytest.mark.parametrize(
    "norm",
    [
        lambda m, x: x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6) * m.g,
        lambda m, x: m.g * (x / torch.sqrt((x * x).mean(-1, keepdim=True) + 1e-6)),
        lambda m, x: x * (torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-6) * m.g),
    ],
)
def test_every_way_to_write_an_rms_norm(norm: Callable[..., Tensor]) -> None:
    x = torch.randn(2, 3, 8)
    after = check(graph_of(norm, x, g=torch.rand(8)), [recover_composites, fold_affine], x)
    assert ops(after) == {"rms_norm": 1}


def test_norms_over_other_dimensions_or_of_sample_variance_stay() -> None:
    def forward(m: Net, x: Tensor) -> tuple[Tensor, ...]:
        mean, variance = moments(x, 1)
        return (
            (x - mean) * torch.rsqrt(variance + 1e-5),
            (x - x.mean(-1, keepdim=True)) / (x.var(-1, keepdim=True) + 1e-5).sqrt(),
            x * torch.rsqrt(x.pow(2).mean(1, keepdim=True) + 1e-5),
        )

    x = torch.randn(2, 3, 8)
    graph = graph_of(forward, x)
    assert ops(check(graph, recover_composites, x)) == ops(graph)


ACTIVATIONS: dict[str, list[Callable[[Tensor], Tensor]]] = {
    "gelu": [
        lambda x: 0.5 * x * (1 + torch.erf(x / math.sqrt(2))),
        lambda x: x * (torch.erf(x * 0.70710678) * 0.5 + 0.5),
        lambda x: (x * (1 + torch.erf(x / 1.4142135))) * 0.5,
        lambda x: 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
        lambda x: x * (0.5 * (1 + torch.tanh(0.797884561 * x * (1 + 0.044715 * x * x)))),
    ],
    "silu": [lambda x: x * torch.sigmoid(x), lambda x: x / (1 + torch.exp(-x))],
    "mish": [lambda x: x * torch.tanh(F.softplus(x))],
    "hardswish": [
        lambda x: x * F.relu6(x + 3) / 6,
        lambda x: x * (torch.clamp(x + 3, 0, 6) / 6),
        lambda x: x * F.hardsigmoid(x),
        lambda x: x * torch.clamp(x / 6 + 0.5, 0, 1),
    ],
    "hardsigmoid": [lambda x: F.relu6(x + 3) / 6, lambda x: torch.clamp(0.5 + x / 6, 0, 1)],
    "softmax": [
        lambda x: torch.exp(x) / torch.exp(x).sum(-1, keepdim=True),
        lambda x: (
            (x - x.amax(0, keepdim=True)).exp()
            / (x - x.amax(0, keepdim=True)).exp().sum(0, keepdim=True)
        ),
    ],
}


@pytest.mark.parametrize(
    ("op", "written"), [(op, f) for op, forms in ACTIVATIONS.items() for f in forms]
)
def test_every_way_to_write_an_activation(op: str, written: Callable[[Tensor], Tensor]) -> None:
    x = 3 * torch.randn(4, 8)
    graph = graph_of(lambda m, x: written(x), x)
    assert ops(check(graph, [share_common, recover_composites], x)) == {op: 1}


def test_activations_with_other_numbers_or_a_part_read_elsewhere_stay() -> None:
    def forward(m: Net, x: Tensor) -> tuple[Tensor, ...]:
        gate = torch.sigmoid(x)
        return (
            x * gate,
            gate,
            x * torch.sigmoid(1.702 * x),
            0.5 * x * (1 + torch.erf(x / 1.5)),
            x * torch.clamp(x + 2, 0, 6) / 6,
            x * torch.tanh(x),
            x.exp() / x.exp().sum(),
        )

    x = torch.randn(4, 8)
    graph = graph_of(forward, x)
    assert ops(check(graph, recover_composites, x)) == ops(graph)


# ---- recover_attention --------------------------------------------------------------------------


def heads(x: Tensor, count: int = 2) -> Tensor:
    return x.view(*x.shape[:2], count, -1).transpose(1, 2)


LATER = torch.ones(5, 5, dtype=torch.bool).triu(1)
LOWEST = torch.finfo(torch.float32).min


def plain(m: Net, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    scores = heads(q) @ heads(k).transpose(-1, -2) / math.sqrt(4)
    return (scores.softmax(-1) @ heads(v)).transpose(1, 2).reshape(2, 5, 8)


def scaled_before(m: Net, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    q, k = heads(q * 4**-0.25), heads(k).permute(0, 1, 3, 2) * 4**-0.25
    return F.dropout((q @ k).softmax(-1), 0.1, False) @ heads(v)


def added_mask(m: Net, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return torch.softmax(heads(q) @ heads(k).mT * 0.3 + m.bias, -1) @ heads(v)


def filled_mask(m: Net, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    scores = (heads(q) @ heads(k).mT / 3).masked_fill(m.padding, LOWEST)
    return torch.where(m.keep, scores, LOWEST).softmax(-1) @ heads(v)


def by_bmm(m: Net, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return torch.bmm(torch.bmm(q, k.transpose(1, 2)).softmax(-1), v)


def by_einsum(m: Net, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    q, k, v = (x.view(2, 5, 2, 4) for x in (q, k, v))
    scores = torch.einsum("aecd,abcd->acbe", k, q * 0.5)
    return torch.einsum("acbe,aecd->abcd", scores.softmax(-1), v)


@pytest.mark.parametrize(
    ("written", "scale"),
    [
        (plain, None),
        (scaled_before, None),
        (added_mask, 0.3),
        (filled_mask, 1 / 3),
        (by_bmm, 1.0),
        (by_einsum, None),
    ],
)
def test_every_way_to_write_attention(written: Callable[..., Tensor], scale: float | None) -> None:
    q, k, v = (torch.randn(2, 5, 8) for _ in range(3))
    weights = {"bias": torch.randn(5, 5), "padding": torch.rand(2, 1, 1, 5) > 0.7, "keep": ~LATER}
    graph = graph_of(written, q, k, v, **weights)
    after = run_passes(graph)[-1].graph
    assert ops(after)["sdpa"] == 1
    assert not {"softmax", "matmul", "einsum", "mul", "div"} & set(ops(after))
    (node,) = (n for n in after.nodes if n.op == "sdpa")
    found = node.arg("scale")
    assert found is None if scale is None else found == pytest.approx(scale)
    check(graph, [recover_linears, recover_attention], q, k, v)


@pytest.mark.parametrize("fill", [LOWEST, float("-inf")])
def test_a_causal_mask_becomes_the_flag(fill: float) -> None:
    def forward(m: Net, x: Tensor) -> Tensor:
        scores = (x @ x.mT).masked_fill(torch.ones(5, 5, dtype=torch.bool).triu(1), fill)
        return scores.softmax(-1) @ x

    x = torch.randn(2, 2, 5, 4)
    graph = graph_of(forward, x)
    after = check(graph, [fold_constants, recover_attention], x)
    (node,) = (n for n in after.nodes if n.op == "sdpa")
    assert node.arg("is_causal") is True
    assert not node.has("attn_mask")


def test_a_row_that_is_masked_whole_keeps_its_mean() -> None:
    x, mask = torch.randn(1, 2, 5, 4), torch.ones(5, 5, dtype=torch.bool)
    graph = graph_of(
        lambda m, x, mask: (x @ x.mT).masked_fill(mask, LOWEST).softmax(-1) @ x, x, mask
    )
    assert ops(check(graph, recover_attention, x, mask))["sdpa"] == 1


@pytest.mark.parametrize("is_written_out", [True, False])
def test_repeated_heads_are_read_once(is_written_out: bool) -> None:
    def repeat(x: Tensor) -> Tensor:
        return x[:, :, None].expand(2, 2, 3, 5, 4).reshape(2, 6, 5, 4)

    def forward(m: Net, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        if is_written_out:
            return (q @ repeat(k).transpose(2, 3) * 0.5).softmax(-1) @ repeat(v)
        return F.scaled_dot_product_attention(
            q, k.repeat_interleave(3, 1), v.repeat_interleave(3, 1), is_causal=True
        )

    q, k, v = torch.randn(2, 6, 5, 4), torch.randn(2, 2, 5, 4), torch.randn(2, 2, 5, 4)
    after = check(graph_of(forward, q, k, v), [recover_attention, cancel_permutes], q, k, v)
    assert ops(after) == {"sdpa": 1}
    assert after.nodes[0].arg("enable_gqa") is True


def test_what_is_no_attention_stays() -> None:
    def forward(m: Net, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, ...]:
        scores = q @ k.mT
        probabilities = (scores * 2).softmax(-1)
        return (
            probabilities,  # read elsewhere
            probabilities @ v,
            (q @ k.mT).softmax(-2) @ v,  # over the other dimension
            ((q @ k.mT + m.bias) * 2).softmax(-1) @ v,  # the mask is scaled too
            (q @ k.mT).masked_fill(m.bias > 0, -5.0).softmax(-1) @ v,  # a fill that absorbs nothing
            (q @ k.mT).softmax(-1) @ v[:1],  # broadcast
        )

    q, k, v = (torch.randn(2, 5, 4) for _ in range(3))
    graph = graph_of(forward, q, k, v, bias=torch.randn(5, 5))
    assert ops(check(graph, recover_attention, q, k, v)) == ops(graph)
