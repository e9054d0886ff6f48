"""A machine refuses numbers that cannot be, and answers with the rate a dtype really runs at."""

from dataclasses import replace

import pytest

from ridgeline.errors import MachineError
from ridgeline.machines import (
    DEFAULT_ACHIEVABLE,
    DTYPES,
    KERNEL_FEATURES,
    KERNEL_UNITS,
    MATRIX_FALLBACK,
    Ceiling,
    Kernel,
    Machine,
    Memory,
    Rate,
)


def rate(flops_per_s: float, achievable: float | None = None) -> Rate:
    return Rate(
        flops_per_s=flops_per_s,
        source="made up",
        achievable_flops_per_s=achievable,
        achievable_source="made up" if achievable else None,
    )


def kernel(route: str = "eager", kind: str = "gemm") -> Kernel:
    return Kernel(
        route=route,  # type: ignore[arg-type]
        kind=kind,
        dtype="fp32",
        features=("m", "n", "k"),
        samples=((1.0, 2.0, 3.0, 4e9),),
        source="made up",
    )


TOY = Machine(
    id="toy",
    name="Toy 1",
    vendor="Toys",
    arch="toy",
    kind="gpu",
    match="Toy",
    memory=Memory(name="HBM", bandwidth_bytes_per_s=2e12, capacity_bytes=10**9, source="made up"),
    launch_overhead_s=2e-6,
    dispatch_overhead_s=5e-6,
    overhead_source="made up",
    confidence="user",
    source="made up",
    matrix={"bf16": rate(400e12, 300e12), "fp64": rate(10e12)},
    vector={"fp32": rate(50e12)},
)


@pytest.mark.parametrize(
    ("dtype", "flops_per_s"),
    [
        ("bf16", 400e12),
        ("fp16", 400e12),  # becomes bf16
        ("fp32", 50e12),  # the vector unit: never tf32 or bf16 unasked
        ("tf32", 50e12),
        ("fp8", 400e12),
        ("int8", 400e12),
        ("fp4", 400e12),
        ("fp64", 10e12),
    ],
)
def test_a_missing_dtype_runs_at_the_rate_of_what_it_is_converted_to(
    dtype: str, flops_per_s: float
) -> None:
    assert TOY.matrix_rate(dtype).flops_per_s == flops_per_s


def test_fp32_products_go_to_bf16_only_where_no_vector_rate_is_published() -> None:
    assert replace(TOY, vector={}).matrix_rate("fp32") == TOY.matrix["bf16"]


def test_conversions_never_name_an_unknown_dtype_or_themselves() -> None:
    assert set(MATRIX_FALLBACK) == set(DTYPES)
    for dtype, others in MATRIX_FALLBACK.items():
        assert set(others) <= set(DTYPES) - {dtype}


def test_nothing_to_fall_back_on_names_the_dtype_and_what_there_is() -> None:
    with pytest.raises(MachineError, match=r"toy has no matrix rate for fp64.*it has bf16, fp32"):
        replace(TOY, matrix={"bf16": rate(1e12)}).matrix_rate("fp64")
    with pytest.raises(MachineError, match="no compute rate at all"):
        replace(TOY, matrix={}, vector={}).matrix_rate("bf16")
    with pytest.raises(MachineError, match="unknown dtype 'int3'"):
        TOY.matrix_rate("int3")


def test_an_unpublished_vector_rate_is_assumed_and_says_so() -> None:
    assumed = replace(TOY, vector={}).vector_rate("bf16")
    assert assumed.flops_per_s == 400e12 / 32
    assert assumed.source.startswith("ASSUMED")


def test_the_two_ceilings() -> None:
    assert TOY.matrix_flops_per_s("bf16", Ceiling.DATASHEET) == 400e12
    assert TOY.matrix_flops_per_s("bf16", Ceiling.ACHIEVABLE) == 300e12
    share = DEFAULT_ACHIEVABLE["gpu", "memory"].value
    assert TOY.bandwidth_bytes_per_s(Ceiling.ACHIEVABLE) == 2e12 * share
    assert TOY.ridge_flops_per_byte("bf16", Ceiling.DATASHEET) == 200.0
    assert TOY.ridge_flops_per_byte("bf16", Ceiling.ACHIEVABLE) == 300e12 / (2e12 * share)


def test_amd_gpus_are_assumed_to_reach_less() -> None:
    amd = replace(TOY, vendor="AMD", matrix={"bf16": rate(100e12)})
    assert amd.matrix_flops_per_s("bf16", Ceiling.ACHIEVABLE) == 60e12
    assert (
        replace(amd, kind="cpu").default_achievable("matrix") == DEFAULT_ACHIEVABLE["cpu", "matrix"]
    )


@pytest.mark.parametrize("value", [0.0, -1.0, float("nan"), float("inf")])
def test_rates_must_be_finite_and_positive(value: float) -> None:
    with pytest.raises(MachineError, match="finite number above zero"):
        rate(value)
    with pytest.raises(MachineError, match="launch_overhead_s"):
        replace(TOY, launch_overhead_s=value)
    with pytest.raises(MachineError, match="bandwidth_bytes_per_s"):
        replace(TOY.memory, bandwidth_bytes_per_s=value)


def test_achievable_above_the_datasheet_is_refused() -> None:
    with pytest.raises(MachineError, match="one of the two is wrong"):
        rate(1e12, 2e12)
    with pytest.raises(MachineError, match="one is wrong"):
        replace(TOY.memory, achievable_bandwidth_bytes_per_s=3e12, achievable_source="made up")


def test_a_number_without_its_source_is_refused() -> None:
    with pytest.raises(MachineError, match="come together"):
        Rate(flops_per_s=2e12, source="made up", achievable_flops_per_s=1e12)
    with pytest.raises(MachineError, match="source is empty"):
        Rate(flops_per_s=2e12, source=" ")


def test_bad_words_are_refused() -> None:
    with pytest.raises(MachineError, match="confidence 'sure'"):
        replace(TOY, confidence="sure")
    with pytest.raises(MachineError, match="match is not a regular expression"):
        replace(TOY, match="(")
    with pytest.raises(MachineError, match="id must be"):
        replace(TOY, id="Has Space")
    with pytest.raises(MachineError, match="unknown dtype 'float32'"):
        replace(TOY, vector={"float32": rate(1e12)})


def test_kernels_have_a_known_kind_its_features_and_whole_samples() -> None:
    assert set(KERNEL_UNITS) == set(KERNEL_FEATURES)
    assert KERNEL_UNITS["gemm"] == "FLOP/s"
    assert KERNEL_UNITS["stream_copy"] == "bytes/s"
    assert KERNEL_UNITS["gelu"] == "elements/s"
    with pytest.raises(MachineError, match="unknown kind 'matmul'"):
        kernel(kind="matmul")
    with pytest.raises(MachineError, match="features must be"):
        kernel(kind="stream_copy")
    with pytest.raises(MachineError, match="needs 3 features and a rate"):
        replace(kernel(), samples=((1.0, 2.0, 3.0),))
    with pytest.raises(MachineError, match="no samples"):
        replace(kernel(), samples=())


def test_a_route_without_samples_borrows_the_other_routes() -> None:
    machine = replace(TOY, kernels=(kernel("eager"),))
    assert machine.find_kernel("compiled", "gemm", "fp32") == kernel("eager")
    both = replace(TOY, kernels=(kernel("eager"), kernel("compiled")))
    assert both.find_kernel("compiled", "gemm", "fp32") == kernel("compiled")
    assert both.find_kernel("compiled", "gemm", "bf16") is None


def test_machines_are_values() -> None:
    assert replace(TOY) == TOY
    assert hash(replace(TOY)) == hash(TOY)
