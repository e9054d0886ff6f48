"""A machine as TOML text: strict to read (unknown, missing and ill-typed keys are errors that name
the key), plain to write."""

import math
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import fields

import msgspec

from ridgeline.errors import MachineError
from ridgeline.machines.machine import Cache, Kernel, Link, Machine, Memory, Rate

_PARTS = {"memory": Memory, "caches": Cache, "links": Link, "kernels": Kernel}
_RATES = ("matrix", "vector")
_Part = type[Machine] | type[Memory] | type[Cache] | type[Link] | type[Kernel] | type[Rate]


def parse(text: str, *, origin: str) -> Machine:
    """The machine that `text` describes; `origin` (a file name) goes into every error."""
    try:
        table = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise MachineError(f"{origin} is not TOML: {error}.") from None
    _check_keys(table, Machine, "", origin)
    for place, part, entry in _parts(table):
        _check_keys(entry, part, place, origin)
    try:
        return msgspec.convert(table, Machine)
    except msgspec.ValidationError as error:
        raise MachineError(f"{origin}: {_in_toml_words(str(error), _bad_rate(table))}") from None


def to_toml(machine: Machine) -> str:
    """The text that `parse` turns back into an equal machine."""
    lines = [
        _line(f.name, value)
        for f in fields(machine)
        if _is_scalar(value := getattr(machine, f.name))
    ]
    for unit in _RATES:
        for dtype, rate in getattr(machine, unit).items():
            lines += _table(f"[{unit}.{dtype}]", rate)
    lines += _table("[memory]", machine.memory)
    for name in ("caches", "links", "kernels"):
        for entry in getattr(machine, name):
            lines += _table(f"[[{name}]]", entry)
    return "\n".join(lines) + "\n"


def _parts(table: Mapping[str, object]) -> Iterator[tuple[str, _Part, object]]:
    for unit in _RATES:
        rates = table.get(unit)
        for dtype, entry in rates.items() if isinstance(rates, dict) else ():
            yield f"{unit}.{dtype}", Rate, entry
    for name, part in _PARTS.items():
        value = table.get(name)
        for entry in value if isinstance(value, list) else [value]:
            yield name, part, entry


def _check_keys(entry: object, part: _Part, place: str, origin: str) -> None:
    if not isinstance(entry, dict):
        return  # msgspec names the wrong type
    known = [f.name for f in fields(part)]
    for key in entry:
        if key not in known:
            full = f"{place}.{key}" if place else key
            raise MachineError(f"{origin}: unknown key {full!r}; known here: {', '.join(known)}.")


def _in_toml_words(message: str, bad_rate: str) -> str:
    words, _, place = message.partition(" - at `")
    words = words.replace("Object missing required field", "missing key").rstrip(".")
    place = place.removesuffix("`").removeprefix("$.")
    if bad_rate:
        place = place.replace(f"{bad_rate.partition('.')[0]}[...]", bad_rate)
    return f"{words}, in `{place}`." if place else f"{words}."


def _bad_rate(table: Mapping[str, object]) -> str:
    """ "matrix.bf16" where that is the first rate that is none: msgspec says "matrix[...]"."""
    for place, part, entry in _parts(table):
        if part is Rate:
            try:
                msgspec.convert(entry, Rate)
            except msgspec.ValidationError:
                return place
    return ""


def _is_scalar(value: object) -> bool:
    return isinstance(value, (str, int, float))


def _table(header: str, part: Memory | Cache | Link | Kernel | Rate) -> list[str]:
    values = ((f.name, getattr(part, f.name)) for f in fields(part))
    return ["", header, *(_line(key, value) for key, value in values if value is not None)]


def _line(key: str, value: object) -> str:
    return f"{key} = {_value(value)}"


def _value(value: object) -> str:
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, int):
        return f"{value:_}"
    if isinstance(value, float):
        return _number(value)
    if isinstance(value, tuple) and value and isinstance(value[0], tuple):
        return "[\n" + "".join(f"  {_value(row)},\n" for row in value) + "]"
    if isinstance(value, tuple):
        return f"[{', '.join(_value(item) for item in value)}]"
    raise AssertionError(f"no TOML form for {type(value)}")


def _text(value: str) -> str:
    if "'" not in value and value.isprintable() and ("\\" in value or '"' in value):
        return f"'{value}'"
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    return '"' + "".join(c if c.isprintable() else f"\\U{ord(c):08x}" for c in escaped) + '"'


def _number(value: float) -> str:
    """The shortest exact form a reader likes: 700, 1048576, 2.5e-6, 989.4e12."""
    if 0.001 <= abs(value) < 1e3 and not value.is_integer():
        return repr(value)
    exponent = 3 * math.floor(math.log10(abs(value)) / 3) if value else 0
    short = f"{value / 10.0**exponent:.12g}" + (f"e{exponent}" if exponent else "")
    whole = [str(int(value))] if value.is_integer() else []
    return min([*whole, *([short] if float(short) == value else []), repr(value)], key=len)
