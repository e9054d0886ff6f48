"""GPTQ beside llm-compressor's, one layer at a time, in one process by turns.

    PYTHONPATH=. PYTHON benchmarks/bench_gptq.py [--out benchmarks/records/gptq-DATE.json]
    python benchmarks/bench_gptq.py --render

PYTHON: of an environment that has llmcompressor (it caps transformers, so it is none of the
project's extras) beside torch and msgspec; without it only ours and rounding to nearest are timed.
Four bits, asymmetric, groups of 128, damping 0.01, scales from the original weights, the same
Hessian for both. Inputs are normal, correlated through a 64th of the dimensions. Seconds are of
processor time, which others on the machine lengthen least; the first turn warms up and is left
out. --render writes the newest record into docs/gptq.md.
"""

import argparse
import datetime
import json
import platform
import resource
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median

import torch
from torch import Tensor

from ridgeline.compress.gptq import gptq, rtn
from ridgeline.compress.gptq_grid import IntegerGrid

ROOT = Path(__file__).resolve().parents[1]
RECORDS, PAGE = ROOT / "benchmarks" / "records", ROOT / "docs" / "gptq.md"
BEGIN, END = "<!-- begin: bench_gptq.py -->", "<!-- end: bench_gptq.py -->"
GRID = IntegerGrid(bits=4, group_size=128)
OURS, PEER, NEAREST = "ridgeline", "llm-compressor", "rounded to nearest"
PACKAGES = ("torch", "llmcompressor", "compressed-tensors")
BARS_MS = {(1024, 1024): 40, (2048, 2048): 250}
# Outputs, inputs, turns, whether llm-compressor takes part (it takes minutes on the last).
SIZES = ((1024, 1024, 9, True), (2048, 2048, 6, True), (4096, 11008, 1, False))
_SAMPLES, _MS = 4096, 1e3

Solve = Callable[[], float]


def main() -> None:
    """Runs every size on one thread and on two, prints and writes the record."""
    parser = argparse.ArgumentParser(description="GPTQ beside llm-compressor's.")
    parser.add_argument("--out", type=Path, help="the record; default: benchmarks/records")
    parser.add_argument("--render", action="store_true", help="only write the page")
    options = parser.parse_args()
    if options.render:
        record = json.loads(max(RECORDS.glob("gptq-*.json")).read_text())
        PAGE.write_text(with_table(PAGE.read_text(), record))
        return
    today = datetime.date.today().isoformat()
    rows = [row for threads in (1, 2) for size in SIZES for row in measured(threads, *size)]
    found = {
        "command": "PYTHONPATH=. python benchmarks/bench_gptq.py",
        "date": today,
        "commit": _commit(),
        "cpu": _cpu(),
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in PACKAGES},
        "rows": rows,
    }
    path = options.out or RECORDS / f"gptq-{today}.json"
    path.write_text(json.dumps(found, indent=1) + "\n")


def measured(
    threads: int, outputs: int, inputs: int, turns: int, has_peer: bool
) -> list[dict[str, object]]:
    """One row for each that solves a layer of this size."""
    torch.set_num_threads(2)
    weight, hessian = _layer(outputs, inputs)
    torch.set_num_threads(threads)
    solvers: dict[str, Solve] = {
        NEAREST: lambda: rtn(weight, hessian, GRID, layer="layer").loss,
        OURS: lambda: gptq(weight, hessian, GRID, layer="layer").loss,
    }
    if has_peer and (peer := _peer(weight, hessian)):
        solvers[PEER] = peer
    times: dict[str, list[float]] = {name: [] for name in solvers}
    losses: dict[str, float] = {}
    for turn in range(turns + (turns > 1)):
        for name, solve in solvers.items():
            start = time.process_time()
            losses[name] = solve()
            if turn or turns == 1:
                times[name].append((time.process_time() - start) * _MS)
    rows: list[dict[str, object]] = [
        {
            "solver": name,
            "threads": threads,
            "outputs": outputs,
            "inputs": inputs,
            "turns": turns,
            "cpu_ms": round(median(times[name]), 2),
            "least_cpu_ms": round(min(times[name]), 2),
            "most_cpu_ms": round(max(times[name]), 2),
            "loss": losses[name],
            "peak_rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        }
        for name in solvers
    ]
    for row in rows:
        print(row, flush=True)
    return rows


def _layer(outputs: int, inputs: int) -> tuple[Tensor, Tensor]:
    torch.manual_seed(0)
    weight = torch.randn(outputs, inputs) * 0.02
    x = torch.randn(_SAMPLES, inputs) + torch.randn(_SAMPLES, inputs // 64) @ torch.randn(
        inputs // 64, inputs
    )
    return weight, 2 * x.T @ x / _SAMPLES


def _peer(weight: Tensor, hessian: Tensor) -> Solve | None:
    try:
        from compressed_tensors.quantization import QuantizationArgs
        from llmcompressor.modifiers.gptq.gptq_quantize import quantize_weight
    except ImportError:
        return None
    args = QuantizationArgs(num_bits=4, symmetric=False, strategy="group", group_size=128)
    scales, zeros = GRID.scales_and_zeros(weight)

    def solve() -> float:
        # it works in place on a stack of layers, and takes zero points and scales as given
        stack, own = weight[None].clone(), hessian[None].clone()
        given = scales[None], zeros[None].to(torch.int8), None, args
        return float(quantize_weight(stack, own, *given)[1][0])

    return solve


def _commit() -> str:
    line = ["git", "rev-parse", "--short=10", "HEAD"]
    return subprocess.run(line, cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()


def _cpu() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next(line.partition(": ")[2] for line in lines if line.startswith("model name"))


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


def with_table(page: str, record: Mapping[str, object]) -> str:
    """The page with the record's table between its markers."""
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n\n{table(record)}\n{END}{after}"


def table(record: Mapping[str, object]) -> str:
    """The record as Markdown."""
    rows = record["rows"]
    assert isinstance(rows, list)
    lines = [
        "| layer | threads | by | CPU ms | from to | asked | loss | over the peer's |",
        "|---|---:|---|---:|---|---:|---:|---:|",
        *(_line(row, rows) for row in rows),
    ]
    versions = record["versions"]
    assert isinstance(versions, dict)
    with_ = ", ".join(f"{name} {value}" for name, value in versions.items())
    foot = f"Measured {record['date']} at commit {record['commit']} on {record['cpu']}. {with_}."
    return "\n".join(lines) + f"\n\n{foot}\n"


def _line(row: Mapping[str, object], rows: Sequence[Mapping[str, object]]) -> str:
    key = ("outputs", "inputs", "threads")
    peer = next((r for r in rows if r["solver"] == PEER and all(r[k] == row[k] for k in key)), None)
    is_ours = row["solver"] == OURS
    bar = BARS_MS.get((int(str(row["outputs"])), int(str(row["inputs"])))) if is_ours else None
    over = f"{float(str(row['loss'])) / float(str(peer['loss'])) - 1:+.1e}" if peer else "–"
    cells = [
        f"{row['outputs']} x {row['inputs']}",
        row["threads"],
        row["solver"],
        f"{float(str(row['cpu_ms'])):,.1f}",
        f"{float(str(row['least_cpu_ms'])):,.1f} to {float(str(row['most_cpu_ms'])):,.1f}",
        f"{bar}" if bar and row["threads"] == 1 else "",
        f"{float(str(row['loss'])):.5g}",
        over if is_ours else "",
    ]
    return f"| {' | '.join(map(str, cells))} |"


if __name__ == "__main__":
    main()
