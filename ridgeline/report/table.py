"""The terminal report of readings: verdict, totals, tables by module and op, what to do next."""

from collections.abc import Sequence

from rich.console import Console

from ridgeline.cost import Bound, Estimate
from ridgeline.cost.advice import devices_needed
from ridgeline.graph import Phase
from ridgeline.report.console import grid, line
from ridgeline.report.reading import Group, Reading, by_module, by_op, by_part
from ridgeline.report.verdict import (
    CEILINGS,
    advice_line,
    low_confidence,
    throughput,
    utilisation,
    verdict,
)
from ridgeline.units import (
    format_bytes,
    format_count,
    format_percent,
    format_time,
    significant,
)

_MOST_COLUMNS = 3
_STYLES = {
    Bound.COMPUTE.value: "blue",
    Bound.MEMORY.value: "yellow",
    Bound.OVERHEAD.value: "magenta",
    Bound.FREE.value: "dim",
}


def print_readings(
    console: Console, readings: Sequence[Reading], *, top: int, has_op_list: bool
) -> None:
    """The report: verdict, totals, tables by module and op, what to do next.

    With several machines or targets the totals stand side by side, and the tables are of the first
    of each phase.
    """
    line(console, verdict(readings), "bold")
    for note in dict.fromkeys(filter(None, (low_confidence(r.estimate) for r in readings))):
        line(console, note, "yellow")
    print_totals(console, readings)
    for reading in first_of_each_phase(readings):
        print_breakdown(console, reading, readings, top=top, has_op_list=has_op_list)


def first_of_each_phase(readings: Sequence[Reading]) -> list[Reading]:
    """One reading per phase and target, in order."""
    return list({(r.estimate.phase, r.target): r for r in reversed(readings)}.values())[::-1]


def print_breakdown(
    console: Console,
    reading: Reading,
    readings: Sequence[Reading],
    *,
    top: int,
    has_op_list: bool,
) -> None:
    """The tables of one reading and its advice."""
    run = reading.estimate
    title = f"{run.phase} on {run.machine.name}"
    if len({r.target for r in readings}) > 1:
        title = f"{reading.target}: {title}"
    if run.phase == Phase.TRAIN.value:
        _groups(console, f"{title}, by part", "part", by_part(reading), top)
    _groups(console, f"{title}, by module", "module", by_module(reading), top)
    _groups(console, f"{title}, by op kind", "op", by_op(reading), top)
    if has_op_list:
        print_op_list(console, reading)
    if run.uncounted:
        _uncounted(console, reading)
    if reading.advice:
        console.print()
        line(console, f"{title}, what to do next (gains predicted by the same model)", "bold")
        for number, advice in enumerate(reading.advice, 1):
            line(console, f"{number}. {advice_line(advice, run)}")


def print_totals(console: Console, readings: Sequence[Reading]) -> None:
    """One column per reading, one row per quantity; of many readings, one table per phase."""
    tables = [list(readings)]
    if len(readings) > _MOST_COLUMNS:
        tables = [
            [r for r in readings if (r.target, r.estimate.phase) == (f.target, f.estimate.phase)]
            for f in first_of_each_phase(readings)
        ]
    for columns in tables:
        values = [totals_of(reading) for reading in columns]
        headers = ["", *(column_title(r, readings) for r in columns)]
        rows = [[name, *(column[name] for column in values)] for name in values[0]]
        console.print()
        grid(console, headers, rows, left=len(headers))
    ceiling = CEILINGS[readings[0].estimate.ceiling]
    console.print()
    line(console, f"Times and the ridge use the {ceiling}. Shares are of the predicted time.")


def column_title(reading: Reading, readings: Sequence[Reading]) -> str:
    run = reading.estimate
    parts = [run.phase]
    if len({r.target for r in readings}) > 1:
        parts.insert(0, reading.target)
    if len({r.estimate.machine.id for r in readings}) > 1:
        parts.append(run.machine.id)
    return " ".join(parts)


def totals_of(reading: Reading) -> dict[str, str]:
    run = reading.estimate
    totals, memory = run.totals, run.memory
    held = {
        "weights": memory.weight_bytes,
        "KV cache and state": memory.cache_bytes,
        "inputs": memory.input_bytes,
        "gradients": memory.gradient_bytes,
        "optimizer state": memory.optimizer_bytes,
        "activations": memory.activation_bytes,
    }
    parts = [
        f"{name} {format_bytes(n)}" for name, n in held.items() if n >= 0.005 * sum(held.values())
    ]
    rate, of_achievable, of_datasheet = utilisation(run)
    at_least = "at least " if totals.is_lower_bound else ""
    return {
        "machine": run.machine.name,
        "execution": run.execution.value,
        "inputs": ", ".join(f"{name} {spec}" for name, spec in reading.inputs) or "none",
        "time": f"{at_least}{format_time(totals.time_s)}",
        "throughput": throughput(reading),
        "at the roofline": format_time(totals.roofline_s),
        "bound": totals.bound,
        "FLOPs, full attention": f"{at_least}{format_count(totals.flops, 'FLOP')}",
        "FLOPs, causal": f"{at_least}{format_count(totals.causal_flops, 'FLOP')}",
        "FLOPs, executed": f"{at_least}{format_count(totals.hardware_flops, 'FLOP')}",
        "MACs": f"{at_least}{format_count(totals.macs, 'MAC')}",
        "matrix rate": rate,
        "of the achievable": of_achievable,
        "of the datasheet": of_datasheet,
        "parameters": f"{format_count(totals.parameters)} ({format_bytes(totals.parameter_bytes)})",
        "bytes moved": format_bytes(totals.moved_bytes),
        "op by op": format_bytes(totals.read_bytes + totals.write_bytes),
        "peak memory": format_bytes(totals.peak_memory_bytes),
        "reached at": memory.peak_at or "the start",
        "of which": ", ".join(parts),
        "fits": _fits(run),
        "intensity": f"{significant(totals.intensity)} FLOP/byte",
        "ridge": f"{significant(totals.ridge)} FLOP/byte",
    }


def _fits(run: Estimate) -> str:
    capacity = run.machine.memory.capacity_bytes
    if capacity is None:
        return "not known how much it has"
    count, has = devices_needed(run), format_bytes(capacity)
    return f"yes, in {has}" if count == 1 else f"no: at least {count} of {has}"


def _groups(console: Console, title: str, what: str, groups: Sequence[Group], top: int) -> None:
    """One table of groups; what takes no time (views) is left out."""
    console.print()
    line(console, title, "bold")
    groups = [g for g in groups if g.time_s]
    shown = groups[:top]
    rows = [_row(g) for g in shown]
    styles = [_STYLES[g.bound] for g in shown]
    if rest := groups[top:]:
        share = sum(g.share for g in rest)
        time_s = sum(g.time_s for g in rest)
        rows.append(
            [f"{len(rest)} more", "", format_time(time_s), format_percent(share), "", "", ""]
        )
        styles.append("dim")
    headers = [what, "count", "time", "share", "FLOPs", "bytes moved", "bound"]
    grid(console, headers, rows, styles=styles)


def _row(group: Group) -> list[str]:
    return [
        group.label,
        f"x{group.count:,}",
        format_time(group.time_s),
        format_percent(group.share),
        format_count(group.flops) if group.flops else "-",
        format_bytes(group.moved_bytes),
        group.bound,
    ]


def print_op_list(console: Console, reading: Reading) -> None:
    """The op kinds an accelerator must support, and the engine that each needs."""
    groups = by_op(reading)
    flops = sum(g.flops for g in groups)
    nbytes = sum(g.moved_bytes for g in groups)
    rows = [
        [
            g.label,
            g.category,
            g.engine,
            f"x{g.count:,}",
            format_percent(g.flops / flops if flops else 0.0),
            format_percent(g.moved_bytes / nbytes if nbytes else 0.0),
        ]
        for g in sorted(groups, key=lambda g: (g.engine, -g.flops, -g.moved_bytes, g.label))
    ]
    console.print()
    line(console, f"{reading.estimate.phase}, the {len(groups)} op kinds it needs", "bold")
    headers = ["op", "category", "engine", "count", "of FLOPs", "of bytes moved"]
    grid(console, headers, rows, left=3)


def _uncounted(console: Console, reading: Reading) -> None:
    uncounted = reading.estimate.uncounted
    console.print()
    line(console, "Not counted (no cost rule), so every total is a lower bound:", "yellow")
    for target, count in uncounted.items():
        line(console, f"  {target} x{count:,}")
