"""What autograd keeps of single ops, against what it really keeps when they run on the CPU."""

from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
import torch
from cost_helpers import kept_by_autograd, live_refs, node_of
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from ridgeline.cost.backward import saved_by
from ridgeline.cost.work import Part, work_of
from ridgeline.frontends import capture
from ridgeline.graph import Phase, Ref

aten = torch.ops.aten


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One call. weights: numbers of the tensor arguments that are parameters, which the model
    holds anyway.
    """

    op: Callable[..., object]
    args: tuple[object, ...]
    weights: tuple[int, ...] = ()
    kwargs: dict[str, object] = field(default_factory=dict)


def real(*shape: int) -> Tensor:
    return torch.randn(*shape).abs() + 0.1


X = (8, 16)
IMAGE = (2, 3, 8, 8)
INDEX = torch.tensor([0, 3, 3, 7, 1])
ROWS = INDEX[:, None].expand(5, 16).contiguous()
MASK = torch.arange(128).view(8, 16) % 3 == 0


def unary(*names: str) -> dict[str, Case]:
    return {n: Case(op=getattr(aten, n).default, args=(real(*X),)) for n in names}


def case(
    op: Callable[..., object], *args: object, weights: tuple[int, ...] = (), **kw: object
) -> Case:
    return Case(op=op, args=args, weights=weights, kwargs=kw)


CASES = {
    **unary(
        "abs",
        "sign",
        "reciprocal",
        "square",
        "sqrt",
        "rsqrt",
        "floor",
        "round",
        "relu",
        "relu6",
        "leaky_relu",
        "hardtanh",
        "hardswish",
        "hardsigmoid",
        "exp",
        "exp2",
        "expm1",
        "log",
        "log2",
        "log1p",
        "sin",
        "cos",
        "tan",
        "atan",
        "tanh",
        "sigmoid",
        "erf",
        "gelu",
        "silu",
        "mish",
        "softplus",
        "elu",
        "celu",
        "selu",
        "neg",
        "clone",
        "triu",
        "glu",
        "sum",
        "mean",
        "prod",
        "max",
        "sort",
        "nan_to_num",
    ),
    "add": case(aten.add.Tensor, real(*X), real(*X)),
    "sub": case(aten.sub.Tensor, real(*X), real(*X)),
    "mul": case(aten.mul.Tensor, real(*X), real(*X)),
    "div": case(aten.div.Tensor, real(*X), real(*X)),
    "mul by a number": case(aten.mul.Tensor, real(*X), 2.0),
    "div by a number": case(aten.div.Tensor, real(*X), 3.0),
    "pow": case(aten.pow.Tensor_Scalar, real(*X), 3),
    "pow of tensors": case(aten.pow.Tensor_Tensor, real(*X), real(*X)),
    "remainder by a number": case(aten.remainder.Scalar, real(*X), 2.0),
    "rsub": case(aten.rsub.Scalar, real(*X), 1.0),
    "maximum": case(aten.maximum.default, real(*X), real(*X)),
    "atan2": case(aten.atan2.default, real(*X), real(*X)),
    "logaddexp": case(aten.logaddexp.default, real(*X), real(*X)),
    "clamp": case(aten.clamp.default, real(*X), 0.0, 1.0),
    "where": case(aten.where.self, MASK, real(*X), real(*X)),
    "masked_fill": case(aten.masked_fill.Scalar, real(*X), MASK, 0.0),
    "lerp": case(aten.lerp.Scalar, real(*X), real(*X), 0.5),
    "addcmul": case(aten.addcmul.default, real(*X), real(*X), real(*X)),
    "addcdiv": case(aten.addcdiv.default, real(*X), real(*X), real(*X)),
    "prelu": case(aten.prelu.default, real(*X), real(1), weights=(1,)),
    "native_dropout": case(aten.native_dropout.default, real(*X), 0.5, True),
    "softmax": case(aten.softmax.int, real(*X), -1),
    "log_softmax": case(aten.log_softmax.int, real(*X), -1),
    "logsumexp": case(aten.logsumexp.default, real(*X), [1]),
    "amax": case(aten.amax.default, real(*X), [1]),
    "max along": case(aten.max.dim, real(*X), 1),
    "median along": case(aten.median.dim, real(*X), 1),
    "sum along": case(aten.sum.dim_IntList, real(*X), [1]),
    "var_mean": case(aten.var_mean.correction, real(*X), [1]),
    "cumsum": case(aten.cumsum.default, real(*X), 1),
    "cumprod": case(aten.cumprod.default, real(*X), 1),
    "norm": case(aten.linalg_vector_norm.default, real(*X)),
    "cdist": case(aten.cdist.default, real(8, 4), real(6, 4)),
    "linear": case(aten.linear.default, real(8, 16), real(4, 16), real(4)),
    "mm": case(aten.mm.default, real(8, 16), real(16, 4)),
    "bmm": case(aten.bmm.default, real(2, 8, 16), real(2, 16, 4)),
    "addmm": case(aten.addmm.default, real(4), real(8, 16), real(16, 4)),
    "addmv": case(aten.addmv.default, real(8), real(8, 16), real(16)),
    "baddbmm": case(aten.baddbmm.default, real(2, 8, 4), real(2, 8, 16), real(2, 16, 4)),
    "dot": case(aten.dot.default, real(8), real(8)),
    "outer": case(aten.outer.default, real(8), real(16)),
    "bilinear": case(aten.bilinear.default, real(8, 4), real(8, 5), real(3, 4, 5)),
    "einsum": case(aten.einsum.default, "bij,bjk->bik", [real(2, 8, 16), real(2, 16, 4)]),
    "conv2d": case(aten.conv2d.default, real(*IMAGE), real(4, 3, 3, 3), real(4)),
    "conv3d": case(aten.conv3d.default, real(1, 2, 4, 4, 4), real(3, 2, 2, 2, 2)),
    "sdpa": case(
        aten.scaled_dot_product_attention.default,
        real(2, 2, 32, 16),
        real(2, 2, 32, 16),
        real(2, 2, 32, 16),
    ),
    "batch_norm": case(
        aten.batch_norm.default,
        real(*IMAGE),
        real(3),
        real(3),
        real(3),
        real(3),
        True,
        0.1,
        1e-5,
        False,
        weights=(1, 2, 3, 4),
    ),
    "layer_norm": case(aten.layer_norm.default, real(*X), [16], real(16), real(16), weights=(1, 2)),
    "group_norm": case(
        aten.group_norm.default, real(2, 4, 8, 8), 2, real(4), real(4), weights=(1, 2)
    ),
    "max_pool2d": case(aten.max_pool2d.default, real(*IMAGE), [2, 2]),
    "max_pool2d_with_indices": case(aten.max_pool2d_with_indices.default, real(*IMAGE), [2, 2]),
    "avg_pool2d": case(aten.avg_pool2d.default, real(*IMAGE), [2, 2]),
    "global average": case(aten.adaptive_avg_pool2d.default, real(*IMAGE), [1, 1]),
    "adaptive average": case(aten.adaptive_avg_pool2d.default, real(*IMAGE), [2, 2]),
    "nearest": case(aten.upsample_nearest2d.vec, real(*IMAGE), None, [2.0, 2.0]),
    "grid_sampler": case(aten.grid_sampler.default, real(*IMAGE), real(2, 4, 4, 2), 0, 0, False),
    "im2col": case(aten.im2col.default, real(*IMAGE), [2, 2], [1, 1], [0, 0], [1, 1]),
    "embedding": case(aten.embedding.default, real(*X), INDEX),
    "gather": case(aten.gather.default, real(*X), 1, torch.zeros(8, 2, dtype=torch.long)),
    "index_select": case(aten.index_select.default, real(*X), 0, INDEX),
    "index": case(aten.index.Tensor, real(*X), [INDEX]),
    "index_put": case(aten.index_put.default, real(*X), [INDEX], real(5, 16)),
    "scatter": case(aten.scatter.src, real(*X), 0, ROWS, real(5, 16)),
    "slice_scatter": case(aten.slice_scatter.default, real(*X), real(2, 16), 0, 0, 2),
    "masked_scatter": case(aten.masked_scatter.default, real(*X), MASK, real(128)),
    "topk": case(aten.topk.default, real(*X), 4),
    "cat": case(aten.cat.default, [real(*X), real(*X)]),
    "to": case(aten._to_copy.default, real(*X), dtype=torch.bfloat16),
    "pad": case(aten.pad.default, real(*X), [1, 1]),
    "repeat": case(aten.repeat.default, real(*X), [2, 1]),
    "view": case(aten.view.default, real(*X), [128]),
    "mse_loss": case(aten.mse_loss.default, real(*X), real(*X)),
    "bce": case(aten.binary_cross_entropy_with_logits.default, real(*X), real(*X)),
    "cross_entropy": case(aten.cross_entropy_loss.default, real(5, 16), INDEX),
}
# Scalars that autograd keeps beside the tensors: the largest value's place, the total weight.
SLACK_BYTES = {"max": 4, "cross_entropy": 4}


def _tensors(one: Case) -> list[Tensor]:
    leaves = pytree.tree_leaves((one.args, one.kwargs))
    return [leaf for leaf in leaves if isinstance(leaf, Tensor)]


@pytest.mark.parametrize("name", CASES)
def test_an_op_keeps_what_autograd_keeps(name: str) -> None:
    one = CASES[name]
    tensors = _tensors(one)
    floating = [i for i, t in enumerate(tensors) if t.is_floating_point() and i not in one.weights]
    node = node_of(one.op, *one.args, **one.kwargs)
    weights = [tensors[i] for i in one.weights]
    held = {Ref(f"a{i}") for i in one.weights}
    # all inputs want gradients, then each alone: which of them do decides what is kept
    for wanted in [floating, *([i] for i in floating)]:
        for i, tensor in enumerate(tensors):
            tensor.requires_grad_(i in wanted)
        actual = kept_by_autograd(lambda: one.op(*one.args, **one.kwargs), weights)
        saved = saved_by(node, live_refs(node, *wanted))
        expected = saved.extra_bytes + sum(
            [
                *(node.specs[ref].nbytes for ref in saved.operands if ref not in held),
                *(node.outputs[k].nbytes for k in saved.outputs),
            ]
        )
        assert 0 <= actual - expected <= SLACK_BYTES.get(name, 0), (wanted, actual, expected)


class Steps(nn.Module):
    """An LSTM cell run step by step."""

    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.LSTMCell(8, 16)

    def forward(self, x: Tensor) -> Tensor:
        hidden = state = x.new_zeros(x.shape[1], 16)
        for step in x:
            hidden, state = self.cell(step, (hidden, state))
        return hidden


def test_a_cell_can_be_trained() -> None:
    graph = capture(Steps().train(), (torch.randn(3, 2, 8),), phase=Phase.TRAIN)
    inputs, states = (3 * 2 * size * 4 * 16 for size in (8, 16))  # steps, samples, size, gates
    works = work_of(graph)
    assert sum(w.cost.flops for w in works if w.part is Part.FORWARD) == 2 * (inputs + states)
    # of each weight, and of the states but the first: one gradient of the products' size
    backward = inputs + states + states * 2 // 3
    assert sum(w.cost.flops for w in works if w.part is Part.BACKWARD) == 2 * backward
