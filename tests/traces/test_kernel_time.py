"""Time by what kernels are: sums by hand, and totals kept on the shared recordings."""

import math
from pathlib import Path

import pytest
from nsys_exports import MEMCPY, Export

from ridgeline.traces.columns import DEVICE_KINDS
from ridgeline.traces.kernel_kinds import Unit
from ridgeline.traces.kernel_time import kernel_times, matrix_unit_share, time_by
from ridgeline.traces.nsys import read_nsys
from ridgeline.traces.xplane import read_xplane


def test_times_add_up_by_op_unit_and_precision(tmp_path: Path) -> None:
    export = Export()
    export.kernel("nvjet_tst_64x8_64x16", 0, 30, 0, 10)
    export.kernel("nvjet_tst_64x8_64x16", 40, 70, 0, 10)
    export.kernel("ampere_sgemm_64x64_nn", 100, 120, 0, 10)
    export.kernel("ncclDevKernel_AllReduce_Sum_bf16_RING_LL", 100, 115, 0, 10, streamId=9)
    export.on_device(MEMCPY, 200, 205, 0, 10, copyKind=1, srcKind=1, dstKind=2)
    (recording,) = read_nsys(export.write(tmp_path / "a.sqlite"))
    times = kernel_times(recording)
    assert [(one.count, one.time_ns) for one in times] == [(2, 60), (1, 20), (1, 15), (1, 5)]
    assert time_by(times, lambda k: k.op.value) == {"gemm": 80, "communication": 15, "memcpy": 5}
    assert time_by(times, lambda k: k.unit.value) == {
        "tensor core": 60,
        "CUDA core": 20,
        "none": 20,
    }
    assert time_by(times, lambda k: k.precision.value) == {"bf16": 75, "fp32": 20, "unknown": 5}
    assert matrix_unit_share(times) == 0.75


def test_without_products_there_is_no_share(tmp_path: Path) -> None:
    export = Export()
    export.kernel("triton_poi_fused_add_0", 0, 1, 0, 10)
    (recording,) = read_nsys(export.write(tmp_path / "a.sqlite"))
    assert math.isnan(matrix_unit_share(kernel_times(recording)))


@pytest.mark.parametrize(
    ("call", "unit"), [("hipLaunchKernel", Unit.MATRIX_CORE), ("cudaLaunch", Unit.TENSOR_CORE)]
)
def test_hip_calls_tell_an_amd_device(tmp_path: Path, call: str, unit: Unit) -> None:
    export = Export()
    export.kernel("fused_moe_kernel", 0, 1, 0, 10)
    export.call(call, 0, 1, 10, 1)
    (recording,) = read_nsys(export.write(tmp_path / "a.sqlite"))
    assert kernel_times(recording)[0].kernel.unit is unit


def test_no_time_is_lost_on_the_shared_recordings(shared_data: Path) -> None:
    paths = sorted((shared_data / "nsys").iterdir())
    recordings = [one for path in paths for one in read_nsys(path)]
    recordings += read_xplane(next((shared_data / "xplane").iterdir()))
    for recording in recordings:
        rows = recording.events.where(*DEVICE_KINDS)
        times = kernel_times(recording)
        assert sum(one.time_ns for one in times) == recording.events.duration_ns[rows].sum()
        assert sum(one.count for one in times) == len(rows)


def test_tensor_core_share_of_the_shared_pair(shared_data: Path) -> None:
    # fp32 products by FMA in the first; nvjet and FlashAttention alone in the pair
    shares = {
        path.name.partition(".")[0]: [
            round(matrix_unit_share(kernel_times(one)), 3) for one in read_nsys(path)
        ]
        for path in (shared_data / "nsys").iterdir()
    }
    assert shares == {
        "h100_2gpu_1s": [0.0, 0.0],
        "mfu_2gpu_before": [1.0, 1.0],
        "mfu_2gpu_after": [1.0, 1.0],
    }
