"""Convolutions, channels last: as products over positions and taps, channel by channel, or by
vectors of the channels of narrow groups.
"""

from collections.abc import Sequence
from math import prod

import torch
from torch import Tensor

from ridgeline.backends.native.call import Call, Result, floating
from ridgeline.backends.native.rows.gridded import by_grid, is_for_tiles
from ridgeline.backends.native.rows.pixels import each, into_pixels, pixel_axes, window_fields
from ridgeline.backends.native.rows.products import gemm
from ridgeline.backends.native.tree import Fields, Host
from ridgeline.backends.native.value import Place, Value, channels_last
from ridgeline.errors import UnsupportedOp
from ridgeline.native.winograd import winograd_tile, winograd_weights

# What 4 MiB of scratch memory per thread have room for, with a margin.
_MOST_TAPS, _MOST_CHANNELS = 4096, 16384
# Channels per group of what is computed vector by vector; wider groups are products of their own.
_GROUPS = (2, 4, 8, 16)
# Copied for it are the positions that a row of the output, and up to 14 columns more, reads, 64
# bytes of each; that and as many weights have room in the scratch memory.
_COLUMNS, _MOST_POSITIONS = 14, 30000


def _convolution(call: Call) -> Result:
    floating(call.out)
    if call.flag("transposed"):
        raise UnsupportedOp("it is transposed")
    weight, spatial = call.known("weight"), call.out.dim() - 2
    if spatial > 3 or call.out.dim() != weight.dim():
        raise UnsupportedOp("it has no batch dimension, or too many")
    call.within("taps", prod(weight.shape[2:]), _MOST_TAPS)
    call.within("channels", max(weight.shape[:2]), _MOST_CHANNELS)
    stride, dilation = (each(call.ints(n), spatial) for n in ("stride", "dilation"))
    padding, groups = _padding(call, weight, dilation), int(call.number("groups"))
    x, ldx = call.pixels("input")
    if groups == 1 and not any(padding):
        if prod(weight.shape[2:]) == 1 == max(stride):
            return call.hosted(_as_product(call, x, ldx, weight))
        if x.shape[2:] == weight.shape[2:] and ldx == x.shape[1] and max(dilation) == 1:
            return call.hosted(_as_product(call, x, ldx * prod(x.shape[2:]), weight))
    window = window_fields(x, call.out, weight.shape[2:], stride, padding, dilation)
    if groups == 1 and (tile := _winograd_tile(call, x, weight, stride, dilation)):
        return call.hosted(_by_points(call, x, ldx, weight, tile, window))
    rows = prod(d * (k - 1) + 1 for d, k in zip(dilation[:-1], weight.shape[2:-1], strict=True))
    row = (call.out.shape[-1] + _COLUMNS) * stride[-1] + dilation[-1] * weight.shape[-1]
    name = _way(x, weight, groups, rows * row)
    if name == "conv" and is_for_tiles(call, x):
        return call.hosted(by_grid(call, x, ldx, weight, groups, window))
    return call.hosted(
        Host(
            name=name,
            fields={
                **window,
                **_weights(call, name, x, weight, groups),
                "x_ref": x.place,
                "bias_ref": call.vector("bias"),
                "x_type": x.type,
                "ldx": ldx,
            },
            spec=call.out,
            axes=pixel_axes(call.out.dim()),
            flops=2 * call.out.numel() * prod(weight.shape[1:]),
            finish=into_pixels,
        )
    )


def _as_product(call: Call, x: Value, ldx: int, weight: Tensor) -> Host:
    """One window per image, or of one position without a step: a product over rows ldx apart."""
    order = channels_last(call.out.dim())
    across = weight.movedim(1, -1).reshape(weight.shape[0], -1)
    found = gemm(call, x, ldx, across, call.vector("bias"), call.out.permute(order))
    axes = pixel_axes(call.out.dim())
    return Host(found.name, found.fields, call.out, axes, found.flops, into_pixels)


def _winograd_tile(
    call: Call, x: Value, weight: Tensor, stride: Sequence[int], dilation: Sequence[int]
) -> int | None:
    is_fit = weight.shape[2:] == (3, 3) and max(*stride, *dilation) == 1
    if not is_fit or x.dtype != torch.float32:
        return None
    return winograd_tile(x.shape[0], call.out.shape[2:], x.shape[1], weight.shape[0])


def _by_points(
    call: Call, x: Value, ldx: int, weight: Tensor, tile: int, window: dict[str, int]
) -> Host:
    own = "batch height width channels out_height out_width pad_height pad_width"
    points = list(winograd_weights(weight, tile))
    return Host(
        name="winograd",
        fields={
            **{name: window[name] for name in own.split()},
            "x_ref": x.place,
            "bias_ref": call.vector("bias"),
            "x_type": x.type,
            "ldx": ldx,
            "w_ref": call.builder.packed_groups(points),
            "tile": tile,
            "filters": weight.shape[0],
        },
        spec=call.out,
        axes=pixel_axes(call.out.dim()),
        flops=2 * call.out.numel() * prod(weight.shape[1:]),
        finish=into_pixels,
    )


def _way(x: Value, weight: Tensor, groups: int, positions: int) -> str:
    """The instruction for windows in groups. positions: of the input that one row of the output
    reads.
    """
    filters, group = weight.shape[:2]
    if groups == x.shape[1] == filters:
        return "depthwise"
    is_lean = max(positions, prod(weight.shape[1:])) <= _MOST_POSITIONS
    is_thin = groups > 1 and filters == x.shape[1] and group in _GROUPS
    return "grouped" if is_thin and is_lean else "conv"


def _weights(call: Call, name: str, x: Value, weight: Tensor, groups: int) -> Fields:
    """The fields that only this instruction has."""
    if name == "conv":
        return _by_group(call, x, weight, groups)
    own: Fields = {"w_ref": _by_channel(call, weight)}
    return {**own, "group": weight.shape[1]} if name == "grouped" else own


def _by_channel(call: Call, weight: Tensor) -> Place:
    """(taps, channels of a group, filters)"""
    across: Tensor = weight.float().flatten(2).permute(2, 1, 0).contiguous()
    return call.builder.vector(across)


def _by_group(call: Call, x: Value, weight: Tensor, groups: int) -> Fields:
    # (groups, filters, channels, *taps)
    own = weight.to(x.dtype).reshape(groups, -1, *weight.shape[1:])
    matrices = own.permute(0, 1, *range(3, own.dim()), 2).flatten(2).contiguous()
    return {
        "w_ref": call.builder.packed_groups(list(matrices)),
        "filters": weight.shape[0],
        "groups": groups,
    }


def _padding(call: Call, weight: Tensor, dilation: Sequence[int]) -> tuple[int, ...]:
    given, spatial = call.arguments["padding"], weight.dim() - 2
    if not isinstance(given, str):
        return each(call.ints("padding"), spatial)
    if given == "valid":
        return (0,) * spatial
    spans = [d * (k - 1) for d, k in zip(dilation, weight.shape[2:], strict=True)]
    if any(span % 2 for span in spans):
        raise UnsupportedOp("it pads one side more than the other")
    return tuple(span // 2 for span in spans)


ROWS = {
    name: _convolution for name in ("aten.conv1d", "aten.conv2d", "aten.conv3d", "aten.convolution")
}
