"""The page of `inspect`: what is in each section, from readings."""

from collections.abc import Sequence

from ridgeline.cost import Estimate, NodeEstimate
from ridgeline.cost.advice import main_dtype
from ridgeline.report.definitions import DEFINITIONS
from ridgeline.report.markup import Html, element, elided, join
from ridgeline.report.page import Cell, Group, Page, Section, definitions, facts, render, table
from ridgeline.report.plots import Bar, Sample, bars, step_curve
from ridgeline.report.reading import Reading, by_module, by_op, module_path
from ridgeline.report.roofline import Dot, Roof, roofline, roofs_of
from ridgeline.report.table import column_title, first_of_each_phase, totals_of
from ridgeline.report.treemap import Tile, treemap
from ridgeline.report.verdict import CEILINGS, advice_line, clause, low_confidence, misfit, verdict
from ridgeline.units import format_bytes, format_count, format_percent, format_time

# Table rows, dots and tiles that all readings of a page share, and the most that one reading gets.
_ROWS, _DOTS, _TILES = 1000, 360, 400
_MOST_DOTS, _MOST_TILES = 120, 160
_MOST_IN_DETAIL = 6
_MOST_LIVE = 12
_MOST_OPS = 150
_MOST_BYTES = 950_000


def inspect_page(readings: Sequence[Reading]) -> str:
    """One offline HTML page of all readings, under a megabyte: long names leave less room for rows.

    All stand side by side; of more than six, only the first machine's of each phase in detail.
    """
    shown = readings
    if len(readings) > _MOST_IN_DETAIL:
        shown = first_of_each_phase(readings)[:_MOST_IN_DETAIL]
    for divisor in (1, 2, 4, 8):
        page = _page(readings, shown, len(shown) * divisor)
        if len(page.encode()) <= _MOST_BYTES:
            break
    return page


def _page(readings: Sequence[Reading], shown: Sequence[Reading], many: int) -> str:
    """The page with `shown` in detail, each with one part in `many` of the room."""
    notes = dict.fromkeys(low_confidence(r.estimate) for r in readings)
    targets = dict.fromkeys(r.target for r in readings)
    sections = [Section(id="definitions", title="Definitions", body=definitions(DEFINITIONS))]
    if len(readings) > 1:
        sections.insert(0, _side_by_side(readings))
    return render(
        Page(
            title=f"ridgeline inspect {' vs '.join(targets)}",
            verdict=verdict(readings),
            notes=tuple(filter(None, notes)),
            groups=tuple(_group(i, shown, many) for i in range(len(shown))),
            sections=tuple(sections),
        )
    )


def _side_by_side(readings: Sequence[Reading]) -> Section:
    columns = [totals_of(reading) for reading in readings]
    headers = ["quantity", *(column_title(r, readings) for r in readings)]
    rows = [
        [Cell(text=name), *(Cell(text=c[name], style="long") for c in columns)]
        for name in columns[0]
    ]
    return Section(id="totals", title="Side by side", body=table(headers, rows))


def _group(index: int, readings: Sequence[Reading], many: int) -> Group:
    reading, key = readings[index], f"r{index + 1}"
    run = reading.estimate
    title = f"{run.phase} on {run.machine.name}"
    if len({r.target for r in readings}) > 1:
        title = f"{reading.target}: {title}"
    sections = [_totals(key, reading)]
    if reading.advice:
        sections.append(_advice(key, reading))
    if run.uncounted:
        sections.append(_uncounted(key, reading))
    return Group(
        id=key,
        title=title,
        verdict=_group_verdict(reading) if len(readings) > 1 else "",
        sections=(
            *sections,
            roofline_section(key, reading, min(_MOST_DOTS, _DOTS // many)),
            treemap_section(key, reading, min(_MOST_TILES, _TILES // many)),
            _memory(key, reading),
            _ops(key, reading),
            nodes_section(key, reading, _ROWS // many),
        ),
    )


def _group_verdict(reading: Reading) -> str:
    parts = filter(None, (clause(reading), misfit(reading.estimate)))
    return " ".join(f"{part[:1].upper()}{part[1:]}." for part in parts)


def _totals(key: str, reading: Reading) -> Section:
    ceiling = CEILINGS[reading.estimate.ceiling]
    return Section(
        id=f"{key}-totals",
        title="Totals",
        lead=f"Times and the ridge use the {ceiling}. Shares are of the predicted time.",
        body=facts(list(totals_of(reading).items())),
    )


def _advice(key: str, reading: Reading) -> Section:
    lines = [element("li", advice_line(a, reading.estimate)) for a in reading.advice]
    return Section(
        id=f"{key}-advice",
        title="What to do next",
        lead="Each gain is predicted by the model that predicted the run, one change at a time.",
        body=element("ol", *lines, class_="todo"),
    )


def _uncounted(key: str, reading: Reading) -> Section:
    items = reading.estimate.uncounted.items()
    lines = [element("li", f"{target} x{count:,}") for target, count in items]
    return Section(
        id=f"{key}-uncounted",
        title="Not counted",
        lead="These ops have no cost rule, so every total is a lower bound.",
        body=element("ul", *lines),
    )


def roofline_section(key: str, reading: Reading, most: int) -> Section:
    """The `most` longest nodes below their roofs."""
    run = reading.estimate
    dots = _dots(run, most)
    body = roofline(_roofs(run), dots) if dots else element("p", "No node does arithmetic.")
    covered = sum(d.share for d in dots)
    return Section(
        id=f"{key}-roofline",
        title="Roofline",
        lead=f"The {len(dots)} nodes that take longest, {format_percent(covered)} of the time; the "
        "area is the share of the time. Round: matrix work. Square: vector work, below its own "
        "roof. A node below the roof waits for kernels to start.",
        body=body,
    )


def _roofs(run: Estimate) -> list[Roof]:
    """Both ceilings of the main dtype, and the vector unit's achievable one."""
    machine, dtype = run.machine, main_dtype(run)
    roofs = roofs_of(machine, dtype)
    vector = machine.vector_flops_per_s(dtype, run.ceiling)
    if abs(vector / roofs[1].flops_per_s - 1) > 0.02:
        nbytes = machine.bandwidth_bytes_per_s(run.ceiling)
        label = f"vector unit: {format_count(vector, 'FLOP')}/s"
        roofs.append(Roof(label=label, flops_per_s=vector, bytes_per_s=nbytes, style="thin"))
    return roofs


def _dots(run: Estimate, most: int) -> list[Dot]:
    total_s = run.totals.time_s or 1.0
    nodes = [n for n in run.nodes if n.time_s and n.moved_bytes and (n.flops or n.vector_ops)]
    nodes.sort(key=lambda n: -n.time_s)
    return [
        Dot(
            intensity=(n.causal_flops or n.vector_ops) / n.moved_bytes,
            flops_per_s=(n.causal_flops or n.vector_ops) / n.time_s,
            share=n.time_s / total_s,
            bound=n.bound,
            tip=node_tip(n, total_s),
            is_matrix=n.flops > 0,
        )
        for n in nodes[:most]
    ]


def node_tip(node: NodeEstimate, total_s: float) -> str:
    """What a node is and costs, a line each."""
    times = f" x{node.repeat:,}" if node.repeat > 1 else ""
    work = node.flops or node.vector_ops
    return (
        f"{elided(node.name)} ({elided(node.op)}){times}\n{elided(node.module) or 'top level'}\n"
        f"{format_time(node.time_s)}, {format_percent(node.time_s / total_s)}, "
        f"waits for {node.bound}\n"
        f"{format_count(work, 'FLOP')} {node.dtype}, {format_bytes(node.moved_bytes)} moved"
    )


def treemap_section(key: str, reading: Reading, most: int) -> Section:
    """Predicted time as area, in at most `most` tiles."""
    return Section(
        id=f"{key}-treemap",
        title="Where the time goes",
        lead="Module, then op; area is predicted time. A click shows details and filters the nodes "
        "below.",
        body=treemap(_tiles(reading, most)),
    )


def _tiles(reading: Reading, most: int) -> list[Tile]:
    """One tile per module row and op; what is too small to see is one tile together."""
    run = reading.estimate
    total_s = run.totals.time_s or 1.0
    rows = [g.label for g in by_module(reading, 24)]
    found: dict[tuple[str, str], list[NodeEstimate]] = {}
    for node in run.nodes:
        if node.time_s:
            found.setdefault((_row_of(node, rows), node.op), []).append(node)
    tiles = []
    for (module, op), nodes in found.items():
        time_s = sum(n.time_s for n in nodes)
        longest = max(nodes, key=lambda n: n.time_s)
        runs = sum(n.repeat for n in nodes)
        tip = (
            f"{elided(module)}: {elided(op)} x{runs:,}\n{format_time(time_s)}, "
            f"{format_percent(time_s / total_s)}\nmostly waits for {longest.bound}"
        )
        words = f"{elided(longest.module)} {elided(op)}".strip()
        tiles.append(
            Tile(
                group=module,
                label=elided(op, 40),
                value=time_s,
                bound=longest.bound,
                tip=tip,
                filter=words,
            )
        )
    tiles.sort(key=lambda t: -t.value)
    return [t for t in tiles[:most] if t.value > 0.0004 * total_s]


def _row_of(node: NodeEstimate, rows: Sequence[str]) -> str:
    """The label of the module row that a node was added to."""
    path = module_path(node)
    own = f"{'.'.join(path)} (own ops)"
    if own in rows:
        return own
    for length in range(len(path), 0, -1):
        if (label := ".".join(path[:length])) in rows:
            return label
    return path[0]


def _memory(key: str, reading: Reading) -> Section:
    run = reading.estimate
    memory, capacity = run.memory, run.machine.memory.capacity_bytes
    held = [
        ("weights", memory.weight_bytes),
        ("KV cache, state", memory.cache_bytes),
        ("inputs", memory.input_bytes),
        ("gradients", memory.gradient_bytes),
        ("optimizer state", memory.optimizer_bytes),
        ("activations", memory.activation_bytes),
    ]
    rows = [
        Bar(label=name, value=n, text=format_bytes(n))
        for name, n in held
        if n > 0.001 * memory.peak_bytes
    ]
    rows.append(
        Bar(
            label="all, at the peak",
            value=memory.peak_bytes,
            text=format_bytes(memory.peak_bytes),
            style="total",
        )
    )
    # far below the limit, its line would press every bar flat
    is_near = capacity is not None and memory.peak_bytes > capacity / 4
    has = f"{run.machine.name} has {format_bytes(capacity)}" if capacity else ""
    has += ", the line." if is_near else "." if has else ""
    samples = [
        Sample(
            value=nbytes - memory.persistent_bytes,
            tip=f"{elided(name)}\n{format_bytes(nbytes - memory.persistent_bytes)} of activations, "
            f"{format_bytes(nbytes)} in all",
        )
        for name, nbytes in memory.curve
    ]
    curve = (
        step_curve(
            samples,
            format_value=format_bytes,
            x_label="nodes in execution order, a repeated layer once",
            peak_label=f"peak {format_bytes(memory.activation_bytes)} at {memory.peak_at}",
        )
        if samples
        else Html("")
    )
    return Section(
        id=f"{key}-memory",
        title="Memory",
        lead=f"What is held at the peak. {has}".strip(),
        body=join(
            [
                bars(rows, limit=capacity if is_near else None),
                element("h4", "Activations over the run"),
                curve,
                _live(reading),
            ]
        ),
    )


def _live(reading: Reading) -> Html:
    memory = reading.estimate.memory
    live = [t for t in memory.live_at_peak if t.what == "activation"]
    rows = [
        [
            Cell(text=t.name.removeprefix("%")),
            Cell(text=t.module or "top level"),
            Cell(
                text=format_bytes(t.nbytes),
                sort=t.nbytes,
                share=t.nbytes / max(1, memory.activation_bytes),
            ),
        ]
        for t in live[:_MOST_LIVE]
    ]
    if not rows:
        return element("p", "No activation is held at the peak.", class_="foot")
    rest = sum(t.nbytes for t in live[_MOST_LIVE:])
    foot = f"{len(live) - _MOST_LIVE} more hold {format_bytes(rest)}." if rest else ""
    return join(
        [
            element("h4", "Largest activations at the peak"),
            table(["tensor", "made in", "bytes"], rows, foot=foot),
        ]
    )


_COLUMNS = ("count", "time", "share", "FLOPs", "vector ops", "bytes moved", "bound")


def _ops(key: str, reading: Reading) -> Section:
    groups = by_op(reading)
    rows = [
        [
            Cell(text=g.label),
            Cell(text=g.category),
            Cell(text=g.engine),
            *_numbers(g.count, g.time_s, g.share, g.flops, g.vector_ops, g.moved_bytes, g.bound),
        ]
        for g in groups[:_MOST_OPS]
    ]
    rest = len(groups) - _MOST_OPS
    return Section(
        id=f"{key}-ops",
        title="Op kinds",
        lead="Every op kind that the model needs, and the engine that runs it.",
        body=table(
            ["op", "category", "engine", *_COLUMNS],
            rows,
            foot=f"{rest} more op kinds take less." if rest > 0 else "",
        ),
    )


def _numbers(
    count: int, time_s: float, share: float, flops: int, vector_ops: int, moved: int, bound: str
) -> list[Cell]:
    return [
        Cell(text=f"{count:,}", sort=count),
        Cell(text=format_time(time_s), sort=time_s),
        Cell(text=format_percent(share), sort=share, share=share),
        Cell(text=format_count(flops) if flops else "–", sort=flops),
        Cell(text=format_count(vector_ops) if vector_ops else "–", sort=vector_ops),
        Cell(text=format_bytes(moved), sort=moved),
        Cell(text=bound, style=bound),
    ]


def nodes_section(key: str, reading: Reading, most: int) -> Section:
    """A table of the `most` longest nodes."""
    run = reading.estimate
    total_s = run.totals.time_s or 1.0
    nodes = sorted(run.nodes, key=lambda n: -n.time_s)
    shown = nodes[:most]
    rows = [
        [
            Cell(text=n.name),
            Cell(text=n.op),
            Cell(text=n.module or "top level"),
            *_numbers(
                n.repeat,
                n.time_s,
                n.time_s / total_s,
                n.flops,
                n.vector_ops,
                n.moved_bytes,
                n.bound,
            ),
        ]
        for n in shown
    ]
    foot = f"All {len(nodes)} nodes."
    if rest := nodes[most:]:
        time_s = sum(n.time_s for n in rest)
        foot = (
            f"The {most} longest of {len(nodes)} nodes; the other {len(rest)} take "
            f"{format_time(time_s)}, {format_percent(time_s / total_s)} of the time. "
            "ridgeline inspect --json has all."
        )
    return Section(
        id=f"{key}-nodes",
        title="Nodes",
        lead="Counts and times are of all repeats together. A click on a header sorts.",
        body=table(["node", "op", "module", *_COLUMNS], rows, is_searchable=True, foot=foot),
    )
