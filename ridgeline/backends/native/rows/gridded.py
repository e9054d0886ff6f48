"""Convolutions in tiles, on a grid of bf16 or of eight bits (native/grid.py)."""

from math import prod

import torch
from torch import Tensor

from ridgeline.backends.native import cycles
from ridgeline.backends.native.call import Call
from ridgeline.backends.native.cycles import Work
from ridgeline.backends.native.rows.pixels import into_pixels, pixel_axes, three
from ridgeline.backends.native.rows.products import is_in_eight_bits
from ridgeline.backends.native.tree import Fields, Host
from ridgeline.backends.native.value import Value
from ridgeline.native.grid import Grid, GridKind, grid_of

# Whose ranges the scratch memory has room for.
_MOST_IMAGES = 2**17


def is_for_tiles(call: Call, x: Value) -> bool:
    """Whether this processor has tiles for the type."""
    return x.dtype == torch.bfloat16 and call.builder.library.has_bf16


def by_grid(
    call: Call, x: Value, ldx: int, weight: Tensor, groups: int, window: dict[str, int]
) -> Host:
    """A convolution of any groups. window: the fields that say where windows lie."""
    builder, filters = call.builder, weight.shape[0]
    grid, is_rounded = _chosen(call, x, weight, groups, window)
    if is_rounded:
        layout = (grid.kind == GridKind.TAPS, grid.room)
        own = builder.packed_int8(weight, layout, grid.weights)
    else:
        own = {"w_ref": builder.packed_groups(grid.weights(weight.to(x.dtype)))}
        own = {**own, "column_scale_ref": None, "column_low_ref": None}
    shape: Fields = {**window, "groups": groups, "kind": grid.kind}
    return Host(
        name="conv_grid",
        fields={
            **shape,
            **own,
            **builder.gridded(x, ldx, grid, shape),
            "bias_ref": call.vector("bias"),
            "filters": filters,
            "ldx": grid.pitch,
        },
        spec=call.out,
        axes=pixel_axes(call.out.dim()),
        flops=2 * call.out.numel() * prod(weight.shape[1:]),
        finish=into_pixels,
    )


def _chosen(
    call: Call, x: Value, weight: Tensor, groups: int, window: dict[str, int]
) -> tuple[Grid, bool]:
    """The grid, and whether it is of eight bits."""
    filters, depth = weight.shape[0], prod(weight.shape[1:])
    rows = call.out.numel() // filters
    lean, wide = (grid_of(_grid(window, groups, nbytes), filters) for nbytes in (1, 2))
    if lean.batch > _MOST_IMAGES:
        return wide, False
    is_rounded = is_in_eight_bits(
        call.builder,
        (rows, filters, depth),
        _work(lean, rows, filters, depth, searched=prod(x.shape)),
        _work(wide, rows, filters, depth),
    )
    return (lean if is_rounded else wide), is_rounded


def _work(grid: Grid, rows: int, columns: int, depth: int, searched: int = 0) -> Work:
    return Work(
        rows=rows,
        columns=columns,
        steps=grid.steps(columns),
        weight_nbytes=columns * depth * grid.item_nbytes,
        laid=grid.laying_cycles + cycles.search(searched),
    )


def _grid(window: dict[str, int], groups: int, item_nbytes: int) -> Grid:
    return Grid(
        batch=window["batch"],
        channels=window["channels"],
        groups=groups,
        out=three(window, "out_"),
        kernel=three(window, "kernel_"),
        stride=three(window, "stride_"),
        dilation=three(window, "dilation_"),
        item_nbytes=item_nbytes,
    )
