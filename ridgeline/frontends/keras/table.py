"""Row: one class of layers, or one operation."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor

from ridgeline.frontends.keras.value import Value

if TYPE_CHECKING:
    from ridgeline.frontends.keras.call import Call

Result = Tensor | Value | tuple[Tensor | Value, ...]
Run = Callable[["Call"], Result]


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One class. keeps_mask: the mask of its input is that of its output; ignores: arguments that
    change nothing in inference.
    """

    kind: str
    run: Run
    keeps_mask: bool = False
    ignores: tuple[str, ...] = ()


def rows(
    functions: Mapping[str, Run], *, keeps_mask: bool = False, ignores: tuple[str, ...] = ()
) -> tuple[Row, ...]:
    """One row per class."""
    return tuple(
        Row(kind=k, run=run, keeps_mask=keeps_mask, ignores=ignores) for k, run in functions.items()
    )


def by_kind(table: Iterable[Row]) -> dict[str, Row]:
    """Class -> its row."""
    return {row.kind: row for row in table}
