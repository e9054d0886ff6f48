"""Kernel names -> op, precision and unit: rows written out, traps, and all shared recordings."""

import gzip
import json
import shutil
import sqlite3
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ridgeline.traces.columns import DEVICE_KINDS
from ridgeline.traces.kernel_kinds import KernelOp, Unit
from ridgeline.traces.kernel_names import function_head
from ridgeline.traces.kernel_rules import RULES
from ridgeline.traces.kernels import classify, ran_on_amd
from ridgeline.traces.precision import Precision
from ridgeline.traces.xplane import read_xplane

GOLDEN = Path(__file__).with_name("kernel_names.tsv")
DEVICE_CATEGORIES = ("kernel", "gpu_memcpy", "gpu_memset", "mtia_ccp_events")
MAX_UNKNOWN = 0.01


def _golden() -> list[list[str]]:
    lines = GOLDEN.read_text(encoding="utf-8").splitlines()
    return [line.split("\t") for line in lines if not line.startswith("#")]


def test_there_are_enough_names() -> None:
    names = [row[3] for row in _golden()]
    assert len(names) == len(set(names)) >= 80


@pytest.mark.parametrize(("op", "precision", "unit", "name"), _golden())
def test_a_name_is_what_it_is(op: str, precision: str, unit: str, name: str) -> None:
    kernel = classify(name)
    assert (kernel.op.value, kernel.precision.value, kernel.unit.value) == (op, precision, unit)
    assert kernel.reason


@pytest.mark.parametrize(
    ("cuda_core", "tensor_core"),
    [
        (
            "sm80_xmma_gemm_f32f32_f32f32_f32_tn_n_tilesize64x64x8_stage3_ffma_execute",
            "sm80_xmma_gemm_f32f32_tf32f32_f32_tn_n_tilesize64x64x8_tensor16x8x8_execute",
        ),
        ("cutlass_80_simt_sgemm_128x32_8x5_nn_align1", "cutlass_80_tensorop_s1688gemm_64x64_nn"),
        ("ampere_sgemm_128x64_nn", "ampere_s1688gemm_128x64_ldg4_stages_32x3_nn"),
        ("volta_hgemm_128x64_nn", "volta_h884gemm_128x64_ldg8_nn"),
    ],
)
def test_a_family_does_not_decide_the_unit(cuda_core: str, tensor_core: str) -> None:
    assert classify(cuda_core).unit is Unit.CUDA_CORE
    assert classify(tensor_core).unit is Unit.TENSOR_CORE
    assert classify(cuda_core).op is classify(tensor_core).op is KernelOp.GEMM


def test_an_unknown_name_says_so() -> None:
    kernel = classify("zyzzyva<int>(float*)")
    assert (kernel.op, kernel.unit, kernel.is_known) == (KernelOp.UNKNOWN, Unit.UNKNOWN, False)
    assert kernel.reason == "no rule knows this name"


@pytest.mark.parametrize("name", ["", "_Z", "_ZN", "_ZN9999999abc", "<" * 50, "std::enable_if<"])
def test_a_broken_name_is_unknown(name: str) -> None:
    assert not classify(name).is_known


@given(st.text(max_size=200) | st.text(alphabet="_ZN:<>(){}[]void 019aI", max_size=200))
def test_any_text_is_a_name(name: str) -> None:
    kernel = classify(name)
    assert kernel.name == name
    assert kernel.is_known == (kernel.unit is not Unit.UNKNOWN)


def test_a_long_name_takes_no_time() -> None:
    # patterns with two wildcards are quadratic: a name of a million characters would take hours
    assert classify("conv" * 250_000).op is KernelOp.UNKNOWN


@pytest.mark.parametrize(
    ("name", "types", "expected"),
    [
        ("ampere_sgemm_64x64_nn", ("c10::BFloat16", "c10::BFloat16"), Precision.BF16),
        ("cutlass_80_tensorop_s1688gemm_64x64_nn", ("float", "float"), Precision.TF32),
        ("fused_moe_kernel", ("", "c10::Half", "Scalar"), Precision.FP16),
        ("fused_moe_kernel", ("", "Scalar"), Precision.UNKNOWN),
        ("nvjet_qqtst_128x256_128x6_TNT", ("c10::Float8_e4m3fn", "float"), Precision.FP8),
        ("bmm_MxE4m3_MxE2m1MxE4m3_Fp32_t128x16", ("unsigned char",), Precision.FP8),
        ("triton_poi_fused_add_0", ("long int", "c10::BFloat16"), Precision.BF16),
    ],
)
def test_the_operators_types_come_first(
    name: str, types: tuple[str, ...], expected: Precision
) -> None:
    assert classify(name, input_types=types).precision is expected


def test_triton_runs_on_the_units_of_its_device() -> None:
    assert classify("fused_moe_kernel").unit is Unit.TENSOR_CORE
    assert classify("fused_moe_kernel", is_amd=True).unit is Unit.MATRIX_CORE
    assert classify("triton_poi_fused_add_0", is_amd=True).unit is Unit.CUDA_CORE


def test_amd_is_known_by_its_kernels_or_its_name() -> None:
    assert ran_on_amd(["fused_moe_kernel", "Cijk_Ailk_Bljk_SB_MT64x64x8"])
    assert ran_on_amd([], device_name="AMD Instinct MI300X")
    assert not ran_on_amd(["fused_moe_kernel", "nvjet_tst_64x8"], device_name="NVIDIA H100")


@pytest.mark.parametrize(
    ("name", "head"),
    [
        ("void at::native::(anonymous namespace)::f<int, 4>(int)", "at::native::f"),
        ("void at::native::<unnamed>::f<(int)4>(T2 *)", "at::native::f"),
        ("std::enable_if<!(false), void>::type a::gemvx::kernel<int>(x)", "a::gemvx::kernel"),
        ("std::enable_if<(((8)>(0)))&&b::c, void>::type v::f<int>(x)", "v::f"),
        ("_ZN2ck6device12_GLOBAL__N_16kernelIfLi4EEEvv", "ck::device::kernel"),
        ("volta_sgemm_32x128_nt", "volta_sgemm_32x128_nt"),
    ],
)
def test_the_head_is_the_functions_own_name(name: str, head: str) -> None:
    assert function_head(name) == head


def test_every_rule_gives_its_reason() -> None:
    assert all(rule.reason.strip() for rule in RULES)
    assert not [rule for rule in RULES if rule.pattern.search("")]


def _kineto(path: Path) -> Iterator[tuple[str, float]]:
    """Name and duration in µs of every device event of a recording, decoded without our reader."""
    for event in json.loads(gzip.decompress(path.read_bytes()))["traceEvents"]:
        if event.get("cat", "").lower() in DEVICE_CATEGORIES and "dur" in event:
            yield event["name"], float(event["dur"])


def _nsys(path: Path, folder: Path) -> Iterator[tuple[str, float]]:
    copy = folder / path.stem
    with gzip.open(path) as packed, copy.open("wb") as plain:
        shutil.copyfileobj(packed, plain)
    database = sqlite3.connect(copy)
    yield from database.execute(
        "SELECT value, end - start FROM CUPTI_ACTIVITY_KIND_KERNEL"
        " JOIN StringIds ON demangledName = id"
    )
    database.close()


def _xplane(path: Path) -> Iterator[tuple[str, float]]:
    for recording in read_xplane(path):
        events = recording.events.take(recording.events.where(*DEVICE_KINDS))
        names = (recording.names[name] for name in events.name.tolist())
        yield from zip(names, events.duration_ns.tolist(), strict=True)


def _unknown_share(timed: Iterator[tuple[str, float]]) -> tuple[float, float]:
    """Time of unknown names and of all names, in the unit of `timed`."""
    time_of: defaultdict[str, float] = defaultdict(float)
    for name, duration in timed:
        time_of[name] += duration
    unknown = sum(time for name, time in time_of.items() if not classify(name).is_known)
    return unknown, sum(time_of.values())


def test_unknown_names_are_under_1_percent_of_every_recording(
    shared_data: Path, tmp_path: Path
) -> None:
    shares = {p.name: _unknown_share(_kineto(p)) for p in (shared_data / "kineto").glob("*.gz")}
    shares |= {
        p.name: _unknown_share(_nsys(p, tmp_path)) for p in (shared_data / "nsys").glob("*.gz")
    }
    shares |= {p.name: _unknown_share(_xplane(p)) for p in (shared_data / "xplane").glob("*.pb")}
    assert len(shares) == 17
    assert all(total > 0 for _, total in shares.values())
    for name, (unknown, total) in shares.items():
        assert unknown / total < MAX_UNKNOWN, f"{name}: {unknown / total:.2%} unknown"
