"""`dcgmi dmon` text: a table without times, whose header comes again every few lines.

    #Entity   GRACT        SMACT        DRAMA
    ID
    GPU 1     N/A          N/A          N/A
    GPU 0     0.984        0.930        0.252

One sweep is one row per entity, in any order; an entity that comes again opens the next sweep.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from ridgeline.errors import TraceError
from ridgeline.traces.dcgm_fields import field_of_head
from ridgeline.traces.dcgm_values import is_number, value_of
from ridgeline.traces.samples import Clock, Entity, Field, SampleRows, Samples

DEFAULT_PERIOD_NS = 1_000_000_000  # dcgmi dmon -d, default 1000 ms

HEADER = re.compile(r"^\s*#\s*Entity\b", re.MULTILINE)
_WORD = re.compile(r"\S+")
_UNITS = re.compile(r"^\s*I[dD]\b")
_ENTITY = re.compile(
    r"^\s*((?:GPU|SW) +(\d+) +LINK +\d+|(?:GPU-CI|GPU-I|vGPU|GPU|Switch|CPU Core|CPU|CX|UNKNOWN)"
    r" +\d+)(?: +|$)"
)
_STOPPED = "dmon was stopped"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Header:
    """The columns: where each starts in a line, its head, and the unit on the line below."""

    starts: tuple[int, ...] = ()
    heads: tuple[str, ...] = ()
    units: tuple[str, ...] = ()

    def cells(self, line: str) -> tuple[str, ...]:
        """What stands in a line of fixed columns under each head."""
        ends = (*self.starts[1:], None)
        return tuple(line[a:b].strip() for a, b in zip(self.starts, ends, strict=True))

    def row(self, line: str, entity_end: int) -> tuple[str, ...]:
        """The cells of one row: its words where there is one per head, as old versions align them
        to the right; else by column, where one may be empty or hold spaces."""
        words = tuple(line[entity_end:].split())
        return words if len(words) == len(self.heads) else self.cells(line)

    def fields(self) -> tuple[Field, ...]:
        """The field of each column."""
        units = self.units or ("",) * len(self.heads)
        pairs = zip(self.heads, units, strict=True)
        return tuple(field_of_head(head, unit.strip("#()")) for head, unit in pairs)


def _header(line: str, heads_at: int) -> _Header:
    words = list(_WORD.finditer(line, heads_at))
    return _Header(
        starts=tuple(word.start() for word in words), heads=tuple(word[0] for word in words)
    )


def _entity(found: re.Match[str]) -> Entity:
    label = " ".join(found[1].split())
    kind, _, number = label.partition(" ")
    if found[2] and kind == "GPU":
        return Entity(label=label, gpu=int(found[2]))
    return Entity(label=label, gpu=int(number) if kind == "GPU" else None)


@dataclass(slots=True)
class _Reader:
    """The table read so far. sweep: the number of the sweep; seen: its entities so far."""

    source: str
    start_ns: int
    period_ns: int
    header: _Header = field(default_factory=_Header)
    rows: SampleRows = field(default_factory=SampleRows)
    sweep: int = 0
    seen: set[Entity] = field(default_factory=set)
    text_heads: set[str] = field(default_factory=set)
    num_strange: int = 0

    def take(self, line: str, number: int) -> None:
        """Reads one line: a header, its units, a row, or something else, which is counted."""
        if found := HEADER.match(line):
            self.header = _header(line, found.end())
        elif _UNITS.match(line):
            self.header = _Header(
                starts=self.header.starts,
                heads=self.header.heads,
                units=self.header.cells(line),
            )
        elif found := _ENTITY.match(line):
            self._row(found, line, number)
        elif line.strip() and not line.startswith(_STOPPED):
            self.num_strange += 1

    def is_torn(self, last: str) -> bool:
        """Whether a last line without an end is a row that lacks cells."""
        found = _ENTITY.match(last)
        return found is not None and len(last[found.end() :].split()) < len(self.header.heads)

    def _row(self, found: re.Match[str], line: str, number: int) -> None:
        where = f"{self.source}:{number}"
        if not self.header.heads:
            raise TraceError(f"{where}: a row before any `#Entity` header; keep the log's top.")
        entity = _entity(found)
        if entity in self.seen:
            self.sweep += 1
            self.seen.clear()
        self.seen.add(entity)
        for sampled, cell in zip(
            self.header.fields(), self.header.row(line, found.end()), strict=True
        ):
            self._cell(entity, sampled, cell, where)

    def _cell(self, entity: Entity, sampled: Field, cell: str, where: str) -> None:
        if sampled.id is None and not is_number(cell):
            self.text_heads.add(sampled.key)
            return
        time_ns = self.start_ns + self.sweep * self.period_ns
        self.rows.add(entity, sampled, time_ns, value_of(cell, where))

    def notes(self) -> Iterator[str]:
        """What was left out, in sentences."""
        if self.text_heads:
            yield f"columns of text are left out: {', '.join(sorted(self.text_heads))}."
        if self.num_strange:
            yield f"{self.num_strange} lines are neither a header nor a row of a known entity."


def read_dmon(
    text: str, source: str, *, start_ns: int | None = None, period_ns: int | None = None
) -> Samples:
    """The samples of one `dcgmi dmon` log. It has no times: sweep k is at start_ns + k * period_ns,
    where start_ns is the first sweep's time since 1970 (None: 0, the clock is then the log's own)
    and period_ns what was given to -d (None: its default, 1 s).

    A last line that was torn off while it was written is left out and noted. Raises TraceError
    with the line's number for a cell that is no number.
    """
    reader = _Reader(
        source=source, start_ns=start_ns or 0, period_ns=period_ns or DEFAULT_PERIOD_NS
    )
    *lines, last = text.split("\n")  # nothing follows the last line's end, unless it was torn off
    for number, line in enumerate(lines, start=1):
        reader.take(line, number)
    is_torn = reader.is_torn(last)
    if not is_torn:
        reader.take(last, len(lines) + 1)
    if not reader.header.heads:
        raise TraceError(f"{source}: no `#Entity` header, so this is no `dcgmi dmon` log.")
    clock = Clock.START if start_ns is None else Clock.EPOCH
    torn = ["the last line was torn off and is left out."] if is_torn else []
    notes = (*_given(start_ns, period_ns), *reader.notes(), *torn)
    return reader.rows.samples(source, clock, notes)


def _given(start_ns: int | None, period_ns: int | None) -> Sequence[str]:
    """What had to be assumed, in sentences."""
    notes = []
    if start_ns is None:
        notes.append("the log has no times and no start was given: time 0 is its first sweep.")
    if period_ns is None:
        notes.append("no period was given: 1 s per sweep, the default of dcgmi dmon, is assumed.")
    return notes
