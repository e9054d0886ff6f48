"""A SQLite file that somebody else wrote, read with distrust: plain tables only, each column's type
checked, nothing of the file's own (views, triggers, functions) ever run.

Nsight Systems creates tables when it has rows for them, and their columns differ by version, so
both are looked up before they are asked for."""

import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from urllib.parse import quote

import numpy as np
from numpy.typing import NDArray

from ridgeline.errors import TraceError
from ridgeline.traces.columns import ABSENT
from ridgeline.traces.files import read_file

MAGIC = b"SQLite format 3\0"

_CHUNK_ROWS = 65_536
_MAX_CELL_BYTES = 64 * 2**20
_READS = frozenset({sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ})
_FUNCTIONS = frozenset({"ifnull", "typeof"})
_PRAGMAS = frozenset({"table_info"})
_WRITE_AHEAD = b"\2\2"  # bytes 18 and 19 of a file whose last pages may lie in a file beside it
_ROLLBACK = b"\1\1"


def _allow(action: int, first: str | None, second: str | None, *_: str | None) -> int:
    """What a statement may do: read columns, call two functions, ask for a table's columns."""
    is_function = action == sqlite3.SQLITE_FUNCTION and second in _FUNCTIONS
    is_pragma = action == sqlite3.SQLITE_PRAGMA and first in _PRAGMAS
    is_fine = action in _READS or is_function or is_pragma
    return sqlite3.SQLITE_OK if is_fine else sqlite3.SQLITE_DENY


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


@dataclass(frozen=True, slots=True, kw_only=True)
class Store:
    """Where a database lies: a file, or for a compressed one the bytes that were in it."""

    path: Path
    content: bytes | None = None

    @contextmanager
    def open(self) -> Iterator["Database"]:
        """The database, read only, for the length of a `with`. Raises TraceError for anything that
        SQLite refuses in it."""
        with self.guarded(), closing(self.connect()) as connection:
            yield Database(path=self.path, connection=connection)

    @contextmanager
    def guarded(self) -> Iterator[None]:
        """Turns what SQLite refuses into a TraceError that names the file."""
        try:
            yield
        except (sqlite3.Error, UnicodeDecodeError) as error:  # its messages quote what it read
            raise TraceError(f"{self.path} is damaged or no SQLite database: {error}.") from None

    def connect(self) -> sqlite3.Connection:
        """A connection that can only read columns of tables."""
        connection = self._connection()
        connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, _MAX_CELL_BYTES)
        connection.set_authorizer(_allow)
        connection.text_factory = partial(str, encoding="utf-8", errors="replace")
        return connection

    def _connection(self) -> sqlite3.Connection:
        if self.content is None:
            address = quote(str(self.path.absolute()))
            return sqlite3.connect(f"file:{address}?mode=ro&immutable=1", uri=True)
        connection = sqlite3.connect(":memory:")
        connection.deserialize(self.content)
        return connection


def store(path: Path) -> Store:
    """Where the database of `path` lies, a plain file or one packed by gzip."""
    data = read_file(path)
    if bytes(data.data[: len(MAGIC)]) != MAGIC:
        raise TraceError(f"{path} is no SQLite database: it starts with {bytes(data.data[:12])!r}.")
    with path.open("rb") as file:
        if file.read(len(MAGIC)) == MAGIC:
            return Store(path=path)
    if data.notes:
        raise TraceError(f"{path}: {data.notes[0]}; a database cannot be read in part.")
    content = bytes(data.data)
    if content[18:20] == _WRITE_AHEAD:
        content = content[:18] + _ROLLBACK + content[20:]
    return Store(path=path, content=content)


@dataclass(frozen=True, slots=True, kw_only=True)
class Database:
    """An open database and what it is called in messages."""

    path: Path
    connection: sqlite3.Connection

    def tables(self) -> frozenset[str]:
        """The names of its plain tables. Raises TraceError for a name Nsight uses that is a view or
        a virtual table: neither holds rows of its own, so its content is whatever it computes."""
        rows = self.connection.execute("SELECT name, type, sql FROM sqlite_master").fetchall()
        for name, kind, sql in rows:
            is_virtual = str(sql).upper().startswith("CREATE VIRTUAL")
            if str(name).startswith(_NSIGHT) and (kind == "view" or is_virtual):
                what = "virtual table" if is_virtual else "view"
                raise TraceError(
                    f"{self.path}: {name} is a {what}; Nsight Systems writes plain tables."
                )
        return frozenset(str(name) for name, kind, _ in rows if kind == "table")

    def columns_of(self, table: str) -> tuple[str, ...]:
        """The columns of a table that it stores, in order, and none that it computes; empty where
        there is no such table."""
        rows = self.connection.execute(f"PRAGMA table_info({_quoted(table)})")
        return tuple(str(row[1]) for row in rows)

    def integers(
        self, table: str, needed: Sequence[str], optional: Sequence[str] = ()
    ) -> Mapping[str, NDArray[np.int64]]:
        """Columns of whole numbers by name, and "rowid". A `needed` column must exist and hold a
        number in every row; an `optional` one that is missing or NULL is ABSENT there. Raises
        TraceError, with the table, the column and the value, where that does not hold."""
        present = self.columns_of(table)
        if missing := [name for name in needed if name not in present]:
            raise TraceError(f"{self.path}: table {table} has no column {', '.join(missing)}.")
        known = [name for name in (*needed, *optional) if name in present]
        self._check_types(table, needed, [name for name in optional if name in present])
        picked = ", ".join(f"ifnull({_quoted(name)}, {ABSENT})" for name in known)
        rows = self.connection.execute(f"SELECT rowid, {picked} FROM {_quoted(table)}")
        found = _matrix(rows, len(known) + 1)
        given = dict(zip(("rowid", *known), found.T, strict=True))
        blank = np.full(len(found), ABSENT, np.int64)
        return given | {name: blank for name in optional if name not in present}

    def _check_types(self, table: str, needed: Sequence[str], optional: Sequence[str]) -> None:
        for names, allowed in ((needed, "'integer'"), (optional, "'integer', 'null'")):
            for name in names:
                column = _quoted(name)
                wrong = self.connection.execute(
                    f"SELECT {column}, rowid FROM {_quoted(table)}"
                    f" WHERE typeof({column}) NOT IN ({allowed}) LIMIT 1"
                ).fetchone()
                if wrong:
                    raise TraceError(
                        f"{self.path}: {table}.{name} is {str(wrong[0])[:40]!r} in row {wrong[1]},"
                        " not a whole number."
                    )

    def texts(self, table: str, key: str, text: str) -> Mapping[int, str]:
        """Text by key, for the rows where both are what they should be: a number and a text."""
        if not {key, text} <= {*self.columns_of(table), "rowid"}:
            return {}
        rows = self.connection.execute(
            f"SELECT {key}, {_quoted(text)} FROM {_quoted(table)}"
            f" WHERE typeof({key}) = 'integer' AND typeof({_quoted(text)}) = 'text'"
        )
        return dict(rows)

    def blobs(self, table: str, column: str) -> Mapping[int, bytes]:
        """Bytes by row number, of rows that have some; a text is read as hexadecimal, which is how
        some versions write them, and left out where it is none."""
        if column not in self.columns_of(table):
            return {}
        rows = self.connection.execute(
            f"SELECT rowid, {_quoted(column)} FROM {_quoted(table)}"
            f" WHERE typeof({_quoted(column)}) IN ('blob', 'text')"
        )
        found = {row: _bytes(value) for row, value in rows}
        return {row: value for row, value in found.items() if value}

    def row(self, table: str, rowid: int) -> Mapping[str, object]:
        """All of one row, by column; empty where there is none."""
        names = self.columns_of(table)
        picked = ", ".join(_quoted(name) for name in names)
        found = self.connection.execute(
            f"SELECT {picked} FROM {_quoted(table)} WHERE rowid = ?", (rowid,)
        ).fetchone()
        return dict(zip(names, found, strict=True)) if found else {}


def _bytes(value: bytes | str) -> bytes:
    try:
        return value if isinstance(value, bytes) else bytes.fromhex(value)
    except ValueError:
        return b""


_NSIGHT = ("CUPTI_", "NVTX_", "StringIds", "GPU_METRICS", "TARGET_INFO", "CUDA_")


def _matrix(rows: sqlite3.Cursor, width: int) -> NDArray[np.int64]:
    """Rows of whole numbers as one array, a chunk at a time: tuples of them take ten times more."""
    chunks = [np.empty((0, width), np.int64)]
    while chunk := rows.fetchmany(_CHUNK_ROWS):
        chunks.append(np.array(chunk, np.int64))
    return np.concatenate(chunks)
