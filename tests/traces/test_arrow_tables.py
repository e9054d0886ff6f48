"""Answers as Arrow tables: the same numbers as the record."""

import json
from pathlib import Path

import pytest
from recordings import call, kernel, op, step, write

from ridgeline.report.trace_record import trace_json
from ridgeline.traces.arrow import tables
from ridgeline.traces.trace import trace

pytest.importorskip("pyarrow")
NAMES = ["ranks", "steps", "idle_causes", "gaps", "fixes", "kernels", "operators", "collectives"]


def test_they_hold_what_the_record_holds(shared_data: Path) -> None:
    found = trace([shared_data / "kineto" / "training_step_a.json.gz"])
    made, record = tables(found), json.loads(trace_json(found))
    assert [*made] == NAMES
    for name in ("idle_causes", "gaps", "fixes", "kernels", "operators"):
        rows = made[name].to_pylist()
        assert len(rows) == len(record[name]) > 0
        for row, listed in zip(rows, record[name], strict=True):
            shared = row.keys() & listed.keys()
            assert len(shared) >= 3
            assert {key: row[key] for key in shared} == {key: listed[key] for key in shared}
    (rank,) = made["ranks"].to_pylist()
    assert rank["span_ns"] == record["ranks"][0]["span_ns"] == 464_594_000
    assert made["steps"].num_rows == len(record["ranks"][0]["steps"])


def test_what_did_not_occur_is_a_table_without_rows(tmp_path: Path) -> None:
    events = [op("aten::mm", 1, 8), call("cudaLaunchKernel", 2, 1, 1), kernel("k", 9, 100, 1)]
    made = tables(trace([write(tmp_path / "a.json", events)]))
    assert {name: table.num_rows for name, table in made.items()} == {
        **dict.fromkeys(NAMES, 0), "ranks": 1, "kernels": 1, "operators": 1,
    }  # fmt: skip
    assert made["gaps"].schema.field("duration_ns").type == "int64"
    assert made["collectives"].column_names[:2] == ["rank", "name"]


def test_ranks_stand_beside_each_other(tmp_path: Path) -> None:
    files = []
    for rank in range(2):
        events = [
            step(1, 0, 50), call("cudaLaunchKernel", 2, 1, 1), kernel("k", 9, 10 + rank, 1),
        ]  # fmt: skip
        files.append(write(tmp_path / f"rank-{rank}.json", events, distributedInfo={"rank": rank}))
    steps = tables(trace(files))["steps"].to_pydict()
    assert (steps["rank"], steps["compute_ns"]) == ([0, 1], [10_000, 11_000])
