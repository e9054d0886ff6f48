"""The shipped descriptions: physics that could be, and figures copied by hand."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

from ridgeline.machines import Ceiling, Machine, load, names
from ridgeline.machines.registry import _DATA

ROOT = Path(__file__).parents[2]


@pytest.fixture(params=names())
def machine(request: pytest.FixtureRequest) -> Machine:
    return load(request.param)


def test_all_are_there() -> None:
    assert len(names()) == 67


def test_physics(machine: Machine) -> None:
    assert 50e9 < machine.memory.bandwidth_bytes_per_s < 30e12
    assert machine.memory.capacity_bytes is None or 8e9 <= machine.memory.capacity_bytes < 1e12
    for dtype, rate in {**machine.vector, **machine.matrix}.items():
        assert 0.2e12 < rate.flops_per_s < 40e15
        assert (rate.achievable_flops_per_s or 0) <= rate.flops_per_s
        for ceiling in Ceiling:
            assert 0 < machine.ridge_flops_per_byte(dtype, ceiling) < 10_000
    for link in machine.links:
        assert 10e9 < link.bandwidth_bytes_per_s < 2.5e12
    for cache in machine.caches:
        assert 1e6 < cache.capacity_bytes < 1e9


def test_two_byte_products_are_no_slower_than_fp32() -> None:
    pairs = [
        (machine.matrix["bf16"].flops_per_s, machine.vector["fp32"].flops_per_s)
        for machine in map(load, names())
        if "bf16" in machine.matrix and "fp32" in machine.vector
    ]
    assert len(pairs) > 40
    assert all(bf16 >= fp32 for bf16, fp32 in pairs)


def test_only_one_has_no_compute_rate() -> None:
    assert [n for n in names() if not load(n).matrix and not load(n).vector] == ["enflame-s60"]


def test_h100() -> None:
    h100 = load("h100-sxm")
    assert h100.matrix_rate("bf16").flops_per_s == 989.4e12
    assert h100.matrix_rate("bf16").achievable_flops_per_s == 794.5e12
    assert h100.matrix_rate("fp8").flops_per_s == 1978.9e12  # 3958 is sparse
    assert h100.matrix_rate("tf32").flops_per_s == 494.7e12
    assert h100.matrix_rate("fp32").flops_per_s == 67e12
    assert h100.matrix_rate("fp64").flops_per_s == 67e12
    assert h100.vector_rate("fp64").flops_per_s == 34e12
    assert h100.vector_rate("bf16").flops_per_s == 67e12
    assert h100.memory.bandwidth_bytes_per_s == 3.35e12
    assert h100.memory.capacity_bytes == 80 * 10**9
    assert h100.links[0].bandwidth_bytes_per_s == 450e9  # 900 both ways
    assert h100.caches[0].capacity_bytes == 50 * 2**20
    assert (h100.num_units, h100.tdp_w, h100.kind) == (132, 700, "gpu")
    assert h100.ridge_flops_per_byte("bf16", Ceiling.DATASHEET) == pytest.approx(295.3, abs=0.1)


def test_a100() -> None:
    a100 = load("a100-sxm-80g")
    assert a100.matrix_rate("bf16").flops_per_s == 312e12
    assert a100.matrix_rate("bf16").achievable_flops_per_s == 271.2e12
    assert a100.matrix_rate("int8").flops_per_s == 624e12
    assert a100.matrix_rate("fp8").flops_per_s == 312e12  # no fp8 units: bf16
    assert a100.memory.bandwidth_bytes_per_s == 2.039e12
    assert a100.ridge_flops_per_byte("bf16", Ceiling.DATASHEET) == pytest.approx(153.0, abs=0.1)


def test_mi300x() -> None:
    mi300x = load("mi300x")
    assert mi300x.matrix_rate("bf16").flops_per_s == 1307.4e12
    assert mi300x.matrix_rate("bf16").achievable_flops_per_s == 668.4e12
    assert mi300x.memory.bandwidth_bytes_per_s == 5.3e12
    assert mi300x.memory.capacity_bytes == 192 * 10**9
    assert mi300x.num_units == 304


def test_v100_has_no_bf16() -> None:
    assert load("v100-sxm2-32g").matrix_rate("bf16").flops_per_s == 15.7e12


def test_shaky_figures_are_labelled() -> None:
    shaky = {"rubin", "ascend-910b", "enflame-t20", "m3-ultra", "b300-sxm", "cpu-epyc-9654", "t4"}
    assert all(load(name).is_low_confidence for name in shaky)
    assert not any(load(name).is_low_confidence for name in ("h100-sxm", "mi300x", "a10"))


def test_a_tile_multiply_is_1024_flop_a_cycle() -> None:
    for name, num_cores in (("cpu-xeon-8480", 56), ("cpu-xeon-6980p", 128)):
        xeon = load(name)
        for dtype, per_cycle in (("bf16", 1024), ("int8", 2048)):
            peak = num_cores * 2.0e9 * per_cycle
            assert xeon.matrix[dtype].flops_per_s == pytest.approx(peak, rel=1e-3)
            assert "2048 bf16" not in xeon.matrix[dtype].source
    assert load("cpu-xeon-6980p").matrix["fp16"] == load("cpu-xeon-6980p").matrix["bf16"]


@pytest.fixture(scope="module")
def script() -> ModuleType:
    """scripts/make_machines.py"""
    spec = importlib.util.spec_from_file_location(
        "make_machines", ROOT / "scripts/make_machines.py"
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # a dataclass looks its module up
    spec.loader.exec_module(module)
    return module


def test_the_files_are_what_the_generator_writes(script: ModuleType, shared_data: Path) -> None:
    shipped = {path.name: path.read_text(encoding="utf-8") for path in _DATA.glob("*.toml")}
    assert script.files(shared_data / "chips.csv") == shipped


def test_every_row_is_a_machine_with_its_words(script: ModuleType, shared_data: Path) -> None:
    rows = script.rows_of(shared_data / "chips.csv")
    assert sorted(row["id"] for row in rows) == list(names())
    for row in rows:
        machine = load(row["id"])
        assert (machine.confidence, machine.source) == (row["confidence"], row["source"])
        assert machine.notes == row["notes"]
        assert len(machine.matrix) == sum(bool(v) for k, v in row.items() if k.endswith("_mat"))


def test_a_correction_of_a_cell_that_changed_is_refused(script: ModuleType) -> None:
    cells = {one.column: one.printed for one in script.CORRECTIONS if one.row == "cpu-xeon-8480"}
    with pytest.raises(ValueError, match=r"bf16_mat: '114\.7', not '229'"):
        script.corrected({"id": "cpu-xeon-8480", **cells, "bf16_mat": "114.7"})
