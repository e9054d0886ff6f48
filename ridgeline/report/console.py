"""Tables and lines on a terminal: rich where there is one, plain columns where there is none."""

import os
from collections.abc import Collection, Iterable, Sequence
from typing import TextIO

from rich.box import SIMPLE_HEAD
from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from ridgeline.units import printable

_PLAIN_WIDTH, _LEAST_WIDTH = 200, 40
_LEAST_TEXT = 10  # narrower than this, folded text is no longer read


class _SafeConsole(Console):
    """Spells control characters out: names in reports come from files that others wrote."""

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterable[Segment]:
        for text, style, control in super().render(renderable, options):
            yield Segment(text if control else printable(text), style, control)


def console_on(stream: TextIO) -> Console:
    """A console on `stream`; where it is no terminal, without colour and as wide as COLUMNS says,
    else wide.
    """
    if stream.isatty():
        return _SafeConsole(file=stream, highlight=False, markup=False, emoji=False)
    return _SafeConsole(
        file=stream,
        width=_asked_width() or _PLAIN_WIDTH,
        highlight=False,
        markup=False,
        emoji=False,
        no_color=True,
        force_terminal=False,
    )


def _asked_width() -> int | None:
    """COLUMNS where it is set to a number, but never less than a report can be read in."""
    columns = os.environ.get("COLUMNS", "")
    return max(_LEAST_WIDTH, int(columns)) if columns.isdecimal() else None


def grid(
    console: Console,
    headers: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    left: int = 1,
    styles: Sequence[str] = (),
    text: Sequence[int] = (),
) -> None:
    """Prints a table: the first `left` columns and those in `text` as text that may be folded,
    numbers to the right. Columns for which there is no room are named below it.

    styles: one style per row, for its last column, which stands to the left and is never folded.
    """
    texts = {*range(left), *text}
    count = _fitting(console, headers, rows, texts)
    table = Table(box=SIMPLE_HEAD if console.is_terminal else None, pad_edge=False, show_edge=False)
    for index, header in enumerate(headers[:count]):
        is_text, is_styled = index in texts, bool(styles) and index == len(headers) - 1
        table.add_column(
            header,
            justify="left" if is_text or is_styled else "right",
            overflow="fold" if is_text else "ellipsis",
            no_wrap=not is_text,
            header_style="bold",
        )
    for number, row in enumerate(rows):
        cells = [Text(cell) for cell in row]
        if styles and console.is_terminal:
            cells[-1].stylize(styles[number])
        table.add_row(*cells[:count])
    console.print(table)
    if hidden := headers[count:]:
        line(console, f"No room in {console.width} columns for: {', '.join(hidden)}.", "dim")


def _fitting(
    console: Console, headers: Sequence[str], rows: Sequence[Sequence[str]], texts: Collection[int]
) -> int:
    """How many columns, from the left and two at least, have room; text may be folded."""
    gap = 3 if console.is_terminal else 2
    room, count = console.width + gap, 0
    for index, column in enumerate(zip(headers, *rows, strict=True)):
        width = max(map(len, column))
        room -= gap + (min(width, _LEAST_TEXT) if index in texts else width)
        count += room >= 0
    return max(2, count)


def line(console: Console, text: str, style: str = "") -> None:
    """Prints one line of text; never broken where there is no terminal nor COLUMNS."""
    is_whole = not console.is_terminal and _asked_width() is None
    console.print(Text(text, style=style), soft_wrap=is_whole)
