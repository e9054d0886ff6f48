"""The one-line verdict, and the sentences that go with it."""

from collections.abc import Sequence

from ridgeline.cost import Bound, Estimate
from ridgeline.cost.advice import Advice, devices_for, devices_needed, main_dtype
from ridgeline.graph import Phase
from ridgeline.machines import Ceiling
from ridgeline.report.reading import Reading, by_category
from ridgeline.units import format_bytes, format_count, format_percent, format_time, significant

_BOUND = {
    Bound.COMPUTE.value: "compute-bound",
    Bound.MEMORY.value: "memory-bound",
    Bound.OVERHEAD.value: "bound by the start of kernels",
    Bound.FREE.value: "free",
}
_BOTH = (Ceiling.ACHIEVABLE, Ceiling.DATASHEET)
CEILINGS = {
    Ceiling.ACHIEVABLE: "achievable ceiling, the best rates that kernels were measured to reach",
    Ceiling.DATASHEET: "datasheet ceiling, the vendor's peak rates",
}


def verdict(readings: Sequence[Reading]) -> str:
    """One line: what bounds each reading, how long it takes, and whether it fits."""
    is_one_target = len({r.target for r in readings}) == 1
    if len({r.estimate.machine.id for r in readings}) > 1:
        return "; ".join(_ranking(same, is_one_target) for same in _by_phase(readings))
    parts = [clause(r) if is_one_target else f"{r.target} {clause(r)}" for r in readings]
    name = readings[0].estimate.machine.name
    worst = max(readings, key=lambda r: r.estimate.totals.peak_memory_bytes)
    problem = misfit(worst.estimate)
    return f"{'; '.join(parts)}, on {name}{f'; {problem}' if problem else ''}"


def _by_phase(readings: Sequence[Reading]) -> list[list[Reading]]:
    found: dict[tuple[str, str], list[Reading]] = {}
    for reading in readings:
        found.setdefault((reading.target, reading.estimate.phase), []).append(reading)
    return list(found.values())


def _ranking(readings: Sequence[Reading], is_one_target: bool) -> str:
    """ "decode: 338 µs on MI300X (memory-bound), 369 µs on H100 (memory-bound)", fastest first."""
    parts = []
    for reading in sorted(readings, key=lambda r: r.estimate.totals.time_s):
        run = reading.estimate
        count = devices_needed(run)
        fits = f", needs {count} of them" if count > 1 else ""
        time = format_time(run.totals.time_s)
        parts.append(f"{time} on {run.machine.name} ({_BOUND[run.totals.bound]}{fits})")
    what = "" if is_one_target else f"{readings[0].target} "
    return f"{what}{readings[0].estimate.phase}: {', '.join(parts)}"


def clause(reading: Reading) -> str:
    """ "decode is memory-bound: 4.60 ms per token (4.41 ms at the roofline), 97% in matmul"."""
    run = reading.estimate
    totals, largest = run.totals, by_category(reading)
    per = f" per {reading.unit}" if run.phase == Phase.DECODE.value else ""
    at_least = "at least " if totals.is_lower_bound else ""
    head = (
        f"{run.phase} is {_BOUND[totals.bound]}: {at_least}{format_time(totals.time_s)}{per} "
        f"({format_time(totals.roofline_s)} at the roofline)"
    )
    if not largest or not totals.time_s:
        return head
    return f"{head}, {format_percent(largest[0].share)} in {largest[0].label}"


def misfit(run: Estimate) -> str:
    """ "does not fit: needs 1.48 TiB, has 74.5 GiB; 21 devices at least", or "" where it fits."""
    if devices_needed(run) <= 1:
        return ""
    capacity = run.machine.memory.capacity_bytes or 0
    need = run.totals.peak_memory_bytes
    return (
        f"does not fit: needs {format_bytes(need)}, has {format_bytes(capacity)}; "
        f"{devices_needed(run)} devices at least"
    )


def throughput(reading: Reading) -> str:
    """Samples or tokens per second at the predicted time; of what takes none, nothing to say."""
    time_s = reading.estimate.totals.time_s
    return f"{significant(reading.samples / time_s)} {reading.unit}s/s" if time_s else "-"


def utilisation(run: Estimate) -> tuple[str, str, str]:
    """Model FLOPs over time, and their share of the achievable and the datasheet ceiling."""
    totals, dtype = run.totals, main_dtype(run)
    if not totals.time_s or not totals.flops:
        return "no matrix work", "-", "-"
    rate = totals.causal_flops / totals.time_s
    shares = (rate / run.machine.matrix_flops_per_s(dtype, ceiling) for ceiling in _BOTH)
    achievable, datasheet = (f"{format_percent(share)} of its {dtype} rate" for share in shares)
    return f"{format_count(rate, 'FLOP')}/s", achievable, datasheet


def advice_line(advice: Advice, run: Estimate) -> str:
    """ "run in bf16 (--dtype bf16): 3.90x, 2.10 ms; 53.7 MiB at the peak"."""
    at_most = "at most " if advice.is_bound else ""
    memory = ""
    if abs(advice.peak_memory_bytes - run.totals.peak_memory_bytes) > 0.02 * (
        run.totals.peak_memory_bytes
    ):
        memory = f", peak {format_bytes(advice.peak_memory_bytes)}"
        if advice.action == "shard":
            memory += " each"
        elif devices_needed(run) > 1:
            count = devices_for(advice.peak_memory_bytes, run.machine)
            memory += ", then fits" if count == 1 else f", then needs {count} devices"
    gain = f"{at_most}{significant(advice.speedup)}x"
    if advice.speedup < 1:
        gain = f"takes {significant(1 / advice.speedup)}x the time"
    if advice.action == "batch":
        gain += " the throughput"
    return f"{advice.text}: {gain} ({format_time(advice.time_s)} a run{memory})"


def low_confidence(run: Estimate) -> str:
    """The label that a machine needs whose figures are not first-hand; "" otherwise."""
    machine = run.machine
    if not machine.is_low_confidence:
        return ""
    return f"low confidence: the figures of {machine.name} are {machine.confidence}, not first-hand"
