"""The record of the counter benchmark, and its tables: dataclass in, text out."""

import statistics
from collections.abc import Sequence

import msgspec

GIGA, MEGA = 1e9, 1e6
BEGIN, END = "<!-- begin: bench_counters.py -->", "<!-- end: bench_counters.py -->"


class Run(msgspec.Struct, frozen=True, kw_only=True):
    """One whole process. cpu_s: user and system; load_average: of the minute before it."""

    wall_s: float
    cpu_s: float
    peak_rss_bytes: int
    load_average: float


class Failure(msgspec.Struct, frozen=True, kw_only=True):
    """A process that gave no answer, and the last line it wrote."""

    exit_code: int
    message: str


class Row(msgspec.Struct, kw_only=True):
    """One tool on one model. error: (flops - truth_flops) / truth_flops."""

    tool: str
    model: str
    truth_flops: int
    truth_parameters: int
    command: str = ""
    flops: int | None = None
    parameters: int | None = None
    error: float | None = None
    failure: Failure | None = None
    runs: list[Run] = []

    def answer(self, flops: int, parameters: int) -> None:
        """Keeps what the tool said; a tool that says something else the next time is a fault."""
        if self.flops not in (None, flops):
            raise ValueError(f"{self.tool} counts {self.model} as {flops}, before {self.flops}")
        self.flops, self.parameters = flops, parameters
        self.error = (flops - self.truth_flops) / self.truth_flops


class Record(msgspec.Struct, kw_only=True):
    """The benchmark: what ran where, and every run."""

    command: str
    commit: str
    date: str
    cpu: str
    cores: int
    memory_bytes: int
    versions: dict[str, str]
    seed: int
    warm_up: int
    rows: list[Row]

    def row(self, tool: str, model: str, truth: tuple[int, int]) -> Row:
        """The row of a tool and a model, made where there is none."""
        for row in self.rows:
            if (row.tool, row.model) == (tool, model):
                return row
        row = Row(tool=tool, model=model, truth_flops=truth[0], truth_parameters=truth[1])
        self.rows.append(row)
        return row


def median(values: Sequence[float]) -> float:
    """The median; of nothing, not a number."""
    return statistics.median(values) if values else float("nan")


def spread(values: Sequence[float]) -> float:
    """Half the range between the quartiles over the median, for at least two values."""
    low, _, high = statistics.quantiles(values, n=4, method="inclusive")
    return (high - low) / 2 / median(values)


def markdown(record: Record) -> str:
    """One table per model, in the record's order, and a line that says where it was measured."""
    models = list(dict.fromkeys(row.model for row in record.rows))
    parts = [_table(model, [r for r in record.rows if r.model == model]) for model in models]
    return "\n".join([*parts, _provenance(record)])


def with_tables(page: str, record: Record) -> str:
    """`page` with the record's tables between its two markers."""
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n\n{markdown(record)}\n{END}{after}"


def _table(model: str, rows: Sequence[Row]) -> str:
    head = (
        f"**{model}**: {_giga(rows[0].truth_flops)} GFLOP, "
        f"{rows[0].truth_parameters / MEGA:,.1f} M parameters\n\n"
        "| tool | GFLOP | error | wall s (spread) | CPU s | peak MB |\n"
        "|---|---:|---:|---:|---:|---:|\n"
    )
    return head + "".join(_line(row) for row in rows)


def _line(row: Row) -> str:
    if row.failure is not None:
        return f"| {row.tool} | fails | `{row.failure.message}` | | | |\n"
    walls = [run.wall_s for run in row.runs]
    cpu_s = median([run.cpu_s for run in row.runs])
    peak = median([run.peak_rss_bytes for run in row.runs]) / MEGA
    around = f" (±{100 * spread(walls):.0f}%)" if len(walls) > 1 else ""
    timing = f"{median(walls):.2f}{around} | {cpu_s:.2f} | {peak:,.0f}"
    return f"| {row.tool} | {_giga(row.flops)} | {_error(row.error)} | {timing} |\n"


def _giga(flops: int | None) -> str:
    if flops is None:
        return "-"
    decimals = 4 if flops < 100 * GIGA else 1 if flops < 10_000 * GIGA else 0
    return f"{flops / GIGA:,.{decimals}f}"


def _error(error: float | None) -> str:
    if error is None:
        return "-"
    return "exact" if error == 0 else f"{100 * error:+.2f}%"


def _provenance(record: Record) -> str:
    counts = sorted({len(row.runs) for row in record.rows if row.failure is None})
    loads = [run.load_average for row in record.rows for run in row.runs]
    versions = ", ".join(f"{name} {number}" for name, number in record.versions.items())
    between = f"{min(loads):.1f} to {max(loads):.1f}" if loads else "unknown"
    return (
        f"Measured {record.date} at commit {record.commit} on {record.cpu}, {record.cores} cores, "
        f"{record.memory_bytes / GIGA:.0f} GB; load average {between}; "
        f"{' or '.join(map(str, counts))} runs each after a warm-up, medians; spread is half the "
        f"range between the quartiles. {versions}.\n"
    )
