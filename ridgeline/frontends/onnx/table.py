"""Row: one operator from one version on."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from ridgeline.frontends.onnx.call import Call, Result

Run = Callable[[Call], Result]


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One operator, from version `since` of its operator set until the next row of its name.

    is_pure: whether it may be computed ahead where its inputs are known.
    """

    op: str
    run: Run
    since: int = 1
    domain: str = ""
    is_pure: bool = True


def rows(
    functions: Mapping[str, Run], *, since: int = 1, domain: str = "", is_pure: bool = True
) -> tuple[Row, ...]:
    """One row per operator, all from the same version on."""
    return tuple(
        Row(op=op, run=run, since=since, domain=domain, is_pure=is_pure)
        for op, run in functions.items()
    )


def by_operator(table: Iterable[Row]) -> dict[tuple[str, str], tuple[Row, ...]]:
    """(domain, operator) -> its rows, newest first."""
    found: dict[tuple[str, str], list[Row]] = {}
    for row in table:
        found.setdefault((row.domain, row.op), []).append(row)
    return {key: tuple(sorted(r, key=lambda x: -x.since)) for key, r in found.items()}
