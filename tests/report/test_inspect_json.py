"""The keys of `inspect --json`: what people script against does not change by accident."""

import json
from dataclasses import replace

from ridgeline.report.reading import Reading
from ridgeline.report.record import to_json

TOP = {
    "schema": int,
    "verdict": str,
    "target": str,
    "phase": str,
    "machine": str,
    "machine_name": str,
    "is_low_confidence": bool,
    "ceiling": str,
    "execution": str,
    "digest": str,
    "inputs": dict,
    "samples": int,
    "unit": str,
    "capacity_bytes": int,
    "devices_needed": int,
    "totals": dict,
    "memory": dict,
    "nodes": list,
    "modules": list,
    "ops": list,
    "advice": list,
    "uncounted": dict,
    "others": list,
}
TOTALS = {
    "flops": int,
    "causal_flops": int,
    "hardware_flops": int,
    "macs": int,
    "vector_ops": int,
    "parameters": int,
    "parameter_bytes": int,
    "read_bytes": int,
    "write_bytes": int,
    "moved_bytes": int,
    "peak_memory_bytes": int,
    "activation_bytes": int,
    "cache_bytes": int,
    "time_s": float,
    "compute_s": float,
    "memory_s": float,
    "overhead_s": float,
    "roofline_s": float,
    "bound": str,
    "intensity": float,
    "ridge": float,
    "is_lower_bound": bool,
}
NODE = {
    "name": str,
    "op": str,
    "category": str,
    "engine": str,
    "module": str,
    "part": str,
    "dtype": str,
    "repeat": int,
    "flops": int,
    "causal_flops": int,
    "vector_ops": int,
    "read_bytes": int,
    "write_bytes": int,
    "moved_bytes": int,
    "compute_s": float,
    "memory_s": float,
    "overhead_s": float,
    "time_s": float,
    "bound": str,
    "is_counted": bool,
}


def lacking(value: dict[str, object], keys: dict[str, type]) -> list[str]:
    """Keys of the schema that are missing or of another type; a new key is no fault."""
    return [
        key
        for key, kind in keys.items()
        if key not in value or not isinstance(value[key], (int, float) if kind is float else kind)
    ]


def test_every_key_is_there_and_of_its_type(reading: Reading) -> None:
    found = json.loads(to_json([reading]))
    assert lacking(found, TOP) == []
    assert lacking(found["totals"], TOTALS) == []
    assert [lacking(node, NODE) for node in found["nodes"]] == [[], [], []]


def test_the_numbers_are_those_of_a_hand_count(reading: Reading) -> None:
    found = json.loads(to_json([reading]))
    assert found["totals"]["flops"] == 3 * 2 * 4096 * 1024 * 1024
    assert found["totals"]["macs"] == 3 * 4096 * 1024 * 1024
    assert found["totals"]["parameters"] == 3 * 1024 * 1024
    assert found["inputs"] == {"input": "fp32[4096,1024]"}
    linear = found["nodes"][0]
    assert (linear["name"], linear["op"], linear["module"]) == ("linear", "linear", "0.linear")
    assert (linear["repeat"], linear["bound"]) == (3, "compute")
    assert linear["read_bytes"] == 3 * 4 * (4096 * 1024 + 1024 * 1024)


def test_further_readings_stand_under_others(reading: Reading) -> None:
    found = json.loads(to_json([reading, replace(reading, target="second")]))
    (other,) = found["others"]
    assert other["target"] == "second"
    assert set(other) == set(found) - {"others"}


def test_there_is_no_number_that_json_has_not(reading: Reading) -> None:
    run = reading.estimate
    odd = replace(run, totals=replace(run.totals, intensity=float("inf"), ridge=float("nan")))
    text = to_json([replace(reading, estimate=odd)])
    found = json.loads(text, parse_constant=lambda name: (_ for _ in ()).throw(ValueError(name)))
    assert found["totals"]["intensity"] is None
    assert found["totals"]["ridge"] is None
