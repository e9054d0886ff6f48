"""Pipelines on a trace's page: what each stage did over a step, its bubbles coloured by phase."""

from collections import Counter
from collections.abc import Mapping, Sequence

from ridgeline.report.markup import Html, element, join
from ridgeline.report.page import Cell, Section, table
from ridgeline.report.trace_colours import colour_key
from ridgeline.report.trace_ranks import schedule_words
from ridgeline.report.trace_words import share_of, time_of
from ridgeline.traces.bubbles import Bubble, Phase, PipelineStep, StageTime
from ridgeline.units import format_bytes, format_percent

PHASES: Mapping[Phase, str] = {
    Phase.WARM_UP: "c-graph",
    Phase.STEADY: "c-host",
    Phase.DRAIN: "c-latency",
}
"""Where in a step a bubble is -> its CSS class."""

_MOST_STEPS, _MOST_STAGES = 4, 64
_MOST_BUBBLES, _MOST_ROWS = 2400, 40  # drawn in all, of about 110 bytes each; listed
_X_UNITS, _HEIGHT = 10_000, 18
_NONE = "–"


def pipeline_sections(steps: Sequence[PipelineStep]) -> list[Section]:
    """The stages of the first steps, and their longest bubbles; nothing without a pipeline."""
    if not steps:
        return []
    shown = steps[: max(1, min(_MOST_STEPS, _MOST_STAGES // len(steps[0].stages)))]
    key = colour_key((("compute", "works"), *((PHASES[p], f"bubble: {p.value}") for p in PHASES)))
    lead = "A row per stage, from the step's first work on any of them to the last."
    if len(shown) < len(steps):
        lead += f" The first {len(shown)} of {len(steps):,} steps."
    most = _MOST_BUBBLES // sum(min(_MOST_STAGES, len(step.stages)) for step in shown)
    if any(max(_per_stage(step).values(), default=0) > most for step in shown):
        lead += f" Of each stage, the {most} longest bubbles are drawn."
    is_one = steps[-1].pipeline == 0
    body = join([key, *(_step(step, most, is_one=is_one) for step in shown), _bubbles(shown)])
    return [Section(id="run-pipeline", title="Pipeline bubbles", lead=lead, body=body)]


def _per_stage(step: PipelineStep) -> Counter[int]:
    """How many bubbles each stage has."""
    return Counter(one.stage for one in step.bubbles)


def _step(step: PipelineStep, most: int, *, is_one: bool) -> Html:
    where = "" if is_one else f"pipeline {step.pipeline}, "
    words = (
        f"{where}{step.name}: bubbles {format_percent(step.bubble_share)} of "
        f"{time_of(step.span_ns)}; {schedule_words(step.schedule)}"
    )
    by_stage: dict[int, list[Bubble]] = {}
    for one in step.bubbles:
        by_stage.setdefault(one.stage, []).append(one)
    rows = [
        _stage(stage, by_stage.get(stage.stage, []), step.span_ns, most)
        for stage in step.stages[:_MOST_STAGES]
    ]
    return element("div", element("p", words), *rows, class_="bars stages")


def _stage(stage: StageTime, bubbles: Sequence[Bubble], span_ns: int, most: int) -> Html:
    who = f"stage {stage.stage}"
    if stage.rank is not None and stage.rank != stage.stage:
        who += f", rank {stage.rank}"
    longest = sorted(bubbles, key=lambda one: -one.duration_ns)[:most]
    drawing = element(
        "svg",
        element("rect", x=0, y=0, width=_X_UNITS, height=_HEIGHT, class_="compute"),
        *(_drawn(one, span_ns) for one in longest),
        viewBox=f"0 0 {_X_UNITS} {_HEIGHT}",
        preserveAspectRatio="none",
        role="img",
        aria_label=f"{who}: bubbles {share_of(stage.bubble_ns, span_ns)} of the step",
        style=f"height:{_HEIGHT}px",
    )
    return element(
        "div",
        element("span", who),
        element("span", drawing),
        element("span", share_of(stage.bubble_ns, span_ns)),
        class_="bar-row",
        data_tip=f"{who}\nworks {share_of(stage.compute_ns, span_ns)}\nbubbles "
        f"{share_of(stage.bubble_ns, span_ns)}\nother {share_of(stage.other_ns, span_ns)}",
    )


def _drawn(one: Bubble, span_ns: int) -> Html:
    left = round(_X_UNITS * one.start_ns / span_ns)
    right = round(_X_UNITS * (one.start_ns + one.duration_ns) / span_ns)
    tip = f"{one.phase.value}, {time_of(one.duration_ns)} at +{one.start_ns / 1e6:,.3f} ms"
    if one.peer is not None:
        tip += f"\nwaits for rank {one.peer}"
    return element(
        "rect",
        x=left,
        y=0,
        width=max(1, right - left),
        height=_HEIGHT,
        class_=PHASES[one.phase],
        data_tip=tip,
    )


def _bubbles(steps: Sequence[PipelineStep]) -> Html:
    """The longest of them, with what a plan needs: when, how long, and how much is free."""
    found = [(step, one) for step in steps for one in step.bubbles]
    longest = sorted(found, key=lambda pair: -pair[1].duration_ns)[:_MOST_ROWS]
    rows = [_cells(step, one) for step, one in longest]
    headers = ["step", "at", "for", "stage", "phase", "waits for", "free"]
    kept = [i for i in range(len(headers)) if any(row[i].text != _NONE for row in rows)]
    foot = f"The {_MOST_ROWS} longest of {len(found):,}." if len(found) > _MOST_ROWS else ""
    cells = [[row[i] for i in kept] for row in rows]
    listed = table([headers[i] for i in kept], cells, foot=foot)
    return element("details", element("summary", "The longest bubbles"), listed)


def _cells(step: PipelineStep, one: Bubble) -> list[Cell]:
    return [
        Cell(text=step.name),
        Cell(text=f"+{one.start_ns / 1e6:,.3f} ms", sort=one.start_ns),
        Cell(text=time_of(one.duration_ns), sort=one.duration_ns),
        Cell(text=str(one.stage), sort=one.stage),
        Cell(text=one.phase.value, style=f"cause {PHASES[one.phase]}"),
        Cell(text=_NONE if one.peer is None else f"rank {one.peer}"),
        Cell(text=_NONE if one.free_bytes is None else format_bytes(one.free_bytes)),
    ]
