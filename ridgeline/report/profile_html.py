"""The page of `profile`: what is in each section, from a profile."""

from ridgeline.cost.advice import main_dtype
from ridgeline.machines import Ceiling
from ridgeline.profile import Gap, KindProfile, NodeProfile, Profile
from ridgeline.report.markup import Html, element
from ridgeline.report.page import Cell, Group, Page, Section, definitions, facts, render, table
from ridgeline.report.plots import Sample, step_curve
from ridgeline.report.profile_words import (
    notes,
    remedy,
    signed_percent,
    signed_time,
    totals_of,
    verdict,
)
from ridgeline.report.roofline import Dot, roofline, roofs_of
from ridgeline.report.verdict import advice_line
from ridgeline.units import (
    format_bytes,
    format_count,
    format_percent,
    format_rate,
    format_time,
)

# A row takes about 700 bytes: together well below a megabyte.
_MOST_ROWS = 900
_MOST_DOTS = 160

_DEFINITIONS = (
    (
        "measured",
        "Median over the undisturbed repeats, of each node where it stands in the run; a repeat is "
        "undisturbed if the system took no core from the process meanwhile. Of fewer than three, "
        "the fastest repeat. The cost of reading the clock is subtracted.",
    ),
    ("spread", "Interquartile range of the same repeats."),
    (
        "predicted",
        "Of op-by-op execution at the achievable ceiling: the larger of compute and memory time, "
        "plus dispatch. error: predicted over measured, less one.",
    ),
    (
        "of achievable, of datasheet",
        "The node's roofline at that ceiling over its measured time. Above 100% where a cache held "
        "what the roofline fetches from main memory.",
    ),
    (
        "at the roofline",
        "The time below which no execution gets: the larger of all useful FLOPs at the peak rate "
        "and every weight, input and result moved once.",
    ),
    (
        "gap",
        "A part of the difference between measured and roofline. The parts add up to it; a "
        "negative one is where the run beat the bound of that part.",
    ),
    (
        "memory",
        "Bytes of every tensor that lives while a node runs, storages counted once, beside the "
        "liveness prediction. The process may hold more: allocators keep what was freed.",
    ),
)


def profile_page(profile: Profile) -> str:
    """One offline HTML page, under a megabyte whatever the graph's size."""
    sections = [_totals(profile), _gaps(profile)]
    if profile.advice:
        sections.append(_advice(profile))
    sections += [_roofline(profile), _memory(profile), _kinds(profile), _nodes(profile)]
    group = Group(
        id="run",
        title=f"{profile.phase} on {profile.machine.name}",
        verdict=f"Measured {profile.run.repeats} times, whole and node by node in turns.",
        sections=tuple(sections),
    )
    return render(
        Page(
            title=f"ridgeline profile {profile.graph}",
            verdict=f"{verdict(profile)}.",
            notes=tuple(notes(profile)),
            groups=(group,),
            sections=(
                Section(id="definitions", title="Definitions", body=definitions(_DEFINITIONS)),
            ),
        )
    )


def _totals(profile: Profile) -> Section:
    return Section(id="run-totals", title="Totals", body=facts(list(totals_of(profile).items())))


def _gaps(profile: Profile) -> Section:
    between_s = profile.measured_s - profile.bound_s
    return Section(
        id="run-gaps",
        title="From measured to the roofline",
        lead=f"What makes up the {signed_time(between_s)} between, largest first; each bar starts "
        "where the one above ends.",
        body=waterfall(profile),
    )


def waterfall(profile: Profile) -> Html:
    """Bars from the measured time down to the roofline, one per gap."""
    high_s = max(profile.measured_s, profile.bound_s)
    for at_s in _levels(profile.measured_s, profile.gaps):
        high_s = max(high_s, at_s)
    rows = [_bar("measured", 0.0, profile.measured_s, high_s, format_time(profile.measured_s), "")]
    at_s = profile.measured_s
    for gap in profile.gaps:
        low_s, up_s = sorted((at_s, at_s - gap.time_s))
        why = f"{gap.what}. Closed by: {remedy(gap)}" if remedy(gap) else gap.what
        rows.append(_bar(gap.what, low_s, up_s, high_s, signed_time(gap.time_s), why))
        at_s -= gap.time_s
    text = format_time(profile.bound_s)
    rows.append(_bar("at the roofline", 0.0, profile.bound_s, high_s, text, ""))
    return element("div", *rows, class_="bars waterfall")


def _levels(start_s: float, gaps: tuple[Gap, ...]) -> list[float]:
    levels = [start_s]
    for gap in gaps:
        levels.append(levels[-1] - gap.time_s)
    return levels


def _bar(label: str, low: float, high: float, most: float, text: str, tip: str) -> Html:
    left, width = max(0.0, 100 * low / most), 100 * (high - low) / most
    fill = element(
        "span",
        class_="fill" if tip else "fill total",
        style=f"left:{left:.2f}%;width:{width:.2f}%",
    )
    return element(
        "div",
        element("span", label),
        element("span", fill, class_="track"),
        element("span", text),
        class_="bar-row",
        data_tip=tip or None,
    )


def _advice(profile: Profile) -> Section:
    lines = [element("li", advice_line(a, profile.estimate)) for a in profile.advice]
    return Section(
        id="run-advice",
        title="What to do next",
        lead="Gains are predicted, not measured; ridgeline optimize tries them.",
        body=element("ol", *lines, class_="todo"),
    )


def _roofline(profile: Profile) -> Section:
    roofs = roofs_of(profile.machine, main_dtype(profile.estimate))
    nodes = [n for n in profile.nodes if n.flops and n.moved_bytes and n.measured_s]
    nodes.sort(key=lambda n: -n.measured_s)
    dots = [
        Dot(
            intensity=n.intensity,
            flops_per_s=n.achieved_flops_per_s,
            share=n.share,
            bound=n.bound,
            tip=_tip(n),
        )
        for n in nodes[:_MOST_DOTS]
    ]
    return Section(
        id="run-roofline",
        title="Measured roofline",
        lead="Nodes with matrix work: what each achieved, by its FLOPs per byte; area is measured "
        "time. The distance to the line is what is lost.",
        body=roofline(roofs, dots) if dots else element("p", "No node does matrix work."),
    )


def _tip(node: NodeProfile) -> str:
    return (
        f"{node.name} ({node.op})\n{node.module or 'top level'}\n"
        f"{format_time(node.measured_s)} measured, {format_time(node.predicted_s)} predicted\n"
        f"{format_rate(node.achieved_flops_per_s, 'FLOP')}, "
        f"{format_rate(node.achieved_bytes_per_s, 'B')}\n"
        f"{format_percent(node.percent_of(Ceiling.ACHIEVABLE))} of the achievable roofline"
    )


def _memory(profile: Profile) -> Section:
    base = profile.estimate.memory.persistent_bytes
    samples = [
        Sample(
            value=max(0, p.measured_bytes - base),
            tip=f"{p.name}\n{format_bytes(p.measured_bytes)} measured\n"
            f"{format_bytes(p.predicted_bytes)} predicted",
        )
        for p in profile.memory
    ]
    if not samples:
        return Section(id="run-memory", title="Memory", body=element("p", "Nothing ran."))
    peak = max(profile.memory, key=lambda p: p.measured_bytes)
    curve = step_curve(
        samples,
        format_value=format_bytes,
        x_label="nodes in the order in which they run",
        peak_label=f"measured peak {format_bytes(peak.measured_bytes - base)} at {peak.name}",
        others=(("predicted", [float(p.predicted_bytes - base) for p in profile.memory]),),
    )
    return Section(
        id="run-memory",
        title="Memory",
        lead=f"Bytes of live tensors at every node beyond the {format_bytes(base)} of weights, "
        "state and inputs held throughout, and the prediction as a line.",
        body=curve,
    )


def _kinds(profile: Profile) -> Section:
    headers = ["op", "count", "measured", "share", "predicted", "error", "of achievable"]
    return Section(
        id="run-ops",
        title="Op kinds",
        body=table(headers, [_kind_row(kind) for kind in profile.kinds]),
    )


def _kind_row(kind: KindProfile) -> list[Cell]:
    reached = kind.achievable_s / kind.measured_s if kind.measured_s else 0.0
    return [
        Cell(text=kind.op),
        Cell(text=f"{kind.count:,}", sort=kind.count),
        Cell(text=format_time(kind.measured_s), sort=kind.measured_s),
        Cell(text=format_percent(kind.share), sort=kind.share, share=kind.share),
        Cell(text=format_time(kind.predicted_s), sort=kind.predicted_s),
        Cell(text=signed_percent(kind.error), sort=kind.error),
        Cell(text=format_percent(reached), sort=reached),
    ]


_COLUMNS = ("node", "op", "module", "measured", "share", "spread", "predicted", "error")
_MORE_COLUMNS = ("FLOP/s", "bytes/s", "of achievable", "of datasheet", "dtype", "bound")


def _nodes(profile: Profile) -> Section:
    nodes = sorted(profile.nodes, key=lambda n: -n.measured_s)
    foot = f"All {len(nodes)} nodes."
    if rest := nodes[_MOST_ROWS:]:
        foot = (
            f"The {_MOST_ROWS} longest of {len(nodes)} nodes; the others take "
            f"{format_time(sum(n.measured_s for n in rest))}. ridgeline profile --json has all."
        )
    rows = [_node_row(node) for node in nodes[:_MOST_ROWS]]
    return Section(
        id="run-nodes",
        title="Nodes",
        lead="A click on a header sorts.",
        body=table([*_COLUMNS, *_MORE_COLUMNS], rows, is_searchable=True, foot=foot),
    )


def _node_row(node: NodeProfile) -> list[Cell]:
    achievable, datasheet = (
        node.percent_of(ceiling) for ceiling in (Ceiling.ACHIEVABLE, Ceiling.DATASHEET)
    )
    rate = format_count(node.achieved_flops_per_s) if node.flops else "–"
    return [
        Cell(text=node.name),
        Cell(text=node.op),
        Cell(text=node.module or "top level"),
        Cell(text=format_time(node.measured_s), sort=node.measured_s),
        Cell(text=format_percent(node.share), sort=node.share, share=node.share),
        Cell(text=format_time(node.spread_s), sort=node.spread_s),
        Cell(text=format_time(node.predicted_s), sort=node.predicted_s),
        Cell(text=signed_percent(node.error), sort=node.error),
        Cell(text=rate, sort=node.achieved_flops_per_s),
        Cell(text=format_count(node.achieved_bytes_per_s), sort=node.achieved_bytes_per_s),
        Cell(text=format_percent(achievable), sort=achievable),
        Cell(text=format_percent(datasheet), sort=datasheet),
        Cell(text=node.dtype),
        Cell(text=node.bound, style=node.bound),
    ]
