"""map, copy and fill against torch."""

from collections.abc import Callable, Sequence
from itertools import permutations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from programs import LIBRARIES, TYPES, Field, run_one
from torch import Tensor

from ridgeline.native.library import Library
from ridgeline.native.program import Step

pytestmark = pytest.mark.skipif(not LIBRARIES, reason="the native kernels were not built")
over_libraries = pytest.mark.parametrize("library", LIBRARIES, ids=lambda library: library.isa)
over_threads = pytest.mark.parametrize("threads", [1, 2])
MAX_RANK = 6
NAN, INF = float("nan"), float("inf")


def apply(
    library: Library,
    inputs: Sequence[Tensor],
    steps: Sequence[Step],
    y: Tensor,
    *,
    register: int | None = None,
    threads: int = 1,
) -> Tensor:
    """y by the steps from inputs broadcast to its shape; inputs[i] is loaded into register i, and
    the last step's register (or the one named) is stored.
    """
    sizes = [*y.shape, *(1,) * (MAX_RANK - y.dim())]
    fields = {"rank": y.dim()} | {f"size{i}": size for i, size in enumerate(sizes)}
    loads = [Step("LOAD", i, i) for i in range(len(inputs))]
    last = (steps or loads)[-1].to if register is None else register
    program = [*loads, *steps, Step("STORE", 0, len(inputs), last)]
    operands = [*(x.expand(y.shape) for x in inputs), y]
    run_one(library, "map", fields, operands, program, threads=threads)
    return y


UNARY: dict[str, tuple[Callable[[Tensor], Tensor], float, float]] = {
    "COPY": (lambda x: x, 0, 0),
    "AFFINE": (lambda x: x * 0.7 - 1.3, 0.7, -1.3),
    "CLAMP": (lambda x: x.clamp(-0.5, 1.5), -0.5, 1.5),
    "RELU": (torch.relu, 0, 0),
    "NEG": (torch.neg, 0, 0),
    "ABS": (torch.abs, 0, 0),
    "SQUARE": (torch.square, 0, 0),
    "SQRT": (torch.sqrt, 0, 0),
    "RSQRT": (torch.rsqrt, 0, 0),
    "RECIPROCAL": (torch.reciprocal, 0, 0),
    "FLOOR": (torch.floor, 0, 0),
    "CEIL": (torch.ceil, 0, 0),
    "ROUND": (torch.round, 0, 0),
    "EXP": (torch.exp, 0, 0),
    "LOG": (torch.log, 0, 0),
    "SIN": (torch.sin, 0, 0),
    "COS": (torch.cos, 0, 0),
    "TANH": (torch.tanh, 0, 0),
    "SIGMOID": (torch.sigmoid, 0, 0),
    "ERF": (torch.erf, 0, 0),
    "GELU": (F.gelu, 0, 0),
    "GELU_TANH": (lambda x: F.gelu(x, approximate="tanh"), 0, 0),
    "SILU": (F.silu, 0, 0),
    "HARDSWISH": (F.hardswish, 0, 0),
    "HARDSIGMOID": (F.hardsigmoid, 0, 0),
    "LEAKY_RELU": (lambda x: F.leaky_relu(x, 0.1), 0.1, 0),
    "ELU": (lambda x: F.elu(x, 1.5), 1.5, 0),
    "SOFTPLUS": (F.softplus, 0, 0),
    "MISH": (F.mish, 0, 0),
    "NOT": (lambda x: (x == 0).to(x.dtype), 0, 0),
}
BINARY: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "ADD": torch.add,
    "SUB": torch.sub,
    "MUL": torch.mul,
    "DIV": torch.div,
    "MIN": torch.minimum,
    "MAX": torch.maximum,
    "LT": torch.lt,
    "LE": torch.le,
    "EQ": torch.eq,
    "NE": torch.ne,
    "AND": torch.logical_and,
    "OR": torch.logical_or,
}


def _values() -> Tensor:
    """Numbers of every size and sign, and the special ones."""
    spread = torch.logspace(-6, 6, 60)
    special = torch.tensor([0.0, -0.0, 0.5, 1.5, 2.5, -2.5, 88.0, -88.0, 1e30, -1e30, NAN])
    return torch.cat([torch.linspace(-12, 12, 500), spread, -spread, special])


# Where fp32 would be infinite, or a quotient 0 / 0 arises on the way, torch and we may differ.
def _assert_same(found: Tensor, expected: Tensor, tolerance: float = 1e-6) -> None:
    torch.testing.assert_close(
        found, expected.float(), rtol=tolerance, atol=tolerance, equal_nan=True
    )


@over_libraries
@pytest.mark.parametrize("name", UNARY)
def test_unary_steps(library: Library, name: str) -> None:
    f, p, q = UNARY[name]
    x = _values()
    found = apply(library, [x], [Step(name, 1, 0, p=p, q=q)], torch.empty_like(x))
    _assert_same(found, f(x.double()))


@over_libraries
@pytest.mark.parametrize("p", [0.0, 1.0, 2.0, 3.0, 4.0, -1.0, -2.0, 0.5, -0.5, 1.7])
def test_pow(library: Library, p: float) -> None:
    x = _values()
    found = apply(library, [x], [Step("POW", 1, 0, p=p)], torch.empty_like(x))
    _assert_same(found, x.double() ** p)


@over_libraries
@pytest.mark.parametrize("name", BINARY)
def test_binary_steps(library: Library, name: str) -> None:
    a = _values()
    b = a[torch.randperm(len(a))]
    b[::7] = a[::7]
    found = apply(library, [a, b], [Step(name, 2, 0, 1)], torch.empty_like(a))
    _assert_same(found, BINARY[name](a.double(), b.double()))


@over_libraries
@pytest.mark.parametrize("name", ["TANH", "ERF", "SIGMOID", "RELU", "EXP", "ABS", "FLOOR", "LOG"])
def test_infinity(library: Library, name: str) -> None:
    x = torch.tensor([INF, -INF])
    found = apply(library, [x], [Step(name, 1, 0)], torch.empty(2))
    _assert_same(found, UNARY[name][0](x))


@over_libraries
def test_select_and_constant(library: Library) -> None:
    x = _values()
    steps = [Step("CONSTANT", 1, p=0.25), Step("LT", 2, 1, 0), Step("SELECT", 3, 0, 1, p=2)]
    found = apply(library, [x], steps, torch.empty_like(x))
    _assert_same(found, torch.where(x > 0.25, x, 0.25))


@over_libraries
def test_clamp_where_the_bounds_cross(library: Library) -> None:
    x = torch.linspace(-3, 3, 20)
    found = apply(library, [x], [Step("CLAMP", 1, 0, p=1, q=-1)], torch.empty(20))
    assert found.equal(x.clamp(1, -1))


DTYPES = (torch.float32, torch.bfloat16, torch.int64, torch.int32, torch.uint8, torch.int8)


@over_libraries
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("count", [1, 15, 64, 1000])
def test_loads_every_type(library: Library, dtype: torch.dtype, count: int) -> None:
    x = torch.randn(count).mul(60).abs().to(dtype)
    found = apply(library, [x], [Step("AFFINE", 0, 0, p=2, q=1)], torch.empty(count))
    assert found.equal(x.float() * 2 + 1)
    every_other = torch.randn(2 * count).mul(60).abs().to(dtype)[::2]
    assert apply(library, [every_other], [], torch.empty(count)).equal(every_other.float())


@over_libraries
@pytest.mark.parametrize("dtype", [*DTYPES, torch.bool], ids=str)
@pytest.mark.parametrize("count", [1, 15, 64, 1000])
def test_stores_every_type(library: Library, dtype: torch.dtype, count: int) -> None:
    x = torch.randn(count).mul(60)
    x[::5] = 0
    truth = (torch.bool, torch.uint8)
    expected = x.ne(0).to(dtype) if dtype in truth else x.to(dtype)
    assert apply(library, [x], [], torch.zeros(count).to(dtype)).equal(expected)
    twice = torch.zeros(2 * count).to(dtype)
    apply(library, [x], [Step("COPY", 1, 0)], twice[::2])
    assert twice[::2].equal(expected)
    assert not twice[1::2].any()


@over_libraries
def test_bfloat16_rounds_to_even_and_keeps_nan(library: Library) -> None:
    bits = torch.randint(-(2**31), 2**31 - 1, (4000,), dtype=torch.int64).to(torch.int32)
    x = torch.cat([bits.view(torch.float32), torch.tensor([NAN, INF, -INF, 3.4e38, 0.0, -0.0])])
    x = x[(x.abs() > 1e-37) | ~x.isfinite() | (x == 0)]  # what is below may be flushed to 0
    found = apply(library, [x], [], torch.empty(len(x), dtype=torch.bfloat16))
    assert found.equal(x.bfloat16()) or found.isnan().equal(x.isnan())
    assert found[~x.isnan()].equal(x.bfloat16()[~x.isnan()])


@settings(max_examples=25)
@over_libraries
@over_threads
@given(data=st.data())
def test_shapes_and_strides(library: Library, threads: int, data: st.DataObject) -> None:
    rank = data.draw(st.integers(1, MAX_RANK))
    sizes = st.sampled_from([1, 2, 3, 5, 16, 33] if rank > 2 else [0, 1, 7, 16, 64, 300, 1100])
    shape = data.draw(st.lists(sizes, min_size=rank, max_size=rank))
    if torch.Size(shape).numel() > 200_000:
        shape[0] = 1
    dtype = data.draw(st.sampled_from([torch.float32, torch.bfloat16]))
    inputs = []
    for _ in range(2):
        kept = [n if data.draw(st.booleans()) else 1 for n in shape]
        order = data.draw(st.permutations(range(rank)))
        dense = torch.randn([kept[i] for i in order]).to(dtype)
        inputs.append(dense.permute([order.index(i) for i in range(rank)]))
    y = torch.zeros(shape, dtype=data.draw(st.sampled_from([torch.float32, torch.bfloat16])))
    steps = [Step("MUL", 2, 0, 1), Step("RELU", 3, 2), Step("ADD", 2, 3, 0)]
    found = apply(library, inputs, steps, y, threads=threads)
    a, b = (x.float() for x in inputs)
    assert found.equal((torch.relu(a * b) + a).expand(shape).to(y.dtype)) or torch.allclose(
        found.float(), (torch.relu(a * b) + a).expand(shape), rtol=2**-7
    )


@over_libraries
@pytest.mark.parametrize("count", [5, 512, 1000])
def test_a_value_outlives_what_it_was_loaded_from(library: Library, count: int) -> None:
    x, kept = torch.randn(count), torch.empty(count)
    before = x.clone()
    fields = {"rank": 1, "size0": count} | {f"size{i}": 1 for i in range(1, MAX_RANK)}
    steps = [Step("LOAD", 0, 0), Step("NEG", 1, 0), Step("STORE", 0, 0, 1), Step("SQUARE", 2, 0),
             Step("ADD", 2, 2, 0), Step("STORE", 0, 1, 2)]  # fmt: skip
    run_one(library, "map", fields, [x, kept], steps)
    assert x.equal(-before)
    torch.testing.assert_close(kept, before * before + before)


@over_libraries
def test_several_results(library: Library) -> None:
    x, one, two = torch.randn(40, 48), torch.empty(40, 48), torch.empty(40, 48)
    fields = {"rank": 2, "size0": 40, "size1": 48} | {f"size{i}": 1 for i in range(2, MAX_RANK)}
    steps = [Step("LOAD", 0, 0), Step("RELU", 1, 0), Step("STORE", 0, 1, 1),
             Step("ADD", 3, 1, 0), Step("STORE", 0, 2, 3)]  # fmt: skip
    run_one(library, "map", fields, [x, one, two], steps, threads=2)
    assert one.equal(x.relu())
    assert two.equal(x.relu() + x)


def _copy_fields(x: Tensor, y: Tensor) -> dict[str, Field]:
    pad = (1,) * (MAX_RANK - y.dim())
    fields: dict[str, Field] = {"x_ref": x, "y_ref": y, "item_nbytes": x.element_size()}
    fields["rank"] = y.dim()
    for name, values in (("size", y.shape), ("x_stride", x.stride()), ("y_stride", y.stride())):
        fields |= {f"{name}{i}": value for i, value in enumerate((*values, *pad))}
    return fields


@settings(max_examples=25)
@over_libraries
@over_threads
@given(data=st.data())
def test_copy(library: Library, threads: int, data: st.DataObject) -> None:
    rank = data.draw(st.integers(1, 4))
    sizes = st.sampled_from([0, 1, 2, 3, 16, 35] if rank > 2 else [0, 1, 7, 16, 130, 5000])
    shape = data.draw(st.lists(sizes, min_size=rank, max_size=rank))
    if torch.Size(shape).numel() > 300_000:
        shape[0] = 3
    dtype = data.draw(st.sampled_from([torch.int8, torch.bfloat16, torch.float32, torch.int64]))
    step = data.draw(st.sampled_from([1, 2]))

    def laid_out() -> Tensor:
        order = data.draw(st.sampled_from(tuple(permutations(range(rank)))))
        dense = torch.randn([step * shape[i] for i in order]).mul(50).to(dtype)
        return dense.permute([order.index(i) for i in range(rank)])[
            (slice(None, None, step),) * rank
        ]

    x, y = laid_out(), laid_out()
    run_one(library, "copy", _copy_fields(x, y), threads=threads)
    assert y.equal(x)


@over_libraries
def test_copy_repeats_what_has_stride_0(library: Library) -> None:
    x, y = torch.randn(7, 1), torch.empty(7, 50)
    run_one(library, "copy", _copy_fields(x.expand(7, 50), y), threads=2)
    assert y.equal(x.expand(7, 50))


@over_libraries
@over_threads
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("count", [0, 1, 1001])
def test_fill(library: Library, threads: int, dtype: torch.dtype, count: int) -> None:
    y = torch.zeros(count, dtype=dtype)
    value = 2.6 if dtype.is_floating_point else 7.0
    fields = {"y_ref": y, "y_type": TYPES[dtype], "count": count, "value_bits": value}
    run_one(library, "fill", fields, threads=threads)
    assert y.equal(torch.full((count,), value).to(dtype))
