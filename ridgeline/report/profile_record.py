"""The JSON record of a profile. Its keys are stable: people script against them."""

import json
from dataclasses import asdict

from ridgeline.machines import Ceiling
from ridgeline.profile import NodeProfile, Profile, compare
from ridgeline.report.plain import Json
from ridgeline.report.profile_words import notes, verdict
from ridgeline.report.record import finite

SCHEMA = 1


def profile_json(profile: Profile) -> str:
    """The record as one JSON object."""
    return json.dumps(finite(record(profile)), indent=1, ensure_ascii=False, allow_nan=False)


def record(profile: Profile) -> dict[str, Json]:
    """Everything a profile holds, as plain values."""
    run = profile.run
    return {
        "schema": SCHEMA,
        "verdict": verdict(profile),
        "notes": notes(profile),
        "target": profile.graph,
        "phase": profile.phase,
        "digest": run.digest,
        "machine": profile.machine.id,
        "machine_name": profile.machine.name,
        "device": run.device,
        "threads": run.num_threads,
        "repeats": run.repeats,
        "totals": _totals(profile),
        "nodes": [_node(node) for node in profile.nodes],
        "ops": [{**asdict(kind), "error": kind.error} for kind in profile.kinds],
        "gaps": [
            {"what": g.what, "time_s": g.time_s, "kind": g.kind.value, "nodes": list(g.nodes)}
            for g in profile.gaps
        ],
        "memory": [asdict(point) for point in profile.memory],
        "advice": [asdict(advice) for advice in profile.advice],
        "uncounted": dict(profile.estimate.uncounted),
    }


def _totals(profile: Profile) -> dict[str, Json]:
    run, predicted = profile.run, profile.estimate.totals
    return {
        "measured_s": profile.measured_s,
        "whole_s": run.whole.time_s,
        "spread_s": run.whole.spread_s,
        "num_samples": run.whole.num_samples,
        "num_clean": run.whole.num_clean,
        "predicted_s": profile.predicted_s,
        "error": profile.error,
        "median_absolute_error": compare(profile).median_absolute_error,
        "nodes_sum_s": run.nodes_s,
        "coverage": run.coverage,
        "glue_s": run.glue_s,
        "release_s": run.release_s,
        "state_s": run.state_s,
        "interruptions_s": run.interruptions_s,
        "unexplained_s": run.unexplained_s,
        "roofline_s": profile.bound_s,
        "achievable_fraction": profile.percent_of(Ceiling.ACHIEVABLE),
        "datasheet_fraction": profile.percent_of(Ceiling.DATASHEET),
        "flops": predicted.flops,
        "moved_bytes": predicted.moved_bytes,
        "achieved_flops_per_s": predicted.flops / profile.measured_s,
        "achieved_bytes_per_s": predicted.moved_bytes / profile.measured_s,
        "peak_memory_bytes": max((p.measured_bytes for p in profile.memory), default=0),
        "predicted_peak_memory_bytes": predicted.peak_memory_bytes,
        "is_lower_bound": predicted.is_lower_bound,
    }


def _node(node: NodeProfile) -> dict[str, Json]:
    return {
        **asdict(node),
        "error": node.error,
        "achieved_flops_per_s": node.achieved_flops_per_s,
        "achieved_bytes_per_s": node.achieved_bytes_per_s,
        "achievable_fraction": node.percent_of(Ceiling.ACHIEVABLE),
        "datasheet_fraction": node.percent_of(Ceiling.DATASHEET),
    }
