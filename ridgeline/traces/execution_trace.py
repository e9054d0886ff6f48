"""Reads PyTorch's execution trace (torch.profiler.ExecutionTraceObserver, Chakra JSON): which
operator was given which storages.

Nodes stand in the order in which they ended, children before parents. Ids of storages are of their
addresses, so that one id is many tensors, one after the other. Source:
torch/csrc/profiler/standalone/execution_trace_observer.cpp, schema 1.1.1.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from ridgeline.errors import TraceError
from ridgeline.native.scan import Text
from ridgeline.traces.files import decompressor, read_file
from ridgeline.traces.json_cursor import Broken, Cursor, Cut
from ridgeline.units import counted, format_bytes

_HEAD_BYTES = 4096
_MOST_BYTES = 512 * 2**20  # as text; as values it takes four times that
_SCHEMA = re.compile(rb'^\s*\{\s*"schema"\s*:\s*"[\d.]+-chakra')
_PID = re.compile(rb'"pid"\s*:\s*(\d{1,18})')
_NO_TENSOR = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Operand:
    """A tensor that an operator was given, or gave. storage: the id of its address; nbytes: from
    the start of the storage to the tensor's last element.
    """

    storage: int
    nbytes: int
    shape: tuple[int, ...]
    dtype: str


@dataclass(frozen=True, slots=True, kw_only=True)
class OpNode:
    """One call. inputs: the tensors of each argument; schema: "" of what is no operator: ranges,
    nodes of autograd. function_id: what the profiler calls "Record function id".
    """

    id: int
    parent: int
    name: str
    schema: str
    function_id: int
    inputs: tuple[tuple[Operand, ...], ...]
    outputs: tuple[Operand, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ExecutionTrace:
    """What one process ran. notes: what is not in it because the file is cut off or damaged."""

    source: str
    process: int | None
    nodes: tuple[OpNode, ...]
    notes: tuple[str, ...] = ()


class _Attribute(msgspec.Struct):
    name: str
    value: object = None


class _Values(msgspec.Struct):
    values: list[object]
    shapes: list[object]
    types: list[str]
    strides: list[object] = []


class _Node(msgspec.Struct):
    id: int
    name: str
    ctrl_deps: int
    inputs: _Values
    outputs: _Values
    attrs: list[_Attribute]


class _Document(msgspec.Struct):
    nodes: list[_Node]
    pid: int | None = None


def head_of(path: Path) -> bytes:
    """The first bytes of a file, inflated where it is compressed; empty where it cannot be read."""
    try:
        with path.open("rb") as file:
            data = file.read(_HEAD_BYTES)
    except OSError:
        return b""
    if not data.startswith(b"\x1f\x8b"):
        return data
    stream, failure = decompressor()
    try:
        return stream.decompress(data, _HEAD_BYTES)
    except (failure, EOFError):
        return b""


def is_execution_trace(path: Path) -> bool:
    """Whether a file says that it is one."""
    return _SCHEMA.match(head_of(path)) is not None


def process_of(path: Path) -> int | None:
    """The process that an execution trace is of, from its head; None where that does not say."""
    found = _PID.search(head_of(path))
    return int(found[1]) if found else None


def read_execution_trace(path: Path) -> ExecutionTrace:
    """The execution trace at `path`. One that is cut off gives what stands before that, and a note.
    Raises TraceError where that is nothing, or more than 512 MiB.
    """
    text = read_file(path)
    if len(text.data) > _MOST_BYTES:
        raise TraceError(
            f"{path} holds {format_bytes(len(text.data))} of nodes, more than "
            f"{format_bytes(_MOST_BYTES)}; record fewer steps."
        )
    if not _SCHEMA.match(bytes(text.data[:_HEAD_BYTES])):
        raise TraceError(f"{path} is no execution trace: it does not name a Chakra schema.")
    try:
        found = msgspec.json.decode(text.data, type=_Document)
        nodes, process, notes = found.nodes, found.pid, text.notes
    except msgspec.DecodeError:
        nodes, process = list(_whole_nodes(text.data)), process_of(path)
        notes = (f"{path.name} is cut off or damaged after {counted(len(nodes), 'operator')}.",)
    if not nodes:
        raise TraceError(f"{path} holds no node that can be read.")
    return ExecutionTrace(
        source=str(path), process=process, nodes=tuple(map(_node, nodes)), notes=tuple(notes)
    )


def _whole_nodes(data: Text) -> Iterator[_Node]:
    """The nodes before the place at which the text ends or is none."""
    cursor = Cursor(data)
    try:
        for key in cursor.members():
            if key != b"nodes":
                cursor.value()
                continue
            cursor.expect(b"[")
            while True:
                yield msgspec.json.decode(cursor.value(), type=_Node)
                cursor.expect(b",")
    except (Cut, Broken, msgspec.DecodeError):
        return


def _node(raw: _Node) -> OpNode:
    attributes = {one.name: one.value for one in raw.attrs}
    function_id, schema = attributes.get("rf_id"), attributes.get("op_schema")
    return OpNode(
        id=raw.id,
        parent=raw.ctrl_deps,
        name=raw.name,
        schema=schema if isinstance(schema, str) else "",
        function_id=function_id if isinstance(function_id, int) else 0,
        inputs=_operands(raw.inputs),
        outputs=tuple(one for part in _operands(raw.outputs) for one in part),
    )


def _operands(found: _Values) -> tuple[tuple[Operand, ...], ...]:
    strides = found.strides or [None] * len(found.values)
    columns = zip(found.values, found.shapes, found.types, strides, strict=False)
    return tuple(tuple(_tensors(*column)) if "Tensor(" in column[2] else () for column in columns)


def _tensors(value: object, shape: object, kind: str, strides: object) -> Iterator[Operand]:
    """The tensors in a value: one, or those of a list, however deep."""
    if not isinstance(value, list):
        return
    if kind.startswith("Tensor("):
        yield from _tensor(value, shape, kind[len("Tensor(") : -1], strides)
        return
    inner = kind.partition("[")[2].removesuffix("]")
    for index, part in enumerate(value):
        words = _part(inner, index)
        yield from _tensors(part, _at(shape, index), words, _at(strides, index))


def _part(kinds: str, index: int) -> str:
    """The kind of one element: "Tensor(float)" of "Tensor(float),Tensor(float)"."""
    depth = number = start = 0
    for at, letter in enumerate(kinds):
        depth += (letter in "[(") - (letter in "])")
        if letter == "," and not depth:
            if number == index:
                return kinds[start:at]
            number, start = number + 1, at + 1
    return kinds[start:] if number == index else ""


def _at(value: object, index: int) -> object:
    return value[index] if isinstance(value, list) and index < len(value) else None


def _tensor(
    value: Sequence[object], shape: object, dtype: str, strides: object
) -> Iterator[Operand]:
    """None without storage. value: ids of tensor and storage, offset, elements, bytes of one."""
    numbers = [one for one in value[:5] if isinstance(one, int)]
    if len(numbers) < 5 or numbers[1] == _NO_TENSOR:
        return
    _, storage, offset, numel, item_nbytes = numbers
    sizes = _whole(shape)
    steps = _whole(strides)
    extent = numel
    if len(sizes) == len(steps) and numel:
        extent = 1 + sum((size - 1) * step for size, step in zip(sizes, steps, strict=True))
    nbytes = (offset + extent) * item_nbytes if numel else 0
    yield Operand(storage=storage, nbytes=max(0, nbytes), shape=sizes, dtype=dtype)


def _whole(values: object) -> tuple[int, ...]:
    return tuple(one for one in values if isinstance(one, int)) if isinstance(values, list) else ()
