"""The tables of docs/trace-speed.md, from records of bench_trace.py."""

from collections.abc import Mapping, Sequence
from pathlib import Path

BEGIN, END = "<!-- begin: bench_trace.py -->", "<!-- end: bench_trace.py -->"
Row = Mapping[str, object]
_PEER, _OURS = "HolisticTraceAnalysis", "ridgeline trace --json"

_WRITES = {"ridgeline trace --html": "html_bytes", "ridgeline trace --perfetto": "gz_bytes"}


def render(page: Path, records: Sequence[Mapping[str, object]]) -> None:
    """Writes the tables between the markers of `page`."""
    before, _, rest = page.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    page.write_text(f"{before}{BEGIN}\n\n{tables(records)}\n{END}{after}")


def tables(records: Sequence[Mapping[str, object]]) -> str:
    """One table per record, under what it was measured with."""
    return "\n".join(f"{_head(record)}\n{_table(record['rows'])}" for record in records)  # type: ignore[arg-type]


def _head(record: Mapping[str, object]) -> str:
    versions = record["versions"]
    assert isinstance(versions, dict)
    with_ = ", ".join(f"{name} {value}" for name, value in versions.items())
    return (
        f"{record['date']}, commit {str(record['commit'])[:9]}, {record['machine']}, Python "
        f"{record['python']}, {with_}; timed runs of each: {record['repeats']}, their medians.\n"
    )


def _table(rows: Sequence[Row]) -> str:
    lines = [
        "| input | events | ranks | what | time | from to | peak memory | beside HTA |",
        "|---|---:|---:|---|---:|---|---:|---|",
        *(_line(row, rows) for row in rows),
    ]
    return "\n".join(lines) + "\n"


def _line(row: Row, rows: Sequence[Row]) -> str:
    cells = [
        row["input"],
        f"{row['num_events']:,}",
        row["num_ranks"],
        f"{row['tool']}{_files(row)}",
        f"{row['median_s']:.2f} s{_inner(row)}",
        f"{row['least_s']:.2f} to {row['most_s']:.2f} s",
        f"{row['peak_mb']:,} MB",
        _beside(row, rows),
    ]
    return "| " + " | ".join(str(cell) for cell in cells) + " |"


def _files(row: Row) -> str:
    """How large the file is that it wrote, if it did."""
    nbytes = row.get(_WRITES.get(str(row["tool"]), ""))
    return f" ({nbytes / 1e6:.2f} MB)" if isinstance(nbytes, int) else ""


def _inner(row: Row) -> str:
    return f" ({row['after_import_s']:.2f} without import)" if "after_import_s" in row else ""


def _beside(row: Row, rows: Sequence[Row]) -> str:
    """How many times faster, and at which part of the memory; empty without the peer."""
    peer = [r for r in rows if r["input"] == row["input"] and r["tool"] == _PEER]
    if row["tool"] != _OURS or not peer:
        return ""
    faster, memory = _ratio(peer[0], row, "median_s"), _ratio(row, peer[0], "peak_mb")
    inner = _ratio(peer[0], row, "after_import_s", "median_s")
    return f"{faster:.1f}x faster ({inner:.1f}x without its import), {memory:.2f} of the memory"


def _ratio(one: Row, other: Row, key: str, other_key: str = "") -> float:
    return float(str(one[key])) / float(str(other[other_key or key]))
