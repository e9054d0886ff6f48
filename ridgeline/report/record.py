"""The JSON record of readings. Its keys are stable: people script against them."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from enum import Enum

from ridgeline.cost.advice import devices_needed
from ridgeline.report.plain import Json
from ridgeline.report.reading import Group, Reading, by_module, by_op
from ridgeline.report.verdict import clause, verdict

SCHEMA = 1
_LIVE_TENSORS = 20


def to_json(readings: Sequence[Reading]) -> str:
    """One JSON object: the first reading's keys at the top, the further ones under `others`."""
    first = record(readings[0])
    first["verdict"] = verdict(readings)
    first["others"] = [record(reading) for reading in readings[1:]]
    return json.dumps(finite(first), indent=1, ensure_ascii=False, allow_nan=False)


def record(reading: Reading) -> dict[str, Json]:
    """Everything a reading holds, as plain values."""
    run = reading.estimate
    return {
        "schema": SCHEMA,
        "verdict": clause(reading),
        "target": reading.target,
        "phase": run.phase,
        "machine": run.machine.id,
        "machine_name": run.machine.name,
        "is_low_confidence": run.machine.is_low_confidence,
        "ceiling": run.ceiling.value,
        "execution": run.execution.value,
        "digest": run.digest,
        "inputs": dict(reading.inputs),
        "samples": reading.samples,
        "unit": reading.unit,
        "capacity_bytes": run.machine.memory.capacity_bytes,
        "devices_needed": devices_needed(run),
        "totals": asdict(run.totals),
        "memory": _memory(reading),
        "nodes": [asdict(node) for node in run.nodes],
        "modules": [_group(g) for g in by_module(reading)],
        "ops": [_group(g) for g in by_op(reading)],
        "advice": [asdict(advice) for advice in reading.advice],
        "uncounted": dict(run.uncounted),
    }


def _memory(reading: Reading) -> dict[str, Json]:
    memory = reading.estimate.memory
    return {
        "weight_bytes": memory.weight_bytes,
        "cache_bytes": memory.cache_bytes,
        "input_bytes": memory.input_bytes,
        "gradient_bytes": memory.gradient_bytes,
        "optimizer_bytes": memory.optimizer_bytes,
        "activation_bytes": memory.activation_bytes,
        "peak_bytes": memory.peak_bytes,
        "peak_at": memory.peak_at,
        "live_at_peak": [asdict(t) for t in memory.live_at_peak[:_LIVE_TENSORS]],
        "live_at_peak_total": len(memory.live_at_peak),
    }


def _group(group: Group) -> dict[str, Json]:
    return asdict(group)


def finite(value: Json) -> Json:
    """`value` with enums as their values and every number that JSON has not as null."""
    if isinstance(value, Enum):
        return finite(value.value)
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return value
