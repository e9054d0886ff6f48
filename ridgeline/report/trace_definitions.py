"""What the words of a trace's page mean."""

from collections.abc import Sequence

from ridgeline.report.markup import element
from ridgeline.report.page import Section, definitions
from ridgeline.traces.idle import EXPLANATIONS
from ridgeline.traces.tensor_cores import Reason

TERMS: tuple[tuple[str, str], ...] = (
    ("span", "From the first event on the device to the last; every step counts."),
    ("busy, idle", "Busy: anything runs, on any stream. Idle: nothing does."),
    ("compute", "Any kernel but communication runs."),
    (
        "exposed comm.",
        "Communication runs, and neither another kernel nor a fill does. A kernel of "
        "communication counts as running while it waits for other ranks.",
    ),
    ("memory", "Of the rest, copies or fills run. With idle, these make up the span."),
    ("overlapped", "The share of communication during which compute runs."),
    (
        "step",
        "From the first event that the host launched in it to the first of the next one; the last "
        "one ends with the device.",
    ),
    (
        "gain",
        "The recording is rebuilt as what waits for what and run again without the cause. Low and "
        "high are of two replays: one keeps the order of work on different streams, one only the "
        "waits that were seen. Other ranks are taken as they were.",
    ),
    ("share", "Of a kernel or operator: of the time of all events on the device, streams added."),
    (
        "tensor cores",
        "Products are GEMMs, convolutions, attention and recurrent layers. One is eligible where a "
        "change of the program would move it to tensor cores: "
        + "; ".join(reason.value for reason in Reason if reason.is_eligible)
        + ".",
    ),
    (
        "transfer, skew",
        "Transfer: the shortest time that any rank was in a collective, which is that of the last "
        "to come. Skew: what the first to come waited beyond that.",
    ),
    (
        "bubble",
        "A stage has nothing to compute: before its first work of the step (warm-up), after its "
        "last (drain), or waiting to receive (steady).",
    ),
    *(
        (f"idle: {cause.value}", f"{why[:1].upper()}{why[1:]}.")
        for cause, why in EXPLANATIONS.items()
    ),
)


def definitions_section(terms: Sequence[tuple[str, str]]) -> Section:
    """What words mean, folded away until asked for."""
    folded = element("details", element("summary", "What the words mean"), definitions(terms))
    return Section(id="definitions", title="Definitions", body=folded)
