"""Who wrote and who reads again what operators were given: in the terminal and as plain values."""

from typing import TextIO

from rich.console import Console

from ridgeline.report.console import console_on, grid, line
from ridgeline.report.trace_words import rank_name, shortened, time_of
from ridgeline.traces.operands import OperandUse, OperandUses
from ridgeline.traces.tensor_lives import TensorLife
from ridgeline.traces.trace import Trace
from ridgeline.units import counted, format_bytes

_MOST_OPERANDS = 3  # of one operator, the largest, in the terminal
_NAME_LENGTH = 34


def print_operands(stream: TextIO, trace: Trace, *, top: int) -> None:
    """Prints what the first execution trace says; nothing where there is none."""
    rank = next((one for one in trace.ranks if one.operands is not None), None)
    if rank is None or rank.operands is None:
        return
    console, uses = console_on(stream), rank.operands
    title = f"rank {rank_name(rank)}: " if len(trace.ranks) > 1 else ""
    _operators(console, title, uses, top)
    _tensors(console, title, uses, top)
    _dead(console, title, uses, top)
    for note in uses.notes:
        line(console, note, "yellow")


def _title(console: Console, text: str) -> None:
    console.print()
    line(console, text[:1].upper() + text[1:], "bold")


def _operators(console: Console, title: str, uses: OperandUses, top: int) -> None:
    where = "device" if uses.is_device else "host"
    _title(console, f"{title}what operators read (<) and wrote (>), by time on the {where}")
    rows = []
    for one in uses.operators[:top]:
        largest = sorted(one.operands, key=lambda operand: -operand.nbytes)[:_MOST_OPERANDS]
        for number, operand in enumerate(largest):
            first = [shortened(one.op, _NAME_LENGTH), time_of(one.total_ns)]
            rows.append([*(["", ""] if number else first), *_operand_cells(operand)])
    headers = [
        "operator",
        "time",
        "",
        "operand",
        "size",
        "written by",
        "before",
        "reads",
        "last by",
    ]
    grid(console, headers, rows, text=(3, 5, 8))


def _operand_cells(one: OperandUse) -> list[str]:
    return [
        "<" * one.is_read + ">" * one.is_written,
        f"{one.role.value} {[*one.shape]}",
        format_bytes(one.nbytes),
        shortened(one.writer, _NAME_LENGTH) or "-",
        "-" if one.since_ns is None else time_of(one.since_ns),
        f"{one.later_reads:,}",
        shortened(one.last_use, _NAME_LENGTH) or "-",
    ]


def _tensors(console: Console, title: str, uses: OperandUses, top: int) -> None:
    if not uses.tensors:
        return
    _title(console, f"{title}tensors kept longest for the next read: to recompute or offload")
    rows = [_tensor_cells(one) for one in uses.tensors[:top]]
    headers = ["tensor", "size", "unused for", "reads", "from", "to", "others between"]
    grid(console, headers, rows, text=(4, 5))
    roles = ", ".join(
        f"{one.role.value} {format_bytes(one.nbytes)} in {one.num_tensors:,}" for one in uses.roles
    )
    line(console, f"All tensors by what they are: {roles}.", "dim")


def _tensor_cells(one: TensorLife) -> list[str]:
    return [
        f"{one.role.value} {[*one.shape]}",
        format_bytes(one.nbytes),
        "-" if one.unused_ns is None else time_of(one.unused_ns),
        f"{one.num_reads:,}",
        shortened(one.unused_from, _NAME_LENGTH),
        shortened(one.unused_to, _NAME_LENGTH),
        format_bytes(one.reuse_bytes),
    ]


def _dead(console: Console, title: str, uses: OperandUses, top: int) -> None:
    if not uses.dead:
        return
    total = sum(one.nbytes * one.count for one in uses.dead)
    _title(console, f"{title}written and never read: {format_bytes(total)}")
    rows = [
        [
            shortened(one.op, _NAME_LENGTH),
            str([*one.shape]),
            counted(one.count, "time"),
            format_bytes(one.nbytes),
            shortened(one.over, _NAME_LENGTH) or "-",
        ]
        for one in uses.dead[:top]
    ]
    grid(console, ["by", "shape", "", "each", "written over by"], rows, left=2, text=(4,))
