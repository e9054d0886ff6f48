"""The answers as Arrow tables, one row each, for whoever goes on in pandas, Polars or DuckDB."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, fields
from enum import Enum
from typing import TYPE_CHECKING

from ridgeline.traces.arrow_extra import require_arrow
from ridgeline.traces.collectives import Collective
from ridgeline.traces.fixes import Fix
from ridgeline.traces.rank import IdleCause, NamedGap, RankTrace
from ridgeline.traces.split import Split
from ridgeline.traces.trace import Trace

if TYPE_CHECKING:
    import pyarrow

Row = dict[str, object]


def tables(found: Trace) -> "dict[str, pyarrow.Table]":
    """By name: ranks, steps, idle_causes, gaps, fixes, kernels, operators, collectives. Each has a
    column `rank` (null where the recording does not say) and those of `--json`; what did not occur
    has a table of no rows. Raises MissingExtra without pyarrow.
    """
    pa = require_arrow()
    kinds = {"int": pa.int64(), "float": pa.float64(), "str": pa.string()}
    made = {}
    for name, (columns, rows_of) in _TABLES.items():
        rows = [{"rank": rank.rank, **row} for rank in found.ranks for row in rows_of(rank)]
        schema = pa.schema([(column, kinds[kind]) for column, kind in columns.items()])
        made[name] = pa.Table.from_pylist(rows, schema=schema)
    return made


def _ranks(rank: RankTrace) -> Iterator[Row]:
    device = rank.devices[0].name if rank.devices else None
    yield {"source": rank.source, "device": device, **asdict(rank.split)}


def _steps(rank: RankTrace) -> Iterator[Row]:
    for step in rank.steps:
        yield {"step": step.name, "matrix_ns": step.matrix_ns, **asdict(step.split)}


def _kernels(rank: RankTrace) -> Iterator[Row]:
    for use in rank.kernels:
        plain = {name: getattr(use, name) for name in _KERNEL if hasattr(use, name)}
        what = use.what
        named = {"op_type": what.op.value, "unit": what.unit.value}
        yield {**plain, **named, "precision": what.precision.value}


def _operators(rank: RankTrace) -> Iterator[Row]:
    for use in rank.operators:
        yield {name: getattr(use, name) for name in _OPERATOR}


def _plainly(items: str) -> Callable[[RankTrace], Iterator[Row]]:
    """The rows of an attribute that holds flat values; enumerations by their words."""

    def rows(rank: RankTrace) -> Iterator[Row]:
        for one in getattr(rank, items):
            row = {field.name: getattr(one, field.name) for field in fields(one)}
            yield {
                name: value.value if isinstance(value, Enum) else value
                for name, value in row.items()
                if not isinstance(value, tuple)
            }

    return rows


def _columns(*kinds: type, **more: str) -> dict[str, str]:
    """The flat fields of these classes as columns, and more; `rank` first."""
    found = {"rank": "int", **more}
    for kind in kinds:
        for field in fields(kind):
            found[field.name] = _kind_of(str(getattr(field.type, "__name__", field.type)))
    return {name: kind for name, kind in found.items() if kind}


def _kind_of(annotation: str) -> str:
    if annotation.startswith("tuple"):
        return ""
    known = annotation.split(" | ")[0]
    return known if known in ("int", "float", "str") else "str"


def _texts(names: Iterable[str]) -> dict[str, str]:
    return dict.fromkeys(names, "str")


_KERNEL = {
    **_texts(("name", "op", "shapes", "module")),
    **dict.fromkeys(("count", "total_ns", "min_ns", "max_ns"), "int"),
    **dict.fromkeys(("mean_ns", "share"), "float"),
}
_OPERATOR = {
    **_texts(("name", "shapes")),
    **dict.fromkeys(("count", "num_kernels", "num_transfers", "total_ns", "tf32_ns"), "int"),
    "share": "float",
}
_TABLES: Mapping[str, tuple[dict[str, str], Callable[[RankTrace], Iterator[Row]]]] = {
    "ranks": (_columns(Split, source="str", device="str"), _ranks),
    "steps": (_columns(Split, step="str", matrix_ns="int"), _steps),
    "idle_causes": (_columns(IdleCause), _plainly("idle_causes")),
    "gaps": (_columns(NamedGap), _plainly("gaps")),
    "fixes": (_columns(Fix), _plainly("fixes")),
    "kernels": (
        _columns(**_KERNEL, **_texts(("op_type", "unit", "precision"))),
        _kernels,
    ),
    "operators": (_columns(**_OPERATOR), _operators),
    "collectives": (_columns(Collective), _plainly("collectives")),
}
