"""Recordings as columns: what is refused, what is filled in, and as Arrow tables."""

import numpy as np
import pytest

from ridgeline.errors import TraceError
from ridgeline.traces.columns import (
    ABSENT,
    DTYPES,
    Columns,
    Dialect,
    Kind,
    Metadata,
    Recording,
    Thread,
    columns,
)


def recording(**given: list[int]) -> Recording:
    length = len(next(iter(given.values())))
    return Recording(
        source="here",
        metadata=Metadata(dialect=Dialect.KINETO),
        events=columns(length, **{name: np.array(v) for name, v in given.items()}),
        names=("mm", "relu"),
        threads=(Thread(process="1", thread="2"),),
    )


def test_columns_that_a_file_lacks_are_absent() -> None:
    events = columns(2, start_ns=np.array([5, 7]))
    assert events.start_ns.tolist() == [5, 7]
    assert events.stream.tolist() == [ABSENT, ABSENT]
    assert events.duration_ns.tolist() == [0, 0]
    assert all(getattr(events, name).dtype == dtype for name, dtype in DTYPES.items())


def test_a_column_of_another_name_or_type_is_refused() -> None:
    with pytest.raises(TraceError, match="no columns"):
        columns(1, colour=np.zeros(1))
    right = columns(2)
    wrong = {name: getattr(right, name) for name in DTYPES} | {"kind": np.zeros(2)}
    with pytest.raises(TraceError, match="column kind is float64"):
        Columns(**wrong)


def test_rows_of_kinds_come_in_the_order_of_the_file() -> None:
    found = columns(4, kind=np.array([Kind.KERNEL, Kind.CPU_OP, Kind.MEMCPY, Kind.KERNEL]))
    assert found.where(Kind.KERNEL, Kind.MEMCPY).tolist() == [0, 2, 3]
    assert found.take(found.where(Kind.CPU_OP)).kind.tolist() == [Kind.CPU_OP]


def test_numbers_beyond_the_tables_are_refused() -> None:
    with pytest.raises(TraceError, match="names row 2 of no table"):
        recording(name=[0, 2])
    with pytest.raises(TraceError, match="ends before it starts"):
        recording(duration_ns=[-1])


def test_impossible_ranks_are_refused() -> None:
    with pytest.raises(TraceError, match="a rank is 0 or more"):
        Metadata(dialect=Dialect.NSYS, rank=-1)
    with pytest.raises(TraceError, match="1 rank or more"):
        Metadata(dialect=Dialect.NSYS, world_size=0)


def test_as_an_arrow_table() -> None:
    pa = pytest.importorskip("pyarrow", reason="needs the extra `arrow`")
    table = recording(start_ns=[3, 9], name=[1, 0], kind=[5, 1], stream=[7, ABSENT]).to_arrow()
    assert table.column("name").to_pylist() == ["relu", "mm"]
    assert table.column("kind").to_pylist() == ["kernel", "cpu_op"]
    assert table.column("stream").to_pylist() == [7, None]
    assert table.column("start_ns").type == pa.int64()
    assert table.column("thread").to_pylist() == ["1/2", "1/2"]
