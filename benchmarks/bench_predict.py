"""Predicted against measured for zoo models on this machine, with the calibrated machine.

    python benchmarks/bench_predict.py [--models resnet50,...] [--backends aoti,inductor]

Calibrates this machine (or takes --machine FILE), then runs one process per model, and writes
benchmarks/records/predict-DATE.json. What is done is kept in --work, so that a run that was
interrupted goes on where it stopped; --fresh begins anew.
"""

import argparse
import datetime
import os
import platform
import re
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import msgspec
import torch
from command_line import told
from predict_cases import CASES, TOO_FAST, TOO_SLOW, Case
from predict_model import EAGER, ENOUGH_CLEAN, PATIENCE_S, SEED, THREADS, Part

from ridgeline.machines import Machine, parse, to_toml
from ridgeline.machines.calibrate import calibrate

ROOT = Path(__file__).resolve().parents[1]
RECORDS = ROOT / "benchmarks" / "records"
MISS, LEAST_DRIFT = 0.30, 0.10
CALIBRATIONS, LEAST_CLEAN = 3, 0.7
CASE_LIMIT_S = 900.0


def main() -> None:
    """Runs, records, prints."""
    options = _options()
    if options.fresh and options.work.is_dir():
        shutil.rmtree(options.work)
    options.work.mkdir(parents=True, exist_ok=True)
    begun = _begun(options.work)
    machine_path = _machine(options.machine, options.work)
    chosen = [c for c in CASES if not options.models or c.key in options.models.split(",")]
    parts, failures = [], {}
    for case in chosen:
        result = _part(case, machine_path, options)
        if isinstance(result, Part):
            parts.append(result)
            print(_line(result), flush=True)
        else:
            failures[case.key] = result
            print(f"{case.key:20s} failed: {result}", flush=True)
    if not parts:
        sys.exit("no model ran; nothing is recorded.")
    record = _record(parts, failures, machine_path, begun)
    path = options.out or RECORDS / f"predict-{datetime.date.today().isoformat()}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(msgspec.json.format(msgspec.json.encode(record)))
    print(f"median absolute error: {record['median_absolute_error']}\n{path}")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Predicted against measured on this machine.")
    parser.add_argument("--machine", type=Path, help="a calibrated machine's TOML; default: now")
    parser.add_argument("--models", default="", help="cases, comma separated; default: all")
    parser.add_argument("--backends", default="aoti", help="besides eager: aoti, inductor")
    parser.add_argument("--work", type=Path, default=ROOT / "build" / "predict")
    parser.add_argument("--out", type=Path, help="the record; default: benchmarks/records")
    parser.add_argument(
        "--realtime", action="store_true", help="for a busy machine: turns nothing interrupts"
    )
    parser.add_argument("--fresh", action="store_true", help="forget what --work holds")
    return parser.parse_args()


def _machine(given: Path | None, work: Path) -> Path:
    """The file of the calibrated machine: the given one, an earlier run's, or a new one."""
    if given is not None:
        return given
    path = work / "machine.toml"
    if not path.is_file():
        path.write_text(to_toml(_calibrated()), encoding="utf-8")
    return path


def _calibrated() -> Machine:
    """This machine, measured while most samples stayed undisturbed; exits where none of a few
    attempts was.
    """
    shares = []
    for _ in range(CALIBRATIONS):
        print("calibrating ...", file=sys.stderr)
        machine = calibrate(threads=THREADS)
        shares.append(_clean_share(machine))
        if shares[-1] >= LEAST_CLEAN:
            return machine
    sys.exit(
        f"too busy to calibrate: {max(shares):.0%} of the samples were undisturbed at best,"
        f" {LEAST_CLEAN:.0%} are needed; stop other programs, or give --machine FILE."
    )


def _clean_share(machine: Machine) -> float:
    """Of the calibration's samples, as its notes count them."""
    found = re.search(r"(\d+) of (\d+) samples clean", machine.notes)
    return int(found[1]) / max(1, int(found[2])) if found else 0.0


def _part(case: Case, machine: Path, options: argparse.Namespace) -> Part | str:
    """What is known of the case already, or what its process finds; a text says why it failed."""
    out = options.work / f"{case.key}.json"
    if out.is_file():
        return msgspec.json.decode(out.read_bytes(), type=Part)
    script = Path(__file__).with_name("predict_model.py")
    priority = "realtime" if options.realtime else "nice"
    command = [sys.executable, str(script), case.key, str(machine), options.backends, priority]
    search = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    start_s = time.monotonic()
    try:
        done = subprocess.run(
            [*command, str(out)],
            env={**os.environ, "PYTHONPATH": search, "PYTHONWARNINGS": "ignore"},
            stderr=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            timeout=CASE_LIMIT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"not done after {CASE_LIMIT_S:g} s"
    if done.returncode or not out.is_file():
        lines = done.stderr.decode(errors="replace").strip().splitlines()
        return lines[-1][:300] if lines else f"ended with code {done.returncode}"
    print(f"  {case.key}: {time.monotonic() - start_s:.0f} s", file=sys.stderr)
    return msgspec.json.decode(out.read_bytes(), type=Part)


class Begun(msgspec.Struct):
    """When the measuring began that `--work` holds, and of which commit."""

    commit: str
    date: str


def _begun(work: Path) -> Begun:
    """Of this run, or of the one that it goes on with."""
    path = work / "begun.json"
    if not path.is_file():
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        path.write_bytes(msgspec.json.encode(Begun(commit=_commit(), date=now)))
    return msgspec.json.decode(path.read_bytes(), type=Begun)


def _record(
    parts: Sequence[Part], failures: dict[str, str], machine: Path, begun: Begun
) -> dict[str, object]:
    models = [_model(part) for part in parts]
    return {
        "benchmark": "predict",
        "command": " ".join(["python", "benchmarks/bench_predict.py", *told(sys.argv[1:])]),
        "commit": begun.commit,
        "date": begun.date,
        "versions": {"python": platform.python_version(), "torch": str(torch.__version__)},
        "seed": SEED,
        "threads": THREADS,
        "warm_up": "one call per turn, not timed",
        "repetitions": f"turns of 0.25 s until {ENOUGH_CLEAN} clean samples or {PATIENCE_S:g} s",
        "time": "median of the samples without an involuntary context switch; the fastest of all"
        " where fewer than three are",
        "watched": "the same products, timed between the turns, beside the rate that calibration"
        " found: what they differ by is the machine, not the model",
        "place": "the best variant's products and convolutions by themselves: as predicted with the"
        " wait for weights; each in a loop, without that wait; and all in turn",
        "per_kind": "eager execution, node by node; compiled code runs fused kernels that belong"
        " to several nodes, so its kinds are predicted only",
        "median_absolute_error": {
            "best": _median(parts, "best"),
            "eager": _median(parts, EAGER),
            "best fp32": _median([p for p in parts if p.dtype == "fp32"], "best"),
        },
        "misses": [m for m in models if abs(float(str(m["error"]))) > MISS],
        "failures": failures,
        "models": models,
        "machine": _machine_record(parse(machine.read_text("utf-8"), origin=str(machine))),
    }


def _model(part: Part) -> dict[str, object]:
    error = _error(part, part.best)
    model: dict[str, object] = {
        "model": part.key,
        "dtype": part.dtype,
        "best": part.best,
        "measured_s": part.variants[part.best].time_s,
        "predicted_s": part.variants[part.best].predicted_s,
        "error": error,
        "eager_error": _error(part, EAGER),
        **{k: v for k, v in msgspec.to_builtins(part).items() if k not in ("key", "dtype", "best")},
    }
    if abs(error) > MISS:
        known = TOO_FAST if error < 0 else TOO_SLOW
        told = (_drift(part, error), _place(part), _between(part), known.get(part.key, ""))
        model["explanation"] = " ".join(filter(None, told)) or "not looked into; see largest_gaps"
        model["largest_gaps"] = _gaps(part)
    return model


def _drift(part: Part, error: float) -> str:
    """What the watched products say of a miss: the machine's, if by their rates there is none."""
    looks = sorted(rate / p.calibrated for p in part.watched for rate in p.rates)
    middle = statistics.median(looks) if looks else 1.0
    corrected = (1 + error) / middle - 1
    if abs(corrected) > MISS or abs(middle - 1) < LEAST_DRIFT:
        return ""
    return (
        f"The machine was another: between the turns the same {len(part.watched)} products ran at"
        f" {middle:.2f} of the rates that calibration found for them (median; {looks[0]:.2f} to"
        f" {looks[-1]:.2f}); by that the error would be {corrected:+.0%}."
    )


def _place(part: Part) -> str:
    """What the model's own products say of a miss: each in a loop, as calibration times them, and
    in turn; nothing where that does not bring the prediction nearer, or is longer than the model.
    """
    found, timed = part.place, part.variants[part.best]
    if found is None or found.in_turn_s > timed.time_s:
        return ""
    corrected_s = timed.predicted_s - found.predicted_s + found.in_turn_s
    if abs(corrected_s - timed.time_s) >= abs(timed.predicted_s - timed.time_s):
        return ""
    predicted, alone, in_turn = (
        f"{time_s * 1e3:.3g} ms" for time_s in (found.predicted_s, found.alone_s, found.in_turn_s)
    )
    return (
        f"Its {found.count} products and convolutions, measured by themselves, take {alone} where"
        f" each is called in a loop, {predicted} as predicted with the wait for weights, and"
        f" {in_turn} one after the other, code displaced by the others too; with that the error"
        f" would be {corrected_s / timed.time_s - 1:+.0%}."
    )


def _between(part: Part) -> str:
    """What is spent between the nodes, where the best variant runs them one by one."""
    timed, nodes_s = part.variants[part.best], sum(kind.measured_s for kind in part.kinds)
    if part.best != EAGER or nodes_s > timed.time_s:
        return ""
    return (
        f"Timed one by one its nodes take {nodes_s * 1e3:.3g} ms together, so that"
        f" {(timed.time_s - nodes_s) * 1e3:.3g} ms are spent between them, which nothing predicts;"
        f" of the nodes alone the error is {timed.predicted_s / nodes_s - 1:+.0%}."
    )


def _gaps(part: Part) -> dict[str, float]:
    """The op kinds whose eager time is furthest from its prediction, in seconds."""
    ranked = sorted(part.kinds, key=lambda k: -abs(k.measured_s - k.predicted_s))
    return {k.op: k.measured_s - k.predicted_s for k in ranked[:3]}


def _error(part: Part, name: str) -> float:
    timed = part.variants[name]
    return timed.predicted_s / timed.time_s - 1


def _median(parts: Sequence[Part], name: str) -> float | None:
    errors = [abs(_error(p, p.best if name == "best" else name)) for p in parts]
    return round(statistics.median(errors), 4) if errors else None


def _line(part: Part) -> str:
    cells = [f"{part.key:20s} best {part.best:8s}"]
    for name in dict.fromkeys([part.best, EAGER, *part.variants]):
        timed = part.variants[name]
        cells.append(
            f"{name} {timed.time_s * 1e3:9.3f} ms, predicted {timed.predicted_s * 1e3:9.3f} ms"
            f" ({_error(part, name):+.0%}, {timed.num_clean}/{timed.num_samples} clean)"
        )
    return " | ".join(cells)


def _machine_record(machine: Machine) -> dict[str, object]:
    """Everything, so that the record stands alone."""
    return asdict(machine)


def _commit() -> str:
    asked = ["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--abbrev=12"]
    found = subprocess.run(asked, capture_output=True, text=True, check=False)
    return found.stdout.strip() or "unknown"


if __name__ == "__main__":
    main()
