"""set_precision: what becomes bf16, what stays, and that callers see no difference in types."""

import pytest
import torch
from small_models import MODELS, Branch
from torch import Tensor, nn

from ridgeline.backends.agreement import compare
from ridgeline.backends.reference import Reference
from ridgeline.errors import GraphError
from ridgeline.frontends.torch_export import capture
from ridgeline.graph import Graph, verify
from ridgeline.passes.manager import run_passes
from ridgeline.passes.precision import set_precision


def node_types(graph: Graph) -> dict[str, str]:
    return {node.op: node.out.dtype for node in graph.nodes if node.outputs}


@pytest.mark.parametrize("name", MODELS)
def test_outputs_keep_their_types_and_are_near(name: str) -> None:
    model, inputs = MODELS[name]()
    graph = capture(model, inputs)
    low = set_precision(run_passes(graph)[-1].graph, torch.bfloat16)
    verify(low)
    expected, found = (Reference().compile(g)(*inputs) for g in (graph, low))
    assert [o.dtype for o in found] == [o.dtype for o in expected]
    floating = [k for k, o in enumerate(expected) if o.is_floating_point()]
    near = compare([expected[k] for k in floating], [found[k] for k in floating])
    assert 1e-4 < near.max_error < 5e-2, "bf16 is near, and it is not fp32 under another name"


def test_the_work_is_done_in_the_new_type() -> None:
    model, inputs = MODELS["block"]()
    low = set_precision(capture(model, inputs), torch.bfloat16)
    types = node_types(low)
    assert {types[op] for op in ("linear", "layer_norm", "softmax", "gelu", "embedding")} == {
        "bf16"
    }
    assert set_precision(low, torch.bfloat16).digest == low.digest


class Rotary(nn.Module):
    """Angles at positions that bf16 cannot tell apart."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("rates", torch.tensor([1.0, 0.1]))

    def forward(self, x: Tensor, positions: Tensor) -> Tensor:
        return x * (positions[:, None].float() * self.rates).cos()


def test_angles_from_integer_positions_keep_their_precision() -> None:
    x, positions = torch.ones(4, 2), torch.arange(1000, 1004)
    graph = capture(Rotary(), (x, positions))
    low = set_precision(graph, torch.bfloat16)
    assert node_types(low)["cos"] == "fp32"
    expected, found = (Reference().compile(g)(x, positions) for g in (graph, low))
    assert compare(expected, found).max_error < 1e-2


class Masked(nn.Module):
    def forward(self, x: Tensor, keep: Tensor) -> Tensor:
        return x.masked_fill(~keep, torch.finfo(torch.float32).min).softmax(-1)


def test_a_row_masked_with_the_least_float_stays_finite() -> None:
    x, keep = torch.randn(2, 4), torch.tensor([[True, False, True, True], [False] * 4])
    low = set_precision(capture(Masked(), (x, keep)), torch.bfloat16)
    (out,) = Reference().compile(low)(x, keep)
    assert torch.isfinite(out).all()


def test_what_has_no_low_form_says_so() -> None:
    class Complex(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.view_as_real(torch.view_as_complex(x) * 2)

    with pytest.raises(GraphError, match="complex"):
        set_precision(capture(Complex(), (torch.randn(3, 2),)), torch.bfloat16)
    branch = capture(
        Branch(), (torch.randn(2, 4),), kwargs={"shift": torch.ones(4), "scale": torch.ones(4)}
    )
    with pytest.raises(GraphError, match="cond"):
        set_precision(branch, torch.bfloat16)
