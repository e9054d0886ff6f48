"""Reading an image elsewhere than at its pixels: resizing, grids, regions."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import floor

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from ridgeline.frontends.onnx.call import Call, Value
from ridgeline.frontends.onnx.table import Row, rows
from ridgeline.frontends.onnx.weights import known

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Axis:
    """How one dimension is resized. first, last: of the region read, as parts of the whole."""

    dim: int
    before: int
    after: int
    scale: float
    first: float = 0.0
    last: float = 1.0

    @property
    def is_plain(self) -> bool:
        """Whether the scale is that of the two sizes."""
        return abs(self.scale * self.before - self.after) < 1e-6


def _resize(call: Call) -> Value:
    x, axes = call.tensor(0), _resized(call)
    call.require_size([*x.shape, *(a.after for a in axes)])
    mode = call.text("mode", "nearest")
    moving = [a for a in axes if (a.before, a.scale) != (a.after, 1.0) or a.first or a.last != 1.0]
    if not moving:
        return call.value(0)
    kernel = _torch_mode(call, x, moving, mode)
    if kernel:
        size = tuple(
            next((a.after for a in moving if a.dim == d), x.shape[d]) for d in range(2, x.dim())
        )
        corners = None if kernel == "nearest" else _how(call) == "align_corners"
        return F.interpolate(x, size=size, mode=kernel, align_corners=corners)
    return _nearest(call, x, moving) if mode == "nearest" else _weighted(call, x, moving, mode)


def _how(call: Call) -> str:
    """The map from places in the output to places in the input."""
    old = "asymmetric" if call.version < 11 else "half_pixel"
    return call.text("coordinate_transformation_mode", old)


def _resized(call: Call) -> list[Axis]:
    """What happens to each dimension; scales were input 1 or an attribute before version 11."""
    shape = call.shape(0)
    axes = [call.dim(a, len(shape)) for a in call.integers("axes", range(len(shape)))]
    regions = [(0.0, 1.0)] * len(axes)
    if _how(call) == "tf_crop_and_resize" and call.has(1):
        roi = [float(v) for v in call.array(1).astype(np.float64)]
        regions = list(zip(roi[: len(axes)], roi[len(axes) :], strict=True))
    if call.has(3) and call.shape(3) != (0,):
        afters, scales = _sizes(call, [shape[a] for a in axes])
    else:
        scales = call.numbers("scales") if call.given("scales") else _scales(call)
        afters = [
            floor(shape[a] * (r[1] - r[0]) * s)
            for a, s, r in zip(axes, scales, regions, strict=True)
        ]
    return [
        Axis(dim=d, before=shape[d], after=n, scale=s, first=r[0], last=r[1])
        for d, n, s, r in zip(axes, afters, scales, regions, strict=True)
    ]


def _scales(call: Call) -> list[float]:
    return [float(v) for v in call.array(1 if call.version < 11 else 2).astype(np.float64)]


def _sizes(call: Call, before: Sequence[int]) -> tuple[list[int], list[float]]:
    """Sizes asked for, and the scales they mean; one scale for all where the aspect is kept."""
    wanted = call.ints(3)
    scales = [w / b for w, b in zip(wanted, before, strict=True)]
    policy = call.text("keep_aspect_ratio_policy", "stretch")
    if policy == "stretch":
        return wanted, scales
    scale = min(scales) if policy == "not_larger" else max(scales)
    return [floor(scale * b + 0.5) for b in before], [scale] * len(scales)


def _torch_mode(call: Call, x: Tensor, axes: Sequence[Axis], mode: str) -> str:
    """The name of torch's kernel that does the same, or "" where none does."""
    spatial, how = x.dim() - 2, _how(call)
    if not 1 <= spatial <= 3 or min(a.dim for a in axes) < 2 or not all(a.is_plain for a in axes):
        return ""
    if not x.is_floating_point() or call.integer("antialias", 0):
        return ""
    if mode == "nearest":
        is_floor = (
            call.text("nearest_mode", "floor" if call.version < 11 else "round_prefer_floor")
            == "floor"
        )
        return "nearest" if how == "asymmetric" and is_floor else ""
    is_known = how in ("half_pixel", "align_corners") or (
        how == "pytorch_half_pixel" and min(a.after for a in axes) > 1
    )
    if mode == "linear":
        return ("linear", "bilinear", "trilinear")[spatial - 1] if is_known else ""
    is_same = call.number("cubic_coeff_a", -0.75) == -0.75 and not call.integer(
        "exclude_outside", 0
    )
    return "bicubic" if is_known and is_same and spatial == 2 else ""


def _places(call: Call, axis: Axis) -> Floats:
    """Where in the input each place of the output lies."""
    out = np.arange(axis.after, dtype=np.float64)
    before, scale = axis.before, axis.scale
    length = scale * before  # of the output, before it was cut to whole pixels
    match _how(call):
        case "asymmetric":
            return out / scale
        case "align_corners":
            return out * (before - 1) / (length - 1) if length != 1 else np.zeros_like(out)
        case "pytorch_half_pixel":
            return (out + 0.5) / scale - 0.5 if length > 1 else np.zeros_like(out)
        case "half_pixel_symmetric":
            centre = before / 2 * (1 - axis.after / length)
            return centre + (out + 0.5) / scale - 0.5
        case "tf_crop_and_resize":
            reach = (axis.last - axis.first) * (before - 1)
            if axis.after <= 1:
                return np.full_like(out, 0.5 * (axis.first + axis.last) * (before - 1))
            return axis.first * (before - 1) + out * reach / (axis.after - 1)
        case _:
            return (out + 0.5) / scale - 0.5


_ROUNDINGS: dict[str, Callable[[Floats], Floats]] = {
    "floor": np.floor,
    "ceil": np.ceil,
    "round_prefer_floor": lambda v: np.ceil(v - 0.5),
    "round_prefer_ceil": lambda v: np.floor(v + 0.5),
}


def _nearest(call: Call, x: Tensor, axes: Sequence[Axis]) -> Value:
    default = "floor" if call.version < 11 else "round_prefer_floor"
    rounding = call.text("nearest_mode", default)
    for axis in axes:
        where = _places(call, axis)
        whole = _ROUNDINGS[rounding](where)
        index = known(np.clip(whole, 0, axis.before - 1).astype(np.int64))
        x = x.index_select(axis.dim, call.lifted(index))
    return _extrapolated(call, x, axes)


def _weighted(call: Call, x: Tensor, axes: Sequence[Axis], mode: str) -> Value:
    """One small product per dimension: each output is a weighted sum of a few inputs."""
    dtype = x.dtype
    x = x if x.is_floating_point() else x.float()
    for axis in axes:
        weights = _weights(call, axis, mode).astype(np.float32)
        matrix = call.lifted(known(weights)).to(x.dtype)
        x = torch.matmul(x.movedim(axis.dim, -1), matrix.t()).movedim(-1, axis.dim)
    if not dtype.is_floating_point:
        x = x.round().clamp(torch.iinfo(dtype).min, torch.iinfo(dtype).max)
    return _extrapolated(call, x.to(dtype), axes)


def _weights(call: Call, axis: Axis, mode: str) -> Floats:
    """(output, input): the part of each input in each output."""
    is_smoothed = bool(call.integer("antialias", 0)) and axis.scale < 1
    stretch = 1 / axis.scale if is_smoothed else 1.0
    radius = (1 if mode == "linear" else 2) * stretch
    result = np.zeros((axis.after, axis.before))
    excludes = bool(call.integer("exclude_outside", 0))
    for i, where in enumerate(_places(call, axis)):
        taps = np.arange(floor(where - radius) + 1, floor(where + radius) + 1)
        parts = _kernel(np.abs(taps - where) / stretch, mode, call.number("cubic_coeff_a", -0.75))
        if excludes:
            parts = np.where((taps >= 0) & (taps < axis.before), parts, 0.0)
        if excludes or is_smoothed:
            parts = parts / parts.sum()
        np.add.at(result[i], np.clip(taps, 0, axis.before - 1), parts)
    return result


def _kernel(distance: Floats, mode: str, a: float) -> Floats:
    """The weight at a distance: a tent, or Keys' cubic with the free parameter `a`."""
    if mode == "linear":
        return np.maximum(0.0, 1 - distance)
    near = ((a + 2) * distance - (a + 3)) * distance**2 + 1
    far = ((a * distance - 5 * a) * distance + 8 * a) * distance - 4 * a
    return np.where(distance <= 1, near, np.where(distance < 2, far, 0.0))


def _extrapolated(call: Call, x: Tensor, axes: Sequence[Axis]) -> Value:
    """Places outside of the input, which only a crop can ask for, get a value of their own."""
    if _how(call) != "tf_crop_and_resize":
        return x
    for axis in axes:
        where = _places(call, axis)
        is_outside = known((where < 0) | (where > axis.before - 1))
        shape = [-1 if d == axis.dim else 1 for d in range(x.dim())]
        mask = call.lifted(is_outside).reshape(shape)
        x = torch.where(mask, call.number("extrapolation_value", 0.0), x).to(x.dtype)
    return x


_GRID_MODES = {"linear": "bilinear", "cubic": "bicubic"}


def _grid_sample(call: Call) -> Value:
    mode = call.text("mode")
    return F.grid_sample(
        call.tensor(0),
        call.tensor(1),
        _GRID_MODES.get(mode, mode),
        call.text("padding_mode"),
        call.flag("align_corners"),
    )


def _affine_grid(call: Call) -> Value:
    return F.affine_grid(call.tensor(0), call.ints(1), call.flag("align_corners"))


def _roi_align(call: Call) -> Value:
    """Each bin of each region is the mean or maximum of points read bilinearly."""
    x, regions, samples = call.tensor(0), call.tensor(1), call.tensor(2).long()
    shift = (
        0.5
        if call.version >= 16 and call.text("coordinate_transformation_mode") == "half_pixel"
        else 0.0
    )
    corners = regions * call.number("spatial_scale") - shift
    start, end = corners[:, :2].flip(1), corners[:, 2:].flip(1)  # (y, x)
    reach = end - start if shift else (end - start).clamp(min=1.0)
    out = (call.integer("output_height"), call.integer("output_width"))
    ratio = call.integer("sampling_ratio")
    if ratio == 0:
        call.require_data("how many points it reads")
    parts = []
    for i in range(len(regions)):
        bins = reach[i] / torch.tensor(out, device=x.device)
        counts = [ratio, ratio] if ratio > 0 else [max(1, int(v)) for v in bins.ceil().tolist()]
        points = [
            start[i, d]
            + bins[d] * (torch.arange(out[d] * counts[d], device=x.device) + 0.5) / counts[d]
            for d in range(2)
        ]
        image = x.index_select(0, samples[i : i + 1]).squeeze(0)
        grid = _bilinear(image, points[0], points[1])
        blocks = grid.reshape(*grid.shape[:-2], out[0], counts[0], out[1], counts[1])
        parts.append(blocks.amax((-3, -1)) if call.text("mode") == "max" else blocks.mean((-3, -1)))
    found = torch.stack(parts)  # (regions, corners, channels, height, width)
    return found.amax(1) if call.text("mode") == "max" else found.sum(1)


def _bilinear(image: Tensor, y: Tensor, x: Tensor) -> Tensor:
    """(4, C, Y, X): the four weighted corners around every point; outside the image they are 0."""
    rows_, columns = (_corners(v, n) for v, n in zip((y, x), image.shape[1:], strict=True))
    corners = [image[:, i][:, :, j] * (p.reshape(-1, 1) * q) for i, p in rows_ for j, q in columns]
    return torch.stack(corners)


def _corners(v: Tensor, length: int) -> list[tuple[Tensor, Tensor]]:
    """The pixels below and above each point with their weights."""
    is_inside = ((v >= -1) & (v <= length)).to(v.dtype)
    v = v.clamp(0, length - 1)
    low = v.floor()
    part = v - low
    above = (low + 1).clamp(max=length - 1)
    return [(low.long(), (1 - part) * is_inside), (above.long(), part * is_inside)]


ROWS: tuple[Row, ...] = rows(
    {
        "Resize": _resize,
        "Upsample": _resize,
        "GridSample": _grid_sample,
        "AffineGrid": _affine_grid,
        "RoiAlign": _roi_align,
    }
)
