"""Convolutions, padded as TensorFlow pads.

Shapes: N samples, C input channels, K output channels, S spatial dimensions.
"""

from collections.abc import Sequence

from torch import Tensor
from torch.nn import functional as F

from ridgeline.frontends.keras.call import Call
from ridgeline.frontends.keras.layers.activations import activated
from ridgeline.frontends.keras.table import Result, Row, rows

_CONVOLUTIONS = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
_TRANSPOSED = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}
Pads = list[tuple[int, int]]


def same_pads(lengths: Sequence[int], kernel: Sequence[int], strides: Sequence[int]) -> Pads:
    """(before, after) for each dimension so that ceil(length / stride) outputs result; where they
    differ, one more comes after. Source: TensorFlow, `tf.nn.convolution`, "SAME".
    """
    totals = [
        max((-(-n // s) - 1) * s + k - n, 0)
        for n, k, s in zip(lengths, kernel, strides, strict=True)
    ]
    return [(t // 2, t - t // 2) for t in totals]


def spread(kernel: Sequence[int], dilation: Sequence[int]) -> list[int]:
    """How far a kernel reaches."""
    return [(k - 1) * d + 1 for k, d in zip(kernel, dilation, strict=True)]


def padded(x: Tensor, pads: Pads, fill: float = 0.0) -> Tensor:
    """`x` with its last dimensions padded."""
    return F.pad(x, [n for pair in reversed(pads) for n in pair], value=fill)


def convolve(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    *,
    strides: Sequence[int],
    dilation: Sequence[int],
    padding: str,
    groups: int,
) -> Tensor:
    """A convolution, channels first; padding "valid", "same" or "causal"."""
    rank = x.dim() - 2
    reach = spread(weight.shape[2:], dilation)
    pads = _pads(padding, x.shape[2:], reach, strides)
    if any(before != after for before, after in pads):
        x, pads = padded(x, pads), [(0, 0)] * rank
    result: Tensor = _CONVOLUTIONS[rank](
        x, weight, bias, list(strides), [before for before, _ in pads], list(dilation), groups
    )
    return result


def _pads(padding: str, lengths: Sequence[int], reach: list[int], strides: Sequence[int]) -> Pads:
    if padding == "valid":
        return [(0, 0)] * len(reach)
    if padding == "causal":
        return [(r - 1, 0) for r in reach]
    if padding == "same":
        return same_pads(lengths, reach, strides)
    raise ValueError(f"there is no padding {padding!r}")


def channels_to_front(kernel: Tensor) -> Tensor:
    """(S, C, K), as Keras has a kernel, as (K, C, S), as torch has it."""
    rank = kernel.dim() - 2
    return kernel.permute(rank + 1, rank, *range(rank))


def _per_channel(kernel: Tensor) -> Tensor:
    """(S, C, multiplier) as (C * multiplier, 1, S)."""
    rank = kernel.dim() - 2
    return kernel.permute(rank, rank + 1, *range(rank)).flatten(0, 1).unsqueeze(1)


def _bias(call: Call, index: int, count: int) -> Tensor | None:
    return call.weight(index, (count,), "bias") if call.flag("use_bias", True) else None


def _run(call: Call, x: Tensor, weight: Tensor, bias: Tensor | None, groups: int) -> Tensor:
    rank = x.dim() - 2
    return convolve(
        x,
        weight,
        bias,
        strides=call.sizes("strides", rank),
        dilation=call.sizes("dilation_rate", rank, 1),
        padding=call.text("padding"),
        groups=groups,
    )


def _input(call: Call) -> tuple[Tensor, int]:
    """(the input, channels first; its spatial dimensions, which the class says)."""
    rank = int(call.layer.kind.removesuffix("Transpose")[-2])
    if call.value.rank != rank + 2:
        raise call.error(f"its input has {call.value.rank} dimensions, not {rank + 2}")
    return call.channels_first(call.value), rank


def _convolution(call: Call) -> Result:
    x, rank = _input(call)
    groups, filters = call.count("groups") if call.has("groups") else 1, call.count("filters")
    shape = (*call.sizes("kernel_size", rank), x.shape[1] // groups, filters)
    weight = call.weight(0, shape, "weight", channels_to_front)
    y = _run(call, x, weight, _bias(call, 1, filters), groups)
    return activated(call, call.from_channels_first(y))


def _depthwise(call: Call) -> Result:
    x, rank = _input(call)
    channels, multiplier = x.shape[1], call.count("depth_multiplier")
    shape = (*call.sizes("kernel_size", rank), channels, multiplier)
    weight = call.weight(0, shape, "weight", _per_channel)
    y = _run(call, x, weight, _bias(call, 1, channels * multiplier), channels)
    return activated(call, call.from_channels_first(y))


def _separable(call: Call) -> Result:
    """Depthwise, then pointwise."""
    x, rank = _input(call)
    channels, filters = x.shape[1], call.count("filters")
    wide = channels * call.count("depth_multiplier")
    deep = (*call.sizes("kernel_size", rank), channels, wide // channels)
    y = _run(call, x, call.weight(0, deep, "depthwise.weight", _per_channel), None, channels)
    point = call.weight(1, (*(1,) * rank, wide, filters), "pointwise.weight", channels_to_front)
    bias = call.weight(2, (filters,), "pointwise.bias") if call.flag("use_bias", True) else None
    y = _CONVOLUTIONS[rank](y, point, bias)
    return activated(call, call.from_channels_first(y))


def _transposed(call: Call) -> Result:
    """The whole transposed convolution, cut to what TensorFlow keeps of it."""
    x, rank = _input(call)
    filters, kernel = call.count("filters"), call.sizes("kernel_size", rank)
    strides, dilation = call.sizes("strides", rank), call.sizes("dilation_rate", rank, 1)
    weight = call.weight(0, (*kernel, filters, x.shape[1]), "weight", channels_to_front)
    cuts = [
        _cut(call, k, s, extra)
        for k, s, extra in zip(spread(kernel, dilation), strides, _extra(call, rank), strict=True)
    ]
    inside = [max(min(before, after), 0) for before, after in cuts]
    cuts = [(before - i, after - i) for (before, after), i in zip(cuts, inside, strict=True)]
    bias = _bias(call, 1, filters)
    has_plain_end = all(
        before == 0 and 0 <= -after < max(s, d)
        for (before, after), s, d in zip(cuts, strides, dilation, strict=True)
    )
    if has_plain_end:
        more = [-after for _, after in cuts]
        y = _TRANSPOSED[rank](x, weight, bias, strides, inside, more, 1, dilation)
        return activated(call, call.from_channels_first(y))
    y = _TRANSPOSED[rank](x, weight, None, strides, inside, 0, 1, dilation)
    y = padded(y, [(-before, -after) for before, after in cuts])
    if bias is not None:
        y = y + bias.reshape(-1, *(1,) * rank)
    return activated(call, call.from_channels_first(y))


def _extra(call: Call, rank: int) -> list[int | None]:
    if not call.has("output_padding"):
        return [None] * rank
    found = call.integers("output_padding")
    return list(found * rank if len(found) == 1 else found)


def _cut(call: Call, reach: int, stride: int, extra: int | None) -> tuple[int, int]:
    """How much of the whole result goes at either end; negative where zeros are added. Source:
    keras, `_convert_conv_transpose_padding_args_from_keras_to_jax`.
    """
    if call.text("padding") == "valid":
        return 0, -(max(reach, stride) - reach if extra is None else extra)
    total = stride + reach - 2 if extra is None else reach + reach % 2 - 2 + extra
    before = min(total // 2 + total % 2, reach - 1)
    return reach - 1 - before, reach - 1 - (total - before)


ROWS: tuple[Row, ...] = rows(
    {
        **{f"Conv{rank}D": _convolution for rank in (1, 2, 3)},
        **{f"Conv{rank}DTranspose": _transposed for rank in (1, 2, 3)},
        **{f"DepthwiseConv{rank}D": _depthwise for rank in (1, 2)},
        **{f"SeparableConv{rank}D": _separable for rank in (1, 2)},
    },
)
