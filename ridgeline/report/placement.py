"""A placement in the terminal, as JSON and as a page with its timeline: dataclass in, text out."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TextIO

from rich.box import SIMPLE_HEAD
from rich.table import Table

from ridgeline.passes.placement import Placement
from ridgeline.report.console import console_on
from ridgeline.report.markup import Html, element
from ridgeline.report.page import Cell, Page, Section, definitions, render, table
from ridgeline.units import format_bytes, format_percent, format_time, significant

_LANE, _BAR, _LEFT, _WIDTH = 44, 26, 90, 1100
_NARROW_PX = 0.4

_DEFINITIONS = (
    ("predicted", "By the cost model, fused groups on each device; nothing was run."),
    (
        "stage",
        "Work that one device does without waiting for another: its tasks in a row.",
    ),
    (
        "HEFT",
        "Heterogeneous earliest finish time (Topcuoglu et al., 2002): each task, that with the "
        "longest way to the end first, goes where it ends first.",
    ),
    (
        "copy",
        "A value on a link: latency, then bytes over bandwidth; one at a time in each direction, "
        "beside computation, once per device.",
    ),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """Neighbouring tasks of one device. waits_s: idle time of the device before it."""

    device: str
    start_s: float
    end_s: float
    waits_s: float
    nodes: tuple[str, ...]


def stages(placement: Placement) -> tuple[Stage, ...]:
    """What each device does, cut wherever another device's result is waited for; by start."""
    found: list[Stage] = []
    schedule = placement.schedule
    for number, device in enumerate(placement.fleet.devices):
        mine = sorted(
            (t for t, d in enumerate(schedule.assignment) if d == number and placement.members[t]),
            key=lambda t: schedule.start_s[t],
        )
        end_s = 0.0
        for row in _unbroken(mine, schedule.start_s, schedule.end_s):
            start_s = schedule.start_s[row[0]]
            nodes = tuple(name for task in row for name in placement.members[task])
            stage = Stage(
                device=device.name,
                start_s=start_s,
                end_s=schedule.end_s[row[-1]],
                waits_s=start_s - end_s,
                nodes=nodes,
            )
            end_s = stage.end_s
            found.append(stage)
    return tuple(sorted(found, key=lambda s: s.start_s))


def _unbroken(
    tasks: Sequence[int], start_s: Sequence[float], end_s: Sequence[float]
) -> Iterator[list[int]]:
    row: list[int] = []
    for task in tasks:
        if row and start_s[task] > end_s[row[-1]] * (1 + 1e-9):
            yield row
            row = []
        row.append(task)
    if row:
        yield row


def verdict(placement: Placement) -> str:
    """One line: how long, against the best single device and HEFT."""
    used = dict.fromkeys(stage.device for stage in stages(placement))
    head = f"{placement.graph} takes {format_time(placement.makespan_s)} on {' and '.join(used)}"
    parts = []
    if placement.single_s:
        name, alone_s = min(placement.single_s.items(), key=lambda item: item[1])
        gain = alone_s / placement.makespan_s
        parts.append(
            f"{significant(gain)} times as fast as {name} alone ({format_time(alone_s)})"
            if gain > 1.0005
            else f"no faster than {name} alone"
        )
    else:
        parts.append("no device could run it alone")
    parts.append(f"HEFT {format_time(placement.heft_s)}")
    return f"{head} (predicted): {'; '.join(parts)}."


def print_placement(stream: TextIO, placement: Placement, *, top: int = 14) -> None:
    """The verdict, the devices, the stages and the largest copies."""
    console = console_on(stream)
    console.print(verdict(placement), style="bold")
    console.print(_devices_table(placement))
    rows = stages(placement)
    console.print(_stages_table(rows[:top]))
    if len(rows) > top:
        console.print(f"{len(rows) - top} more stages; --top shows more.")


def _devices_table(placement: Placement) -> Table:
    found = Table(box=SIMPLE_HEAD, pad_edge=False)
    found.add_column("device")
    for name in ("machine", "nodes", "busy", "share", "copies in", "alone"):
        found.add_column(name, justify="left" if name == "machine" else "right")
    for row in _device_rows(placement):
        found.add_row(*row)
    return found


def _device_rows(placement: Placement) -> Iterator[tuple[str, ...]]:
    schedule, names = placement.schedule, list(placement.devices_of_nodes().values())
    for number, device in enumerate(placement.fleet.devices):
        busy_s = sum(
            schedule.end_s[t] - schedule.start_s[t]
            for t, d in enumerate(schedule.assignment)
            if d == number
        )
        copied = sum(copy.nbytes for copy in schedule.copies if copy.target == number)
        alone_s = placement.single_s.get(device.name)
        yield (
            device.name,
            device.machine.name,
            str(names.count(device.name)),
            format_time(busy_s),
            format_percent(busy_s / placement.makespan_s if placement.makespan_s else 0.0),
            format_bytes(copied),
            "cannot" if alone_s is None else format_time(alone_s),
        )


def _stages_table(rows: Sequence[Stage]) -> Table:
    found = Table(box=SIMPLE_HEAD, pad_edge=False)
    for name in ("starts", "takes", "waited"):
        found.add_column(name, justify="right")
    for name in ("device", "nodes", "first", "last"):
        found.add_column(name, justify="right" if name == "nodes" else "left")
    for stage in rows:
        found.add_row(
            format_time(stage.start_s),
            format_time(stage.end_s - stage.start_s),
            format_time(stage.waits_s),
            stage.device,
            str(len(stage.nodes)),
            stage.nodes[0],
            stage.nodes[-1],
        )
    return found


def placement_json(placement: Placement) -> str:
    """Keys for scripts: makespan_s, heft_s, single_s, evaluations, nodes, stages, copies."""
    names = [device.name for device in placement.fleet.devices]
    return json.dumps(
        {
            "verdict": verdict(placement),
            "graph": placement.graph,
            "makespan_s": placement.makespan_s,
            "heft_s": placement.heft_s,
            "single_s": dict(placement.single_s),
            "evaluations": placement.evaluations,
            "nodes": placement.devices_of_nodes(),
            "stages": [
                {
                    "device": s.device,
                    "start_s": s.start_s,
                    "end_s": s.end_s,
                    "waits_s": s.waits_s,
                    "nodes": list(s.nodes),
                }
                for s in stages(placement)
            ],
            "copies": [
                {
                    "from": names[c.source],
                    "to": names[c.target],
                    "bytes": c.nbytes,
                    "start_s": c.start_s,
                    "end_s": c.end_s,
                }
                for c in placement.schedule.copies
            ],
        },
        indent=2,
    )


def placement_page(placement: Placement) -> str:
    """One offline HTML page: the timeline, the devices, every task."""
    devices = table(
        ("device", "machine", "nodes", "busy", "share", "copies in", "alone"),
        [[Cell(text=text) for text in row] for row in _device_rows(placement)],
    )
    sections = (
        Section(
            id="timeline",
            title="Timeline",
            lead="One lane per device, then one per link and direction; hover for details.",
            body=_timeline(placement),
        ),
        Section(id="devices", title="Devices", body=devices),
        Section(id="tasks", title="Tasks", body=_tasks_table(placement)),
        Section(id="definitions", title="Definitions", body=definitions(_DEFINITIONS)),
    )
    title = f"{placement.graph} on {', '.join(d.name for d in placement.fleet.devices)}"
    return render(Page(title=title, verdict=verdict(placement), sections=sections))


def _tasks_table(placement: Placement) -> Html:
    schedule = placement.schedule
    rows = [
        [
            Cell(text=placement.tasks.names[task]),
            Cell(text=placement.fleet.devices[schedule.assignment[task]].name),
            Cell(text=str(len(placement.members[task])), sort=float(len(placement.members[task]))),
            _time_cell(schedule.start_s[task]),
            _time_cell(schedule.end_s[task] - schedule.start_s[task]),
            *(_time_cell(time_s) for time_s in placement.tasks.times_s[task]),
        ]
        for task in schedule.order
        if placement.members[task]
    ]
    on = [f"on {device.name}" for device in placement.fleet.devices]
    return table(
        ("task", "device", "nodes", "starts", "takes", *on), rows, is_searchable=len(rows) > 20
    )


def _time_cell(time_s: float) -> Cell:
    if time_s == float("inf"):
        return Cell(text="cannot", sort=1e30)
    return Cell(text=format_time(time_s), sort=time_s)


def _timeline(placement: Placement) -> Html:
    """Bars over time: tasks on devices, copies on links."""
    schedule, devices = placement.schedule, placement.fleet.devices
    end_s = placement.makespan_s or 1.0
    links = sorted({(c.source, c.target) for c in schedule.copies})
    height = _LANE * (len(devices) + len(links)) + 24
    parts: list[Html] = []
    for lane, device in enumerate(devices):
        parts.append(_label(lane, device.name))
    for lane, (a, b) in enumerate(links, start=len(devices)):
        parts.append(_label(lane, f"{devices[a].name} → {devices[b].name}"))
    for task, device_number in enumerate(schedule.assignment):
        if placement.members[task]:
            start_s, stop_s = schedule.start_s[task], schedule.end_s[task]
            tip = f"{placement.tasks.names[task]}: {format_time(stop_s - start_s)}"
            parts.append(_bar(device_number, start_s / end_s, stop_s / end_s, tip, "task"))
    for copy in schedule.copies:
        lane = len(devices) + links.index((copy.source, copy.target))
        tip = f"{format_bytes(copy.nbytes)} in {format_time(copy.end_s - copy.start_s)}"
        parts.append(_bar(lane, copy.start_s / end_s, copy.end_s / end_s, tip, "copy"))
    axis = [
        element("text", format_time(end_s * k / 4), x=_x(k / 4), y=float(height - 6), class_="tick")
        for k in range(5)
    ]
    return element(
        "svg",
        *parts,
        *axis,
        viewBox=f"0 0 {_WIDTH} {height}",
        role="img",
        aria_label="timeline of devices and links",
    )


def _label(lane: int, text: str) -> Html:
    return element("text", text, x=2.0, y=float(lane * _LANE + _LANE / 2 + 4), class_="tick")


def _bar(lane: int, start: float, stop: float, tip: str, style: str) -> Html:
    return element(
        "rect",
        x=_x(start),
        y=float(lane * _LANE + (_LANE - _BAR) / 2),
        width=max(_NARROW_PX, _x(stop) - _x(start)),
        height=float(_BAR),
        class_=style,
        data_tip=tip,
        tabindex="0",
    )


def _x(share: float) -> float:
    return _LEFT + share * (_WIDTH - _LEFT - 50)
