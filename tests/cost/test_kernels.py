"""The kernel model: interpolation, which kernel a node is, and what it says on made-up machines."""

from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from itertools import pairwise
from math import isclose, prod

import pytest
import torch
from cost_helpers import meta, node_of
from hypothesis import given
from hypothesis import strategies as st
from test_cost_matrix import PRODUCTS

from ridgeline.cost import Bound, Execution, OpCost, cost_of, estimate
from ridgeline.cost.calls import group_of, matrix_call, vector_call, work_in
from ridgeline.cost.interpolate import best_from, rate_at, speed_of
from ridgeline.cost.kernels import KernelModel, Move
from ridgeline.cost.roofline import roofline_times
from ridgeline.cost.work import Part, Work
from ridgeline.frontends.torch_export import capture
from ridgeline.graph import Graph, Node
from ridgeline.machines import (
    KERNEL_FEATURES,
    Ceiling,
    Kernel,
    Machine,
    Memory,
    Rate,
    parse,
    to_toml,
)
from ridgeline.machines.tables import Route

aten = torch.ops.aten
MIB = 2**20
GEMM = ((1, 64, 64, 2e9), (128, 768, 768, 200e9), (128, 3072, 768, 220e9), (2048, 768, 768, 230e9))
READ = ((MIB, 100e9), (16 * MIB, 90e9), (64 * MIB, 30e9))

rates = st.floats(min_value=1e6, max_value=1e13)
sizes = st.integers(min_value=1, max_value=10**6)
gemm_samples = st.lists(
    st.tuples(sizes, sizes, sizes, rates), min_size=1, max_size=8, unique_by=lambda s: s[:3]
)
curves = st.lists(st.tuples(sizes, rates), min_size=1, max_size=8, unique_by=lambda s: s[0])


def kernel(kind: str, samples: Sequence[tuple[float, ...]], route: Route = "eager") -> Kernel:
    return Kernel(
        route=route,
        kind=kind,
        dtype="fp32",
        features=KERNEL_FEATURES[kind],
        samples=tuple(samples),
        source="made up",
    )


def machine(*kernels: Kernel) -> Machine:
    return Machine(
        id="this",
        name="a machine",
        vendor="nobody",
        arch="none",
        kind="cpu",
        match="none",
        matrix={"fp32": Rate(flops_per_s=400e9, source="made up")},
        vector={"fp32": Rate(flops_per_s=400e9, source="made up")},
        memory=Memory(name="DRAM", bandwidth_bytes_per_s=40e9, source="made up"),
        launch_overhead_s=4e-6,
        dispatch_overhead_s=1e-6,
        overhead_source="made up",
        confidence="measured",
        source="made up",
        kernels=kernels,
    )


def work(node: Node) -> Work:
    return Work(name="n", op=node.op, part=Part.FORWARD, cost=cost_of(node), node=node)


def linear(m: int, n: int, k: int) -> Node:
    return node_of(aten.linear.default, meta(m, k), meta(n, k), meta(n))


def compiled(*kernels: Kernel) -> KernelModel:
    return KernelModel(machine(*kernels), Execution.COMPILED, Ceiling.ACHIEVABLE)


def warm(node: Node) -> Move:
    weights = node.spec("weight").nbytes if node.op == "linear" else 0
    return Move(nbytes=cost_of(node).nbytes, weight_nbytes=weights)


@given(gemm_samples)
def test_interpolation_hits_every_sample(samples: list[tuple[float, ...]]) -> None:
    for sample in samples:
        assert rate_at(samples, sample[:-1]) == pytest.approx(sample[-1], rel=1e-6)


@given(curves)
def test_a_curve_hits_every_sample(samples: list[tuple[float, ...]]) -> None:
    for sample in samples:
        assert rate_at(samples, sample[:-1]) == pytest.approx(sample[-1], rel=1e-6)


@given(gemm_samples, sizes, sizes, sizes)
def test_interpolation_stays_within_what_was_measured(
    samples: list[tuple[float, ...]], m: int, n: int, k: int
) -> None:
    seen = [s[-1] for s in samples]
    assert min(seen) * (1 - 1e-9) <= rate_at(samples, (m, n, k)) <= max(seen) * (1 + 1e-9)


@given(curves, sizes)
def test_a_curve_stays_between_its_neighbours(samples: list[tuple[float, ...]], size: int) -> None:
    ordered = sorted(samples)
    below = [s for s in ordered if s[0] <= size][-1:] or ordered[:1]
    above = [s for s in ordered if s[0] >= size][:1] or ordered[-1:]
    low, high = sorted((below[0][1], above[0][1]))
    assert low * (1 - 1e-9) <= rate_at(samples, (size,)) <= high * (1 + 1e-9)


def test_halfway_in_logarithms_is_the_geometric_mean() -> None:
    assert rate_at([(100, 1e9), (10_000, 4e9)], (1000,)) == pytest.approx(2e9)
    assert rate_at([(4, 4, 4, 1e9), (16, 16, 16, 4e9)], (8, 8, 8)) == pytest.approx(2e9)


def test_a_nearer_sample_says_more() -> None:
    samples = [(4, 4, 4, 1e9), (1024, 1024, 1024, 100e9)]
    climbing = [rate_at(samples, (m, m, m)) for m in (5, 16, 64, 256, 1000)]
    assert climbing == sorted(climbing)
    assert climbing[0] < 1.1e9
    assert climbing[-1] > 95e9


def test_no_sample_no_rate() -> None:
    with pytest.raises(ValueError, match="no sample"):
        rate_at([], (1,))


@given(curves)
def test_bandwidth_never_rises_with_the_working_set(samples: list[tuple[float, ...]]) -> None:
    curve = best_from(samples)
    assert all(a[1] >= b[1] for a, b in pairwise(curve))
    assert max(s[1] for s in curve) == max(s[1] for s in samples)
    assert curve[-1] == max(samples)


@given(gemm_samples)
def test_start_and_rate_make_the_measured_time_at_every_sample(
    samples: list[tuple[float, ...]],
) -> None:
    works = [work_in("gemm", s[:-1]) for s in samples]
    speed = speed_of(samples, works)
    assert speed.start_s >= 0
    for sample, todo in zip(samples, works, strict=True):
        assert speed.start_s + speed.run_s(todo, sample[:-1]) == pytest.approx(todo / sample[-1])


def test_the_start_is_what_the_least_call_takes_beyond_its_work() -> None:
    samples = ((1, 1, 1, 2 / 20e-6), (1000, 1000, 1000, 100e9))
    speed = speed_of(samples, [work_in("gemm", s[:-1]) for s in samples])
    assert speed.start_s == pytest.approx(0.95 * 20e-6)  # a little is left to run


@pytest.mark.parametrize("name", PRODUCTS)
def test_every_product_is_a_kernel_of_its_own_work(name: str) -> None:
    op, args, macs = PRODUCTS[name]
    call = matrix_call(node_of(op, *args))
    if call is not None:
        assert work_in(call.kind, call.features) == 2 * macs


@pytest.mark.parametrize(
    ("op", "args", "expected"),
    [
        (aten.linear.default, (meta(2, 64, 768), meta(3072, 768)), (128, 3072, 768)),
        (aten.addmm.default, (meta(5), meta(7, 3), meta(3, 5)), (7, 5, 3)),
        (aten.bmm.default, (meta(4, 16, 8), meta(4, 8, 32)), (64, 32, 8)),
        (aten.mv.default, (meta(5, 7), meta(7)), (5, 1, 7)),
        (
            aten.conv2d.default,
            (meta(2, 32, 8, 8), meta(64, 8, 3, 3), None, [1, 1], [1, 1], [1, 1], 4),
            (128, 16, 72, 4, 2),
        ),
        (aten.conv1d.default, (meta(1, 4, 10), meta(6, 4, 3)), (8, 6, 12, 1, 2)),
        (aten.conv3d.default, (meta(1, 2, 4, 4, 4), meta(3, 2, 2, 2, 2)), (27, 3, 16, 1, 3)),
        (
            aten.scaled_dot_product_attention.default,
            (meta(2, 4, 6, 8), meta(2, 4, 10, 8), meta(2, 4, 10, 8)),
            (8, 6, 10, 8),
        ),
    ],
)
def test_the_kernel_of_a_node(
    op: object, args: tuple[object, ...], expected: tuple[float, ...]
) -> None:
    assert callable(op)
    call = matrix_call(node_of(op, *args))
    assert call is not None
    assert call.features == expected


def test_convolutions_are_compared_within_their_class() -> None:
    assert group_of((1, 64, 576, 1, 2)) == (2, "dense")
    assert group_of((1, 1, 9, 64, 2)) == (2, "depthwise")
    assert group_of((1, 4, 36, 32, 2)) == (2, "grouped")
    assert group_of((1, 64, 27, 1, 3)) == (3, "dense")
    slow, fast = (3136, 1, 9, 64, 2, 1e9), (3136, 64, 576, 1, 2, 100e9)
    model = compiled(kernel("convolution", [slow, fast]))
    x, w = meta(1, 64, 56, 56), meta(64, 1, 3, 3)
    depthwise = node_of(aten.conv2d.default, x, w, None, [1, 1], [1, 1], [1, 1], 64)
    times = model.times(work(depthwise), Move(nbytes=0))
    assert times.time_s == pytest.approx(cost_of(depthwise).flops / 1e9)


def test_rowwise_and_pointwise_kernels() -> None:
    x = meta(2, 16, 64)
    norm = vector_call(node_of(aten.layer_norm.default, x, [64], meta(64), meta(64)))
    assert norm is not None
    assert (norm.kind, norm.features) == ("layer_norm", (32, 64))
    softmax = vector_call(node_of(aten.softmax.int, meta(2, 8, 32), 1))
    assert softmax is not None
    assert softmax.features == (64, 8)
    pool = vector_call(node_of(aten.max_pool2d.default, meta(1, 4, 8, 8), [2, 2], [2, 2]))
    assert pool is not None
    assert (pool.kind, pool.features) == ("max_pool", (64, 4))
    assert vector_call(node_of(aten.add.Tensor, x, x)) is None


def test_a_pool_takes_as_long_as_it_has_taps() -> None:
    model = compiled(kernel("max_pool", [(1000, 4, 1e6)]))
    x = meta(1, 10, 20, 20)
    small, large = (
        model.times(work(node_of(aten.max_pool2d.default, x, [k, k], [2, 2])), Move(nbytes=0))
        for k in (2, 4)
    )
    assert small.compute_s == pytest.approx(1000 / 1e6, rel=1e-6)
    assert large.compute_s == pytest.approx(10 * 9 * 9 * 16 / 4e6, rel=1e-6)


def test_a_product_takes_its_measured_time() -> None:
    model = compiled(kernel("gemm", GEMM, "compiled"))
    for m, n, k, rate in GEMM:
        node = linear(m, n, k)
        assert model.times(work(node), Move(nbytes=0)).time_s == pytest.approx(2 * m * n * k / rate)


def test_routes_are_apart() -> None:
    fast, slow = kernel("gemm", [(8, 8, 8, 2e9)], "compiled"), kernel("gemm", [(8, 8, 8, 1e9)])
    node = linear(8, 8, 8)
    both = machine(fast, slow)
    eager = KernelModel(both, Execution.EAGER, Ceiling.ACHIEVABLE).times(work(node), warm(node))
    packed = KernelModel(both, Execution.COMPILED, Ceiling.ACHIEVABLE).times(work(node), warm(node))
    assert eager.time_s == pytest.approx(2 * packed.time_s)


@pytest.mark.parametrize("ceiling", Ceiling)
@pytest.mark.parametrize("execution", Execution)
def test_without_kernels_it_is_the_roofline(ceiling: Ceiling, execution: Execution) -> None:
    node, plain = linear(128, 768, 768), machine()
    times = KernelModel(plain, execution, ceiling).times(work(node), warm(node))
    start_s = {Execution.EAGER: 1e-6, Execution.COMPILED: 4e-6}[execution]
    expected = roofline_times(
        cost_of(node),
        cost_of(node).nbytes,
        "fp32",
        plain,
        ceiling,
        start_s if ceiling is Ceiling.ACHIEVABLE else 0.0,
    )
    assert times == expected


def test_the_datasheet_ceiling_ignores_kernels() -> None:
    node = linear(128, 768, 768)
    measured = machine(kernel("gemm", GEMM, "compiled"))
    model = KernelModel(measured, Execution.COMPILED, Ceiling.DATASHEET)
    plain = KernelModel(machine(), Execution.COMPILED, Ceiling.DATASHEET)
    assert model.times(work(node), warm(node)) == plain.times(work(node), warm(node))


def test_a_kind_that_was_not_measured_falls_back_to_peak() -> None:
    node = node_of(aten.einsum.default, "ij,jk->ik", [meta(50, 70), meta(70, 30)])
    times = compiled(kernel("gemm", GEMM)).times(work(node), Move(nbytes=0, is_start=False))
    assert times.time_s == pytest.approx(cost_of(node).flops / (0.8 * 400e9))


def test_weights_far_away_are_waited_for() -> None:
    model = compiled(kernel("gemm", GEMM, "compiled"), kernel("stream_read", READ))
    node = linear(1, 512, 512)
    near = Move(nbytes=MIB, weight_nbytes=MIB, pass_nbytes=MIB)
    far = replace(near, pass_nbytes=256 * MIB)
    waited_s = model.times(work(node), far).time_s - model.times(work(node), near).time_s
    assert waited_s == pytest.approx(MIB / 30e9 - MIB / 100e9)
    # no set is read slower than main memory was measured to be
    faster = replace(
        model.machine.memory, achievable_bandwidth_bytes_per_s=35e9, achievable_source="made up"
    )
    model = KernelModel(replace(model.machine, memory=faster), model.execution, model.ceiling)
    waited_s = model.times(work(node), far).time_s - model.times(work(node), near).time_s
    assert waited_s == pytest.approx(MIB / 35e9 - MIB / 100e9)


def cold(sample: tuple[float, ...], wait_s: float) -> tuple[float, ...]:
    """The sample had it waited `wait_s` for each byte of its weights, which are fp32."""
    m, n, k, rate = sample
    work_ = 2 * m * n * k
    return (m, n, k, work_ / (work_ / rate + 4 * n * k * wait_s))


def waits_s(model: KernelModel, m: int, n: int, k: int, pass_nbytes: int = 256 * MIB) -> float:
    """By how much longer a product takes in a pass of so many bytes than in one that caches hold,
    per byte of its weights.
    """
    nbytes = 4 * n * k
    far = Move(nbytes=nbytes, weight_nbytes=nbytes, pass_nbytes=pass_nbytes)
    near, node = replace(far, pass_nbytes=1024), linear(m, n, k)
    return (model.times(work(node), far).time_s - model.times(work(node), near).time_s) / nbytes


def test_cold_products_as_measured() -> None:
    model = compiled(
        kernel("gemm", GEMM, "compiled"),
        kernel("gemm_cold", [cold(s, 20e-12) for s in GEMM], "compiled"),
        kernel("stream_read", READ),
    )
    for m, n, k, _ in GEMM[1:]:  # the first has too few weights to say anything
        assert waits_s(model, int(m), int(n), int(k)) == pytest.approx(20e-12)


def test_nothing_waits_longer_for_weights_than_they_take_to_stream() -> None:
    model = compiled(
        kernel("gemm", GEMM, "compiled"),
        kernel("gemm_cold", [cold(s, 300e-12) for s in GEMM], "compiled"),
        kernel("stream_read", READ),
    )
    for m, n, k, _ in GEMM[1:]:
        assert waits_s(model, int(m), int(n), int(k)) == pytest.approx(1 / 30e9)


def test_more_rows_wait_no_longer_for_the_same_weights() -> None:
    """What is waited for is the weights: a product of eight times the rows of a cold sample does
    not wait eight times as long.
    """
    few = (64, 512, 512, 100e9)
    model = compiled(
        kernel("gemm", [few, (512, 512, 512, 100e9)], "compiled"),
        kernel("gemm_cold", [cold(few, 20e-12)], "compiled"),
        kernel("stream_read", READ),
    )
    assert waits_s(model, 64, 512, 512) == pytest.approx(20e-12)
    assert waits_s(model, 512, 512, 512) == pytest.approx(20e-12)


def test_cold_products_came_from_where_the_calibration_says() -> None:
    measured = machine(
        kernel("gemm", GEMM, "compiled"),
        kernel("gemm_cold", [cold(s, 20e-12) for s in GEMM], "compiled"),
        kernel("stream_read", (*READ, (1024 * MIB, 15e9))),
    )
    m, n, k, _ = GEMM[1]
    near = 1 / rate_at(READ, (4 * n * k,))
    for cold_nbytes, farthest in ((None, 1 / 30e9), (1024 * MIB, 1 / 15e9)):
        here = replace(measured, cold_nbytes=cold_nbytes)
        model = KernelModel(here, Execution.COMPILED, Ceiling.ACHIEVABLE)
        share = (1 / 30e9 - near) / (farthest - near)
        found_s = waits_s(model, int(m), int(n), int(k), 64 * MIB)
        assert found_s == pytest.approx(20e-12 * share, rel=1e-3)


def test_only_weights_are_packed() -> None:
    packed, plain = kernel("gemm", [(8, 8, 8, 2e9)], "compiled"), kernel("gemm", [(8, 8, 8, 1e9)])
    model = compiled(packed, plain)
    weight = Move(nbytes=0, weight_nbytes=64)
    node = linear(8, 8, 8)
    with_weight = model.times(work(node), weight).time_s
    assert model.times(work(node), Move(nbytes=0)).time_s == pytest.approx(2 * with_weight)
    experts = node_of(
        aten._grouped_mm.default,
        meta(16, 8, dtype=torch.bfloat16),
        meta(2, 8, 8, dtype=torch.bfloat16),
        meta(2, dtype=torch.int32),
        out=meta(16, 8, dtype=torch.bfloat16),
    )
    call = matrix_call(experts)
    assert call is not None
    assert (call.features, call.is_packable) == ((8, 8, 8), False)


def test_views_cost_a_dispatch_in_eager_code_only() -> None:
    view = node_of(aten.view.default, meta(4, 4), [16])
    measured = machine(kernel("gemm", GEMM))
    eager = KernelModel(measured, Execution.EAGER, Ceiling.ACHIEVABLE).times(work(view), warm(view))
    fused = compiled(kernel("gemm", GEMM)).times(work(view), warm(view))
    assert (eager.time_s, eager.bound) == (1e-6, Bound.OVERHEAD)
    assert (fused.time_s, fused.bound) == (0.0, Bound.FREE)


def test_what_a_node_waits_for() -> None:
    model = compiled(kernel("gemm", GEMM, "compiled"), kernel("stream_triad", READ))
    product, sum_ = linear(2048, 768, 768), node_of(aten.add.Tensor, meta(MIB * 8), meta(MIB * 8))
    tiny = node_of(aten.add.Tensor, meta(8), meta(8))
    assert model.times(work(product), warm(product)).bound is Bound.COMPUTE
    assert model.times(work(sum_), warm(sum_)).bound is Bound.MEMORY
    assert model.times(work(tiny), warm(tiny)).bound is Bound.OVERHEAD
    inside = replace(warm(tiny), is_start=False)
    assert model.times(work(tiny), inside).bound is not Bound.OVERHEAD


@given(gemm_samples, curves, sizes, sizes, sizes, st.sampled_from(Execution))
def test_times_on_any_machine(
    gemms: list[tuple[float, ...]],
    stream: list[tuple[float, ...]],
    m: int,
    n: int,
    k: int,
    execution: Execution,
) -> None:
    """Finite, never below the measured best, and never less for weights further away."""
    measured = machine(
        kernel("gemm", gemms), kernel("stream_read", stream), kernel("stream_triad", stream)
    )
    model = KernelModel(measured, execution, Ceiling.ACHIEVABLE)
    todo = work(linear(m % 512 + 1, n % 512 + 1, k % 512 + 1))
    times = [
        model.times(todo, Move(nbytes=2000, weight_nbytes=1000, pass_nbytes=b)).time_s
        for b in (0, 1000, 10**4, 10**6)
    ]
    assert all(a <= b * (1 + 1e-9) for a, b in pairwise(times))
    net = speed_of(gemms, [2.0 * prod(s[:3]) for s in gemms]).samples
    assert times[0] >= todo.cost.flops / max(s[-1] for s in net) * (1 - 1e-9)
    assert times[-1] < float("inf")


def test_what_fits_a_cache_is_bound_by_the_cache() -> None:
    run = estimate(_decoder(), machine(kernel("gemm", GEMM), kernel("stream_read", READ)))
    # 17 MiB pass by: past the caches' 16 MiB, nowhere near main memory's 32 GB/s
    assert run.totals.roofline_s == pytest.approx(17 * MIB / 80e9, rel=0.1)
    plain = estimate(_decoder(), machine())
    assert plain.totals.roofline_s == pytest.approx(17 * MIB / 32e9, rel=0.01)


@pytest.mark.parametrize("execution", Execution)
@given(gemms=gemm_samples, stream=curves)
def test_no_prediction_beats_the_roofline(
    gemms: list[tuple[float, ...]], stream: list[tuple[float, ...]], execution: Execution
) -> None:
    measured = machine(
        kernel("gemm", gemms), kernel("stream_read", stream), kernel("stream_triad", stream)
    )
    totals = estimate(_decoder(), measured, execution=execution).totals
    assert 0 < totals.roofline_s <= totals.time_s


@cache
def _decoder() -> Graph:
    """One token through 17 MiB of weights."""
    with torch.device("meta"):
        layers = torch.nn.Sequential(torch.nn.Linear(2048, 2048), torch.nn.Linear(2048, 128))
        return capture(layers, (torch.randn(1, 2048),), is_trusted=True, name="decoder")


@given(sizes, sizes)
def test_more_bytes_never_take_less_time(a: int, b: int) -> None:
    model = compiled(kernel("stream_triad", READ))
    todo = Work(name="step", op="step", part=Part.OPTIMIZER, cost=OpCost(), node=None)
    times = [model.times(todo, Move(nbytes=size * 1000)).time_s for size in sorted((a, b))]
    assert times[0] <= times[1] * (1 + 1e-9)


@given(gemm_samples)
def test_a_calibrated_machine_survives_its_file(samples: list[tuple[float, ...]]) -> None:
    written = machine(kernel("gemm", [(*map(float, s[:-1]), s[-1]) for s in samples], "compiled"))
    read = parse(to_toml(written), origin="test")
    node = linear(128, 768, 768)
    before, after = (
        KernelModel(m, Execution.COMPILED, Ceiling.ACHIEVABLE).times(work(node), warm(node)).time_s
        for m in (written, read)
    )
    assert isclose(before, after, rel_tol=1e-3)
