"""How steady this machine is: the same few products, again and again, on one thread and on two.

    python benchmarks/bench_steady.py [--rounds 40] [--out FILE]

One process, operands allocated once, weights packed for oneDNN, outputs small enough that glibc
gives the same memory back (page faults are counted). What differs between two looks at the same
product is the machine: what a prediction that was calibrated earlier cannot know. The record is
benchmarks/records/steady-DATE.json.
"""

import argparse
import datetime
import math
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import torch

from ridgeline.machines.cpu import read_cpu
from ridgeline.machines.matrix_probes import packed_linear
from ridgeline.machines.timing import preferred, summarise, take_samples

ROOT = Path(__file__).resolve().parents[1]
RECORDS = ROOT / "benchmarks" / "records"
SHAPES = ((128, 3072, 768), (512, 768, 768), (2048, 768, 768))
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
THREADS = (1, 2)
LOOK_S, PAUSE_S, TERA = 0.06, 0.2, 1e12


class Series(msgspec.Struct, kw_only=True):
    """One product on so many threads. rates: in FLOP/s, the median of each look."""

    dtype: str
    threads: int
    shape: tuple[int, int, int]
    rates: list[float] = []
    page_faults_per_look: float = 0.0


class Record(msgspec.Struct, kw_only=True):
    """All looks, and where they were taken."""

    command: str
    commit: str
    date: str
    cpu: str
    versions: dict[str, str]
    seconds: float
    series: list[Series]


def main() -> None:
    """Looks, records, prints."""
    parser = argparse.ArgumentParser(description="How steady this machine is.")
    parser.add_argument("--rounds", type=int, default=40, help="looks at each product")
    parser.add_argument("--out", type=Path, help="the record; default: benchmarks/records")
    options = parser.parse_args()
    start_s = time.monotonic()
    record = Record(
        command=" ".join(["python benchmarks/bench_steady.py", *sys.argv[1:]]),
        commit=_commit(),
        date=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        cpu=read_cpu().model,
        versions={"python": platform.python_version(), "torch": str(torch.__version__)},
        series=_looked(options.rounds),
        seconds=round(time.monotonic() - start_s, 1),
    )
    path = options.out or RECORDS / f"steady-{datetime.date.today().isoformat()}.json"
    path.write_bytes(msgspec.json.format(msgspec.json.encode(record)) + b"\n")
    print("\n".join(_table(record.series)), path, sep="\n")


def _looked(rounds: int) -> list[Series]:
    series = [
        Series(dtype=dtype, threads=threads, shape=shape)
        for dtype in DTYPES
        for threads in THREADS
        for shape in SHAPES
    ]
    cpu = torch.device("cpu")
    calls = {
        (dtype, shape): packed_linear(shape, DTYPES[dtype], cpu)()
        for dtype in DTYPES
        for shape in SHAPES
    }
    with torch.inference_mode(), preferred():
        for number in range(rounds):
            print(f"\r{number + 1} of {rounds}", end="", file=sys.stderr, flush=True)
            for one in series if number % 2 == 0 else reversed(series):
                torch.set_num_threads(one.threads)
                call = calls[one.dtype, one.shape]
                call()
                before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
                samples = take_samples(call, budget_s=LOOK_S, wait=lambda: None)
                faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
                one.rates.append(2.0 * math.prod(one.shape) / summarise(samples).time_s)
                one.page_faults_per_look += faults / rounds
            time.sleep(PAUSE_S)
    print(file=sys.stderr)
    return series


def _table(series: list[Series]) -> Iterator[str]:
    yield "| product | dtype | threads | slowest | median | fastest | fastest / slowest |"
    yield "|---|---|---:|---:|---:|---:|---:|"
    for one in series:
        low, mid, high = min(one.rates), statistics.median(one.rates), max(one.rates)
        shape = " x ".join(map(str, one.shape))
        cells = (f"{rate / TERA:.2f}" for rate in (low, mid, high))
        yield (
            f"| {shape} | {one.dtype} | {one.threads} | {' | '.join(cells)} | {high / low:.1f} |"
        )


def _commit() -> str:
    asked = ["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--abbrev=10"]
    return subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip()


if __name__ == "__main__":
    main()
