"""The terminal report of a profile: verdict, totals, op kinds, nodes, gaps, what to do next."""

from collections.abc import Sequence
from typing import TextIO

from rich.console import Console

from ridgeline.machines import Ceiling
from ridgeline.profile import Gap, KindProfile, NodeProfile, Profile, compare
from ridgeline.report.console import console_on, grid, line
from ridgeline.report.profile_words import (
    notes,
    remedy,
    signed_percent,
    signed_time,
    totals_of,
    verdict,
)
from ridgeline.report.verdict import advice_line
from ridgeline.units import format_percent, format_rate, format_time


def print_profile(stream: TextIO, profile: Profile, *, top: int) -> None:
    """Prints the whole report; `top` rows per table."""
    console = console_on(stream)
    line(console, verdict(profile), "bold")
    for note in notes(profile):
        line(console, note, "yellow")
    console.print()
    grid(console, ["", ""], [list(row) for row in totals_of(profile).items()], left=2)
    _kinds(console, profile, top)
    _nodes(console, profile, top)
    _gaps(console, profile, top)
    _advice(console, profile)


def _title(console: Console, text: str) -> None:
    console.print()
    line(console, text, "bold")


def _kinds(console: Console, profile: Profile, top: int) -> None:
    _title(console, "By op kind")
    error = compare(profile).median_absolute_error
    headers = ["op", "count", "measured", "share", "predicted", "error", "of achievable"]
    rows = [_kind_row(kind) for kind in profile.kinds[:top]]
    if rest := profile.kinds[top:]:
        time_s = sum(k.measured_s for k in rest)
        share = format_percent(sum(k.share for k in rest))
        rows.append([f"{len(rest)} more", "", format_time(time_s), share, "", "", ""])
    grid(console, headers, rows)
    line(console, f"Median absolute error, weighted by time: {format_percent(error)}.")


def _kind_row(kind: KindProfile) -> list[str]:
    reached = kind.achievable_s / kind.measured_s if kind.measured_s else 0.0
    return [
        kind.op,
        f"x{kind.count:,}",
        format_time(kind.measured_s),
        format_percent(kind.share),
        format_time(kind.predicted_s),
        signed_percent(kind.error),
        format_percent(reached),
    ]


def _nodes(console: Console, profile: Profile, top: int) -> None:
    _title(console, "Longest nodes")
    headers = ["node", "module", "measured", "spread", "predicted", "error"]
    headers += ["rate", "bandwidth", "of achievable", "of datasheet", "dtype", "bound"]
    longest = sorted(profile.nodes, key=lambda n: -n.measured_s)[:top]
    grid(console, headers, [_node_row(node) for node in longest], left=2)


def _node_row(node: NodeProfile) -> list[str]:
    return [
        node.name,
        node.module or "(top level)",
        format_time(node.measured_s),
        format_time(node.spread_s),
        format_time(node.predicted_s),
        signed_percent(node.error),
        format_rate(node.achieved_flops_per_s, "FLOP") if node.flops else "-",
        format_rate(node.achieved_bytes_per_s, "B"),
        format_percent(node.percent_of(Ceiling.ACHIEVABLE)),
        format_percent(node.percent_of(Ceiling.DATASHEET)),
        node.dtype,
        node.bound,
    ]


def _gaps(console: Console, profile: Profile, top: int) -> None:
    between_s = profile.measured_s - profile.bound_s
    _title(
        console,
        f"From {format_time(profile.measured_s)} measured to {format_time(profile.bound_s)} at the "
        f"roofline: what makes up the {signed_time(between_s)}",
    )
    shown, rest = split(profile.gaps, top)
    rows = [[signed_time(g.time_s), g.what, remedy(g)] for g in shown]
    if rest:
        rows.append([signed_time(sum(g.time_s for g in rest)), f"{len(rest)} smaller ones", ""])
    rows.append([signed_time(between_s), "together", ""])
    grid(console, ["time", "what", "closed by"], rows, left=3)


def split(gaps: Sequence[Gap], top: int) -> tuple[list[Gap], list[Gap]]:
    """The `top` gaps largest by amount, in the order of time, and the others."""
    kept = set(sorted(gaps, key=lambda g: -abs(g.time_s))[:top])
    return [g for g in gaps if g in kept], [g for g in gaps if g not in kept]


def _advice(console: Console, profile: Profile) -> None:
    if not profile.advice:
        return
    _title(console, "What to do next (gains predicted, not measured; `ridgeline optimize` tries)")
    for number, advice in enumerate(profile.advice, 1):
        line(console, f"{number}. {advice_line(advice, profile.estimate)}")
