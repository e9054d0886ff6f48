"""`ridgeline trace` beside json.loads on the same files: time, memory, events per second.

    python benchmarks/bench_trace.py FILE... [--repeats 10] [--out benchmarks/records/trace.json]

Every answer is a whole process, imports included: inflating, reading, all analyses and the JSON
report on one side; inflating and json.loads, without any analysis, on the other. The two take
turns, so that what else the machine does falls on both alike. Large files of the shape of a small
one are made by trace_shape.py.
"""

import argparse
import datetime
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path

from ridgeline.native.scan import has_scanner

ROOT = Path(__file__).resolve().parents[1]
_JSON = (
    "import gzip, json, sys; p = sys.argv[1]; f = gzip.open if p.endswith('.gz') else open; "
    "print(len(json.loads(f(p, 'rb').read())['traceEvents']))"
)
TOOLS = {
    "ridgeline trace": ["-m", "ridgeline", "trace", "--json"],
    "json.loads": ["-c", _JSON],
}
DECIMALS = 3


def main() -> None:
    """Runs all, prints a table, writes the record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("files", type=Path, nargs="+")
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    rows = [row for path in options.files for row in measured(path, options.repeats)]
    for row in rows:
        print("{file}: {tool} {median_s} s, {cpu_s} CPU-s, {peak_mb} MB".format(**row))
    if options.out:
        options.out.write_text(json.dumps(record(rows, options.repeats), indent=1) + "\n")


def record(rows: list[dict[str, object]], repeats: int) -> dict[str, object]:
    """The rows and where they come from."""
    commit = subprocess.run(
        ["git", "rev-parse", "HEAD"], capture_output=True, text=True, cwd=ROOT, check=True
    )
    return {
        "date": datetime.date.today().isoformat(),
        "commit": commit.stdout.strip(),
        "machine": f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores",
        "python": platform.python_version(),
        "versions": {name: version(name) for name in ("numpy", "msgspec", "isal")},
        "has_scanner": has_scanner(),
        "repeats": repeats,
        "rows": rows,
    }


def measured(path: Path, repeats: int) -> list[dict[str, object]]:
    """One row per tool; the first round warms up and is not counted."""
    runs: dict[str, list[tuple[float, float]]] = {tool: [] for tool in TOOLS}
    peaks = dict.fromkeys(TOOLS, 0)
    for round_ in range(repeats + 1):
        for tool, command in TOOLS.items():
            wall_s, cpu_s, peak_kb = run([sys.executable, *command, str(path)])
            peaks[tool] = max(peaks[tool], peak_kb)
            if round_:
                runs[tool].append((wall_s, cpu_s))
    return [
        {
            "file": path.name,
            "tool": tool,
            "median_s": round(statistics.median(w for w, _ in found), DECIMALS),
            "least_s": round(min(w for w, _ in found), DECIMALS),
            "most_s": round(max(w for w, _ in found), DECIMALS),
            "cpu_s": round(statistics.median(c for _, c in found), DECIMALS),
            "peak_mb": peaks[tool] // 1024,
        }
        for tool, found in runs.items()
    ]


def run(command: list[str]) -> tuple[float, float, int]:
    """Wall and CPU seconds of a process, and its peak memory in KiB."""
    pid_code = "import os, resource, subprocess, sys; subprocess.run(sys.argv[1:], check=True, "
    pid_code += "stdout=subprocess.DEVNULL); u = resource.getrusage(resource.RUSAGE_CHILDREN); "
    pid_code += "print(u.ru_utime + u.ru_stime, u.ru_maxrss)"
    start_s = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-S", "-c", pid_code, *command], capture_output=True, text=True, check=True
    )
    wall_s = time.perf_counter() - start_s
    cpu_s, peak_kb = done.stdout.split()
    return wall_s, float(cpu_s), int(peak_kb)


if __name__ == "__main__":
    main()
