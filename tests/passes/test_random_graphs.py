"""Random graphs of views, broadcasts, reductions, norms, products, types and branches: every pass
and every backend that runs the graph as it stands give what the reference gives.
"""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from hypothesis import Phase, assume, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from ridgeline.backends.agreement import compare
from ridgeline.backends.eager import Eager
from ridgeline.backends.native.backend import Native
from ridgeline.backends.reference import Reference
from ridgeline.frontends.torch_export import capture
from ridgeline.graph import Graph, verify
from ridgeline.passes.fuse import fuse, split
from ridgeline.passes.manager import DEFAULT_PASSES, Pass, run_passes
from ridgeline.passes.normal import NORMAL_PASSES, normal_form

# Every value is [BATCH, SIDE, SIDE], so that any step can follow any other.
BATCH, SIDE, HEADS = 2, 8, 2
MAX_ERROR = 1e-4
Step = Callable[[nn.Module, Tensor, Tensor], Tensor]


def heads(x: Tensor) -> Tensor:
    return x.view(BATCH, SIDE, HEADS, -1).transpose(1, 2)


def attention(m: nn.Module, q: Tensor, k: Tensor) -> Tensor:
    scores = heads(q.contiguous()) @ heads(k.contiguous()).transpose(-1, -2) / 3
    scores = scores.masked_fill(m.later, torch.finfo(torch.float32).min)
    return (scores.softmax(-1) @ heads(k.contiguous())).transpose(1, 2).reshape(BATCH, SIDE, SIDE)


def grouped_attention(m: nn.Module, q: Tensor, k: Tensor) -> Tensor:
    q, k = q.reshape(BATCH, 4, 4, 4), k.reshape(BATCH, 2, 8, 4)
    k = k[:, :, None].expand(BATCH, 2, 2, 8, 4).reshape(BATCH, 4, 8, 4)
    out = F.scaled_dot_product_attention(q, k, k)
    return out.reshape(BATCH, SIDE, SIDE)


def written_out_norm(m: nn.Module, a: Tensor, b: Tensor) -> Tensor:
    mean = a.mean(-1, keepdim=True)
    variance = (a - mean).pow(2).mean(-1, keepdim=True)
    return (a - mean) / torch.sqrt(variance + 1e-5) * m.scale + m.shift


def batch_norm(m: nn.Module, a: Tensor, b: Tensor) -> Tensor:
    return F.batch_norm(a, m.shift, m.scale, m.scale, m.shift)


def channels_last(m: nn.Module, a: Tensor, b: Tensor) -> Tensor:
    y = F.conv1d(a.permute(0, 2, 1), m.taps).permute(0, 2, 1)
    return (
        F.conv1d((y * m.scale).relu().permute(0, 2, 1), m.taps)
        .permute(0, 2, 1)[:, :4]
        .repeat(1, 2, 1)
    )


def branch(m: nn.Module, a: Tensor, b: Tensor) -> Tensor:
    return torch.cond(b.sum() > 0, lambda t: t.sin() + 1, lambda t: t * 0.5, (a,))


STEPS: dict[str, Step] = {
    "add": lambda m, a, b: a + b,
    "scale": lambda m, a, b: a * m.scale + m.shift,
    "columns": lambda m, a, b: (a - m.shift[:, None]) / m.scale[:, None],
    "neutral": lambda m, a, b: (a * 1 - 0) / 1,
    "mean": lambda m, a, b: a - b.mean(-1, keepdim=True),
    "amax": lambda m, a, b: a / (1 + b.abs().amax(1, keepdim=True)),
    "total": lambda m, a, b: a / (1 + (b * b).sum()),
    "softmax": lambda m, a, b: a.softmax(-2),
    "norm": lambda m, a, b: F.layer_norm(a, [SIDE]) * m.scale + m.shift,
    "rms": lambda m, a, b: a * torch.rsqrt(a.pow(2).mean(-1, keepdim=True) + 1e-5) * m.scale,
    "written": written_out_norm,
    "batch_norm": batch_norm,
    "linear": lambda m, a, b: F.linear(a, m.weight, m.shift) * m.scale,
    "product": lambda m, a, b: a @ m.weight + m.shift,
    "pair": lambda m, a, b: F.silu(F.linear(a, m.gate)) * F.linear(a, m.up),
    "einsum": lambda m, a, b: torch.einsum("bij,bkj->bik", a, b).tanh(),
    "matmul": lambda m, a, b: (a @ b).tanh(),
    "conv": lambda m, a, b: F.conv1d(F.pad(a, (1, 1)), m.kernel) * m.scale[:, None],
    "channels_last": channels_last,
    "transpose": lambda m, a, b: a.transpose(1, 2),
    "reshape": lambda m, a, b: a.reshape(BATCH, 4, 16).reshape(BATCH, SIDE, SIDE),
    "cat": lambda m, a, b: torch.cat([a, b], 1)[:, 2 : SIDE + 2],
    "types": lambda m, a, b: a.double().transpose(1, 2).float() + (b > 0).to(torch.int64).float(),
    "gelu": lambda m, a, b: 0.5 * a * (1 + torch.erf(a / 2**0.5)),
    "where": lambda m, a, b: torch.where(a > b, a, b),
    "attention": attention,
    "grouped": grouped_attention,
    "cond": branch,
}


class Random(nn.Module):
    """A program: each step reads two earlier values, counted from the last."""

    def __init__(self, program: list[tuple[str, int, int]]) -> None:
        super().__init__()
        self.program = program
        for name in ("weight", "gate", "up"):
            self.register_parameter(name, nn.Parameter(torch.randn(SIDE, SIDE) / SIDE**0.5))
        self.register_buffer("kernel", torch.randn(SIDE, SIDE, 3) / 5)
        self.register_buffer("taps", torch.randn(SIDE, SIDE, 1) / 3)
        self.register_buffer("scale", torch.rand(SIDE) + 0.5)
        self.register_buffer("shift", torch.rand(SIDE) - 0.5)
        self.register_buffer("later", torch.ones(SIDE, SIDE, dtype=torch.bool).triu(1))

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        values = [x]
        for name, a, b in self.program:
            one, other = (values[-1 - k % len(values)] for k in (a, b))
            values.append(STEPS[name](self, one, other))
        return tuple(v + 0.0 for v in values[-2:])


PROGRAMS = st.lists(
    st.tuples(st.sampled_from(sorted(STEPS)), st.integers(0, 5), st.integers(0, 5)),
    min_size=1,
    max_size=7,
)


def graph_of(program: list[tuple[str, int, int]]) -> tuple[Graph, Tensor]:
    torch.manual_seed(0)
    x = torch.randn(BATCH, SIDE, SIDE)
    return capture(Random(program).eval(), (x,), is_trusted=True), x


@pytest.mark.parametrize("name", sorted(STEPS))
def test_each_step_twice_through_every_pass(name: str) -> None:
    graph, x = graph_of([(name, 0, 1), ("scale", 0, 0), (name, 0, 2)])
    expected = Reference().compile(graph)(x)
    for one in dict.fromkeys((*DEFAULT_PASSES, *NORMAL_PASSES)):
        agrees(one, graph, x, expected)


def agrees(one: Pass, graph: Graph, x: Tensor, expected: tuple[Tensor, ...]) -> None:
    after = one(graph)
    verify(after)
    found = Reference().compile(after)(x)
    assert [o.dtype for o in found] == [o.dtype for o in expected]
    assert compare(expected, found).max_error < MAX_ERROR, one.__name__


@settings(max_examples=40, phases=[Phase.explicit, Phase.generate])
@given(program=PROGRAMS)
def test_all_passes_and_backends_agree(program: list[tuple[str, int, int]]) -> None:
    names = {name for name, _, _ in program}
    assume(not {"cond", "types"} <= names)  # no backend takes a branch in fp32 beside fp64
    graph, x = graph_of(program)
    expected = Reference().compile(graph)(x)
    steps = run_passes(graph)
    after = steps[-1].graph
    for backend in (Eager(), Native()):
        assert compare(expected, backend.compile(graph)(x)).max_error < MAX_ERROR
    for backend in (Reference(), Eager(), Native()):
        assert compare(expected, backend.compile(after)(x)).max_error < MAX_ERROR
    plan = fuse(after)
    assert plan.bytes_after <= plan.bytes_before
    assert compare(expected, split(after, plan)(x)).max_error < MAX_ERROR


@settings(max_examples=20, phases=[Phase.explicit, Phase.generate])
@given(program=PROGRAMS)
def test_the_normal_form_agrees_and_is_its_own(program: list[tuple[str, int, int]]) -> None:
    graph, x = graph_of(program)
    found = normal_form(graph)
    agrees(lambda _: found, graph, x, Reference().compile(graph)(x))
    assert normal_form(found).digest == found.digest
    assert normal_form(run_passes(graph)[-1].graph).digest == found.digest
