"""What a profile says in sentences: its verdict, its totals, what its sum does not cover."""

from ridgeline.cost.advice import main_dtype
from ridgeline.machines import Ceiling
from ridgeline.profile import Gap, GapKind, Profile
from ridgeline.units import (
    counted,
    format_bytes,
    format_count,
    format_percent,
    format_rate,
    format_time,
)

COMPLETE = 0.1
"""Node times add up to the whole within this, or the report says what is missing."""


def signed_time(time_s: float) -> str:
    """A duration that may be negative: "-1.20 ms"."""
    return f"-{format_time(-time_s)}" if time_s < 0 else format_time(time_s)


def signed_percent(error: float) -> str:
    """A relative error with its sign: "+12%"."""
    return f"{100 * error:+.0f}%"


def verdict(profile: Profile) -> str:
    """One line: the time, how much of the roofline that is, and the largest loss."""
    lost = largest_loss(profile)
    text = (
        f"{profile.graph} takes {format_time(profile.measured_s)}, "
        f"{format_percent(profile.percent_of(Ceiling.ACHIEVABLE))} of the achievable roofline "
        f"({format_time(profile.bound_s)})"
    )
    if lost is None:
        return f"{text}; nothing stands between them"
    return f"{text}; the largest loss is {format_time(lost.time_s)}: {lost.what}"


def largest_loss(profile: Profile) -> Gap | None:
    """The gap that costs most; None where the run meets its bound."""
    return next((g for g in profile.gaps if g.time_s > 0), None)


def totals_of(profile: Profile) -> dict[str, str]:
    """Names and values of the totals, in the order in which they are read."""
    run, predicted = profile.run, profile.estimate.totals
    dtype = main_dtype(profile.estimate)
    rate = predicted.flops / profile.measured_s
    where = f"{run.device}, {counted(run.num_threads, 'thread')}"
    measured = max((p.measured_bytes for p in profile.memory), default=0)
    totals = {
        "machine": f"{profile.machine.name}; ran on {where}",
        "measured": f"{format_time(profile.measured_s)} (spread {format_time(run.whole.spread_s)}, "
        f"{run.whole.num_clean} of {run.whole.num_samples} runs undisturbed)",
        "predicted": f"{format_time(profile.predicted_s)} ({signed_percent(profile.error)})",
        "at the roofline": f"{format_time(profile.bound_s)} achievable, "
        f"{format_time(profile.datasheet.totals.roofline_s)} datasheet",
        "reached": f"{format_percent(profile.percent_of(Ceiling.ACHIEVABLE))} of the achievable, "
        f"{format_percent(profile.percent_of(Ceiling.DATASHEET))} of the datasheet roofline",
        "nodes add up to": f"{format_time(run.nodes_s)}, {format_percent(run.coverage)} of the "
        "whole",
    }
    if predicted.flops:
        peak = profile.machine.matrix_flops_per_s(dtype, Ceiling.ACHIEVABLE)
        totals["matrix rate"] = (
            f"{format_rate(rate, 'FLOP')}: {format_percent(rate / peak)} of the achievable "
            f"{dtype} peak ({format_count(predicted.flops, 'FLOP')})"
        )
    totals["peak memory"] = (
        f"{format_bytes(measured)} measured, {format_bytes(predicted.peak_memory_bytes)} predicted"
    )
    grown = [p.rss_bytes for p in profile.memory if p.rss_bytes is not None]
    if grown:
        totals["process grew by"] = f"{format_bytes(max(0, *grown))} during a run"
    return totals


def missing(profile: Profile) -> str:
    """What the nodes' sum lacks, largest first; "" where it is within a tenth of the whole."""
    run = profile.run
    lacking_s = run.whole.time_s - run.nodes_s
    if abs(lacking_s) <= COMPLETE * run.whole.time_s:
        return ""
    parts = [
        (run.glue_s, "Python between the nodes"),
        (run.release_s, "giving memory back"),
        (run.state_s, "writing new state"),
        (run.interruptions_s, "other programs on this machine"),
        (run.unexplained_s, "caches, order and noise, which cannot be told apart here"),
    ]
    named = [
        f"{signed_time(time_s)} {what}"
        for time_s, what in sorted(parts, key=lambda part: -abs(part[0]))
        if abs(time_s) > 0.01 * abs(lacking_s)
    ]
    differ = "less" if lacking_s > 0 else "more"
    return (
        f"The nodes add up to {format_time(abs(lacking_s))} {differ} than the whole program: "
        f"{', '.join(named)}."
    )


def notes(profile: Profile) -> list[str]:
    """Warnings that no reader may miss."""
    run, machine = profile.run, profile.machine
    found = [missing(profile)]
    if machine.num_units and machine.id == "this" and machine.num_units != run.num_threads:
        found.append(
            f"The machine was calibrated with {counted(machine.num_units, 'thread')}; this ran "
            f"with {run.num_threads}, so percentages are of more than it may use."
        )
    if machine.is_low_confidence:
        found.append(f"Low confidence: the figures of {machine.name} are {machine.confidence}.")
    if run.interruptions_s:
        found.append(
            f"A busy machine: the fastest of {run.whole.num_samples} whole runs took "
            f"{format_time(run.whole.time_s)}, {format_time(run.interruptions_s)} of it for other "
            "programs; this report is of the rest. Measure again when it is idle."
        )
    if profile.estimate.totals.is_lower_bound:
        ops = ", ".join(profile.estimate.uncounted)
        found.append(f"Not counted (no cost rule), so predictions are lower bounds: {ops}.")
    return [note for note in found if note]


_ACTIONS = {
    GapKind.ROUTE: "a compiled program with packed weights",
    GapKind.SLOW: "a compiled kernel",
    GapKind.TRAFFIC: "fusion",
    GapKind.ATTENTION: "scaled_dot_product_attention in the model's source",
    GapKind.DISPATCH: "a compiled program, which starts fewer kernels",
    GapKind.SMALL: "fusion, or a larger batch",
    GapKind.RELEASE: "a compiled program, which plans its memory",
}


def remedy(gap: Gap) -> str:
    """What closes a gap of this kind, or ""."""
    return _ACTIONS.get(gap.kind, "")
