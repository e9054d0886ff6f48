"""Fourier transforms, their windows, mel weights."""

from collections.abc import Callable
from math import tau

import numpy as np
import torch
from torch import Tensor

from ridgeline.frontends.onnx.call import Call, Value, dtype_of
from ridgeline.frontends.onnx.dtypes import element_type
from ridgeline.frontends.onnx.table import Row, rows


def _as_complex(x: Tensor) -> Tensor:
    """A signal whose last dimension holds its real part, or both."""
    return x[..., 0] if x.shape[-1] == 1 else torch.view_as_complex(x.contiguous())


def _dft(call: Call) -> Value:
    x = call.tensor(0)
    axis = call.int_at(2) if call.has(2) else call.integer("axis", -2)
    axis = call.dim(axis, x.dim())
    is_inverse, is_onesided = call.flag("inverse"), call.flag("onesided")
    length = call.int_at(1) if call.has(1) else None
    signal = _as_complex(x)
    if is_inverse and is_onesided:
        real: Tensor = torch.fft.irfft(signal, length, axis)
        return real.unsqueeze(-1)
    if is_inverse:
        return torch.view_as_real(torch.fft.ifft(signal, length, axis))
    if is_onesided and not signal.is_complex():
        return torch.view_as_real(torch.fft.rfft(signal, length, axis))
    found = torch.fft.fft(signal, length, axis)
    if is_onesided:
        found = found.narrow(axis, 0, found.shape[axis] // 2 + 1)
    return torch.view_as_real(found)


def _stft(call: Call) -> Value:
    """Frames, weighted, transformed one by one."""
    signal, step = _as_complex(call.tensor(0)), call.int_at(1)
    window = call.optional(2)
    length = (
        call.int_at(3) if call.has(3) else (signal.shape[1] if window is None else window.shape[0])
    )
    frames = signal.unfold(1, length, step)
    frames = frames if window is None else frames * window
    if bool(call.integer("onesided", 1)) and not frames.is_complex():
        return torch.view_as_real(torch.fft.rfft(frames))
    found = torch.fft.fft(frames)
    if bool(call.integer("onesided", 1)):
        found = found[..., : length // 2 + 1]
    return torch.view_as_real(found)


def _window(*weights: float) -> Callable[[Call], Value]:
    """A row's function for a window that is a sum of cosines of these weights."""

    def run(call: Call) -> Value:
        size = call.int_at(0)
        call.require_size([size])
        kind = dtype_of(element_type(call.integer("output_datatype", 1)))
        steps = size if call.integer("periodic", 1) else size - 1
        turns = torch.arange(size, dtype=torch.float64, device=call.device) * (tau / max(steps, 1))
        parts = [w * torch.cos(k * turns) for k, w in enumerate(weights)]
        return torch.stack(parts).sum(0).to(kind)

    return run


def _mel_weights(call: Call) -> Value:
    """(bins, mels): triangles whose corners are evenly spaced in mels."""
    count, length, rate = (call.int_at(i) for i in range(3))
    low, high = call.float_at(3), call.float_at(4)
    bins = length // 2 + 1
    call.require_size([bins, count])
    edges = 2595 * np.log10(1 + np.array([low, high]) / 700)
    step = (edges[1] - edges[0]) / (count + 2)
    hertz = 700 * (10 ** ((np.arange(count + 2) * step + edges[0]) / 2595) - 1)
    places = np.floor((length + 1) * hertz / rate).astype(np.int64)
    result = np.zeros((bins, count))
    for mel, (first, middle, last) in enumerate(zip(places, places[1:], places[2:], strict=False)):
        if middle == first:
            result[middle, mel] = 1
        for place in range(first, middle + (middle > first)):
            result[place, mel] = (place - first) / (middle - first)
        for place in range(middle, last):
            result[place, mel] = (last - place) / (last - middle)
    kind = dtype_of(element_type(call.integer("output_datatype", 1)))
    return torch.from_numpy(result).to(kind)


ROWS: tuple[Row, ...] = rows(
    {
        "DFT": _dft,
        "STFT": _stft,
        "HannWindow": _window(0.5, -0.5),
        "HammingWindow": _window(25 / 46, -21 / 46),
        "BlackmanWindow": _window(0.42, -0.5, 0.08),
        "MelWeightMatrix": _mel_weights,
    }
)
