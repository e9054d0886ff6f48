"""Convolutions, plain, transposed, deformed and as sums of columns."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from ridgeline.frontends.onnx.call import Call, Value
from ridgeline.frontends.onnx.ops.shape import padded
from ridgeline.frontends.onnx.table import Row, rows


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """How a kernel slides over the spatial dimensions."""

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    befores: tuple[int, ...]
    afters: tuple[int, ...]

    @property
    def is_even(self) -> bool:
        """Whether both ends of every dimension are padded alike."""
        return self.befores == self.afters


def window(call: Call, kernel: Sequence[int], size: Sequence[int]) -> Window:
    """The window of a call over spatial dimensions of `size`."""
    rank = len(kernel)
    ones = (1,) * rank
    strides, dilations = call.integers("strides", ones), call.integers("dilations", ones)
    pads = call.integers("pads", (0,) * 2 * rank)
    befores, afters = pads[:rank], pads[rank:]
    mode = call.text("auto_pad", "NOTSET")
    if mode in ("SAME_UPPER", "SAME_LOWER"):
        totals = [
            max(0, (-(-n // s) - 1) * s + (k - 1) * d + 1 - n)
            for n, s, k, d in zip(size, strides, kernel, dilations, strict=True)
        ]
        befores, afters = _halved(totals, is_upper=mode == "SAME_UPPER")
    elif mode == "VALID":
        befores, afters = [0] * rank, [0] * rank
    return Window(
        kernel=tuple(kernel),
        strides=tuple(strides),
        dilations=tuple(dilations),
        befores=tuple(befores),
        afters=tuple(afters),
    )


def _halved(totals: Sequence[int], *, is_upper: bool) -> tuple[list[int], list[int]]:
    """Paddings in two halves; an odd one goes to the end if `is_upper`."""
    small, large = [t // 2 for t in totals], [t - t // 2 for t in totals]
    return (small, large) if is_upper else (large, small)


def bordered(x: Tensor, w: Window, value: float = 0.0) -> Tensor:
    """`x` with the window's own borders as values."""
    return padded(x, [0, 0, *w.befores], [0, 0, *w.afters], value)


def conv(call: Call, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """The convolution of a call on these tensors."""
    w = window(call, weight.shape[2:], x.shape[2:])
    padding: Sequence[int] = w.befores
    if not w.is_even:
        x, padding = bordered(x, w), (0,) * len(w.kernel)
    function = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}.get(len(w.kernel))
    if function is None:
        raise call.error(f"it has {len(w.kernel)} spatial dimensions; 1 to 3 are taken")
    return function(x, weight, bias, w.strides, padding, w.dilations, call.integer("group", 1))


def _conv(call: Call) -> Value:
    return conv(call, call.tensor(0), call.tensor(1), call.optional(2))


def _conv_transpose(call: Call) -> Value:
    """Uneven paddings are cut off a convolution without any."""
    x, weight, bias = call.tensor(0), call.tensor(1), call.optional(2)
    kernel = tuple(weight.shape[2:])
    rank, size = len(kernel), x.shape[2:]
    ones = (1,) * rank
    strides, dilations = call.integers("strides", ones), call.integers("dilations", ones)
    extra = call.integers("output_padding", (0,) * rank)
    full = [
        (n - 1) * s + (k - 1) * d + 1 + e
        for n, s, k, d, e in zip(size, strides, kernel, dilations, extra, strict=True)
    ]
    befores, afters = _cuts(call, full, size, strides)
    function = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}[rank]
    group = call.integer("group")
    if (
        befores == afters
        and min(befores) >= 0
        and all(e < s for e, s in zip(extra, strides, strict=True))
    ):
        return function(x, weight, bias, strides, befores, extra, group, dilations)
    whole = function(x, weight, bias, strides, 0, 0, group, dilations)
    ends = [e - a for e, a in zip(extra, afters, strict=True)]
    beyond = [max(0, e) for e in ends]
    if any(beyond) and bias is not None:
        plain = function(x, weight, None, strides, 0, 0, group, dilations)
        grown = padded(plain, [0, 0, *(-b for b in befores)], [0, 0, *ends], 0.0)
        return grown + bias.reshape(1, -1, *ones)
    return padded(whole, [0, 0, *(-b for b in befores)], [0, 0, *ends], 0.0)


def _cuts(
    call: Call, full: Sequence[int], size: Sequence[int], strides: Sequence[int]
) -> tuple[list[int], list[int]]:
    """What a transposed convolution takes off both ends of its full output."""
    rank = len(full)
    mode = call.text("auto_pad", "NOTSET")
    if call.given("output_shape"):
        wanted = call.integers("output_shape")[-rank:]
    elif mode in ("SAME_UPPER", "SAME_LOWER"):
        wanted = [n * s for n, s in zip(size, strides, strict=True)]
    else:
        pads = call.integers("pads", (0,) * 2 * rank)
        return pads[:rank], pads[rank:]
    totals = [f - w for f, w in zip(full, wanted, strict=True)]
    return _halved(totals, is_upper=mode == "SAME_UPPER")


def _col2im(call: Call) -> Value:
    """Columns summed into an image of any number of dimensions."""
    columns, size, kernel = call.tensor(0), call.ints(1), call.ints(2)
    w = window(call, kernel, size)
    if len(size) == 2 and w.is_even:
        return F.fold(columns, tuple(size), tuple(kernel), w.dilations, w.befores, w.strides)
    samples, channels = columns.shape[0], columns.shape[1] // int(torch.tensor(kernel).prod())
    whole = [n + b + a for n, b, a in zip(size, w.befores, w.afters, strict=True)]
    places = torch.arange(int(torch.tensor(whole).prod()), device=columns.device).reshape(whole)
    for axis, (k, s, d) in enumerate(zip(kernel, w.strides, w.dilations, strict=True)):
        places = places.unfold(axis, (k - 1) * d + 1, s)[..., ::d]
    rank = len(size)
    order = (*range(rank, 2 * rank), *range(rank))
    flat = places.permute(order).reshape(-1)
    values = columns.reshape(samples, channels, -1)
    image = values.new_zeros(samples, channels, int(torch.tensor(whole).prod()))
    image = image.index_add(2, flat, values).reshape(samples, channels, *whole)
    return padded(image, [0, 0, *(-b for b in w.befores)], [0, 0, *(-a for a in w.afters)], 0.0)


def _deform_conv(call: Call) -> Value:
    """Each tap of the kernel reads the image where its offset says, bilinearly; a product sums."""
    x, weight, offset = call.tensor(0), call.tensor(1), call.tensor(2)
    bias, mask = call.optional(3), call.optional(4)
    w = window(call, weight.shape[2:], x.shape[2:])
    groups, shares = call.integer("group"), call.integer("offset_group")
    n, c = x.shape[:2]
    taps, (height, width) = w.kernel[0] * w.kernel[1], offset.shape[2:]
    grid = _taps(w, height, width, x) + offset.reshape(n * shares, taps, 2, height, width).permute(
        0, 1, 3, 4, 2
    )
    size = x.new_tensor(x.shape[2:])
    normal = (2 * grid + 1) / size - 1  # align_corners=False: -1 and 1 are the outer edges
    flat = normal.flip(-1).reshape(n * shares, taps * height, width, 2)
    read = F.grid_sample(
        x.reshape(n * shares, c // shares, *x.shape[2:]), flat, "bilinear", "zeros", False
    ).reshape(n, shares, c // shares, taps, height, width)
    if mask is not None:
        read = read * mask.reshape(n, shares, 1, taps, height, width)
    columns = read.reshape(n, groups, c // groups * taps, height * width)
    kernels = weight.reshape(groups, weight.shape[0] // groups, -1)
    result = torch.matmul(kernels, columns).reshape(n, -1, height, width)
    return result if bias is None else result + bias.reshape(1, -1, 1, 1)


def _taps(w: Window, height: int, width: int, like: Tensor) -> Tensor:
    """(taps, height, width, 2): where every tap of the kernel reads without offsets."""
    starts = [
        torch.arange(n, device=like.device) * s - b
        for n, s, b in zip((height, width), w.strides, w.befores, strict=True)
    ]
    steps = [
        torch.arange(k, device=like.device) * d for k, d in zip(w.kernel, w.dilations, strict=True)
    ]
    rows_ = (steps[0].reshape(-1, 1, 1, 1) + starts[0].reshape(1, 1, -1, 1)).expand(
        w.kernel[0], w.kernel[1], height, width
    )
    columns = (steps[1].reshape(1, -1, 1, 1) + starts[1].reshape(1, 1, 1, -1)).expand(
        w.kernel[0], w.kernel[1], height, width
    )
    return torch.stack((rows_, columns), -1).reshape(-1, height, width, 2).to(like.dtype)


ROWS: tuple[Row, ...] = rows(
    {
        "Conv": _conv,
        "ConvTranspose": _conv_transpose,
        "Col2Im": _col2im,
        "DeformConv": _deform_conv,
    }
)
