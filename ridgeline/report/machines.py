"""Machines as tables: all of them, or one with its sources."""

import json
from collections.abc import Iterator, Sequence

from rich.console import Console

from ridgeline.machines import Ceiling, Machine, Rate
from ridgeline.report.console import grid, line
from ridgeline.units import format_bytes, format_count, format_percent, format_time

_LISTED = ("fp32", "bf16", "fp8")


def print_machines(console: Console, found: Sequence[Machine]) -> None:
    """One row per machine: datasheet rates, memory, and how sure its figures are."""
    rows = [
        [
            machine.id,
            machine.name,
            machine.kind,
            *(_listed(machine, dtype) for dtype in _LISTED),
            format_count(machine.memory.bandwidth_bytes_per_s, "B") + "/s",
            _capacity(machine),
            machine.confidence + (" (low)" if machine.is_low_confidence else ""),
        ]
        for machine in found
    ]
    rates = [f"{dtype} FLOP/s" for dtype in _LISTED]
    headers = ["id", "name", "kind", *rates, "bandwidth", "memory", "confidence"]
    grid(console, headers, rows, left=3, text=[len(headers) - 1])
    console.print()
    line(
        console,
        f"{len(found)} machines; datasheet rates, dense. (low): not first-hand, and every report "
        "says so. `ridgeline machines show ID` gives both ceilings and sources.",
    )


def _listed(machine: Machine, dtype: str) -> str:
    rate = machine.matrix.get(dtype) or machine.vector.get(dtype)
    return format_count(rate.flops_per_s) if rate else "-"


def _capacity(machine: Machine) -> str:
    capacity = machine.memory.capacity_bytes
    return format_bytes(capacity) if capacity else "as built"


def machines_json(found: Sequence[Machine]) -> str:
    """A JSON array with the figures that people compare."""
    records = [
        {
            "id": m.id,
            "name": m.name,
            "vendor": m.vendor,
            "arch": m.arch,
            "kind": m.kind,
            "confidence": m.confidence,
            "is_low_confidence": m.is_low_confidence,
            "bandwidth_bytes_per_s": m.memory.bandwidth_bytes_per_s,
            "capacity_bytes": m.memory.capacity_bytes,
            "matrix_flops_per_s": {d: r.flops_per_s for d, r in m.matrix.items()},
            "vector_flops_per_s": {d: r.flops_per_s for d, r in m.vector.items()},
        }
        for m in found
    ]
    return json.dumps(records, indent=1, ensure_ascii=False, allow_nan=False)


def print_machine(console: Console, machine: Machine) -> None:
    """One machine: both ceilings of every rate, what else it has, and the sources."""
    line(console, f"{machine.name} ({machine.id})", "bold")
    if machine.is_low_confidence:
        line(console, f"low confidence: {machine.confidence}, not first-hand", "yellow")
    rows: list[list[str]] = []
    sources: dict[str, int] = {}
    for name, unit, datasheet, achievable, source in _rates(machine):
        number = sources.setdefault(source, len(sources) + 1)
        reached = ["-", "-"]  # nobody measured a link
        if achievable is not None:
            share = format_percent(achievable / datasheet)
            reached = [f"{format_count(achievable, unit)}/s", share]
        rows.append([name, f"{format_count(datasheet, unit)}/s", *reached, f"[{number}]"])
    console.print()
    grid(console, ["rate", "datasheet", "achievable", "share", "source"], rows)
    console.print()
    for name, value in _facts(machine):
        line(console, f"{name}: {value}")
    console.print()
    for source, number in sources.items():
        line(console, f"[{number}] {source}")
    if machine.kernels:
        line(console, f"{len(machine.kernels)} kernel kinds measured here.")


def _rates(machine: Machine) -> Iterator[tuple[str, str, float, float | None, str]]:
    """(name, unit, datasheet, achievable, source) of every rate."""
    for dtype, rate in machine.matrix.items():
        achievable = machine.matrix_flops_per_s(dtype, Ceiling.ACHIEVABLE)
        yield f"matrix {dtype}", "FLOP", rate.flops_per_s, achievable, _source(rate)
    for dtype, rate in machine.vector.items():
        achievable = machine.vector_flops_per_s(dtype, Ceiling.ACHIEVABLE)
        yield f"vector {dtype}", "FLOP", rate.flops_per_s, achievable, _source(rate)
    memory = machine.memory
    yield (
        f"memory {memory.name}",
        "B",
        memory.bandwidth_bytes_per_s,
        machine.bandwidth_bytes_per_s(Ceiling.ACHIEVABLE),
        _sources(memory.source, memory.achievable_source),
    )
    for link in machine.links:
        speed = link.bandwidth_bytes_per_s
        yield f"link {link.name}", "B", speed, None, link.source


def _source(rate: Rate) -> str:
    return _sources(rate.source, rate.achievable_source)


def _sources(datasheet: str, achievable: str | None) -> str:
    return f"{datasheet}; achievable: {achievable or 'ASSUMED share, nothing measured'}"


def _facts(machine: Machine) -> Iterator[tuple[str, str]]:
    yield "vendor, architecture", f"{machine.vendor}, {machine.arch}"
    yield "memory", _capacity(machine)
    for cache in machine.caches:
        yield f"cache {cache.name}", format_bytes(cache.capacity_bytes)
    yield "between two kernels", format_time(machine.launch_overhead_s)
    yield "an eager op on the host", format_time(machine.dispatch_overhead_s)
    yield "overheads from", machine.overhead_source
    yield "confidence", machine.confidence
    yield "source", machine.source
    if machine.notes:
        yield "notes", machine.notes
