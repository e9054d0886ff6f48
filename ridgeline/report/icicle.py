"""A tree as columns of boxes from left to right, each as high as its value, so that names fit."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from ridgeline.report.markup import Html, element, elided

_HEIGHT_PX = 620
_LEAST_PX = 4.0  # lower boxes are drawn as one
_TEXT_PX = 15
_MOST_LABEL = 90


@dataclass(slots=True, kw_only=True)
class Branch:
    """A box. words: what a click filters the table by; style: a CSS class."""

    label: str
    value: float
    tip: str
    style: str = "free"
    words: str = ""
    children: list["Branch"] = field(default_factory=list)


def icicle(roots: Sequence[Branch], num_levels: int, table: str) -> Html:
    """The boxes; a click on one filters the table in the element of id `table`."""
    total = sum(root.value for root in roots)
    boxes: list[Html] = []
    _add(boxes, roots, 0.0, 1 / total if total else 0.0, 0, num_levels, table)
    return element(
        "div",
        element("div", *boxes, class_="icicle", style=f"height:{_HEIGHT_PX}px"),
        element("p", class_="detail", aria_live="polite"),
    )


def _add(
    boxes: list[Html],
    branches: Sequence[Branch],
    top: float,
    scale: float,
    level: int,
    num_levels: int,
    table: str,
) -> None:
    """Boxes of one level below each other, then theirs. top: a share of the height, as is what
    `scale` makes of a value.
    """
    shown = sorted(branches, key=lambda branch: -branch.value)
    large = [b for b in shown if b.value * scale * _HEIGHT_PX >= _LEAST_PX]
    for branch in large:
        boxes.append(_box(branch, top, branch.value * scale, level, num_levels, table))
        if branch.children:
            _add(boxes, branch.children, top, scale, level + 1, num_levels, table)
        top += branch.value * scale
    rest = shown[len(large) :]
    if rest and sum(b.value for b in rest) * scale * _HEIGHT_PX >= 1:
        value = sum(branch.value for branch in rest)
        words = f"{len(rest):,} smaller"
        others = Branch(label=words, value=value, tip=words)
        boxes.append(_box(others, top, value * scale, level, num_levels, table))


def _box(
    branch: Branch, top: float, height: float, level: int, num_levels: int, table: str
) -> Html:
    has_text = height * _HEIGHT_PX >= _TEXT_PX
    place = (100 * level / num_levels, 100 * top, 100 / num_levels, 100 * height)
    return element(
        "button",
        elided(branch.label, _MOST_LABEL) if has_text else "",
        type="button",
        class_=f"cell {branch.style}",
        style="left:{:.3f}%;top:{:.3f}%;width:{:.3f}%;height:{:.3f}%".format(*place),
        aria_label=None if has_text else elided(branch.label, _MOST_LABEL),
        data_tip=branch.tip,
        data_filter=branch.words or None,
        data_table=table if branch.words else None,
    )
