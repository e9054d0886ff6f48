"""Convolutions beside torch's, dense, grouped and depthwise."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from programs import LIBRARIES, Three, packed, run_one, three, wider
from torch import Tensor
from torch.nn import functional

from ridgeline.native.library import Library
from ridgeline.native.program import Step
from ridgeline.native.winograd import winograd_weights

on_every_isa = pytest.mark.parametrize("library", LIBRARIES, ids=lambda library: library.isa)
DTYPES = (torch.float32, torch.bfloat16)


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One convolution. room: by how much the positions of x and y lie further apart than needed."""

    channels: int
    filters: int
    size: Three
    kernel: Three
    batch: int = 1
    groups: int = 1
    stride: Three = (1, 1, 1)
    pad: Three = (0, 0, 0)
    dilation: Three = (1, 1, 1)
    dtype: torch.dtype = torch.float32
    y_dtype: torch.dtype | None = None
    has_bias: bool = True
    room: int = 0
    threads: int = 1
    name: str = "conv"
    x: Tensor = field(init=False)
    w: Tensor = field(init=False)
    bias: Tensor = field(init=False)

    def __post_init__(self) -> None:
        scale = (self.channels // self.groups * torch.tensor(self.kernel).prod()) ** -0.5
        w = torch.randn(self.filters, self.channels // self.groups, *self.kernel) * scale
        x = torch.randn(self.batch, self.channels, *self.size)
        object.__setattr__(self, "x", x.to(self.dtype))
        object.__setattr__(self, "w", w.to(self.dtype))
        object.__setattr__(self, "bias", torch.randn(self.filters))

    def expected(self) -> Tensor:
        """(N, K, *out) in fp32."""
        return functional.conv3d(
            self.x.float(),
            self.w.float(),
            self.bias if self.has_bias else None,
            self.stride,
            self.pad,
            self.dilation,
            self.groups,
        )

    def fields(self, out: Three) -> Mapping[str, int]:
        """The fields that are numbers."""
        found = {"batch": self.batch, "channels": self.channels}
        found |= {"ldx": self.channels + self.room, "ldy": self.filters + self.room}
        if self.name == "conv":
            found |= {"filters": self.filters, "groups": self.groups}
        if self.name == "grouped":
            found |= {"group": self.channels // self.groups}
        for i, d in enumerate(("depth", "height", "width")):
            found |= {d: self.size[i], f"out_{d}": out[i], f"kernel_{d}": self.kernel[i]}
            found |= {f"stride_{d}": self.stride[i], f"pad_{d}": self.pad[i]}
            found |= {f"dilation_{d}": self.dilation[i]}
        return found

    def packed(self, library: Library) -> Tensor:
        """The weight as the instruction wants it."""
        if self.name != "conv":  # (taps, channels of a group, filters)
            return self.w.float().flatten(2).permute(2, 1, 0).contiguous()
        w_GNKT = self.w.unflatten(0, (self.groups, -1)).flatten(3)
        return torch.cat([packed(library, w_NKT.mT.flatten(1)) for w_NKT in w_GNKT])


def run(library: Library, case: Case, *, with_expression: bool = False) -> None:
    """Compares with torch; the expression is relu(2 y + z) by columns and elements."""
    expected = case.expected()
    out = tuple(expected.shape[2:])
    x = wider((case.batch, *case.size, case.channels), case.dtype, case.room)
    x.copy_(case.x.movedim(1, -1))
    y = wider((case.batch, *out, case.filters), case.y_dtype or case.dtype, case.room)
    fields = {"x_ref": x, "w_ref": case.packed(library), "y_ref": y} | case.fields(out)
    fields |= {"bias_ref": case.bias if case.has_bias else None}
    operands, steps = [], []
    if with_expression:
        z = torch.randn(expected.movedim(1, -1).shape)
        expected = functional.relu(2 * expected + z.movedim(-1, 1))
        operands = [z.flatten(0, -2)]
        steps = [Step("AFFINE", to=1, a=0, p=2), Step("LOAD", to=2, a=0)]
        steps += [Step("ADD", to=3, a=1, b=2), Step("RELU", to=1, a=3)]
    run_one(
        library,
        case.name,
        fields,
        operands,
        steps,
        threads=case.threads,
    )
    tolerance = 1e-4 if y.dtype == case.dtype == torch.float32 else 2e-2
    torch.testing.assert_close(
        y.movedim(-1, 1).float(), expected, rtol=tolerance, atol=tolerance * expected.abs().max()
    )
    if case.room:
        assert (y.as_strided((*y.shape[:-1], case.room), y.stride(), case.filters) == 7).all()


def dtypes_of(library: Library, name: str) -> tuple[torch.dtype, ...]:
    """What an instruction takes; convolutions of bf16 are for conv_grid where there are tiles."""
    return DTYPES[:1] if name == "conv" and library.has_bf16 else DTYPES


def drawn(
    library: Library, data: st.DataObject, *, groups: int, group: int, filters: int, name: str
) -> Case:
    """Any small case."""
    kernel = three(data, 1, 3)
    return Case(
        channels=groups * group,
        filters=groups * filters,
        groups=groups,
        batch=data.draw(st.integers(1, 2)),
        size=three(data, 5, 9),
        kernel=kernel,
        stride=three(data, 1, 2),
        pad=three(data, 0, 2),
        dilation=three(data, 1, 2),
        dtype=data.draw(st.sampled_from(dtypes_of(library, name))),
        y_dtype=data.draw(st.sampled_from(DTYPES)),
        has_bias=data.draw(st.booleans()),
        room=data.draw(st.integers(0, 3)),
        threads=data.draw(st.integers(1, 2)),
        name=name,
    )


@on_every_isa
@given(st.data())
def test_small_ones_of_every_kind(library: Library, data: st.DataObject) -> None:
    case = drawn(
        library,
        data,
        groups=data.draw(st.integers(1, 3)),
        group=data.draw(st.integers(1, 20)),
        filters=data.draw(st.integers(1, 40)),
        name="conv",
    )
    run(library, case, with_expression=data.draw(st.booleans()))


@on_every_isa
@given(st.data())
def test_small_depthwise_ones_of_every_kind(library: Library, data: st.DataObject) -> None:
    case = drawn(
        library, data, groups=data.draw(st.integers(1, 70)), group=1, filters=1, name="depthwise"
    )
    run(library, case, with_expression=data.draw(st.booleans()))


@on_every_isa
@given(st.data())
def test_small_grouped_ones_of_every_kind(library: Library, data: st.DataObject) -> None:
    group = data.draw(st.sampled_from([2, 4, 8, 16, 32]))
    most = max(40 // group, 2)
    groups = data.draw(st.integers(1, most))
    case = drawn(library, data, groups=groups, group=group, filters=group, name="grouped")
    run(library, case, with_expression=data.draw(st.booleans()))


def plane(kernel: int, stride: int = 1, dilation: int = 1) -> Mapping[str, Three]:
    """The window of a two-dimensional convolution that keeps the size, but for its stride."""
    pad = dilation * (kernel // 2)
    return {
        "kernel": (1, kernel, kernel),
        "stride": (1, stride, stride),
        "pad": (0, pad, pad),
        "dilation": (1, dilation, dilation),
    }


NETWORKS = {
    "resnet-1x1": Case(channels=256, filters=64, size=(1, 14, 14), **plane(1)),
    "resnet-1x1-s2": Case(channels=64, filters=96, size=(1, 15, 14), **plane(1, 2)),
    "resnet-3x3": Case(channels=64, filters=64, size=(1, 19, 17), **plane(3)),
    "resnet-3x3-s2": Case(channels=64, filters=128, size=(1, 20, 28), **plane(3, 2)),
    "resnet-3x3-deep": Case(channels=256, filters=256, size=(1, 7, 7), **plane(3), batch=2),
    "resnet-first": Case(channels=3, filters=64, size=(1, 41, 38), **plane(7, 2)),
    "mobilenet-first": Case(channels=3, filters=16, size=(1, 32, 32), **plane(3, 2), batch=2),
    "resnext": Case(channels=128, filters=128, groups=32, size=(1, 14, 14), **plane(3)),
    "resnext-s2": Case(channels=256, filters=256, groups=32, size=(1, 14, 14), **plane(3, 2)),
    "regnet": Case(channels=144, filters=144, groups=6, size=(1, 9, 9), **plane(3)),
    "shuffled": Case(channels=60, filters=120, groups=3, size=(1, 9, 9), **plane(1)),
    "dilated": Case(channels=32, filters=48, size=(1, 16, 16), **plane(3, 1, 2)),
    "deeplab": Case(channels=64, filters=32, size=(1, 16, 16), **plane(3, 1, 12)),
    "3-d": Case(channels=16, filters=64, size=(6, 9, 10), kernel=(3, 3, 3), pad=(1, 1, 1)),
    "3-d-first": Case(
        channels=1, filters=64, size=(9, 20, 19), kernel=(3, 7, 7), stride=(1, 2, 2), pad=(1, 3, 3)
    ),
    "patches": Case(channels=3, filters=100, size=(1, 32, 32), kernel=(1, 8, 8), stride=(1, 8, 8)),
    "row": Case(channels=24, filters=24, size=(1, 9, 9), kernel=(1, 1, 7), pad=(0, 0, 3)),
    "column": Case(channels=24, filters=24, size=(1, 9, 9), kernel=(1, 7, 1), pad=(0, 3, 0)),
    "all-padding": Case(channels=5, filters=7, size=(1, 1, 1), kernel=(1, 3, 3), pad=(0, 3, 3)),
}


def depthwise(channels: int, size: int, kernel: int, stride: int = 1, dilation: int = 1) -> Case:
    """A case of a MobileNet."""
    return Case(
        channels=channels,
        filters=channels,
        groups=channels,
        size=(1, size, size),
        name="depthwise",
        **plane(kernel, stride, dilation),
    )


DEPTHWISE = {
    "first": depthwise(16, 40, 3),
    "s2": depthwise(64, 29, 3, 2),
    "5x5-s2": depthwise(72, 30, 5, 2),
    "5x5": depthwise(120, 28, 5),
    "200": depthwise(200, 14, 3),
    "672": depthwise(672, 14, 5),
    "960": depthwise(960, 7, 5),
    "7x7": depthwise(96, 14, 7),
    "dilated": depthwise(48, 14, 3, 1, 2),
    "narrow": depthwise(17, 2, 5),
    "3-d": Case(
        channels=24, filters=24, groups=24, size=(5, 6, 7), kernel=(3, 3, 3), pad=(1, 1, 1),
        name="depthwise",
    ),
}  # fmt: skip


def grouped(
    channels: int, group: int, size: int, stride: int = 1, kernel: int = 3, dilation: int = 1
) -> Case:
    """A case of a ResNeXt."""
    return Case(
        channels=channels,
        filters=channels,
        groups=channels // group,
        size=(1, size, size),
        name="grouped",
        **plane(kernel, stride, dilation),
    )


GROUPED = {
    "128": grouped(128, 4, 20),
    "256-s2": grouped(256, 8, 28, 2),
    "256": grouped(256, 8, 14),
    "512": grouped(512, 16, 9),
    "1024": grouped(1024, 32, 7),
    "wide-s2": grouped(24, 4, 61, 2),
    "wide-s3": grouped(32, 16, 61, 3),
    "wide-5x5": grouped(16, 2, 33, 1, 5),
    "wide-dilated": grouped(48, 8, 33, 1, 3, 2),
    "3-d": Case(
        channels=24, filters=24, groups=6, size=(5, 6, 33), kernel=(3, 3, 3), pad=(1, 1, 1),
        name="grouped",
    ),
}  # fmt: skip


def with_type(case: Case, dtype: torch.dtype, threads: int) -> Case:
    """The same case stored in another type."""
    given = {f: getattr(case, f) for f in Case.__dataclass_fields__ if f not in ("x", "w", "bias")}
    return Case(**given | {"dtype": dtype, "threads": threads})


@on_every_isa
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", NETWORKS)
def test_layers_of_networks(library: Library, name: str, dtype: torch.dtype) -> None:
    if dtype not in dtypes_of(library, "conv"):
        pytest.skip("conv_grid is for these")
    run(library, with_type(NETWORKS[name], dtype, 2), with_expression=True)


@on_every_isa
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", DEPTHWISE)
def test_depthwise_layers_of_networks(library: Library, name: str, dtype: torch.dtype) -> None:
    run(library, with_type(DEPTHWISE[name], dtype, 2), with_expression=True)


@on_every_isa
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", GROUPED)
def test_grouped_layers_of_networks(library: Library, name: str, dtype: torch.dtype) -> None:
    run(library, with_type(GROUPED[name], dtype, 2), with_expression=True)


@on_every_isa
@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("tile", [2, 4])
@pytest.mark.parametrize(
    ("channels", "filters", "size", "pad", "batch"),
    [(64, 64, 14, 1, 1), (3, 70, 9, 0, 2), (37, 40, 7, 1, 3), (130, 16, 5, 2, 1), (16, 8, 3, 0, 1)],
)
def test_winograds_algorithm_is_a_convolution(
    library: Library,
    channels: int,
    filters: int,
    size: int,
    pad: int,
    batch: int,
    tile: int,
    dtype: torch.dtype,
    threads: int,
) -> None:
    x = wider((batch, size, size + 1, channels), dtype, 3)
    x.copy_(torch.randn(x.shape))
    w = torch.randn(filters, channels, 3, 3) * (9 * channels) ** -0.5
    bias = torch.randn(filters) if batch < 3 else None
    expected = functional.conv2d(x.movedim(-1, 1).float(), w, bias, padding=pad)
    z = torch.randn(expected.movedim(1, -1).shape)
    out_height, out_width = expected.shape[2:]
    y = wider((batch, out_height, out_width, filters), dtype, 2)
    points = winograd_weights(w, tile)
    fields = {"x_ref": x, "y_ref": y, "bias_ref": bias, "tile": tile, "batch": batch}
    fields |= {"w_ref": torch.cat([packed(library, w_KC) for w_KC in points])}
    fields |= {"height": size, "width": size + 1, "channels": channels, "filters": filters}
    fields |= {"out_height": out_height, "out_width": out_width, "pad_height": pad}
    fields |= {"pad_width": pad, "ldx": channels + 3, "ldy": filters + 2}
    steps = [Step("LOAD", to=1, a=0), Step("ADD", to=0, a=0, b=1), Step("RELU", to=0, a=0)]
    if threads == 3:
        steps.append(Step("SILU", to=0, a=0))
    run_one(library, "winograd", fields, [z.flatten(0, -2)], steps, threads=threads)
    expected = functional.relu(expected + z.movedim(-1, 1))
    if threads == 3:
        expected = functional.silu(expected)
    tolerance = 1e-5 if dtype == torch.float32 else 2e-2
    torch.testing.assert_close(
        y.movedim(-1, 1).float(), expected, rtol=tolerance, atol=tolerance * expected.abs().max()
    )


@pytest.mark.parametrize("tile", [2, 4])
def test_errors_of_winograds_algorithm_stay_near_those_of_sums(tile: int) -> None:
    """A thousandth of what is asked of fp32, with as many terms as ResNets have."""
    library, channels = LIBRARIES[-1], 512
    x, y = torch.randn(1, 14, 14, channels), torch.empty(1, 14, 14, 64)
    w = torch.randn(64, channels, 3, 3)
    fields = {"x_ref": x, "y_ref": y, "bias_ref": None, "tile": tile, "batch": 1, "height": 14}
    fields |= {"w_ref": torch.cat([packed(library, w_KC) for w_KC in winograd_weights(w, tile)])}
    fields |= {"width": 14, "channels": channels, "filters": 64, "out_height": 14, "out_width": 14}
    fields |= {"pad_height": 1, "pad_width": 1, "ldx": channels, "ldy": 64}
    run_one(library, "winograd", fields)
    expected = functional.conv2d(x.movedim(-1, 1).double(), w.double(), padding=1)
    assert (y.movedim(-1, 1) - expected).abs().max() < 5e-6 * expected.abs().max()
