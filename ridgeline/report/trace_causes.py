"""What a trace's page says of idle time: the gain of each fix, and the time of each cause."""

from ridgeline.report.markup import Html, element, join
from ridgeline.report.page import Section
from ridgeline.report.trace_colours import CAUSES, colour_key
from ridgeline.report.trace_words import share_of, span_range, time_of
from ridgeline.traces.fixes import Fix
from ridgeline.traces.idle import EXPLANATIONS
from ridgeline.traces.rank import IdleCause, RankTrace
from ridgeline.units import format_percent


def fix_sections(rank: RankTrace, which: str) -> list[Section]:
    """What fixing each thing would gain. which: "" or " of rank 3"."""
    if not rank.fixes:
        return []
    rows = [_fix(fix, rank.split.span_ns) for fix in rank.fixes]
    key = colour_key((("fill-left", "span then"), ("fill-range", "between the two replays")))
    return [
        Section(
            id="run-fixes",
            title="What fixing it would gain",
            lead=f"Each alone, by replaying{which or ' the recording'} without the cause: the time "
            "that is left, and the gain. Idle time is never subtracted.",
            body=join([key, element("div", *rows, class_="bars fixes")]),
        )
    ]


def _fix(fix: Fix, span_ns: int) -> Html:
    gain, share, left = span_range(fix, span_ns)
    least, most = 100 * (1 - fix.high_ns / span_ns), 100 * (1 - fix.low_ns / span_ns)
    track = element(
        "span",
        element("span", class_="fill fill-range", style=f"width:{most:.2f}%"),
        element("span", class_="fill fill-left", style=f"width:{least:.2f}%"),
        class_="track",
    )
    return element(
        "div",
        element("span", fix.what),
        track,
        element("span", f"−{gain} ({share})"),
        class_="bar-row",
        data_tip=f"{fix.what}\ngains {gain}, {share} of the span\nspan then {left}",
    )


def idle_sections(rank: RankTrace, which: str) -> list[Section]:
    """Idle time by cause; nothing where it never was."""
    if not rank.idle_causes:
        return []
    longest_ns = max(cause.idle_ns for cause in rank.idle_causes)
    rows = [_cause(cause, longest_ns, rank.split.span_ns) for cause in rank.idle_causes]
    return [
        Section(
            id="run-idle",
            title="Why it was idle",
            lead=f"All idle time{which}: each gap has one cause. A click lists the longest of one.",
            body=element("div", *rows, class_="bars causes"),
        )
    ]


def _cause(cause: IdleCause, longest_ns: int, span_ns: int) -> Html:
    width = f"width:{100 * cause.idle_ns / longest_ns:.2f}%"
    words = f"{time_of(cause.idle_ns)} · {share_of(cause.idle_ns, span_ns)} of span"
    return element(
        "button",
        element("span", cause.cause.value),
        element(
            "span",
            element("span", class_=f"fill {CAUSES[cause.cause]}", style=width),
            class_="track",
        ),
        element("span", words),
        type="button",
        class_="bar-row",
        data_tip=f"{EXPLANATIONS[cause.cause]}\n{cause.num_gaps:,} gaps, "
        f"{format_percent(cause.share)} of idle time",
        data_filter=cause.cause.value,
        data_table="run-gaps",
    )
