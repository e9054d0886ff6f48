"""The JSON record of a trace. Its keys are stable: people script against them."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict

from ridgeline.report.trace_words import notes, slowest, verdict
from ridgeline.traces.rank import IdleCause, NamedGap, RankTrace
from ridgeline.traces.split import Split
from ridgeline.traces.trace import Trace
from ridgeline.traces.usage import KernelUse

Json = None | bool | int | float | str | Sequence["Json"] | Mapping[str, "Json"]

SCHEMA = 1


def trace_json(trace: Trace) -> str:
    """The record as one JSON object."""
    return json.dumps(record(trace), indent=1, ensure_ascii=False, allow_nan=False)


def record(trace: Trace) -> dict[str, Json]:
    """Everything a trace shows, as plain values. What stands beside `ranks` is of the rank whose
    recording is the longest.
    """
    rank = slowest(trace.ranks)
    return {
        "schema": SCHEMA,
        "verdict": verdict(trace),
        "notes": notes(trace),
        "ranks": [_rank(rank) for rank in trace.ranks],
        "idle_causes": [_cause(cause) for cause in rank.idle_causes],
        "gaps": [_gap(gap) for gap in rank.gaps],
        "fixes": [asdict(fix) for fix in rank.fixes],
        "kernels": [_kernel(use) for use in rank.kernels],
        "operators": [asdict(use) for use in rank.operators],
        "launches": asdict(rank.launches) if rank.launches else None,
    }


def _rank(rank: RankTrace) -> dict[str, Json]:
    return {
        "rank": rank.rank,
        "world_size": rank.world_size,
        "source": rank.source,
        "devices": [asdict(device) for device in rank.devices],
        "num_events": rank.num_recorded,
        "base_time_ns": rank.base_time_ns,
        **_split(rank.split),
        "steps": [{"name": step.name, **_split(step.split)} for step in rank.steps],
        "idle_causes": [_cause(cause) for cause in rank.idle_causes],
        "fixes": [asdict(fix) for fix in rank.fixes],
    }


def _split(split: Split) -> dict[str, Json]:
    return {**asdict(split), "overlap_share": split.overlap_share}


def _cause(cause: IdleCause) -> dict[str, Json]:
    return {
        "cause": cause.cause.value,
        "idle_ns": cause.idle_ns,
        "num_gaps": cause.num_gaps,
        "share": cause.share,
    }


def _gap(gap: NamedGap) -> dict[str, Json]:
    return {**asdict(gap), "cause": gap.cause.value}


def _kernel(use: KernelUse) -> dict[str, Json]:
    return {**asdict(use), "kind": use.kind.name.lower(), "mean_ns": use.mean_ns}
