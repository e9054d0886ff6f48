"""What the words of a trace's page mean."""

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
    *(
        (f"idle: {cause.value}", f"{why[:1].upper()}{why[1:]}.")
        for cause, why in EXPLANATIONS.items()
    ),
)
