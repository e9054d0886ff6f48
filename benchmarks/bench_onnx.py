"""ONNX's conformance cases through Ridgeline and through onnxruntime, counted by operator family.

    python benchmarks/bench_onnx.py [--out FILE] [--graphs]
    python benchmarks/bench_onnx.py --render [RECORD]

Each case that a package of ONNX carries is run by the interpreter, by onnxruntime on the CPU (which
is also allowed the newest operator sets, and handed types that NumPy lacks as bytes) and, with
--graphs, through capture and the reference backend (minutes). --render writes the table of a
record, the latest where none is named, into docs/onnx.md.
"""

import argparse
import datetime
import json
import os
import platform
import sys
from collections import Counter
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests" / "frontends"))  # the cases are the tests'

from onnx_cases import KINDS, Runner, fault, load  # noqa: E402
from onnx_runners import capture_and_run, interpret, run_onnxruntime  # noqa: E402

RECORDS = ROOT / "benchmarks" / "records"
PAGE = ROOT / "docs" / "onnx.md"
START, END = "<!-- record -->", "<!-- end of record -->"
SEED = 0


def main() -> None:
    """Runs every case, writes the record; or renders one."""
    parser = argparse.ArgumentParser(description="ONNX conformance, counted by family.")
    parser.add_argument("--out", type=Path, help="the record to write")
    parser.add_argument("--graphs", action="store_true", help="also capture every case")
    parser.add_argument("--render", nargs="?", const="", help="write a record's table to the docs")
    options = parser.parse_args()
    if options.render is not None:
        _render(Path(options.render) if options.render else _latest())
        return
    os.environ["ALLOW_RELEASED_ONNX_OPSET_ONLY"] = "0"  # onnxruntime's switch for new sets
    runners: dict[str, Runner] = {"ridgeline": interpret, "onnxruntime": run_onnxruntime}
    if options.graphs:
        runners["ridgeline graph"] = capture_and_run
    path = options.out or RECORDS / f"onnx-conformance-{datetime.date.today().isoformat()}.json"
    path.write_text(json.dumps(_record(runners), indent=1) + "\n", encoding="utf-8")
    print(_table(json.loads(path.read_text(encoding="utf-8"))))


def _record(runners: Mapping[str, Runner]) -> dict[str, object]:
    cases: Counter[tuple[str, str]] = Counter()
    passed: dict[str, Counter[tuple[str, str]]] = {name: Counter() for name in runners}
    failures: dict[str, str] = {}
    for kind in KINDS:
        for case in load(kind):
            key = (kind, case.family)
            cases[key] += 1
            for name, runner in runners.items():
                torch.manual_seed(SEED)
                why = fault(case, runner)
                passed[name][key] += why is None
                if why is not None and name == "ridgeline":
                    failures[case.name] = why
    return {
        "command": " ".join(["python", *sys.argv]),
        "date": datetime.date.today().isoformat(),
        "seed": SEED,
        "machine": {"processor": platform.machine(), "python": platform.python_version()},
        "versions": {p: version(p) for p in ("torch", "onnx", "onnxruntime", "numpy")},
        "results": [
            {
                "kind": kind,
                "family": family,
                "cases": count,
                "passed": {name: passed[name][kind, family] for name in runners},
            }
            for (kind, family), count in sorted(cases.items())
        ],
        "failures": failures,
    }


def _latest() -> Path:
    return max(RECORDS.glob("onnx-conformance-*.json"))


def _table(record: dict[str, list[dict[str, object]]]) -> str:
    """The record as Markdown: the node cases by family, then the other kinds whole."""
    names = list(record["results"][0]["passed"])  # type: ignore[call-overload]
    sums: dict[str, Counter[str]] = {}
    for row in record["results"]:
        label = str(row["family"]) if row["kind"] == "node" else f"kind {row['kind']}"
        totals = ("all node cases", label) if row["kind"] == "node" else (label,)
        for total in totals:
            line = sums.setdefault(total, Counter())
            line["cases"] += row["cases"]  # type: ignore[assignment]
            for name in names:
                line[name] += row["passed"][name]  # type: ignore[index]
    lines = [f"| cases | number | {' | '.join(names)} |", "|---|" + "---:|" * (len(names) + 1)]
    order = sorted(sums, key=lambda label: (label != "all node cases", label.startswith("kind")))
    for label in order:
        counts = " | ".join(f"{sums[label][name]:,}" for name in names)
        lines.append(f"| {label} | {sums[label]['cases']:,} | {counts} |")
    return "\n".join(lines)


def _render(path: Path) -> None:
    record = json.loads(path.read_text(encoding="utf-8"))
    versions = ", ".join(f"{k} {v}" for k, v in record["versions"].items())
    note = f"From `benchmarks/records/{path.name}` ({versions}), all in one run."
    text = PAGE.read_text(encoding="utf-8")
    head, rest = text.split(START)
    _, tail = rest.split(END)
    body = f"{START}\n{_table(record)}\n\n{note}\n{END}"
    PAGE.write_text(head + body + tail, encoding="utf-8")


if __name__ == "__main__":
    main()
