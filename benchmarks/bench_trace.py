"""`ridgeline trace` on large recordings: time and memory, beside HolisticTraceAnalysis and json.

    python benchmarks/bench_trace.py FILE|FOLDER... [--tools json html hta] [--hta PYTHON]
        [--repeats 10] [--out benchmarks/records/trace-1m.json]
    python benchmarks/bench_trace.py --render docs/trace-speed.md RECORD.json...

Every answer is a whole process, imports included. The tools take turns, so that what else the
machine does falls on all alike. The first round is not timed: in it the memory of a process and its
children is read every few milliseconds (proportional set size, in which shared pages count once).
Recordings of the shape of a small one are made by trace_shape.py. `--tools load` is
json.loads, `fallback` what reads where there was no compiler.
"""

import argparse
import datetime
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path

from trace_memory import peak_bytes
from trace_speed import render

from ridgeline.native.scan import has_scanner
from ridgeline.traces.files import read_file
from ridgeline.traces.scan import scan
from ridgeline.traces.trace import find_recordings

ROOT = Path(__file__).resolve().parents[1]
_LOAD = (
    "import gzip, json, sys; p = sys.argv[1]; f = gzip.open if p.endswith('.gz') else open; "
    "print(len(json.loads(f(p, 'rb').read())['traceEvents']))"
)
_FALLBACK = (
    "import pathlib, sys; from ridgeline.traces.files import read_file; "
    "from ridgeline.traces.scan import scan_in_python; "
    "print(scan_in_python(read_file(pathlib.Path(sys.argv[1])).data).num_recorded)"
)
_TRACE = ("-m", "ridgeline", "trace")
Command = Callable[[argparse.Namespace, Path, Path], Sequence[str | Path]]
TOOLS: Mapping[str, tuple[str, Command]] = {
    "json": (
        "ridgeline trace --json",
        lambda o, path, out: [sys.executable, *_TRACE, "--json", path],
    ),
    "html": (
        "ridgeline trace --html",
        lambda o, path, out: [sys.executable, *_TRACE, path, "--html", out / "o.html"],
    ),
    "perfetto": (
        "ridgeline trace --perfetto",
        lambda o, path, out: [sys.executable, *_TRACE, path, "--perfetto", out / "o.json.gz"],
    ),
    "hta": (
        "HolisticTraceAnalysis",
        lambda o, path, out: [o.hta, ROOT / "benchmarks/trace_peers.py", path],
    ),
    "fallback": (
        "the scanner in Python",
        lambda o, path, out: [sys.executable, "-c", _FALLBACK, path],
    ),
    "load": ("json.loads", lambda o, path, out: [sys.executable, "-c", _LOAD, path]),
}
"""What is run, and as which command; given the options, the recording, and a folder for output."""

DECIMALS = 3


def main() -> None:
    """Runs all, prints what was found, writes the record; or renders records."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("paths", type=Path, nargs="+")
    parser.add_argument("--tools", nargs="+", choices=TOOLS, default=["json", "load"])
    parser.add_argument("--hta", default=sys.executable, help="A Python that has it.")
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--render", type=Path, help="A page to write the tables of records into.")
    options = parser.parse_args()
    if options.render:
        render(options.render, [json.loads(path.read_text()) for path in options.paths])
        return
    rows = [row for path in options.paths for row in measured(path, options)]
    for row in rows:
        print("{input}: {tool} {median_s} s, {peak_mb} MB".format(**row))
    if options.out:
        options.out.write_text(json.dumps(record(rows, options), indent=1) + "\n")


def record(rows: list[dict[str, object]], options: argparse.Namespace) -> dict[str, object]:
    """The rows and where they come from."""
    commit = subprocess.run(
        ["git", "rev-parse", "HEAD"], capture_output=True, text=True, cwd=ROOT, check=True
    )
    return {
        "date": datetime.date.today().isoformat(),
        "commit": commit.stdout.strip(),
        "machine": f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores",
        "python": platform.python_version(),
        "versions": {name: version(name) for name in ("numpy", "msgspec", "isal")}
        | (hta_versions(options.hta) if "hta" in options.tools else {}),
        "has_scanner": has_scanner(),
        "repeats": options.repeats,
        "rows": rows,
    }


def hta_versions(python: str) -> dict[str, str]:
    """What the peer runs on."""
    names = ("HolisticTraceAnalysis", "pandas")
    code = f"from importlib.metadata import version as v; print(*map(v, {names!r}))"
    done = subprocess.run([python, "-c", code], capture_output=True, text=True, check=True)
    return dict(zip(names, done.stdout.split(), strict=True))


def measured(path: Path, options: argparse.Namespace) -> list[dict[str, object]]:
    """One row per tool."""
    times_s: dict[str, list[float]] = {tool: [] for tool in options.tools}
    inner_s: dict[str, list[float]] = {tool: [] for tool in options.tools}
    peaks: dict[str, int] = {}
    sizes: dict[str, dict[str, int]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for round_ in range(options.repeats + 1):
            for tool in options.tools:
                out = Path(folder) / tool
                out.mkdir(exist_ok=True)
                command = [str(part) for part in TOOLS[tool][1](options, path, out)]
                if not round_:
                    peaks[tool] = peak_bytes(command)
                    sizes[tool] = {f"{p.suffix[1:]}_bytes": p.stat().st_size for p in out.iterdir()}
                    continue
                wall_s, printed = timed(command)
                times_s[tool].append(wall_s)
                inner_s[tool] += after_import_s(printed)
    about = {"input": path.name, "num_events": num_events(path), "num_ranks": num_ranks(path)}
    return [
        about
        | {
            "tool": TOOLS[tool][0],
            "median_s": round(statistics.median(times_s[tool]), DECIMALS),
            "least_s": round(min(times_s[tool]), DECIMALS),
            "most_s": round(max(times_s[tool]), DECIMALS),
            "peak_mb": round(peaks[tool] / 1e6),
        }
        | (
            {"after_import_s": round(statistics.median(s), DECIMALS)}
            if (s := inner_s[tool])
            else {}
        )
        | (sizes[tool] if tool in ("html", "perfetto") else {})
        for tool in options.tools
    ]


def timed(command: Sequence[str]) -> tuple[float, str]:
    """Wall seconds of a process, and the last line that it printed."""
    start_s = time.perf_counter()
    done = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=True, text=True
    )
    return time.perf_counter() - start_s, done.stdout.rstrip().rpartition("\n")[2]


def after_import_s(printed: str) -> list[float]:
    """What the peer says it took without its import; empty for others."""
    found = re.findall(r'"(?:load|analyses)_s": ([\d.]+)', printed)
    return [sum(map(float, found))] if found else []


def num_events(path: Path) -> int:
    """Events of all recordings there."""
    return sum(scan(read_file(file).data).num_recorded for file in find_recordings([path]))


def num_ranks(path: Path) -> int:
    """Recordings there."""
    return len(find_recordings([path]))


if __name__ == "__main__":
    main()
