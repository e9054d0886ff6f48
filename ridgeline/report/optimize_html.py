"""The page of `optimize`: what is in each section, from its result."""

from collections.abc import Mapping, Sequence
from math import inf

from ridgeline.backends.result import Candidate, Optimized, Step
from ridgeline.cost import estimate
from ridgeline.errors import GraphError, UnsupportedOp
from ridgeline.graph import InputKind
from ridgeline.graph.spec import DTYPES
from ridgeline.machines import Machine
from ridgeline.passes.fuse import fuse
from ridgeline.passes.manager import PassStep
from ridgeline.passes.precision import set_precision
from ridgeline.report.definitions import DEFINITIONS
from ridgeline.report.fusion import fusion_section
from ridgeline.report.html import nodes_section, roofline_section, treemap_section
from ridgeline.report.markup import Html, element, elided, join
from ridgeline.report.page import Cell, Group, Page, Section, definitions, facts, render, table
from ridgeline.report.profile_words import signed_percent
from ridgeline.report.reading import Reading, read
from ridgeline.report.waterfall import NOISE, is_noisy, verdict
from ridgeline.units import format_bytes, format_percent, format_time, significant

# Bytes of all passes' diffs, and rows and marks of the graph, that keep the page below a megabyte.
_MOST_DIFF_BYTES = 270_000
_MOST_ROWS, _MOST_DOTS, _MOST_TILES = 300, 120, 160
_NONE = "–"
_COST_WORDS = {"at the roofline", "achievable ceiling", "datasheet ceiling", "bound", "bytes moved"}

_DEFINITIONS = (
    (
        "measured",
        "Median of the clean samples of a candidate, each in a process of its own, all taking "
        "turns. A sample is clean if the system took no core from the process meanwhile. Of fewer "
        "than five clean ones, the median of the faster half of all.",
    ),
    ("spread", "Interquartile range of the samples that count."),
    (
        "predicted",
        "By the cost model for the machine named, op by op for eager and folded, fused for what is "
        "compiled. error: predicted over measured, less one.",
    ),
    (
        "max error",
        "Largest difference from the reference over the largest output; the reference runs the "
        "graph as captured op by op in fp32 on the same inputs.",
    ),
    ("cosine", "Of all outputs and the reference's, each flattened into one vector."),
    ("same top-1", "Share of rows whose largest entry is where the reference has it."),
    (
        "skipped",
        "Why a candidate was not chosen from: it failed, overran a limit or is too far off.",
    ),
    (
        "folded",
        "The graph after the passes, still op by op: constants computed once, normalisation "
        "multiplied into the weights.",
    ),
)


def optimize_page(optimized: Optimized, machine: Machine | None = None) -> str:
    """One offline HTML page, under a megabyte; what the optimized graph costs where `machine` is
    given.
    """
    reading = _reading(optimized, machine) if machine else None
    sections = [
        _waterfall(optimized),
        _candidates(optimized),
        _facts(optimized, machine),
        _passes(optimized.passes),
        fusion_section(fuse(optimized.graph, machine)),
    ]
    if reading is not None:
        sections += [
            roofline_section("run", reading, _MOST_DOTS),
            treemap_section("run", reading, _MOST_TILES),
            nodes_section("run", reading, _MOST_ROWS),
        ]
    words = [(word, meaning) for word, meaning in DEFINITIONS if reading and word in _COST_WORDS]
    where = f" on {machine.name}" if machine else ""
    group = Group(
        id="run",
        title=f"{optimized.graph.phase.value}{where}",
        verdict="",
        sections=tuple(sections),
    )
    return render(
        Page(
            title=f"ridgeline optimize {optimized.graph.name}",
            verdict=verdict(optimized),
            notes=(NOISE,) if is_noisy(optimized) else (),
            groups=(group,),
            sections=(
                Section(
                    id="definitions",
                    title="Definitions",
                    body=definitions([*_DEFINITIONS, *words]),
                ),
            ),
        )
    )


def _reading(optimized: Optimized, machine: Machine) -> Reading | None:
    """What the chosen form of the graph costs; None in int8, which is not in the graph, and where
    an op has no cost rule.
    """
    if optimized.best.dtype == "int8":
        return None
    try:
        graph = set_precision(optimized.graph, DTYPES[optimized.best.dtype])
        return read(optimized.graph.name, graph, estimate(graph, machine))
    except (UnsupportedOp, GraphError):
        return None


def _facts(optimized: Optimized, machine: Machine | None) -> Section:
    graph = optimized.graph
    inputs = ", ".join(f"{elided(i.path)} {i.spec}" for i in graph.of_kind(InputKind.INPUT))
    rows = [
        ("chosen", f"{optimized.best.backend} {optimized.best.dtype}"),
        ("inputs", inputs or _NONE),
        ("parameters", f"{graph.parameters:,}"),
        ("nodes after the passes", f"{len(graph.nodes):,}"),
        ("threads", str(optimized.threads)),
        ("compiled files", _size(optimized.files)),
        ("predicted for", machine.name if machine else "no machine: this one is not calibrated"),
        ("graph", graph.digest),
    ]
    return Section(id="run-facts", title="What ran", body=facts(rows))


def _waterfall(optimized: Optimized) -> Section:
    steps = optimized.waterfall
    longest_s = max((t for s in steps for t in (s.measured_s, s.predicted_s) if t), default=1.0)
    head = ("", "", "measured", "predicted", "error")
    rows = [element("div", *(element("span", h) for h in head), class_="bar-row head")]
    rows += [_step(step, optimized, longest_s) for step in steps]
    key = element(
        "div",
        element("span", element("i", class_="measured"), "measured here"),
        element("span", element("span", class_="tick"), "predicted"),
        class_="key",
    )
    return Section(
        id="run-waterfall",
        title="From eager to the roofline",
        lead="The fastest candidate of each kind, and the bound below which no execution gets.",
        body=join([key, element("div", *rows, class_="bars steps")]),
    )


def _step(step: Step, optimized: Optimized, longest_s: float) -> Html:
    marks = []
    if step.measured_s is not None:
        width = f"width:{100 * step.measured_s / longest_s:.2f}%"
        marks.append(element("span", class_="fill", style=width))
    if step.predicted_s is not None:
        left = f"left:{100 * step.predicted_s / longest_s:.2f}%"
        marks.append(element("span", class_="tick", style=left))
    error = _NONE
    if step.measured_s and step.predicted_s is not None:
        error = signed_percent(step.predicted_s / step.measured_s - 1)
    return element(
        "div",
        element("span", step.step),
        element("span", *marks, class_="track"),
        element("span", _time(step.measured_s)),
        element("span", _time(step.predicted_s)),
        element("span", error),
        class_="bar-row",
        data_tip=_step_tip(step, optimized),
    )


def _step_tip(step: Step, optimized: Optimized) -> str:
    tried = (optimized.baseline, *optimized.candidates)
    how = [c for c in tried if step.measured_s is not None and c.time_s == step.measured_s]
    lines = [f"{how[0].backend} {how[0].dtype}" if how else step.step]
    eager_s = optimized.baseline.time_s
    if step.measured_s and eager_s:
        lines.append(f"{significant(eager_s / step.measured_s)}x eager, measured")
    return "\n".join(lines)


def _candidates(optimized: Optimized) -> Section:
    headers = ["backend", "dtype", "outcome", "measured", "x eager", "spread", "clean samples"]
    headers += ["max error", "cosine", "same top-1"]
    tried = (optimized.baseline, *optimized.candidates)
    ranked = sorted(tried, key=lambda c: (c.skipped is not None, c.time_s or inf))
    return Section(
        id="run-candidates",
        title="Candidates",
        lead="Every one ran in a process of its own and was checked against the reference before "
        "it was timed.",
        body=table(headers, [_candidate_row(c, optimized) for c in ranked]),
    )


def _candidate_row(candidate: Candidate, optimized: Optimized) -> list[Cell]:
    eager_s, time_s = optimized.baseline.time_s, candidate.time_s
    gain = eager_s / time_s if eager_s and time_s else None
    outcome = f"skipped: {candidate.skipped}" if candidate.skipped else ""
    if candidate is optimized.best:
        outcome = "chosen"
    elif candidate is optimized.baseline and not outcome:
        outcome = "baseline"
    return [
        Cell(text=candidate.backend),
        Cell(text=candidate.dtype),
        Cell(text=outcome, style="long" if candidate.skipped else ""),
        _number(time_s, _time(time_s)),
        _number(gain, significant(gain or 0.0)),
        _number(candidate.spread_s, _time(candidate.spread_s)),
        Cell(
            text=f"{candidate.clean_samples} of {candidate.samples}", sort=candidate.clean_samples
        ),
        _number(candidate.max_error, f"{candidate.max_error or 0.0:.1e}"),
        _number(candidate.cosine, f"{candidate.cosine or 0.0:.6f}"),
        _number(candidate.top1, format_percent(candidate.top1 or 0.0)),
    ]


def _number(value: float | None, text: str) -> Cell:
    """A cell that sorts by `value`; one without sorts last."""
    return Cell(text=_NONE if value is None else text, sort=1e99 if value is None else value)


def _passes(steps: Sequence[PassStep]) -> Section:
    changed = [step for step in steps if step.diff]
    share = _MOST_DIFF_BYTES // max(1, len(changed))
    rows = [
        [
            Cell(text=step.name),
            Cell(text=f"{len(step.before.nodes):,}", sort=len(step.before.nodes)),
            Cell(text=f"{len(step.graph.nodes):,}", sort=len(step.graph.nodes)),
            Cell(text=_effect(step)),
        ]
        for step in steps
    ]
    return Section(
        id="run-passes",
        title="What the passes changed",
        lead="In the order in which they ran; the graph is verified after each.",
        body=join(
            [
                table(["pass", "nodes before", "nodes after", "effect"], rows),
                *(_diff(step, share) for step in changed),
            ]
        ),
    )


def _effect(step: PassStep) -> str:
    if step.is_skipped:
        return "left out, as asked"
    if not step.diff:
        return "nothing to change"
    added, removed = (_count(step.diff, sign) for sign in "+-")
    return f"{removed:,} lines of the graph replaced by {added:,}"


def _count(diff: str, sign: str) -> int:
    return sum(line.startswith(sign) and not line.startswith(sign * 3) for line in diff.split("\n"))


_LINE_CLASSES = {"+": "added", "-": "removed", "@": "hunk"}


def _diff(step: PassStep, most_bytes: int) -> Html:
    """The text diff, folded away; its first part where it is long."""
    lines, size = [], 0
    every = step.diff.splitlines()
    for text in every:
        style = "hunk" if text.startswith(("+++", "---")) else _LINE_CLASSES.get(text[:1])
        line = element("span", elided(text, 240) or " ", class_=style)
        size += len(line.encode())
        if size > most_bytes:
            break
        lines.append(line)
    rest = len(every) - len(lines)
    foot = element("p", f"{rest:,} more lines.", class_="foot") if rest else Html("")
    return element(
        "details",
        element("summary", f"{step.name}: the graph before and after"),
        element("div", *lines, class_="code"),
        foot,
    )


def _time(time_s: float | None) -> str:
    return _NONE if time_s is None else format_time(time_s)


def _size(files: Mapping[str, bytes]) -> str:
    return format_bytes(sum(map(len, files.values()))) if files else "none"
