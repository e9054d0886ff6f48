"""What fusion leaves of a graph: one line for the terminal, one section for the page."""

from collections.abc import Sequence

from ridgeline.passes.chains import Chain
from ridgeline.passes.fuse import FusionGroup, FusionPlan
from ridgeline.report.markup import element, join
from ridgeline.report.page import Cell, Section, table
from ridgeline.units import format_bytes

_MOST_REASONS = 3
_MOST_GROUPS = 40


def fusion_line(plan: FusionPlan) -> str:
    """Kernels and bytes before and after, and the most frequent reasons why not more."""
    head = (
        f"fusion, predicted: {plan.launches_before:,} kernels that move "
        f"{format_bytes(plan.bytes_before)} become {plan.launches_after:,} that move "
        f"{format_bytes(plan.bytes_after)}"
    )
    claimed = sum(chain.refusal is None for chain in plan.chains)
    if claimed:
        pairs = "pair" if claimed == 1 else "pairs"
        head += f"; {claimed:,} {pairs} of products could share tiles"
    reasons = list(plan.reasons.items())[:_MOST_REASONS]
    if not reasons:
        return f"{head}."
    told = "; ".join(f"{reason} ({count:,})" for reason, count in reasons)
    return f"{head}. Kept apart: {told}."


def fusion_section(plan: FusionPlan) -> Section:
    """The largest kernels, every reason to keep nodes apart, and the chains of products."""
    groups = sorted(plan.groups, key=lambda g: g.nbytes * g.repeat, reverse=True)
    parts = [table(["kernel", "nodes", "reads", "writes"], _group_rows(groups[:_MOST_GROUPS]))]
    if len(groups) > _MOST_GROUPS:
        rest = f"The {len(groups) - _MOST_GROUPS:,} that move least are left out."
        parts.append(element("p", rest, class_="foot"))
    if plan.reasons:
        parts.append(table(["why two nodes stay apart", "times", "bytes"], _reason_rows(plan)))
    if plan.chains:
        heads = ["products that could share tiles", "rows per tile", "apart", "together", ""]
        parts.append(table(heads, [_chain_row(chain) for chain in plan.chains]))
    return Section(
        id="run-fusion",
        title="Fusion, predicted",
        lead=f"{plan.launches_before:,} kernels that move {format_bytes(plan.bytes_before)} become "
        f"{plan.launches_after:,} that move {format_bytes(plan.bytes_after)}. Backends decide for "
        "themselves; the predicted time of compiled execution rests on these groups.",
        body=join(parts),
    )


def _group_rows(groups: Sequence[FusionGroup]) -> list[list[Cell]]:
    return [
        [
            Cell(text=group.kind.value),
            Cell(text=", ".join(group.nodes), style="long"),
            _bytes(group.read_bytes * group.repeat),
            _bytes(group.write_bytes * group.repeat),
        ]
        for group in groups
    ]


def _reason_rows(plan: FusionPlan) -> list[list[Cell]]:
    lost = {
        reason: sum(r.nbytes for r in plan.refusals if r.reason == reason)
        for reason in plan.reasons
    }
    return [
        [Cell(text=reason, style="long"), Cell(text=f"{count:,}", sort=count), _bytes(lost[reason])]
        for reason, count in plan.reasons.items()
    ]


def _chain_row(chain: Chain) -> list[Cell]:
    nodes = ", ".join((chain.first, *chain.between, chain.second))
    return [
        Cell(text=nodes, style="long"),
        Cell(text=f"{chain.tile_rows:,}", sort=chain.tile_rows),
        _bytes(chain.bytes_before),
        _bytes(chain.bytes_after),
        Cell(text=chain.refusal or "fits", style="long" if chain.refusal else ""),
    ]


def _bytes(nbytes: int) -> Cell:
    return Cell(text=format_bytes(nbytes), sort=nbytes)
