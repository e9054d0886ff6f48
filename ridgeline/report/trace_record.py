"""The JSON record of a trace. Its keys are stable: people script against them."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

from ridgeline.report.operands_record import operands_record
from ridgeline.report.plain import Json
from ridgeline.report.ranks_record import ranks_record
from ridgeline.report.samples_record import samples_record
from ridgeline.report.trace_words import notes, slowest, verdict
from ridgeline.traces.matrix_time import MatrixTime, matrix_time
from ridgeline.traces.rank import IdleCause, NamedGap, RankTrace
from ridgeline.traces.split import Split
from ridgeline.traces.tensor_cores import FIXES
from ridgeline.traces.trace import Trace
from ridgeline.traces.usage import KernelUse

if TYPE_CHECKING:
    from ridgeline.traces.sampled import RankSamples
    from ridgeline.traces.work import OperatorWork, Work

SCHEMA = 1
# JSON lets these stand in strings as they are; a terminal takes some of them for commands.
_CONTROLS = {code: f"\\u{code:04x}" for code in range(0x7F, 0xA0)}


def trace_json(
    trace: Trace,
    work: "Work | None" = None,
    sampled: Sequence["RankSamples"] | None = None,
    counters: Sequence["RankSamples"] = (),
) -> str:
    """The record as one JSON object, `work`, `dcgm` and `gpu_metrics` beside it where they are
    given.
    """
    found = record(trace)
    if work is not None:
        found["work"] = _work(work)
    if sampled is not None:
        found["dcgm"] = samples_record(sampled)
    if counters:
        found["gpu_metrics"] = samples_record(counters)
    return json.dumps(found, indent=1, ensure_ascii=False, allow_nan=False).translate(_CONTROLS)


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
        "tensor_cores": _matrix(matrix_time(rank.kernels)),
        "operators": [{**asdict(use), "shapes": use.shapes} for use in rank.operators],
        "host_operators": [asdict(one) for one in rank.host_operators],
        "launches": asdict(rank.launches) if rank.launches else None,
        **ranks_record(trace),
        **operands_record(trace),
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
    what, able = use.what, use.tensor_core
    plain = ("name", "count", "total_ns", "min_ns", "max_ns", "share", "op", "shapes", "module")
    return {
        **{key: getattr(use, key) for key in plain},
        "mean_ns": use.mean_ns,
        "kind": use.kind.name.lower(),
        "what": what.op.value,
        "unit": what.unit.value,
        "precision": what.precision.value,
        "rule": what.reason,
        "is_eligible": able.reason.is_eligible,
        "why": able.why,
    }


def _matrix(found: MatrixTime) -> dict[str, Json]:
    return {
        "device_ns": found.device_ns,
        "product_ns": found.product_ns,
        "on_unit_ns": found.on_unit_ns,
        "share": found.unit_share,
        "eligible": [
            {
                "reason": one.reason.value,
                "fix": FIXES[one.reason],
                "num_kernels": one.num_kernels,
                "time_ns": one.time_ns,
                "example": one.example.name,
            }
            for one in found.eligible
        ],
    }


def _work(work: "Work") -> dict[str, Json]:
    return {
        "machine": work.machine.id,
        "flops": work.flops,
        "counted_ns": work.counted_ns,
        "uncounted_ns": work.uncounted_ns,
        "mfu": work.mfu,
        "steps": [asdict(step) for step in work.steps],
        "operators": [_operator_work(one) for one in work.operators],
    }


def _operator_work(one: "OperatorWork") -> dict[str, Json]:
    return {
        "name": one.use.name,
        "shapes": one.use.shapes,
        "dtype": one.dtype,
        "count": one.use.count,
        "total_ns": one.use.total_ns,
        **asdict(one.cost),
        "flops_per_s": one.flops_per_s,
        "bytes_per_s": one.bytes_per_s,
        "datasheet_fraction": one.datasheet_fraction,
        "achievable_fraction": one.achievable_fraction,
        "bound": one.bound.value,
    }
