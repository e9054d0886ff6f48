"""A treemap as HTML boxes, so that its text keeps its size and wraps."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from ridgeline.report.markup import Html, element, join
from ridgeline.report.plots import key


@dataclass(frozen=True, slots=True, kw_only=True)
class Tile:
    """A leaf of a treemap: `label` inside `group`, as large as `value`."""

    group: str
    label: str
    value: float
    bound: str
    tip: str
    filter: str


def treemap(tiles: Sequence[Tile]) -> Html:
    """Groups of tiles by area (squarified: Bruls, Huizing, van Wijk 2000); a click filters."""
    return join(
        [
            key(),
            _treemap(tiles, 1240, 420, "treemap wide"),
            _treemap(tiles, 370, 460, "treemap narrow"),
            element("p", class_="detail", aria_live="polite"),
        ]
    )


_TITLE_PX = 17
# A bold character at 12 px, and some air: a page narrower than the layout has less room.
_CHARACTER_PX = 9.6


def _treemap(tiles: Sequence[Tile], width: float, height: float, style: str) -> Html:
    groups: dict[str, list[Tile]] = {}
    for tile in tiles:
        groups.setdefault(tile.group, []).append(tile)
    sums = {name: sum(t.value for t in members) for name, members in groups.items()}
    order = sorted(sums, key=lambda name: -sums[name])
    boxes = squarify([sums[name] for name in order], 0, 0, width, height)
    parts = []
    for name, (x, y, w, h) in zip(order, boxes, strict=True):
        members = sorted(groups[name], key=lambda t: -t.value)
        title = _TITLE_PX if h > 2.5 * _TITLE_PX and w > 50 else 0
        cells = squarify([t.value for t in members], 0, title, w, h - title)
        children = [_tile(t, box, w, h) for t, box in zip(members, cells, strict=True)]
        if title:
            children.append(element("span", _tail(name, w)))
        parts.append(
            element("div", *children, class_="module", style=_place((x, y, w, h), width, height))
        )
    return element("div", *parts, class_=style)


def _tail(name: str, width: float) -> str:
    """The end of a dotted name that fits, for the end says more than the beginning."""
    room = int(width / _CHARACTER_PX)
    return name if len(name) <= room else f"…{name[-max(1, room - 1) :]}"


Box = tuple[float, float, float, float]


def _place(box: Box, width: float, height: float) -> str:
    x, y, w, h = box
    shares = (100 * x / width, 100 * y / height, 100 * w / width, 100 * h / height)
    return "left:{:.2f}%;top:{:.2f}%;width:{:.2f}%;height:{:.2f}%".format(*shares)


def _tile(tile: Tile, box: Box, width: float, height: float) -> Html:
    return element(
        "button",
        element("span", tile.label),
        type="button",
        class_=f"cell {tile.bound}",
        style=_place(box, width, height),
        data_tip=tile.tip,
        data_filter=tile.filter,
    )


def squarify(values: Sequence[float], x: float, y: float, w: float, h: float) -> list[Box]:
    """One box per value (largest first), areas in proportion, as square as rows allow."""
    total = sum(values)
    if total <= 0 or w <= 0 or h <= 0:
        return [(x, y, 0.0, 0.0) for _ in values]
    areas = [value * w * h / total for value in values]
    boxes: list[Box] = []
    start = 0
    while start < len(areas):
        side = min(w, h)
        end = start + 1
        while end < len(areas) and _worst(areas[start : end + 1], side) <= _worst(
            areas[start:end], side
        ):
            end += 1
        row = areas[start:end]
        thickness = sum(row) / side if side else 0.0
        offset = 0.0
        for area in row:
            length = area / thickness if thickness else 0.0
            if w >= h:
                boxes.append((x, y + offset, thickness, length))
            else:
                boxes.append((x + offset, y, length, thickness))
            offset += length
        if w >= h:
            x, w = x + thickness, max(0.0, w - thickness)
        else:
            y, h = y + thickness, max(0.0, h - thickness)
        start = end
    return boxes


def _worst(row: Sequence[float], side: float) -> float:
    """The worst aspect ratio in a row of areas laid along `side`."""
    total, low, high = sum(row), min(row), max(row)
    if not low or not side:
        return math.inf
    return max(side * side * high / (total * total), total * total / (side * side * low))
