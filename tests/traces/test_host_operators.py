"""Operators of the host by their own time, by hand; what is printed where no device took part."""

import io
from pathlib import Path

import pytest
from recordings import Event, op, write

from ridgeline.report.trace import print_trace
from ridgeline.report.trace_record import record
from ridgeline.traces.host_operators import HostOperator, host_operators
from ridgeline.traces.kineto import read_kineto
from ridgeline.traces.trace import trace

NESTED = [
    op("aten::linear", 0, 100),
    op("aten::addmm", 10, 60),
    op("aten::copy_", 20, 15),
    op("aten::relu", 80, 10),
    op("aten::relu", 200, 30),
    op("aten::relu", 50, 500, tid=99),  # another thread's is no part of these
]
TRANSFER = op("gloo:all_reduce", 300, 40) | {"cat": "user_annotation"}


def of(folder: Path, events: list[Event]) -> dict[str, HostOperator]:
    recording = read_kineto(write(folder / "a.json", events))
    return {one.name: one for one in host_operators(recording)}


def test_own_time_is_what_the_called_leave(tmp_path: Path) -> None:
    found = of(tmp_path, NESTED)
    assert [*found] == ["aten::relu", "aten::addmm", "aten::linear", "aten::copy_"]
    own_us = {name: one.self_ns / 1000 for name, one in found.items()}
    assert own_us == {
        "aten::relu": 540, "aten::addmm": 45, "aten::linear": 30, "aten::copy_": 15,
    }  # fmt: skip
    assert (found["aten::relu"].count, found["aten::linear"].total_ns) == (3, 100_000)
    assert found["aten::relu"].mean_self_ns == 180_000
    assert sum(one.share for one in found.values()) == pytest.approx(1)


def test_what_overlaps_without_nesting_is_no_part(tmp_path: Path) -> None:
    found = of(tmp_path, [op("a", 0, 10), op("b", 5, 10), op("c", 6, 2)])
    assert {name: one.self_ns for name, one in found.items()} == {
        "a": 10_000, "b": 8_000, "c": 2_000,
    }  # fmt: skip


def test_ranges_that_end_together_are_nested(tmp_path: Path) -> None:
    found = of(tmp_path, [op("a", 0, 10), op("b", 4, 6), op("c", 7, 3)])
    assert {name: one.self_ns for name, one in found.items()} == {
        "a": 4_000, "b": 3_000, "c": 3_000,
    }  # fmt: skip


def test_no_empty_tables_where_no_device_took_part(tmp_path: Path) -> None:
    found = trace([write(tmp_path / "a.json", [*NESTED, TRANSFER])])
    text = io.StringIO()
    print_trace(text, found, top=2)
    assert "Operators of the host, by their own time" in text.getvalue()
    assert "2 more" in text.getvalue()
    for title in ("Kernels, copies", "Tensor cores", "Idle, by cause", "Longest gaps"):
        assert title not in text.getvalue()
    listed = record(found)["host_operators"]
    assert isinstance(listed, list)
    assert listed[0]["name"] == "aten::relu"


def test_with_a_device_the_kernels_say_it(shared_data: Path) -> None:
    (rank,) = trace([shared_data / "kineto" / "alexnet.json.gz"]).ranks
    assert rank.host_operators == ()
    assert len(rank.kernels) > 0
