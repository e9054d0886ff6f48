"""The log-log roofline (Williams, Waterman, Patterson 2009) as SVG."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from ridgeline.machines import Ceiling, Machine
from ridgeline.report.markup import Html, element, join
from ridgeline.report.plots import Frame, Scale, both, key, line, svg, text
from ridgeline.units import format_count, significant


@dataclass(frozen=True, slots=True, kw_only=True)
class Dot:
    """A point of the roofline. area: its share of the time. is_matrix: drawn round, else square."""

    intensity: float
    flops_per_s: float
    share: float
    bound: str
    tip: str
    is_matrix: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Roof:
    """One ceiling: a slope and a plateau. style: "" solid, "dashed", "thin"."""

    label: str
    flops_per_s: float
    bytes_per_s: float
    style: str = ""


def roofs_of(machine: Machine, dtype: str) -> list[Roof]:
    """Both ceilings of matrix work in that dtype: the datasheet's, then the achievable one."""
    roofs = []
    for ceiling, style in ((Ceiling.DATASHEET, "dashed"), (Ceiling.ACHIEVABLE, "")):
        flops = machine.matrix_flops_per_s(dtype, ceiling)
        nbytes = machine.bandwidth_bytes_per_s(ceiling)
        label = f"{ceiling.value} {dtype}: {rate_label(flops, nbytes)}"
        roofs.append(Roof(label=label, flops_per_s=flops, bytes_per_s=nbytes, style=style))
    return roofs


def roofline(roofs: Sequence[Roof], dots: Sequence[Dot]) -> Html:
    """Log-log roofline: FLOP/s over FLOP per byte, roofs with labels, dots sized by their time."""
    return join([key(), _roof_key(roofs), both(lambda frame: _roofline(frame, roofs, dots))])


def _roofline(frame: Frame, roofs: Sequence[Roof], dots: Sequence[Dot]) -> Html:
    xs = [d.intensity for d in dots] + [r.flops_per_s / r.bytes_per_s for r in roofs]
    ys = [d.flops_per_s for d in dots] + [r.flops_per_s for r in roofs]
    x = Scale(
        low=_decade(min(xs) / 2, -1),
        high=_decade(max(xs) * 2, 1),
        start=frame.left,
        end=frame.x1,
        is_log=True,
    )
    low = max(min(ys) / 2, max(ys) * 1e-8)
    y = Scale(
        low=_decade(low, -1), high=_decade(max(ys), 1), start=frame.y0, end=frame.top, is_log=True
    )
    parts = [_log_grid(frame, x, y)]
    parts += [_roof(frame, roof, x, y) for roof in roofs]
    parts += [_dot(dot, x, y) for dot in sorted(dots, key=lambda d: -d.share)]
    return svg(frame, parts, "Roofline: achieved FLOP/s over FLOP per byte")


def _decade(value: float, direction: int) -> float:
    log = math.log10(value)
    return 10.0 ** (math.floor(log) if direction < 0 else math.ceil(log))


def _log_grid(frame: Frame, x: Scale, y: Scale) -> Html:
    parts = []
    for value in _decades(x, frame.width // 70):
        at = x(value)
        parts.append(line(at, frame.top, at, frame.y0, "grid"))
        anchor = "end" if at > frame.x1 - 12 else "middle"
        parts.append(text(at, frame.y0 + 16, _decade_name(value), anchor=anchor))
    for value in _decades(y, 9):
        at = y(value)
        parts.append(line(frame.left, at, frame.x1, at, "grid"))
        parts.append(text(frame.left - 6, at + 4, _decade_name(value), anchor="end"))
    parts.append(text(frame.left - 40, 13, "FLOP/s"))
    middle = (frame.left + frame.x1) / 2
    parts.append(text(middle, frame.height - 8, "FLOP per byte moved", anchor="middle"))
    return join(parts)


def _decades(scale: Scale, most: int) -> list[float]:
    first, last = round(math.log10(scale.low)), round(math.log10(scale.high))
    step = max(1, math.ceil((last - first) / most))
    return [10.0**power for power in range(first, last + 1, step)]


def _decade_name(value: float) -> str:
    """A power of ten without decimals: 0.1, 1, 10, 100 k, 1 T."""
    if value < 1000:
        return f"{value:g}"
    number, _, prefix = format_count(value).partition(" ")
    return f"{float(number):g} {prefix}"


def _roof(frame: Frame, roof: Roof, x: Scale, y: Scale) -> Html:
    ridge = roof.flops_per_s / roof.bytes_per_s
    start = max(x.low, y.low / roof.bytes_per_s)
    points = [
        (start, start * roof.bytes_per_s),
        (ridge, roof.flops_per_s),
        (x.high, roof.flops_per_s),
    ]
    path = "M" + "L".join(f"{x(a):.1f} {y(b):.1f}" for a, b in points)
    return element("path", d=path, class_=f"roof {roof.style}".strip())


def _roof_key(roofs: Sequence[Roof]) -> Html:
    """The roofs' names and rates, each beside a piece of its line."""
    stroke = "M0 5L26 5"
    return element(
        "div",
        *(
            element(
                "span",
                element(
                    "svg",
                    element("path", d=stroke, class_=f"roof {roof.style}".strip()),
                    viewBox="0 0 26 10",
                    class_="swatch",
                    aria_hidden="true",
                ),
                roof.label,
            )
            for roof in roofs
        ),
        class_="key",
    )


def _dot(dot: Dot, x: Scale, y: Scale) -> Html:
    radius = 2.5 + 15 * math.sqrt(dot.share)
    at_x, at_y = x(dot.intensity), y(max(dot.flops_per_s, y.low))
    if dot.is_matrix:
        return element(
            "circle", cx=at_x, cy=at_y, r=radius, class_=f"dot {dot.bound}", data_tip=dot.tip
        )
    side = radius * 1.7
    return element(
        "rect",
        x=at_x - side / 2,
        y=at_y - side / 2,
        width=side,
        height=side,
        class_=f"dot {dot.bound}",
        data_tip=dot.tip,
    )


def rate_label(flops_per_s: float, bytes_per_s: float) -> str:
    """ "792 TFLOP/s, 2.93 TB/s"."""
    return f"{format_count(flops_per_s, 'FLOP')}/s, {significant(bytes_per_s / 1e12)} TB/s"
