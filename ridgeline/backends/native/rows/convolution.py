"""Convolutions, channels last: as products over positions and taps, channel by channel, or by
vectors of the channels of narrow groups.
"""

from collections.abc import Sequence
from math import prod
from typing import cast

import torch
from torch import Tensor

from ridgeline.backends.native import cycles
from ridgeline.backends.native.call import Call, Result, floating
from ridgeline.backends.native.cycles import Work
from ridgeline.backends.native.rows.products import gemm, is_in_eight_bits
from ridgeline.backends.native.tree import Fields, Host
from ridgeline.backends.native.value import Place, Value, as_matrix, channels_last
from ridgeline.errors import UnsupportedOp
from ridgeline.native.grid import Grid, grid_of
from ridgeline.native.winograd import winograd_tile, winograd_weights

# What 4 MiB of scratch memory per thread have room for, with a margin.
_MOST_TAPS, _MOST_CHANNELS, _MOST_IMAGES = 4096, 16384, 2**17
_AXES = ("depth", "height", "width")
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
    taps = prod(weight.shape[2:])
    call.within("taps", taps, _MOST_TAPS)
    call.within("channels", max(weight.shape[:2]), _MOST_CHANNELS)
    call.within("images", call.out.shape[0], _MOST_IMAGES)
    stride, dilation = (_each(call.ints(n), spatial) for n in ("stride", "dilation"))
    padding, groups = _padding(call, weight, dilation), int(call.number("groups"))
    x, ldx = call.pixels("input")
    if groups == 1 and prod(weight.shape[2:]) == 1 == max(stride) and not any(padding):
        return call.hosted(_pointwise(call, x, ldx, weight))
    fields: Fields = {
        "x_ref": x.place,
        "bias_ref": call.vector("bias"),
        "x_type": x.type,
        "batch": x.shape[0],
        "channels": x.shape[1],
        "ldx": ldx,
        **_named("", x.shape[2:]),
        **_named("out_", call.out.shape[2:]),
        **_named("kernel_", weight.shape[2:]),
        **_named("stride_", stride),
        **_named("pad_", padding, fill=0),
        **_named("dilation_", dilation),
    }
    if groups == 1 and (tile := _winograd_tile(call, x, weight, stride, dilation)):
        return call.hosted(_by_points(call, fields, weight, tile))
    rows = prod(d * (k - 1) + 1 for d, k in zip(dilation[:-1], weight.shape[2:-1], strict=True))
    row = (call.out.shape[-1] + _COLUMNS) * stride[-1] + dilation[-1] * weight.shape[-1]
    name = _way(x, weight, groups, rows * row)
    if name == "conv" and x.dtype == torch.bfloat16 and call.builder.library.has_bf16:
        return call.hosted(_by_grid(call, fields, x, weight, groups))
    return call.hosted(
        Host(
            name=name,
            fields={**fields, **_weights(call, name, x, weight, groups)},
            spec=call.out,
            axes=pixel_axes(call.out.dim()),
            flops=2 * call.out.numel() * prod(weight.shape[1:]),
            finish=into_pixels,
        )
    )


def _pointwise(call: Call, x: Value, ldx: int, weight: Tensor) -> Host:
    """One tap and no step: a product over positions."""
    order = channels_last(call.out.dim())
    across = weight.reshape(weight.shape[0], -1)
    found = gemm(call, x, ldx, across, call.vector("bias"), call.out.permute(order))
    axes = pixel_axes(call.out.dim())
    return Host(found.name, found.fields, call.out, axes, found.flops, into_pixels)


def pixel_axes(rank: int) -> tuple[tuple[int, ...], ...]:
    """Positions, and channels."""
    return (0, *range(2, rank)), (1,)


def _winograd_tile(
    call: Call, x: Value, weight: Tensor, stride: Sequence[int], dilation: Sequence[int]
) -> int | None:
    is_fit = weight.shape[2:] == (3, 3) and max(*stride, *dilation) == 1
    if not is_fit or x.dtype != torch.float32:
        return None
    return winograd_tile(x.shape[0], call.out.shape[2:], x.shape[1], weight.shape[0])


def _by_points(call: Call, fields: Fields, weight: Tensor, tile: int) -> Host:
    own = "x_ref bias_ref x_type batch height width channels out_height out_width pad_height"
    points = list(winograd_weights(weight, tile))
    return Host(
        name="winograd",
        fields={
            **{name: fields[name] for name in (*own.split(), "pad_width", "ldx")},
            "w_ref": call.builder.packed_groups(points),
            "tile": tile,
            "filters": weight.shape[0],
        },
        spec=call.out,
        axes=pixel_axes(call.out.dim()),
        flops=2 * call.out.numel() * prod(weight.shape[1:]),
        finish=into_pixels,
    )


def into_pixels(target: Value) -> Fields:
    """Fields of a result with dense channels."""
    order = channels_last(target.spec.dim())
    distance = as_matrix(target.spec.permute(order))
    assert distance is not None
    return {"y_ref": target.place, "y_type": target.type, "ldy": distance}


def _by_grid(call: Call, fields: Fields, x: Value, weight: Tensor, groups: int) -> Host:
    """In tiles, on a grid of bf16 or of eight bits."""
    builder, filters = call.builder, weight.shape[0]
    m, k = call.out.numel() // filters, prod(weight.shape[1:])
    lean, wide = (grid_of(_grid(fields, groups, nbytes), filters) for nbytes in (1, 2))
    is_int8 = is_in_eight_bits(
        builder,
        (m, filters, k),
        _work(lean, m, filters, k, laid=cycles.rounding(prod(x.shape), lean.batch)),
        _work(wide, m, filters, k),
    )
    grid = lean if is_int8 else wide
    if is_int8:
        own = builder.packed_int8(weight, grid.weights)
    else:
        own = {"w_ref": builder.packed_groups(grid.weights(weight.to(x.dtype)))}
    own = {**dict.fromkeys(("column_scale_ref", "column_low_ref")), **own}
    window = {n: v for n, v in fields.items() if n not in ("x_ref", "bias_ref", "x_type", "ldx")}
    window |= {"groups": groups, "kind": grid.kind}
    laid = builder.gridded(x, grid, {**window, "ldx": fields["ldx"]})
    return Host(
        name="conv_grid",
        fields={
            **window,
            **own,
            **laid,
            "bias_ref": fields["bias_ref"],
            "filters": filters,
            "ldx": grid.pitch,
        },
        spec=call.out,
        axes=pixel_axes(call.out.dim()),
        flops=2 * call.out.numel() * k,
        finish=into_pixels,
    )


def _work(grid: Grid, rows: int, columns: int, depth: int, laid: float = 0.0) -> Work:
    return Work(
        rows=rows,
        columns=columns,
        steps=grid.steps(columns),
        weight_nbytes=columns * depth * grid.item_nbytes,
        laid=grid.laying_cycles + laid,
    )


def _grid(fields: Fields, groups: int, item_nbytes: int) -> Grid:
    return Grid(
        batch=cast(int, fields["batch"]),
        channels=cast(int, fields["channels"]),
        groups=groups,
        out=_three(fields, "out_"),
        kernel=_three(fields, "kernel_"),
        stride=_three(fields, "stride_"),
        dilation=_three(fields, "dilation_"),
        item_nbytes=item_nbytes,
    )


def _three(fields: Fields, prefix: str) -> tuple[int, int, int]:
    depth, height, width = (cast(int, fields[prefix + axis]) for axis in _AXES)
    return depth, height, width


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
        return _each(call.ints("padding"), spatial)
    if given == "valid":
        return (0,) * spatial
    spans = [d * (k - 1) for d, k in zip(dilation, weight.shape[2:], strict=True)]
    if any(span % 2 for span in spans):
        raise UnsupportedOp("it pads one side more than the other")
    return tuple(span // 2 for span in spans)


def _each(given: Sequence[int], spatial: int) -> tuple[int, ...]:
    """One number per spatial dimension, of a list that may hold one for all."""
    return tuple(given) * spatial if len(given) == 1 else tuple(given)


def _named(prefix: str, sizes: Sequence[int], fill: int = 1) -> dict[str, int]:
    full = [fill] * (3 - len(sizes)) + [int(n) for n in sizes]
    return {f"{prefix}{axis}": size for axis, size in zip(_AXES, full, strict=True)}


def window_fields(
    x: Value,
    out: Tensor,
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
) -> Fields:
    """The fields that say where windows lie."""
    spatial = out.dim() - 2
    return {
        "batch": x.shape[0],
        "channels": x.shape[1],
        **_named("", x.shape[2:]),
        **_named("out_", out.shape[2:]),
        **_named("kernel_", _each(kernel, spatial)),
        **_named("stride_", _each(stride, spatial)),
        **_named("pad_", _each(padding, spatial), fill=0),
        **_named("dilation_", _each(dilation, spatial)),
    }


ROWS = {
    name: _convolution for name in ("aten.conv1d", "aten.conv2d", "aten.conv3d", "aten.convolution")
}
