"""grid and conv_grid beside torch, for every instruction set of this machine."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from math import prod

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from ridgeline.native.grid import Grid, GridKind, grid_of
from ridgeline.native.library import Library
from ridgeline.native.program import Step
from tests.native.programs import LIBRARIES, Three, packed, run_one, three, wider

pytestmark = pytest.mark.skipif(not LIBRARIES, reason="the native kernels were not built")
each_library = pytest.mark.parametrize("library", LIBRARIES, ids=lambda library: library.isa)
BF16, INT8 = torch.bfloat16, torch.uint8


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One convolution. dtype: of the grid; x_dtype: of x, for a grid of eight bits. room: by how
    much the positions of x and y lie further apart than needed.
    """

    channels: int
    filters: int
    size: Three
    kernel: Three
    batch: int = 1
    groups: int = 1
    stride: Three = (1, 1, 1)
    pad: Three = (0, 0, 0)
    dilation: Three = (1, 1, 1)
    dtype: torch.dtype = BF16
    x_dtype: torch.dtype = BF16
    y_dtype: torch.dtype = torch.float32
    has_bias: bool = True
    kind: GridKind = GridKind.TAPS
    room: int = 0
    threads: int = 1
    x: Tensor = field(init=False)
    w: Tensor = field(init=False)
    bias: Tensor = field(init=False)

    def __post_init__(self) -> None:
        scale = (self.channels // self.groups * torch.tensor(self.kernel).prod()) ** -0.5
        w = torch.randn(self.filters, self.channels // self.groups, *self.kernel) * scale
        x = torch.randn(self.batch, self.channels, *self.size) + 0.7
        x *= torch.logspace(0, 2, self.batch).reshape(-1, 1, 1, 1, 1)
        object.__setattr__(self, "x", x.to(self.x_dtype))
        object.__setattr__(self, "w", w.to(BF16).float())
        object.__setattr__(self, "bias", torch.randn(self.filters))

    def convolved(self, x: Tensor, w: Tensor, bias: Tensor | None) -> Tensor:
        """(N, K, *out) in fp64."""
        return functional.conv3d(
            x.double(),
            w.double(),
            bias.double() if bias is not None else None,
            self.stride,
            self.pad,
            self.dilation,
            self.groups,
        )

    @property
    def has_runs(self) -> bool:
        """Whether it may be of RUNS."""
        return self.dtype == INT8 and self.groups == self.dilation[2] == 1

    def grid(self, out: Three) -> Grid:
        """Its grid."""
        return Grid(
            batch=self.batch,
            channels=self.channels,
            groups=self.groups,
            out=out,
            kernel=self.kernel,
            stride=self.stride,
            dilation=self.dilation,
            item_nbytes=self.dtype.itemsize,
            kind=self.kind,
        )

    def fields(self, out: Three) -> Mapping[str, int]:
        """The fields that are numbers."""
        found = {"batch": self.batch, "channels": self.channels, "groups": self.groups}
        found |= {"kind": self.kind}
        for i, d in enumerate(("depth", "height", "width")):
            found |= {d: self.size[i], f"out_{d}": out[i], f"kernel_{d}": self.kernel[i]}
            found |= {f"stride_{d}": self.stride[i], f"pad_{d}": self.pad[i]}
            found |= {f"dilation_{d}": self.dilation[i]}
        return found


def laid(library: Library, case: Case, grid: Grid, out: Three) -> tuple[Tensor, Tensor, Tensor]:
    """x in its grid, and the scale and smallest value of every image."""
    x = wider((case.batch, *case.size, case.channels), case.x_dtype, case.room)
    x.copy_(case.x.movedim(1, -1))
    y = torch.full((grid.size,), 77).to(case.dtype)
    scales, lows = torch.full((case.batch,), 7.0), torch.full((case.batch,), 7.0)
    fields = {"x_ref": x, "y_ref": y, "scale_ref": None, "low_ref": None, **case.fields(out)}
    if case.dtype == INT8:
        fields |= {"scale_ref": scales, "low_ref": lows}
    fields |= {"ldx": case.channels + case.room, "ldy": grid.pitch}
    run_one(library, "grid", fields, threads=case.threads)
    return y, scales, lows


EXPRESSIONS: Mapping[str, tuple[float, list[Step]]] = {
    "none": (1, []),
    "short": (1, [Step("LOAD", to=1, a=0), Step("ADD", to=0, a=0, b=1), Step("RELU", to=0, a=0)]),
    "long": (2, [Step("AFFINE", to=1, a=0, p=2), Step("LOAD", to=2, a=0),
                 Step("ADD", to=3, a=1, b=2), Step("RELU", to=1, a=3)]),
}  # fmt: skip


def run(library: Library, case: Case, expression: str = "none") -> None:
    """Compares with torch; expressions are relu(factor y + z)."""
    bias = case.bias if case.has_bias else None
    expected = case.convolved(case.x, case.w, bias)
    first, second, third = expected.shape[2:]
    out = (first, second, third)
    grid = case.grid(out)
    x, scales, lows = laid(library, case, grid, out)
    y = wider((case.batch, *out, case.filters), case.y_dtype, case.room)
    fields = {"x_ref": x, "y_ref": y, "bias_ref": bias, "filters": case.filters}
    fields |= case.fields(out) | {"ldx": grid.pitch, "ldy": case.filters + case.room}
    names = ("row_scale_ref", "row_low_ref", "column_scale_ref", "column_low_ref")
    fields |= dict.fromkeys(names)
    margin = torch.full_like(expected, 1e-5 * float(expected.abs().max()))
    if case.dtype == INT8:
        column_scales = case.w.flatten(1).abs().amax(1) / 127
        whole = (case.w / column_scales.reshape(-1, 1, 1, 1, 1)).round()
        weights = grid.weights(whole.to(torch.int8))
        rounded = whole * column_scales.reshape(-1, 1, 1, 1, 1)
        column_lows = rounded.flatten(1).sum(1)
        fields |= dict(zip(names, (scales, lows, column_scales, column_lows), strict=True))
        expected = case.convolved(case.x, rounded, bias)
        half = torch.ones_like(case.x) * scales.reshape(-1, 1, 1, 1, 1) * 0.51
        margin += case.convolved(half, rounded.abs(), None)
        margin += 1e-6 * float(lows.abs().max() * column_lows.abs().max())  # what cancels in fp32
    else:
        weights = grid.weights(case.w.to(BF16))
    fields |= {"w_ref": torch.cat([packed(library, w_NK) for w_NK in weights])}
    factor, steps = EXPRESSIONS[expression]
    operands = []
    if steps:
        z = torch.randn(expected.movedim(1, -1).shape).to(case.y_dtype)
        expected = functional.relu(factor * expected + z.movedim(-1, 1))
        margin *= factor
        operands = [z.flatten(0, -2)]
    run_one(library, "conv_grid", fields, operands, steps, threads=case.threads)
    if case.y_dtype == BF16:
        margin += 2**-8 * (expected.abs() + margin)
    error = (y.movedim(-1, 1).double() - expected).abs()
    assert (error <= margin).all(), float((error / margin).max())
    if case.room:
        assert (y.as_strided((*y.shape[:-1], case.room), y.stride(), case.filters) == 7).all()


@each_library
@given(st.data())
@settings(max_examples=60, deadline=None)
def test_small_ones_of_every_kind(library: Library, data: st.DataObject) -> None:
    floats = st.sampled_from([torch.float32, BF16])
    dtype = data.draw(st.sampled_from([BF16, INT8]))
    kind = data.draw(
        st.sampled_from(list(GridKind) if dtype == INT8 else [GridKind.TAPS, GridKind.ROWS])
    )
    groups = data.draw(st.integers(1, 3 if kind != GridKind.RUNS else 1))
    first, second, third = three(data, 1, 2)
    dilation = (first, second, third if kind != GridKind.RUNS else 1)
    size, kernel, pad = three(data, 1, 9), three(data, 1, 3), three(data, 0, 3)
    spans = [d * (k - 1) + 1 for d, k in zip(dilation, kernel, strict=True)]
    assume(all(n + 2 * p >= s for n, p, s in zip(size, pad, spans, strict=True)))
    run(
        library,
        Case(
            channels=groups * data.draw(st.integers(1, 70)),
            filters=groups * data.draw(st.integers(1, 40)),
            groups=groups,
            batch=data.draw(st.integers(1, 3)),
            size=size,
            kernel=kernel,
            stride=three(data, 1, 3),
            pad=pad,
            dilation=dilation,
            dtype=dtype,
            x_dtype=BF16 if dtype == BF16 else data.draw(floats),
            y_dtype=data.draw(floats),
            has_bias=data.draw(st.booleans()),
            kind=kind,
            room=data.draw(st.integers(0, 3)),
            threads=data.draw(st.integers(1, 3)),
        ),
        data.draw(st.sampled_from(list(EXPRESSIONS))),
    )


RESNETS: Mapping[str, Case] = {
    "first": Case(channels=3, filters=64, size=(1, 96, 96), kernel=(1, 7, 7), stride=(1, 2, 2),
                  pad=(0, 3, 3)),
    "middle": Case(channels=128, filters=128, size=(1, 28, 28), kernel=(1, 3, 3), pad=(0, 1, 1)),
    "last": Case(channels=512, filters=512, size=(1, 7, 7), kernel=(1, 3, 3), pad=(0, 1, 1)),
    "step": Case(channels=256, filters=256, size=(1, 15, 14), kernel=(1, 3, 3),
                 stride=(1, 2, 2), pad=(0, 1, 1)),
    "shortcut": Case(channels=256, filters=96, size=(1, 14, 15), kernel=(1, 1, 1),
                     stride=(1, 2, 2)),
    "eight images": Case(channels=64, filters=64, size=(1, 14, 14), kernel=(1, 3, 3), batch=8,
                         pad=(0, 1, 1)),
    "groups": Case(channels=128, filters=128, groups=4, size=(1, 28, 28), kernel=(1, 3, 3),
                   pad=(0, 1, 1)),
    "volume": Case(channels=32, filters=48, size=(9, 20, 20), kernel=(3, 3, 3), pad=(1, 1, 1)),
}  # fmt: skip


@pytest.mark.parametrize("dtype", [BF16, INT8], ids=("bf16", "int8"))
@pytest.mark.parametrize("name", RESNETS)
@pytest.mark.parametrize("threads", [1, 2])
def test_those_of_networks(name: str, dtype: torch.dtype, threads: int) -> None:
    case, library = replace(RESNETS[name], dtype=dtype), Library()
    if not library.has_int8:
        pytest.skip("slow without tiles")
    for kind in GridKind:
        if kind == GridKind.RUNS and not case.has_runs:
            continue
        for y_dtype in (torch.float32, BF16):
            run(
                library,
                replace(case, dtype=dtype, threads=threads, kind=kind, y_dtype=y_dtype),
                "short" if y_dtype == BF16 else "long",
            )


@each_library
@pytest.mark.parametrize("kind", GridKind)
def test_zeros_stay_zeros_in_eight_bits(library: Library, kind: GridKind) -> None:
    case = Case(channels=5, filters=3, size=(1, 6, 6), kernel=(1, 3, 3), pad=(0, 1, 1), dtype=INT8,
                kind=kind)  # fmt: skip
    case.x[:, :, :, 2:4] = 0
    grid = case.grid((1, 6, 6))
    x, scales, lows = laid(library, case, grid, (1, 6, 6))
    rows = x[: prod(grid.shape)].reshape(grid.shape).float() * scales + lows
    used = rows[..., : 15 if kind == GridKind.ROWS else 5]
    assert (used[0, 0, 0, 0, 3:5] == 0).all()
    assert (used[0, 0, 0, 0, 5:7] != 0).any()
    assert scales > 0
    case.x[:] = 0
    x, scales, lows = laid(library, case, grid, (1, 6, 6))
    assert not x[: prod(grid.shape)].any()
    assert scales == lows == 0


@each_library
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_what_is_not_finite_makes_its_image_nan(library: Library, value: float) -> None:
    case = Case(channels=19, filters=3, size=(1, 6, 6), kernel=(1, 3, 3), batch=3, dtype=INT8,
                threads=2)  # fmt: skip
    case.x[1, 17, 0, 3, 3] = value
    _, scales, _ = laid(library, case, case.grid((1, 4, 4)), (1, 4, 4))
    assert scales.isnan().tolist() == [False, True, False]


@pytest.mark.parametrize(
    ("item_nbytes", "expected"),
    [
        (2, [GridKind.ROWS, GridKind.TAPS, GridKind.ROWS]),
        (1, [GridKind.RUNS, GridKind.RUNS, GridKind.ROWS]),
    ],
)
def test_the_kind_suits_the_layer(item_nbytes: int, expected: list[GridKind]) -> None:
    shape = {"batch": 1, "groups": 1, "dilation": (1, 1, 1), "item_nbytes": item_nbytes}
    first = Grid(channels=3, out=(1, 112, 112), kernel=(1, 7, 7), stride=(1, 2, 2), **shape)
    wide = Grid(channels=32, out=(1, 56, 56), kernel=(1, 3, 3), stride=(1, 1, 1), **shape)
    small = Grid(channels=512, out=(1, 7, 7), kernel=(1, 3, 3), stride=(1, 1, 1), **shape)
    found = [grid_of(g, f).kind for g, f in ((first, 64), (wide, 64), (small, 512))]
    assert found == expected


@pytest.mark.parametrize("change", [{"groups": 2}, {"dilation": (1, 1, 2)}, {"item_nbytes": 2}])
def test_runs_are_of_one_group_not_dilated_of_eight_bits(change: Mapping[str, object]) -> None:
    grid = Case(channels=4, filters=4, size=(1, 5, 5), kernel=(1, 3, 3), dtype=INT8).grid((1, 3, 3))
    assert replace(grid, kind=GridKind.RUNS).has_runs
    with pytest.raises(ValueError, match="runs are of one group"):
        replace(grid, kind=GridKind.RUNS, **change)
