"""The shipped descriptions: physics that could be, and figures copied by hand."""

import csv
import importlib.util
from pathlib import Path

import pytest

from ridgeline.machines import Ceiling, Machine, load, names
from ridgeline.machines.registry import _DATA

ROOT = Path(__file__).parents[2]
CHIPS = ROOT.parent / "shared" / "data" / "chips.csv"
NO_CHIPS = "the table of chips is not beside this checkout"


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


@pytest.mark.skipif(not CHIPS.is_file(), reason=NO_CHIPS)
def test_the_files_are_what_the_generator_writes() -> None:
    spec = importlib.util.spec_from_file_location(
        "make_machines", ROOT / "scripts/make_machines.py"
    )
    assert spec is not None
    assert spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    shipped = {path.name: path.read_text(encoding="utf-8") for path in _DATA.glob("*.toml")}
    assert script.files(CHIPS) == shipped


@pytest.mark.skipif(not CHIPS.is_file(), reason=NO_CHIPS)
def test_every_row_is_a_machine_with_its_words() -> None:
    with CHIPS.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(line for line in file if not line.startswith("#")))
    assert sorted(row["id"] for row in rows) == list(names())
    for row in rows:
        machine = load(row["id"])
        assert (machine.confidence, machine.source) == (row["confidence"], row["source"])
        assert machine.notes == row["notes"]
        assert len(machine.matrix) == sum(bool(v) for k, v in row.items() if k.endswith("_mat"))
