"""Operators beside their bound: FLOPs and bytes by hand, of shapes as they are recorded."""

from pathlib import Path

import pytest
from recordings import Event, call, copy, kernel, op, step, write

from ridgeline.errors import TraceError
from ridgeline.machines import Ceiling, load
from ridgeline.traces.kineto import read_kineto
from ridgeline.traces.rank import RankTrace, analyse
from ridgeline.traces.work import Work, machine_of, work_of

_BF16 = "c10::BFloat16"


def rank(folder: Path, operator: Event, *device: Event) -> RankTrace:
    """A recording in which one operator launches one kernel of 100 µs, or what is given."""
    events = [operator, call("cudaLaunchKernel", 2, 1, 1), *(device or [kernel("k", 9, 100, 1)])]
    return analyse(read_kineto(write(folder / "a.json", events)))


def work(folder: Path, operator: Event, *device: Event) -> Work:
    return work_of(rank(folder, operator, *device), load("h100-sxm"))


def operator(name: str, dims: list[object], types: list[str], values: list[str] | None) -> Event:
    made = op(name, 1, 10, Input_Dims=dims, Input_type=types)
    args = made["args"]
    assert isinstance(args, dict)
    if values is not None:
        args["Concrete Inputs"] = values
    return made


_NO_BIAS = ["", "", "", "[1, 1]", "[2, 2]", "[1, 1]", "1", "False", "False"]
CASES = {  # operator, FLOPs, bytes
    "mm": (operator("aten::mm", [[64, 32], [32, 16]], ["float"] * 2, None),
           2 * 64 * 32 * 16, 4 * (64 * 32 + 32 * 16 + 64 * 16)),
    "addmm": (operator("aten::addmm", [[16], [64, 32], [32, 16], [], []],
                       [_BF16] * 3 + ["Scalar"] * 2, ["", "", "", "1", "1"]),
              2 * 64 * 32 * 16, 2 * (16 + 64 * 32 + 32 * 16 + 64 * 16)),
    "bmm": (operator("aten::bmm", [[8, 4, 2], [8, 2, 6]], ["c10::Half"] * 2, ["", ""]),
            2 * 8 * 4 * 2 * 6, 2 * 8 * (8 + 12 + 24)),
    "convolution": (operator("aten::miopen_convolution",
                             [[10, 256, 14, 14], [512, 256, 3, 3], [], [], [], [], [], [], []],
                             [_BF16, _BF16, "", *["ScalarList"] * 3, *["Scalar"] * 3], _NO_BIAS),
                    2 * 10 * 512 * 7 * 7 * 256 * 9, None),
    "in place": (operator("aten::add_", [[64, 32], [64, 32], []], ["float", "float", "Scalar"],
                          ["", "", "1"]), 0, 4 * 3 * 64 * 32),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_cost_by_hand(tmp_path: Path, name: str) -> None:
    event, flops, nbytes = CASES[name]
    if name == "convolution":
        event["args"]["Concrete Inputs"][3:6] = ["[1, 1]", "[2, 2]", "[1, 1]"]  # type: ignore[index]
    (found,) = work(tmp_path, event).operators
    assert found.cost.flops == flops
    assert nbytes in (None, found.cost.nbytes)
    assert found.flops_per_s == pytest.approx(flops / 100e-6)


def test_both_ceilings(tmp_path: Path) -> None:
    big = operator("aten::mm", [[4096, 4096], [4096, 4096]], [_BF16] * 2, ["", ""])
    found = work(tmp_path, big, kernel("k", 9, 250, 1))
    (one,) = found.operators
    h100 = load("h100-sxm")
    peak_s = 2 * 4096**3 / h100.matrix_flops_per_s("bf16", Ceiling.DATASHEET)
    assert one.datasheet_fraction == pytest.approx(peak_s / 250e-6)
    assert one.achievable_fraction > one.datasheet_fraction
    assert found.peak_fraction(Ceiling.DATASHEET) == pytest.approx(peak_s / 250e-6)


@pytest.mark.parametrize(
    "event",
    [
        operator("aten::mm", [], [], None),
        operator("fbgemm::lookup", [[4]], ["float"], None),
        operator("aten::mm", [[64, 32], [31, 16]], ["float"] * 2, None),
        operator("aten::no_such_operator", [[64]], ["float"], None),
        operator("aten::mm", [[64, 32], [32, 16]], ["float", "no such type"], None),
        operator("aten::cudnn_convolution", [[1, 2, 3, 4]], ["float"], None),
    ],
)
def test_what_cannot_be_counted_is_said_not_zero(tmp_path: Path, event: Event) -> None:
    found = work(tmp_path, event)
    assert (found.operators, found.uncounted_ns, found.counted_ns) == ((), 100_000, 0)


def test_copies_over_the_link_are_not_held_against_the_memory(tmp_path: Path) -> None:
    event = operator("aten::copy_", [[64], [64], []], ["float", "float", "Scalar"], None)
    assert work(tmp_path, event, copy(9, 50, 1)).uncounted_ns == 50_000
    assert work(tmp_path, event, copy(9, 50, 1, what="DtoD")).counted_ns == 50_000


def test_the_machine_is_the_one_that_the_recording_names(tmp_path: Path) -> None:
    found = rank(tmp_path, op("aten::mm", 1, 10))
    assert machine_of(found).id == "h100-sxm"
    assert machine_of(found, "a100").id == "a100-sxm-80g"
    nameless = write(tmp_path / "b.json", [kernel("k", 1, 2)], deviceProperties=[])
    with pytest.raises(TraceError, match="names no device, which is no known machine"):
        machine_of(analyse(read_kineto(nameless)))


def matmul(at: float, dur: float, number: int, name: str, dtype: str) -> list[Event]:
    """An aten::mm of 512 x 512 x 512 that launches one kernel of that name."""
    made = op("aten::mm", at, 4, Input_Dims=[[512, 512], [512, 512]], Input_type=[dtype] * 2)
    launch = call("cudaLaunchKernel", at + 1, 1, number)
    return [made, launch, kernel(name, at + 3, dur, number)]


def test_mfu_of_every_step(tmp_path: Path) -> None:
    """The second step does twice the work in the same time; a product that begins in it but ends
    after it is its own.
    """
    events = [
        step(1, 0, 90), *matmul(10, 20, 1, "gemm", _BF16),
        step(2, 100, 90), *matmul(110, 20, 2, "gemm", _BF16), *matmul(140, 73, 3, "gemm", _BF16),
        step(3, 200, 90), *matmul(213, 20, 4, "gemm", _BF16), *matmul(260, 50, 5, "gemm", _BF16),
    ]  # fmt: skip
    found = work_of(analyse(read_kineto(write(tmp_path / "a.json", events))), load("h100-sxm"))
    once = 2 * 512**3
    assert [one.flops for one in found.steps] == [once, 2 * once, 2 * once]
    assert [one.span_ns for one in found.steps] == [100_000, 103_000, 97_000]
    peak = load("h100-sxm").matrix_flops_per_s("bf16", Ceiling.DATASHEET)
    expected = [n * once / peak / t for n, t in ((1, 100e-6), (2, 103e-6), (2, 97e-6))]
    assert [one.mfu for one in found.steps] == pytest.approx(expected)
    assert found.mfu == pytest.approx(5 * once / peak / 300e-6)


@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        ("sm80_xmma_gemm_f32f32_tf32f32_f32_nn_n_tilesize128x128x16", "tf32"),
        ("ampere_sgemm_128x64_nn", "fp32"),
        ("sm80_xmma_gemm_f32f32_f32f32_f32_nn_n_ffma_tilesize32x32x8", "fp32"),
    ],
)
def test_products_in_tf32_are_held_against_its_peak(tmp_path: Path, name: str, dtype: str) -> None:
    recording = read_kineto(write(tmp_path / "a.json", matmul(10, 20, 1, name, "float")))
    (one,) = work_of(analyse(recording), load("h100-sxm")).operators
    assert one.dtype == dtype
    peak = load("h100-sxm").matrix_flops_per_s(dtype, Ceiling.DATASHEET)
    assert one.datasheet_fraction >= 2 * 512**3 / peak / 20e-6 * 0.999


def test_mfu_of_a_real_recording(shared_data: Path) -> None:
    rank = analyse(read_kineto(shared_data / "kineto" / "training_step_a.json.gz"))
    found = work_of(rank, machine_of(rank))
    assert found.mfu == pytest.approx(0.0371, abs=0.0005)
    assert [one.flops for one in found.steps] == [found.steps[0].flops] * 6
