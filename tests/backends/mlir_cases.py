"""What every row of our MLIR tables is tried on: a function and inputs, small and odd in shape."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Function = Callable[..., Tensor | tuple[Tensor, ...]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One function of tensors. buffers: tensors that it knows, given to it after the inputs."""

    function: Function
    inputs: tuple[Tensor, ...]
    buffers: tuple[Tensor, ...] = ()
    tolerance: float = 2e-6


class Of(nn.Module):
    """Functions as one module, which takes the inputs of all and gives the outputs of each."""

    def __init__(self, *cases: Case) -> None:
        super().__init__()
        self.cases = cases
        for i, case in enumerate(cases):
            for j, tensor in enumerate(case.buffers):
                self.register_buffer(f"known_{i}_{j}", tensor)

    def forward(self, *inputs: Tensor) -> list[tuple[Tensor, ...]]:
        found, given = [], list(inputs)
        for i, case in enumerate(self.cases):
            own, given = given[: len(case.inputs)], given[len(case.inputs) :]
            known = [getattr(self, f"known_{i}_{j}") for j in range(len(case.buffers))]
            out = case.function(*own, *known)
            found.append((out,) if isinstance(out, Tensor) else tuple(out))
        return found


def _noise(*shape: int) -> Tensor:
    return torch.randn(shape)


def _positive(*shape: int) -> Tensor:
    return torch.rand(shape) + 0.5


def _whole(*shape: int, below: int = 9) -> Tensor:
    return torch.randint(0, below, shape)


def _with_zeros(*shape: int) -> Tensor:
    return torch.randn(shape) * (torch.rand(shape) > 0.4)


def elementwise() -> dict[str, Case]:
    """Functions of one and of two tensors, and activations."""
    anywhere = {
        "exp": torch.exp, "tanh": torch.tanh, "sigmoid": torch.sigmoid, "erf": torch.erf,
        "abs": torch.abs, "ceil": torch.ceil, "floor": torch.floor, "sin": torch.sin,
        "cos": torch.cos, "neg": torch.neg, "relu": F.relu, "relu6": F.relu6,
        "square": torch.square, "silu": F.silu, "mish": F.mish, "hardsigmoid": F.hardsigmoid,
        "hardswish": F.hardswish, "expm1": torch.expm1, "gelu": F.gelu,
        "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"), "softplus": F.softplus,
        "softplus_sharp": lambda x: F.softplus(x, beta=3.0, threshold=2.0),
        "leaky_relu": F.leaky_relu, "leaky_relu_steep": lambda x: F.leaky_relu(x, 1.5),
        "elu": F.elu, "selu": F.selu, "celu": lambda x: F.celu(x, 0.7),
        "clamp": lambda x: x.clamp(-0.3, 0.4), "clamp_min": lambda x: x.clamp_min(0.1),
        "clamp_max": lambda x: x.clamp_max(0.1), "clamp_above": lambda x: x.clamp(max=0.1),
        "cube": lambda x: x**3, "rsub": lambda x: 1.5 - x, "add_alpha": lambda x: x.add(x, alpha=2),
        "sub_number": lambda x: x - 0.25, "clone": torch.clone, "hardtanh": F.hardtanh,
        "dropout": lambda x: F.dropout(x, training=False) * 2, "glu": lambda x: F.glu(x[..., :4]),
        "to_whole": lambda x: (9 * x).to(torch.int64), "to_bool": lambda x: x.bool(),
        "to_half": lambda x: x.bfloat16().float(), "negated": lambda x: torch.logical_not(x > 0),
        "bitwise_not": lambda x: ~(x > 0),
    }  # fmt: skip
    above = {
        "log": torch.log, "log1p": torch.log1p, "sqrt": torch.sqrt, "rsqrt": torch.rsqrt,
        "reciprocal": torch.reciprocal, "root": lambda x: x**0.5, "inverse": lambda x: x**-1,
        "inverse_root": lambda x: x**-0.5, "power": lambda x: x**1.7, "base": lambda x: 2.0**x,
    }  # fmt: skip
    pairs = {
        "add": torch.add, "sub": torch.sub, "mul": torch.mul, "div": torch.div,
        "maximum": torch.maximum, "minimum": torch.minimum, "eq": torch.eq, "ne": torch.ne,
        "gt": torch.gt, "ge": torch.ge, "lt": torch.lt, "le": torch.le,
        "logical_and": torch.logical_and, "logical_or": torch.logical_or,
        "logical_xor": torch.logical_xor,
        "where": lambda x, y: torch.where(x > y, x, y),
        "where_number": lambda x, y: torch.where(x > y, 1.0, 0.5) * x,
        "masked_fill": lambda x, y: x.masked_fill(y > 0, -2.0),
        "and": lambda x, y: (x > 0) & (y > 0), "or": lambda x, y: (x > 0) | (y > 0),
        "xor": lambda x, y: (x > 0) ^ (y > 0),
        "bitwise_and": lambda x, y: torch.bitwise_and(x > 0, y > 0),
        "bitwise_or": lambda x, y: torch.bitwise_or(x > 0, y > 0),
        "bitwise_xor": lambda x, y: torch.bitwise_xor(x > 0, y > 0),
        "bool_mul": lambda x, y: ((x > 0) * (y > 0)).float(),
    }  # fmt: skip
    found = {name: Case(function=f, inputs=(_noise(2, 3, 5),)) for name, f in anywhere.items()}
    found |= {name: Case(function=f, inputs=(_positive(2, 7),)) for name, f in above.items()}
    found |= {
        name: Case(function=f, inputs=(_with_zeros(2, 1, 5), _with_zeros(3, 5) + (name == "div")))
        for name, f in pairs.items()
    }
    return found | {
        "sqrt_at_zero": Case(function=torch.sqrt, inputs=(torch.zeros(3),)),
        "relu_of_nan": Case(function=F.relu, inputs=(torch.tensor([1.0, -1.0, torch.nan]),)),
        "whole": Case(function=lambda x, y: x * 3 + y - 2, inputs=(_whole(4, 3), _whole(3))),
        "whole_and_float": Case(function=lambda x, y: x * y, inputs=(_whole(4, 3), _noise(3))),
        "whole_compared": Case(function=lambda x: (x > 3.5).float(), inputs=(_whole(4, 3),)),
        "bits": Case(function=lambda x, y: (x & y) | (x ^ 5), inputs=(_whole(7), _whole(7))),
        "isnan": Case(function=torch.isnan, inputs=(torch.tensor([1.0, torch.nan]),)),
        "prelu": Case(function=F.prelu, inputs=(_noise(2, 3, 4),), buffers=(_noise(3),)),
        "known": Case(
            function=lambda x, w: x + (w.t() @ w).diagonal() * torch.arange(3),
            inputs=(_noise(2, 3),),
            buffers=(_noise(4, 3),),
        ),
    }


def convolutions() -> dict[str, Case]:
    """Every form that a convolution is written in."""

    def conv(rank: int, weight: tuple[int, ...], size: tuple[int, ...], **how: object) -> Case:
        function = (F.conv1d, F.conv2d, F.conv3d)[rank - 1]
        groups = how.get("groups", 1)
        assert isinstance(groups, int)
        return Case(
            function=lambda x, w, b: function(x, w, b, **how),
            inputs=(_noise(2, weight[1] * groups, *size),),
            buffers=(_noise(*weight), _noise(weight[0])),
        )

    def up(weight: tuple[int, ...], **how: object) -> Case:
        groups = how.get("groups", 1)
        assert isinstance(groups, int)
        return Case(
            function=lambda x, w, b: F.conv_transpose2d(x, w, b, **how),
            inputs=(_noise(2, weight[0], 4, 5),),
            buffers=(_noise(*weight), _noise(weight[1] * groups)),
        )

    return {
        "conv2d": conv(2, (6, 4, 3, 3), (7, 8), padding=1),
        "conv2d_strided": conv(2, (6, 4, 3, 2), (8, 9), stride=(2, 3), padding=(1, 0)),
        "conv2d_dilated": conv(2, (5, 4, 3, 3), (9, 9), dilation=2, padding=2),
        "conv2d_same": conv(2, (5, 4, 3, 5), (6, 7), padding="same"),
        "conv2d_valid": conv(2, (5, 4, 3, 5), (6, 7), padding="valid"),
        "pointwise": conv(2, (6, 4, 1, 1), (5, 4)),
        "pointwise_strided": conv(2, (6, 4, 1, 1), (5, 6), stride=2),
        "depthwise": conv(2, (4, 1, 3, 3), (6, 6), groups=4, padding=1),
        "depthwise_doubled": conv(2, (8, 1, 3, 3), (6, 7), groups=4, stride=2),
        "grouped": conv(2, (6, 2, 3, 3), (5, 5), groups=3, padding=1),
        "grouped_wide": conv(2, (32, 16, 3, 3), (5, 5), groups=2, padding=1),
        "conv1d": conv(1, (6, 4, 3), (9,), padding=1, stride=2),
        "conv1d_grouped": conv(1, (6, 2, 3), (9,), groups=2),
        "conv3d": conv(3, (5, 3, 3, 2, 3), (4, 5, 6), padding=(1, 0, 1), stride=(1, 2, 2)),
        "conv3d_pointwise": conv(3, (5, 3, 1, 1, 1), (2, 3, 4)),
        "convolution": Case(
            function=lambda x, w: torch.convolution(
                x, w, None, [2, 1], [1, 0], [1, 1], False, [0, 0], 1
            ),
            inputs=(_noise(1, 3, 6, 5),),
            buffers=(_noise(4, 3, 3, 2),),
        ),
        "convolution_transposed": Case(
            function=lambda x, w: torch.convolution(
                x, w, None, [2, 1], [1, 0], [1, 1], True, [0, 0], 1
            ),
            inputs=(_noise(1, 3, 6, 5),),
            buffers=(_noise(3, 4, 3, 2),),
        ),
        "without_bias": Case(
            function=F.conv2d, inputs=(_noise(1, 3, 5, 5),), buffers=(_noise(4, 3, 3, 3),)
        ),
        "transposed": up((4, 3, 3, 3), stride=2, padding=1, output_padding=1),
        "transposed_grouped": up((4, 3, 2, 2), stride=2, groups=2),
        "two_after_each_other": Case(
            function=lambda x, v, w: F.conv2d(F.conv2d(x, v).relu() + 1, w).mean((2, 3)),
            inputs=(_noise(1, 3, 6, 6),),
            buffers=(_noise(4, 3, 3, 3), _noise(5, 4, 3, 3)),
        ),
        "beside_what_is_not_last": Case(
            function=lambda x, y, w: F.conv2d(x, w) + y,
            inputs=(_noise(1, 3, 6, 6), _noise(4, 1, 1)),
            buffers=(_noise(4, 3, 3, 3),),
        ),
    }


def pools() -> dict[str, Case]:
    """Pools and resampling."""
    image, volume, line = _noise(2, 3, 7, 8), _noise(1, 3, 4, 5, 6), _noise(2, 3, 9)

    def of(x: Tensor, function: Function) -> Case:
        return Case(function=function, inputs=(x,))

    return {
        "max_pool2d": of(image, lambda x: F.max_pool2d(x, 3, 2, 1)),
        "max_pool2d_ceil": of(image, lambda x: F.max_pool2d(x, 2, 2, ceil_mode=True)),
        "max_pool2d_uneven": of(image, lambda x: F.max_pool2d(x, (2, 1), (3, 2))),
        "max_pool2d_dilated": of(image, lambda x: F.max_pool2d(x, 2, 1, dilation=2)),
        "max_pool1d": of(line, lambda x: F.max_pool1d(x, 2)),
        "max_pool3d": of(volume, lambda x: F.max_pool3d(x, 2, padding=1)),
        "max_pool3d, uneven": of(
            volume, lambda x: F.max_pool3d(x, (3, 2, 1), (2, 1, 3), (1, 0, 0), ceil_mode=True)
        ),
        "avg_pool2d": of(image, lambda x: F.avg_pool2d(x, 3, 2, 1)),
        "avg_pool2d_within": of(image, lambda x: F.avg_pool2d(x, 3, 2, 1, count_include_pad=False)),
        "avg_pool2d_ceil": of(image, lambda x: F.avg_pool2d(x, 3, 2, ceil_mode=True)),
        "avg_pool2d_divided": of(image, lambda x: F.avg_pool2d(x, 2, divisor_override=3)),
        "avg_pool1d": of(line, lambda x: F.avg_pool1d(x, 3)),
        "avg_pool3d": of(volume, lambda x: F.avg_pool3d(x, 2)),
        "adaptive_to_one": of(image, lambda x: F.adaptive_avg_pool2d(x, 1)),
        "adaptive_to_few": of(_noise(1, 3, 6, 8), lambda x: F.adaptive_avg_pool2d(x, (3, 2))),
        "adaptive3d": of(volume, lambda x: F.adaptive_avg_pool3d(x, 1)),
        "nearest": of(image, lambda x: F.interpolate(x, scale_factor=2.0)),
        "adaptive1d": of(line, lambda x: F.adaptive_avg_pool1d(x, 3)),
        "nearest1d": of(line, lambda x: F.interpolate(x, scale_factor=3.0)),
        "nearest3d": of(volume, lambda x: F.interpolate(x, scale_factor=2.0)),
        "nearest_size": of(image, lambda x: F.interpolate(x, size=(21, 8))),
    }


def products_and_norms() -> dict[str, Case]:
    """Products, attention, normalisations, softmaxes, recurrence."""
    q, k, v = _noise(2, 4, 5, 8), _noise(2, 4, 7, 8), _noise(2, 4, 7, 6)
    attend = F.scaled_dot_product_attention
    lstm = nn.LSTM(5, 6, num_layers=2, bidirectional=True, batch_first=True)
    plain_lstm = nn.LSTM(5, 6, bias=False)
    return {
        "linear": Case(
            function=F.linear, inputs=(_noise(2, 3, 5),), buffers=(_noise(4, 5), _noise(4))
        ),
        "linear_vector": Case(function=F.linear, inputs=(_noise(5),), buffers=(_noise(4, 5),)),
        "linear_computed": Case(function=F.linear, inputs=(_noise(3, 5), _noise(4, 5))),
        "mm": Case(function=torch.mm, inputs=(_noise(3, 5), _noise(5, 4))),
        "bmm": Case(function=torch.bmm, inputs=(_noise(2, 3, 5), _noise(2, 5, 4))),
        "matmul_broadcast": Case(
            function=torch.matmul, inputs=(_noise(2, 1, 3, 5), _noise(4, 5, 6))
        ),
        "matmul_transposed": Case(
            function=lambda x, y: x @ y.mT, inputs=(_noise(2, 3, 5), _noise(2, 4, 5))
        ),
        "addmm": Case(
            function=lambda c, x, y: torch.addmm(c, x, y, beta=0.5, alpha=2.0),
            inputs=(_noise(4), _noise(3, 5), _noise(5, 4)),
        ),
        "baddbmm": Case(
            function=torch.baddbmm, inputs=(_noise(2, 3, 4), _noise(2, 3, 5), _noise(2, 5, 4))
        ),
        "attention": Case(function=attend, inputs=(q, k, v)),
        "attention_causal": Case(
            function=lambda a, b, c: attend(a, b, c, is_causal=True), inputs=(q, k, v)
        ),
        "attention_scaled": Case(
            function=lambda a, b, c: attend(a, b, c, scale=0.3), inputs=(q, k, v)
        ),
        "attention_masked": Case(
            function=lambda a, b, c, m: attend(a, b, c, attn_mask=m),
            inputs=(q, k, v, _noise(5, 7)),
        ),
        "attention_known_mask": Case(
            function=attend, inputs=(q, k, v), buffers=(torch.ones(5, 7, dtype=torch.bool).tril(1),)
        ),
        "attention_computed_mask": Case(
            function=lambda a, b, c, m: attend(a, b, c, attn_mask=m > -2),
            inputs=(q, k, v, _noise(2, 1, 5, 7)),
        ),
        "attention_shared_heads": Case(
            function=lambda a, b, c: attend(a, b, c, enable_gqa=True),
            inputs=(q, k[:, :2], v[:, :2]),
        ),
        "layer_norm": Case(
            function=lambda x, w, b: F.layer_norm(x, (3, 5), w, b),
            inputs=(_noise(2, 3, 5),),
            buffers=(_noise(3, 5), _noise(3, 5)),
        ),
        "rms_norm": Case(
            function=lambda x, w: F.rms_norm(x, (5,), w),
            inputs=(_noise(2, 3, 5),),
            buffers=(_noise(5),),
        ),
        "group_norm": Case(
            function=lambda x, w, b: F.group_norm(x, 3, w, b),
            inputs=(_noise(2, 6, 4, 5),),
            buffers=(_noise(6), _noise(6)),
        ),
        "batch_norm": Case(
            function=lambda x, m, s, w, b: F.batch_norm(x, m, s, w, b),
            inputs=(_noise(2, 3, 4, 5),),
            buffers=(_noise(3), _positive(3), _noise(3), _noise(3)),
        ),
        "softmax": Case(function=lambda x: x.softmax(1), inputs=(_noise(2, 3, 5),)),
        "softmax_inner": Case(
            function=lambda x: torch._softmax(x, 1, False), inputs=(_noise(2, 3, 5),)
        ),
        "log_softmax_inner": Case(
            function=lambda x: torch._log_softmax(x, 1, False), inputs=(_noise(2, 3, 5),)
        ),
        "log_softmax": Case(function=lambda x: x.log_softmax(-1), inputs=(_noise(2, 3, 5),)),
        "lstm": Case(
            function=lambda x, *w: torch.lstm(
                x, w[:2], list(w[2:]), True, 2, 0.0, False, True, True
            ),
            inputs=(_noise(3, 4, 5),),
            buffers=(
                torch.zeros(4, 3, 6),
                _noise(4, 3, 6),
                *(p.detach() for p in lstm.parameters()),
            ),
        ),
        "lstm_computed_state": Case(
            function=lambda x, h, c, *w: torch.lstm(
                x, (h, c), list(w), False, 1, 0.0, False, False, False
            ),
            inputs=(_noise(4, 2, 5), _noise(1, 2, 6), _noise(1, 2, 6)),
            buffers=tuple(p.detach() for p in plain_lstm.parameters()),
        ),
    }


def shapes() -> dict[str, Case]:
    """Views and what moves elements."""
    x = _noise(2, 3, 4)
    on_x: dict[str, Function] = {
        "view": lambda x: x.view(6, 4) + 0,
        "permute": lambda x: x.permute(2, 0, 1),
        "transpose": lambda x: x.transpose(0, -1),
        "view_of_permuted": lambda x: x.permute(0, 2, 1).reshape(2, 12),
        "t": lambda x: x[0].t(),
        "expand": lambda x: x.unsqueeze(1).expand(-1, 5, -1, -1),
        "repeat": lambda x: x.repeat(2, 1, 1, 3),
        "slice": lambda x: x[:, 1:, -3:-1],
        "slice_step": lambda x: x[:, ::2, 1::2],
        "select": lambda x: x[:, -1],
        "narrow": lambda x: x.narrow(-1, 1, 2),
        "split": lambda x: torch.split(x, 2, -1),
        "split_sizes": lambda x: torch.split(x, [1, 2], 1),
        "chunk": lambda x: torch.chunk(x, 2, -1),
        "unbind": lambda x: tuple(p * 1 for p in torch.unbind(x, 1)),
        "cat": lambda x: torch.cat([x, x.relu()], -1),
        "cat_known": lambda x: torch.cat([x, torch.ones(2, 1, 4)], 1),
        "stack": lambda x: torch.stack([x, x.relu()], 2),
        "roll": lambda x: x.roll((1, -1), (1, 2)),
        "flip": lambda x: x.flip(0, 2),
        "pad": lambda x: F.pad(x, (1, 2, 0, 1), value=3.0),
        "constant_pad": lambda x: torch.constant_pad_nd(x, (1, 0, 2, 1), 0.5),
        "pad_negative": lambda x: F.pad(x, (-1, 2)),
        "squeeze": lambda x: x[:, :1].squeeze(1),
        "flatten": lambda x: x.flatten(1),
    }
    return {name: Case(function=f, inputs=(x,)) for name, f in on_x.items()} | {
        "pixel_shuffle": Case(
            function=lambda x: F.pixel_shuffle(x, 2), inputs=(_noise(1, 8, 3, 2),)
        ),
        "patches": Case(
            function=lambda x, w: F.conv2d(x, w, stride=2).flatten(2).transpose(1, 2),
            inputs=(_noise(1, 3, 6, 6),),
            buffers=(_noise(5, 3, 2, 2),),
        ),
    }


def lookups_and_reductions() -> dict[str, Case]:
    """Indices and reductions."""
    x = _noise(2, 3, 4)
    on_x: dict[str, Function] = {
        "sum": lambda x: x.sum((0, 2)),
        "sum_all": torch.sum,
        "mean": lambda x: x.mean(1, keepdim=True),
        "amax": lambda x: x.amax((1, 2)),
        "amin": lambda x: x.amin(-1),
        "var": lambda x: x.var((1, 2)),
        "var_biased": lambda x: x.var(1, correction=0, keepdim=True),
        "std": lambda x: x.std(-1),
        "any": lambda x: (x > 1).any(1),
        "all": lambda x: (x > -1).all(1),
        "prod": lambda x: x.prod(1),
        "argmax": lambda x: x.argmax(1),
        "argmin": lambda x: x.argmin(-1, keepdim=True),
        "mean_of_permuted": lambda x: x.permute(2, 0, 1).mean(0) * 2,
    }
    return {name: Case(function=f, inputs=(x,)) for name, f in on_x.items()} | {
        "whole_sum": Case(function=lambda x: x.sum(0), inputs=(_whole(4, 3),)),
        "embedding": Case(
            function=lambda i, w: F.embedding(i, w), inputs=(_whole(2, 3),), buffers=(_noise(9, 5),)
        ),
        "index_select": Case(
            function=lambda x, i: x.index_select(1, i), inputs=(x, _whole(5, below=3))
        ),
        "index": Case(function=lambda x, i: x[i], inputs=(x, torch.tensor([[1, 0], [-1, -2]]))),
        "index_known": Case(function=lambda x: x[torch.tensor([1, -1, 0])], inputs=(x,)),
        "index_copy": Case(
            function=lambda x, s: x.index_copy(1, torch.arange(1, 3), s),
            inputs=(x, _noise(2, 2, 4)),
        ),
        "index_copy_whole": Case(
            function=lambda x, s: x.index_copy(1, torch.arange(3), s) + 1,
            inputs=(x, _noise(2, 3, 4)),
        ),
    }


FAMILIES: dict[str, Callable[[], dict[str, Case]]] = {
    f.__name__: f
    for f in (elementwise, convolutions, pools, products_and_norms, shapes, lookups_and_reductions)
}
