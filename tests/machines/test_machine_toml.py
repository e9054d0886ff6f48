"""Reading is strict, writing is exact: nothing but a machine or a MachineError ever comes back."""

import tomllib
from collections.abc import Mapping
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ridgeline.errors import MachineError
from ridgeline.machines import Kernel, Machine, Rate, load, names, parse, to_toml

FULL = replace(
    load("mi300x"),
    kernels=(
        Kernel(
            route="compiled",
            kind="gemm",
            dtype="bf16",
            features=("m", "n", "k"),
            samples=((1.0, 768.0, 4096.0, 93.02e9), (2048.0, 768.0, 768.0, 411.3e9)),
            source="made up",
        ),
    ),
)
TEXT = to_toml(FULL)
LINES = [
    n for n, line in enumerate(TEXT.splitlines()) if " = " in line and not line.startswith(" ")
]
OPTIONAL = {"num_units", "tdp_w", "notes", "capacity_bytes"}


@pytest.mark.parametrize("name", names())
def test_shipped_machines_survive_the_round_trip(name: str) -> None:
    assert parse(to_toml(load(name)), origin=name) == load(name)


positive = st.floats(min_value=1e-300, max_value=1e300, allow_nan=False)
words = st.text(min_size=1).filter(lambda text: bool(text.strip()))


@given(flops_per_s=positive, time_s=positive, words=words, notes=st.text())
def test_any_number_and_any_text_survive(
    flops_per_s: float, time_s: float, words: str, notes: str
) -> None:
    machine = replace(
        FULL,
        source=words,
        notes=notes,
        launch_overhead_s=time_s,
        matrix={"bf16": Rate(flops_per_s=flops_per_s, source=words)},
    )
    text = to_toml(machine)
    try:
        text.encode()
    except UnicodeEncodeError:  # a lone surrogate is no text: no file could hold it
        return
    assert parse(text, origin="test") == machine


def test_numbers_are_written_as_people_write_them() -> None:
    assert "flops_per_s = 1.3074e15" in TEXT
    assert "achievable_flops_per_s = 668.4e12" in TEXT
    assert "launch_overhead_s = 2.5e-6" in TEXT
    assert "capacity_bytes = 192_000_000_000" in TEXT
    assert "  [1, 768, 4096, 93.02e9]," in TEXT


def test_an_unknown_key_is_named() -> None:
    with pytest.raises(MachineError, match=r"mine\.toml: unknown key 'tdp'; known here: .*tdp_w"):
        parse("tdp = 700\n" + TEXT, origin="mine.toml")
    for place, header in {
        "memory": "[memory]",
        "matrix.bf16": "[matrix.bf16]",
        "caches": "[[caches]]",
        "links": "[[links]]",
        "kernels": "[[kernels]]",
    }.items():
        with pytest.raises(MachineError, match=rf"unknown key '{place}\.colour'"):
            parse(TEXT.replace(header, f"{header}\ncolour = 1"), origin="mine.toml")


def test_a_missing_key_is_named() -> None:
    with pytest.raises(MachineError, match=r"mine\.toml: missing key `vendor`"):
        parse(_without(TEXT, "vendor"), origin="mine.toml")
    text = TEXT.replace("bandwidth_bytes_per_s = 5.3e12\n", "")
    with pytest.raises(MachineError, match=r"missing key `bandwidth_bytes_per_s`.*in `memory`"):
        parse(text, origin="mine.toml")


def test_a_wrong_type_and_a_wrong_value_are_named() -> None:
    text = TEXT.replace("bandwidth_bytes_per_s = 5.3e12", 'bandwidth_bytes_per_s = "fast"')
    with pytest.raises(MachineError, match=r"Expected `float`, got `str`.*memory\.bandwidth"):
        parse(text, origin="mine.toml")
    with pytest.raises(MachineError, match=r"bandwidth_bytes_per_s must be a finite number"):
        parse(TEXT.replace("5.3e12", "nan"), origin="mine.toml")
    with pytest.raises(MachineError, match="'tpu'"):
        parse(TEXT.replace('kind = "gpu"', 'kind = "tpu"'), origin="mine.toml")


def test_the_dtype_of_a_bad_rate_is_named() -> None:
    text = TEXT.replace("flops_per_s = 1.3074e15", "flops_per_s = -5.0")
    with pytest.raises(MachineError, match=r"above zero, not -5\.0, in `matrix\.fp16`\.$"):
        parse(text, origin="mine.toml")
    text = TEXT.replace("[vector.fp32]\nflops_per_s = ", '[vector.fp32]\nflops_per_s = "fast" # ')
    with pytest.raises(MachineError, match=r"got `str`, in `vector\.fp32\.flops_per_s`\.$"):
        parse(text, origin="mine.toml")


def test_what_is_not_toml() -> None:
    with pytest.raises(MachineError, match=r"mine\.toml is not TOML"):
        parse("= 1", origin="mine.toml")
    with pytest.raises(MachineError, match="is not TOML"):
        parse("a = " + "[" * 100_000, origin="mine.toml")


@given(line=st.sampled_from(LINES))
def test_deleting_a_line_names_the_key_or_leaves_a_machine(line: int) -> None:
    lines = TEXT.splitlines()
    key = lines.pop(line).split(" = ")[0]
    outcome = _parse_or_machine_error("\n".join(lines))
    if isinstance(outcome, Machine):
        assert key in OPTIONAL
    else:
        assert key in str(outcome) or "is not TOML" in str(outcome)  # half a list


@given(line=st.sampled_from(LINES), name=st.from_regex(r"[a-z_]{1,12}", fullmatch=True))
def test_renaming_a_key_is_an_error(line: int, name: str) -> None:
    lines = TEXT.splitlines()
    value = lines[line].partition(" = ")[2]
    lines[line] = f"{name}_x = {value}"
    with pytest.raises(MachineError):
        parse("\n".join(lines), origin="mine.toml")


junk = st.recursive(
    st.one_of(st.booleans(), st.integers(), st.floats(), st.text(max_size=5)),
    lambda inner: st.lists(inner, max_size=3),
    max_leaves=4,
)


@given(line=st.sampled_from(LINES), value=junk)
def test_any_other_value_gives_a_machine_or_a_machine_error(line: int, value: object) -> None:
    lines = TEXT.splitlines()
    key = lines[line].partition(" = ")[0]
    lines[line] = f"{key} = {_toml(value)}"
    _check(_parse_or_machine_error("\n".join(lines)))


@given(keep=st.integers(min_value=0, max_value=len(TEXT)))
def test_a_file_cut_short_gives_a_machine_or_a_machine_error(keep: int) -> None:
    _check(_parse_or_machine_error(TEXT[:keep]))


@given(key=st.sampled_from(sorted(tomllib.loads(TEXT))), value=junk)
def test_any_other_table_gives_a_machine_or_a_machine_error(key: str, value: object) -> None:
    table: Mapping[str, object] = {**tomllib.loads(TEXT), key: value}
    scalars = [f"{k} = {_toml(v)}" for k, v in table.items() if not isinstance(v, dict)]
    _check(_parse_or_machine_error("\n".join(scalars)))


def _check(outcome: Machine | MachineError) -> None:
    assert isinstance(outcome, Machine) or str(outcome).startswith("mine.toml")


def _parse_or_machine_error(text: str) -> Machine | MachineError:
    try:
        machine = parse(text, origin="mine.toml")
    except MachineError as error:
        return error
    assert parse(to_toml(machine), origin="again") == machine
    return machine


def _without(text: str, key: str) -> str:
    return "\n".join(line for line in text.splitlines() if not line.startswith(f"{key} = "))


def _toml(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return f"[{', '.join(_toml(item) for item in value)}]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{k} = {_toml(v)}" for k, v in value.items()) + "}"
    if isinstance(value, str):
        return '"' + "".join(f"\\U{ord(c):08x}" for c in value) + '"'
    return repr(value)
