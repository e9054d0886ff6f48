"""What every plot shares, and the plain ones: a curve over steps, bars. Numbers in, markup out.

Colour means one thing everywhere: what a piece of work waits for ("compute", "memory", "overhead",
"free"), by the CSS class of that name. Each SVG is drawn twice, wide and narrow, and CSS shows the
one that suits, so that text keeps its size on a phone.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from ridgeline.report.markup import Html, element

_KEY = (
    ("compute", "waits for compute"),
    ("memory", "waits for memory"),
    ("overhead", "waits for kernels to start"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """A drawing area in pixels, with room for axis labels."""

    width: int
    height: int
    left: int = 56
    right: int = 16
    top: int = 24
    bottom: int = 44

    @property
    def x1(self) -> int:
        """The right end of the x axis."""
        return self.width - self.right

    @property
    def y0(self) -> int:
        """The y of the x axis."""
        return self.height - self.bottom


WIDE = Frame(width=1000, height=430)
NARROW = Frame(width=380, height=340, left=46, right=8)


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """Data to pixels; logarithmic if `is_log`."""

    low: float
    high: float
    start: float
    end: float
    is_log: bool = False

    def __call__(self, value: float) -> float:
        """The pixel of a value, which may lie outside."""
        low, high = self.low, self.high
        if self.is_log:
            low, high, value = math.log10(low), math.log10(high), math.log10(value)
        return self.start + (value - low) / (high - low) * (self.end - self.start)


def key() -> Html:
    """What the colours mean."""
    return element(
        "div",
        *(element("span", element("i", class_=name), text) for name, text in _KEY),
        class_="key",
    )


def both(draw: Callable[[Frame], Html], wide: Frame = WIDE, narrow: Frame = NARROW) -> Html:
    """A plot in both sizes."""
    return element(
        "div",
        element("div", draw(wide), class_="wide"),
        element("div", draw(narrow), class_="narrow"),
        class_="plot",
    )


def svg(frame: Frame, parts: Sequence[Html], label: str) -> Html:
    """An SVG of the frame\'s size that scales to the width it gets."""
    return element(
        "svg",
        *parts,
        viewBox=f"0 0 {frame.width} {frame.height}",
        role="img",
        aria_label=label,
    )


def line(x0: float, y0: float, x1: float, y1: float, style: str) -> Html:
    """A straight line in an SVG."""
    return element("line", x1=float(x0), y1=float(y0), x2=float(x1), y2=float(y1), class_=style)


def text(x: float, y: float, words: str, *, anchor: str | None = None, style: str = "") -> Html:
    """A line of text in an SVG, from, around or up to x."""
    return element("text", words, x=float(x), y=float(y), text_anchor=anchor, class_=style or None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One step of a curve."""

    value: float
    tip: str


def step_curve(
    samples: Sequence[Sample],
    *,
    format_value: Callable[[float], str],
    x_label: str,
    peak_label: str,
    others: Sequence[tuple[str, Sequence[float]]] = (),
) -> Html:
    """An area over steps of equal width, its peak marked and named; `others` as thin lines.

    Of more steps than a screen can show, the highest of each stretch is drawn.
    """
    stride = max(1, math.ceil(len(samples) / _MOST_STEPS))
    samples = _thinned(samples, stride, key=lambda sample: sample.value)
    others = [(name, _thinned(values, stride, key=float)) for name, values in others]

    def draw(frame: Frame) -> Html:
        return _step_curve(frame, samples, format_value, x_label, peak_label, others)

    return both(draw, Frame(width=1000, height=260), Frame(width=380, height=240, right=8))


T = TypeVar("T")


def _thinned(items: Sequence[T], stride: int, key: Callable[[T], float]) -> list[T]:
    """The highest of each `stride` items in a row."""
    return [max(items[i : i + stride], key=key) for i in range(0, len(items), stride)]


def _step_curve(
    frame: Frame,
    samples: Sequence[Sample],
    format_value: Callable[[float], str],
    x_label: str,
    peak_label: str,
    others: Sequence[tuple[str, Sequence[float]]],
) -> Html:
    high = max([s.value for s in samples] + [v for _, vs in others for v in vs]) or 1.0
    frame = Frame(width=frame.width, height=frame.height, left=74, right=frame.right, top=30)
    x = Scale(low=0, high=max(1, len(samples)), start=frame.left, end=frame.x1)
    y = Scale(low=0, high=high * 1.06, start=frame.y0, end=frame.top)
    parts = []
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        at = y(high * share)
        parts.append(line(frame.left, at, frame.x1, at, "grid"))
        parts.append(text(frame.left - 6, at + 4, format_value(high * share), anchor="end"))
    path = _steps([s.value for s in samples], x, y)
    closed = f"{path}L{x(len(samples)):.1f} {frame.y0}L{frame.left} {frame.y0}Z"
    parts += [element("path", d=closed, class_="area"), element("path", d=path, class_="curve")]
    for name, values in others:
        parts.append(element("path", d=_steps(values, x, y), class_="roof thin"))
        parts.append(text(frame.x1, y(values[-1]) - 4, name, anchor="end"))
    parts += _hits(frame, samples, x)
    parts += _peak(frame, samples, x, y, peak_label)
    middle = (frame.left + frame.x1) / 2
    parts.append(text(middle, frame.height - 12, x_label, anchor="middle"))
    return svg(frame, parts, x_label)


def _steps(values: Sequence[float], x: Scale, y: Scale) -> str:
    words = [f"M{x(0):.1f} {y(values[0]):.1f}"]
    words += [f"V{y(value):.1f}H{x(index + 1):.1f}" for index, value in enumerate(values)]
    return "".join(words)


_MOST_STEPS = 500
_MOST_HITS = 120
_CHARACTER_PX = 7.2  # of bold text at 12 px, on average


def _hits(frame: Frame, samples: Sequence[Sample], x: Scale) -> list[Html]:
    """Invisible strips that show a step's text; of many steps, the largest of each strip."""
    stride = max(1, math.ceil(len(samples) / _MOST_HITS))
    return [
        element(
            "rect",
            x=x(start),
            y=float(frame.top),
            width=x(start + stride) - x(start),
            height=float(frame.y0 - frame.top),
            class_="hit",
            data_tip=max(samples[start : start + stride], key=lambda s: s.value).tip,
        )
        for start in range(0, len(samples), stride)
    ]


def _peak(frame: Frame, samples: Sequence[Sample], x: Scale, y: Scale, label: str) -> list[Html]:
    index = max(range(len(samples)), key=lambda i: samples[i].value)
    at = x(index + 0.5)
    share = (at - frame.left) / (frame.x1 - frame.left)
    anchor = "start" if share < 0.3 else "end" if share > 0.7 else "middle"
    room = int((frame.x1 - frame.left) * (0.9 if anchor != "middle" else 0.6) / _CHARACTER_PX)
    shown = label if len(label) <= room else f"{label[: room - 1]}…"
    return [
        element("circle", cx=at, cy=y(samples[index].value), r=3.5, class_="mark"),
        text(at, frame.top - 12, shown, anchor=anchor, style="strong"),
    ]


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """A labelled bar. style: "" or "total"."""

    label: str
    value: float
    text: str
    style: str = ""


def bars(rows: Sequence[Bar], *, limit: float | None = None) -> Html:
    """Horizontal bars on one scale; `limit` draws a line across that none should pass."""
    high = max([row.value for row in rows] + [limit or 0.0]) or 1.0
    mark = (
        Html("")
        if limit is None
        else element("span", class_="fill limit", style=f"width:{100 * limit / high:.2f}%")
    )
    return element(
        "div",
        *(
            element(
                "div",
                element("span", row.label),
                element(
                    "span",
                    element(
                        "span",
                        class_=f"fill {row.style}".strip(),
                        style=f"width:{100 * row.value / high:.2f}%",
                    ),
                    mark,
                    class_="track",
                ),
                element("span", row.text),
                class_="bar-row",
            )
            for row in rows
        ),
        class_="bars",
    )
