"""Saves and loads graphs as `.pt2` archives, without ever unpickling what a stranger wrote."""

import io
import os
import re
import zipfile
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import msgspec
import torch

from ridgeline.errors import GraphError, RidgelineError
from ridgeline.graph.graph import Graph, Phase
from ridgeline.writing import write_pieces

# Our own operators -> the module that registers them; torch cannot read a call of one it has never
# heard of. As data, for the zoo stands above the graph.
OPERATORS = {"ridgeline.grouped_mm": "ridgeline.zoo.experts"}
_HEADER = "ridgeline.json"
_FORMAT = 1
# JSON in a real archive is a few MB even for large graphs; more is an attack or a mistake.
_MAX_JSON_BYTES = 256 * 2**20
# How torch writes a size symbol down, the one place where an expression holds quotes.
_SYMBOL = re.compile(r"Symbol\('[A-Za-z]\w*'(?:, \w+=(?:True|False))*\)")
# torch pastes names into Python source that it then runs. In these there can be no call with an
# argument, and no second line; torch's own "ExportedProgram.module()" is the one with brackets.
_NAME = re.compile(r"[^\s()\[\]{}'\"`;:=,@#\\]*(?:\(\))?")
_IDENTIFIER = re.compile(r"[A-Za-z_]\w*")
_SAFE_NAME = re.compile(
    r"[su]\d+|zuf\d+|Max|Min|Mod|PythonMod|FloorDiv|CleanDiv|CeilDiv|CeilToInt|FloorToInt"
    r"|IntTrueDiv|FloatTrueDiv|ToFloat|TruncToInt|RoundToInt"
    r"|ModularIndexing|Where|Eq|Ne|Lt|Le|Gt|Ge|And|Or|Not|True|False|Integer|Float|Rational"
    r"|Symbol|Identity|integer|positive|nonnegative|oo|int_oo"
)

# Powers of a digit, and few of them: sympy computes what it can, and a tower of powers never ends.
_POWER = re.compile(r"\*\*[1-9](?![\d*.])|PowByNatural\((?=[^()]*, ?[1-9]\))")
_MAX_POWERS = 4
_LONG_NUMBER = re.compile(r"\d{20}")


class _Header(msgspec.Struct, forbid_unknown_fields=True):
    format: int
    name: str
    phase: str
    repeats: dict[str, int]


def save(graph: Graph, path: str | os.PathLike[str]) -> None:
    """Writes the graph to `path` (`.pt2`); the file is complete or absent, never half-written."""
    header = _Header(
        format=_FORMAT, name=graph.name, phase=graph.phase.value, repeats=dict(graph.repeats)
    )
    buffer = io.BytesIO()
    extra = {_HEADER: msgspec.json.encode(header).decode()}
    torch.export.save(graph.program, buffer, extra_files=extra)
    write_atomically(Path(path), buffer.getbuffer())


def write_atomically(path: Path, data: bytes | memoryview) -> None:
    """Writes `data` to `path`, whole or not at all. Raises GraphError where that cannot be."""
    try:
        write_pieces(path, (data,))
    except RidgelineError as error:
        raise GraphError(str(error)) from error


def load(path: str | os.PathLike[str], *, allow_pickle: bool = False) -> Graph:
    """Reads a graph that `save` or `torch.export.save` wrote.

    A plain `.pt2` becomes a forward graph named after its file. Raises GraphError when the file is
    missing, is no export archive, or holds pickled objects; those run code when loaded, so they
    need `allow_pickle=True`.
    """
    file = Path(path)
    if not file.is_file():
        raise GraphError(f"no file {file}; give the path of a .pt2 written by torch.export.save.")
    if not allow_pickle:
        _refuse_code(file)
    register_operators()
    extra = {_HEADER: ""}
    try:
        program = torch.export.load(str(file), extra_files=extra)
    except Exception as error:  # torch raises every kind of exception on a damaged archive
        raise GraphError(f"{file} is no readable export archive: {_first_line(error)}") from error
    if not extra[_HEADER]:
        return Graph(name=file.stem, program=program)
    header = _read_header(file, extra[_HEADER])
    return Graph(
        name=header.name, program=program, phase=Phase(header.phase), repeats=header.repeats
    )


def register_operators() -> None:
    """Makes the operators of OPERATORS known to torch."""
    for module in OPERATORS.values():
        import_module(module)


def _read_header(file: Path, text: str | bytes) -> _Header:
    try:
        header = msgspec.json.decode(text, type=_Header)
        Phase(header.phase)
    except (msgspec.DecodeError, ValueError) as error:
        raise GraphError(f"{file} has a damaged {_HEADER}: {error}.") from error
    if header.format != _FORMAT:
        raise GraphError(
            f"{file} has format {header.format}; this version reads {_FORMAT}. "
            "Capture the model again."
        )
    return header


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _refuse_code(file: Path) -> None:
    """Raises GraphError if loading the archive could run code it carries."""
    try:
        with zipfile.ZipFile(file) as archive:
            for name in archive.namelist():
                _check_entry(file, archive, name)
    except (zipfile.BadZipFile, EOFError, OSError, NotImplementedError) as error:
        raise GraphError(f"{file} is no readable export archive: {error}.") from error


def _check_entry(file: Path, archive: zipfile.ZipFile, name: str) -> None:
    if name.endswith(".json"):
        if archive.getinfo(name).file_size > _MAX_JSON_BYTES:
            raise GraphError(
                f"{file} holds {name} of over {_MAX_JSON_BYTES} bytes; refusing to read it."
            )
        _check_json(file, name, archive.read(name))
    elif "/sample_inputs/" in name:
        _check_tensors(file, name, archive.read(name))


def _check_tensors(file: Path, name: str, data: bytes) -> None:
    try:
        torch.load(io.BytesIO(data), weights_only=True)
    except Exception as error:  # any failure here would make torch fall back to unpickling
        raise GraphError(
            f"{file} holds pickled objects in {name}, which can run code when loaded. "
            "If you trust its author, load it with allow_pickle=True."
        ) from error


def _check_json(file: Path, name: str, data: bytes) -> None:
    try:
        entries = list(_entries(msgspec.json.decode(data)))
    except msgspec.DecodeError as error:
        raise GraphError(f"{file} has a damaged {name}: {error}.") from error
    for key, value in entries:
        if key == "use_pickle" and value is True:
            raise GraphError(
                f"{file} holds pickled weights ({name}), which can run code when loaded. "
                "If you trust its author, load it with allow_pickle=True."
            )
        if key == "expr_str" and isinstance(value, str) and not _is_arithmetic(value):
            raise GraphError(
                f"{file} holds the size expression {value!r}, which is not arithmetic."
            )
        if key.endswith("name") and isinstance(value, str) and not _NAME.fullmatch(value):
            raise GraphError(f"{file} holds the name {value[:80]!r}, which could be code.")


def _entries(content: Any) -> Iterator[tuple[str, Any]]:
    """Every (key, value) of nested JSON objects."""
    pending = [content]
    while pending:
        item = pending.pop()
        if isinstance(item, dict):
            yield from item.items()
            pending.extend(item.values())
            if isinstance(origin := item.get("from_node"), str):  # JSON within JSON
                pending.append(msgspec.json.decode(origin))
        elif isinstance(item, list):
            pending.extend(item)


def _is_arithmetic(expression: str) -> bool:
    """Whether a symbolic size uses only numbers, size symbols and known functions (sympy evaluates
    it).
    """
    expression, powers = _POWER.subn("*(", _SYMBOL.sub("1", expression))
    if powers > _MAX_POWERS or "**" in expression or _LONG_NUMBER.search(expression):
        return False
    if any(c in expression for c in "'\"[]{};:\\@`"):
        return False
    return all(_SAFE_NAME.fullmatch(word) for word in _IDENTIFIER.findall(expression))
