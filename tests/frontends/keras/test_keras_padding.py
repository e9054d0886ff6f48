"""Convolutions and pooling over sizes, kernels, strides and paddings, as TensorFlow pads."""

import itertools
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

pytest.importorskip("keras", reason="needs keras, a test extra")

import keras
import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import layers
from keras_oracle import TOLERANCE, check, error_of, keras_alone, read_back

EXAMPLES = settings(max_examples=25)
RANKS = st.sampled_from((1, 2, 3))


@st.composite
def strides_or_dilation(draw: st.DrawFn, rank: int) -> tuple[list[int], int]:
    """Strides per dimension and one dilation; Keras takes more than one of at most one of them."""
    strides = draw(st.lists(st.integers(1, 3), min_size=rank, max_size=rank))
    dilation = draw(st.integers(1, 2)) if set(strides) == {1} else 1
    return strides, dilation


def sizes(rank: int, low: int, high: int) -> st.SearchStrategy[list[int]]:
    """One size per dimension."""
    return st.lists(st.integers(low, high), min_size=rank, max_size=rank)


def shape_of(spatial: list[int], channels: int, is_first: bool) -> tuple[int, ...]:
    return (channels, *spatial) if is_first else (*spatial, channels)


def hold(layer: object, shape: tuple[int, ...]) -> None:
    """One layer read back equals Keras's own."""
    with TemporaryDirectory() as folder:
        start = keras.Input(shape)
        check(keras.Model(start, layer(start)), Path(folder))  # type: ignore[operator]


@EXAMPLES
@given(data=st.data(), rank=RANKS, is_first=st.booleans(), groups=st.sampled_from((1, 2)))
def test_convolutions(data: st.DataObject, rank: int, is_first: bool, groups: int) -> None:
    strides, dilation = data.draw(strides_or_dilation(rank))
    paddings = ["valid", "same"]
    if rank == 1 and not is_first:
        paddings.append("causal")
    layer = {1: layers.Conv1D, 2: layers.Conv2D, 3: layers.Conv3D}[rank](
        4,
        data.draw(sizes(rank, 1, 4)),
        strides=strides,
        padding=data.draw(st.sampled_from(paddings)),
        dilation_rate=dilation,
        groups=groups,
        data_format="channels_first" if is_first else "channels_last",
        activation="relu",
    )
    hold(layer, shape_of(data.draw(sizes(rank, 8, 11)), 2, is_first))


@EXAMPLES
@given(data=st.data(), rank=st.sampled_from((1, 2)), is_first=st.booleans())
def test_depthwise_and_separable(data: st.DataObject, rank: int, is_first: bool) -> None:
    kinds = {
        1: (layers.DepthwiseConv1D, layers.SeparableConv1D),
        2: (layers.DepthwiseConv2D, layers.SeparableConv2D),
    }
    stride = data.draw(st.integers(1, 3))
    options = {
        "strides": stride,
        "padding": data.draw(st.sampled_from(("valid", "same"))),
        "depth_multiplier": data.draw(st.integers(1, 3)),
        "data_format": "channels_first" if is_first else "channels_last",
        "use_bias": data.draw(st.booleans()),
    }
    kernel = data.draw(st.integers(1, 4))
    shape = shape_of(data.draw(sizes(rank, 5, 9)), 3, is_first)
    hold(kinds[rank][0](kernel, **options), shape)
    hold(kinds[rank][1](5, kernel, **options), shape)


@EXAMPLES
@given(data=st.data(), rank=RANKS, is_first=st.booleans())
def test_transposed_convolutions(data: st.DataObject, rank: int, is_first: bool) -> None:
    strides, dilation = data.draw(strides_or_dilation(rank))
    layer = {1: layers.Conv1DTranspose, 2: layers.Conv2DTranspose, 3: layers.Conv3DTranspose}[rank](
        3,
        data.draw(sizes(rank, 1, 4)),
        strides=strides,
        padding=data.draw(st.sampled_from(("valid", "same"))),
        dilation_rate=dilation,
        use_bias=data.draw(st.booleans()),
        data_format="channels_first" if is_first else "channels_last",
    )
    hold(layer, shape_of(data.draw(sizes(rank, 3, 6)), 2, is_first))


@EXAMPLES
@given(data=st.data(), rank=RANKS, is_first=st.booleans())
def test_max_pooling(data: st.DataObject, rank: int, is_first: bool) -> None:
    layer = {1: layers.MaxPooling1D, 2: layers.MaxPooling2D, 3: layers.MaxPooling3D}[rank](
        data.draw(sizes(rank, 1, 4)),
        strides=data.draw(st.none() | sizes(rank, 1, 3)),
        padding=data.draw(st.sampled_from(("valid", "same"))),
        data_format="channels_first" if is_first else "channels_last",
    )
    hold(layer, shape_of(data.draw(sizes(rank, 5, 9)), 2, is_first))


def averaged(x: np.ndarray, window: list[int], strides: list[int], padding: str) -> np.ndarray:
    """The mean of what each window holds of `x` (H, W), by TensorFlow's definition."""
    result = []
    for i in range(2):
        n, k, s = x.shape[i], window[i], strides[i]
        count = -(-n // s) if padding == "same" else (n - k) // s + 1
        before = max((count - 1) * s + k - n, 0) // 2 if padding == "same" else 0
        result.append(
            [range(max(j * s - before, 0), min(j * s - before + k, n)) for j in range(count)]
        )
    rows, columns = result
    means = [x[np.ix_(r, c)].mean() for r, c in itertools.product(rows, columns)]
    return np.array(means).reshape(len(rows), len(columns))


@EXAMPLES
@given(data=st.data(), padding=st.sampled_from(("valid", "same")))
def test_average_pooling_counts_what_is_there(data: st.DataObject, padding: str) -> None:
    """Held against the definition: Keras on torch repeats the edge where the padding is uneven."""
    window, shape = data.draw(sizes(2, 1, 4)), data.draw(sizes(2, 5, 9))
    strides = data.draw(sizes(2, 1, 3))
    start = keras.Input((*shape, 1))
    model = keras.Model(start, layers.AveragePooling2D(window, strides, padding)(start))
    with TemporaryDirectory() as folder:
        loaded = read_back(model, Path(folder))
    (x,) = loaded.inputs
    assert isinstance(x, torch.Tensor)
    wanted = averaged(x[0, :, :, 0].numpy(), window, strides, padding)
    found = loaded.module(x)[0, :, :, 0]
    assert error_of([found], [torch.from_numpy(wanted)]) < TOLERANCE


@pytest.mark.parametrize("padding", ["valid", "same"])
@pytest.mark.parametrize(("stride", "kernel"), [(1, 2), (2, 2), (2, 3), (2, 4), (3, 2), (3, 5)])
def test_a_transposed_convolution_is_the_transpose(
    stride: int, kernel: int, padding: str, tmp_path: Path
) -> None:
    """Its matrix is that of TensorFlow's convolution from the larger size, on its side."""
    count = 4
    length = count * stride if padding == "same" else (count - 1) * stride + max(kernel, stride)
    start = keras.Input((count, 1))
    layer = layers.Conv1DTranspose(1, kernel, stride, padding, use_bias=False)
    model = keras.Model(start, layer(start))
    with keras_alone():
        layer.kernel.assign(np.arange(1.0, kernel + 1).reshape(kernel, 1, 1))
    loaded = read_back(model, tmp_path)
    before = max((count - 1) * stride + kernel - length, 0) // 2 if padding == "same" else 0
    wanted = np.zeros((length, count))
    for j in range(count):
        for k in range(kernel):
            if 0 <= j * stride - before + k < length:
                wanted[j * stride - before + k, j] = k + 1
    columns = [
        loaded.module(torch.eye(count)[j].reshape(1, count, 1))[0, :, 0] for j in range(count)
    ]
    assert torch.stack(columns, 1).tolist() == wanted.tolist()
