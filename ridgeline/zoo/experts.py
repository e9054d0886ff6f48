"""Mixture-of-experts feed-forward: a router and experts stacked in three-dimensional parameters,
static shapes throughout.

Source: Jiang et al., "Mixtral of Experts", 2024, section 2.1. Parameter names and layout are those
of transformers 5.

Every token goes to its k best experts; the T * k copies are sorted by expert and each weight is
used once, in one grouped matmul over the sorted rows: 2 * T * k * D * F FLOPs per matrix, exactly
the routed work. The alternatives with static shapes all do more (dense experts with a mask: E / k
times the FLOPs; weights gathered per token: T * k copies of a matrix).

bfloat16 uses `aten._grouped_mm`, which the CPU and CUDA run, autograd differentiates and Inductor
tunes. In torch 2.13 its CPU kernel takes float32 too, but its shape function refuses everything
other than bfloat16, so in other dtypes it neither exports nor runs on `meta`; there the same kernel
is called through `ridgeline::grouped_mm`, an operator with its own shape function.

Shapes: T tokens, E experts, k experts per token, R = T * k routed rows, D model size, F
feed-forward size of one expert.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx

_LIBRARY = torch.library.Library("ridgeline", "FRAGMENT")  # type: ignore[no-untyped-call]
_SCHEMA = "grouped_mm(Tensor rows, Tensor weights, Tensor ends) -> Tensor"
_LIBRARY.define(_SCHEMA)  # type: ignore[no-untyped-call]


def _kernel(rows: Tensor, weights: Tensor, ends: Tensor) -> Tensor:
    return torch._grouped_mm(rows, weights, offs=ends)


def _shape(rows: Tensor, weights: Tensor, ends: Tensor) -> Tensor:
    groups = () if weights.dim() == 3 else (ends.shape[0],)  # 2-D: the shared dimension is grouped
    return rows.new_empty((*groups, rows.shape[-2], weights.shape[-1]))


def _save(ctx: FunctionCtx, inputs: tuple[Tensor, Tensor, Tensor], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _backward(ctx: FunctionCtx, grad: Tensor) -> tuple[Tensor, Tensor, None]:
    rows, weights, ends = ctx.saved_tensors  # type: ignore[attr-defined]
    product = torch.ops.ridgeline.grouped_mm
    return product(grad, weights.transpose(-2, -1), ends), product(rows.t(), grad, ends), None


_LIBRARY.impl(  # type: ignore[no-untyped-call]
    "grouped_mm", _kernel, "CompositeExplicitAutograd"
)
torch.library.register_fake("ridgeline::grouped_mm", _shape, lib=_LIBRARY)
torch.library.register_autograd(
    "ridgeline::grouped_mm", _backward, setup_context=_save, lib=_LIBRARY
)


def grouped_mm(rows_RD: Tensor, weights_EDF: Tensor, ends_E: Tensor) -> Tensor:
    """Rows times the matrix of their group, (R, F). Group e ends before row `ends_E[e]` and starts
    where e - 1 ends.
    """
    if rows_RD.dtype is torch.bfloat16:
        return torch._grouped_mm(rows_RD, weights_EDF, offs=ends_E)
    product: Tensor = torch.ops.ridgeline.grouped_mm(rows_RD, weights_EDF, ends_E)
    return product


class Router(nn.Module):
    """Chooses each token's k experts by softmax score."""

    def __init__(self, dim: int, *, num_experts: int, top_k: int, is_normalised: bool) -> None:
        super().__init__()
        self.top_k, self.is_normalised = top_k, is_normalised
        self.weight = nn.Parameter(torch.empty(num_experts, dim))

    def forward(self, x_TD: Tensor) -> tuple[Tensor, Tensor]:
        """Scores and indices of the chosen experts, both (T, k). Scores sum to 1 if
        `is_normalised`.
        """
        scores_TE = F.linear(x_TD, self.weight).softmax(dim=-1, dtype=torch.float32)
        scores_Tk, experts_Tk = scores_TE.topk(self.top_k, dim=-1)
        if self.is_normalised:
            scores_Tk = scores_Tk / scores_Tk.sum(dim=-1, keepdim=True)
        return scores_Tk.to(x_TD.dtype), experts_Tk


class Experts(nn.Module):
    """SwiGLU experts, applied to the rows routed to them."""

    def __init__(self, dim: int, *, num_experts: int, hidden_dim: int) -> None:
        super().__init__()
        self.gate_up_proj = nn.Parameter(torch.empty(num_experts, 2 * hidden_dim, dim))
        self.down_proj = nn.Parameter(torch.empty(num_experts, dim, hidden_dim))

    def forward(self, x_TD: Tensor, scores_Tk: Tensor, experts_Tk: Tensor) -> Tensor:
        """The score-weighted sum of each token's experts, (T, D)."""
        top_k = experts_Tk.shape[1]
        sorted_R, order_R = experts_Tk.flatten().sort()
        numbers_E = torch.arange(self.down_proj.shape[0], device=x_TD.device)
        ends_E = torch.searchsorted(sorted_R, numbers_E, right=True, out_int32=True)
        rows_RD = x_TD[order_R // top_k]
        gate_RF, up_RF = grouped_mm(rows_RD, self.gate_up_proj.transpose(1, 2), ends_E).chunk(2, -1)
        out_RD = grouped_mm(F.silu(gate_RF) * up_RF, self.down_proj.transpose(1, 2), ends_E)
        out_TkD = out_RD[order_R.argsort()].view(*experts_Tk.shape, -1)
        return (out_TkD * scores_Tk[..., None]).sum(dim=1)


class MixtureOfExperts(nn.Module):
    """Router and experts in place of a decoder layer's MLP: (B, T, D) -> (B, T, D).

    Weights are undefined until drawn or loaded.
    """

    def __init__(
        self, dim: int, *, hidden_dim: int, num_experts: int, top_k: int, is_normalised: bool
    ) -> None:
        super().__init__()
        self.gate = Router(dim, num_experts=num_experts, top_k=top_k, is_normalised=is_normalised)
        self.experts = Experts(dim, num_experts=num_experts, hidden_dim=hidden_dim)

    def forward(self, x_BTD: Tensor) -> Tensor:
        x_TD = x_BTD.flatten(0, 1)
        scores_Tk, experts_Tk = self.gate(x_TD)
        out_TD: Tensor = self.experts(x_TD, scores_Tk, experts_Tk)
        return out_TD.view_as(x_BTD)
