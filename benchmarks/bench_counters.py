"""Ridgeline beside calflops, fvcore, torchinfo and FlopCounterMode: time, memory, error.

    python benchmarks/bench_counters.py --peers PYTHON [--tools ...] [--models ...] [--repeats 5]
    python benchmarks/bench_counters.py --render [RECORD]

Every answer is a whole process, imports included; the tools take turns, so that what else the
machine does falls on all alike. PYTHON is the interpreter of a virtual environment that has torch,
transformers, calflops, fvcore and torchinfo; Ridgeline runs under this one. The record is written
after every run; a run that was interrupted goes on where it stopped, unless --fresh. --render
writes the tables of a record, the latest where none is named, into docs/counters.md.
"""

import argparse
import datetime
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import msgspec
from counter_peers import SEED, TOKENS
from counter_report import Failure, Record, Row, Run, markdown, median, with_tables

from ridgeline import zoo
from ridgeline.machines.cpu import read_cpu

ROOT = Path(__file__).resolve().parents[1]
RECORDS = ROOT / "benchmarks" / "records"
PAGE_FILE = ROOT / "docs" / "counters.md"
HEADLINE, SMALL = "llama-3.1-405b", "resnet50"
MODELS = (
    HEADLINE,
    "llama-2-7b",
    "mixtral-8x7b",
    "resnet50",
    "vit-b-16",
    "bert-base",
    "covid-mtl",
    "sd-v1-unet",
)
# What Ridgeline is asked of language models besides the forward run, which the peers are asked too.
PHASES, PAGE = "ridgeline: prefill and decode", "ridgeline: the same, and HTML"
TOOLS = ("ridgeline", "FlopCounterMode", "calflops", "fvcore", "torchinfo", PHASES, PAGE)
LIMIT_S = 600.0
DECIMALS = 4


def main() -> None:
    """Runs what the record lacks, writes it, prints its table."""
    options = _options()
    if options.render is not None:
        PAGE_FILE.write_text(with_tables(PAGE_FILE.read_text(), _read(options.render)))
        return
    if options.peers is None:
        sys.exit("--peers is missing: an interpreter with torch, calflops, fvcore and torchinfo.")
    path = options.out or RECORDS / f"counters-{datetime.date.today().isoformat()}.json"
    record = _start(path, options)
    cases = [(t, m) for m in options.models for t in options.tools if _applies(t, m)]
    _warm_up(options.tools, options.peers)
    for round_number in range(options.headline_repeats):
        for tool, model in _rotated(cases, round_number):
            wanted = options.headline_repeats if model == HEADLINE else options.repeats
            row = record.row(tool, model, _truth(tool, model))
            if row.failure is None and len(row.runs) <= round_number < wanted:
                _measure(row, options.peers)
                _write(path, record)
                print(_line(row), file=sys.stderr, flush=True)
    print(markdown(record), end="")


def _options() -> argparse.Namespace:
    def names(text: str) -> tuple[str, ...]:
        return tuple(text.split(","))

    parser = argparse.ArgumentParser(description="Ridgeline beside other counters.")
    parser.add_argument("--peers", type=Path, help="the interpreter that has the peers")
    parser.add_argument("--tools", type=names, default=TOOLS, help="commas between")
    parser.add_argument("--models", type=names, default=MODELS, help="commas between")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--headline-repeats", type=int, default=10, help=f"of {HEADLINE}")
    parser.add_argument("--out", type=Path, help="the record; default: benchmarks/records")
    parser.add_argument("--fresh", action="store_true", help="forget the runs recorded so far")
    parser.add_argument(
        "--render", type=Path, nargs="?", const=Path(), metavar="RECORD", help="only write the page"
    )
    options = parser.parse_args()
    if options.render == Path():
        options.render = max(RECORDS.glob("counters-*.json"))
    for given, known in ((options.tools, TOOLS), (options.models, MODELS)):
        if unknown := set(given) - set(known):
            parser.error(f"unknown: {', '.join(sorted(unknown))}; there are {', '.join(known)}.")
    return options


def _applies(tool: str, model: str) -> bool:
    """Whether the tool is asked about the model: both phases only where there are two, a page only
    for the headline.
    """
    if tool == PAGE:
        return model == HEADLINE
    return tool != PHASES or _config(model).is_file()


def _rotated(cases: list[tuple[str, str]], number: int) -> list[tuple[str, str]]:
    """Each round begins elsewhere, so that no tool always follows the same one."""
    start = number % len(cases) if cases else 0
    return cases[start:] + cases[:start]


def _config(model: str) -> Path:
    return ROOT / "benchmarks" / "configs" / f"{model}.json"


def _truth(tool: str, model: str) -> tuple[int, int]:
    """(FLOPs, parameters) that are right: published or derived by hand, in the zoo's facts.

    Prefill computes the logits of the last token only.
    """
    facts = zoo.get(model).facts
    assert facts.flops is not None
    assert facts.parameters is not None
    flops = facts.flops
    if tool in (PHASES, PAGE):
        config = json.loads(_config(model).read_text())
        flops -= 2 * (TOKENS - 1) * config["hidden_size"] * config["vocab_size"]
    return flops, facts.parameters


def _command(tool: str, model: str, peers: Path, page: Path) -> list[str]:
    if not tool.startswith("ridgeline"):
        return [str(peers), "benchmarks/counter_peers.py", tool, model]
    config = _config(model)
    target = str(config.relative_to(ROOT)) if config.is_file() else f"zoo:{model}"
    extra = {PHASES: [], PAGE: ["--html", str(page)]}.get(tool, ["--phase", "forward"])
    line = ["inspect", target, "--machine", "H100", "--json", *extra]
    return [sys.executable, "-m", "ridgeline.cli.main", *line]


def _warm_up(tools: tuple[str, ...], peers: Path) -> None:
    """One run of each tool that is thrown away: it fills the page cache."""
    for tool in tools:
        if _applies(tool, SMALL):
            _run(_command(tool, SMALL, peers, Path(os.devnull)))


def _measure(row: Row, peers: Path) -> None:
    """Adds one run to the row, or its failure."""
    with tempfile.TemporaryDirectory() as folder:
        command = _command(row.tool, row.model, peers, Path(folder) / "page.html")
        result = _run(command)
    row.command = " ".join(["python", *command[1:]]).replace(f"{folder}/", "")
    if isinstance(result, Failure):
        row.failure = result
        return
    run, answer = result
    row.runs.append(run)
    row.answer(*_answer(answer))


def _answer(text: str) -> tuple[int, int]:
    """(FLOPs, parameters) in what a tool printed."""
    answer = json.loads(text)
    totals = answer.get("totals", answer)
    return totals["flops"], totals["parameters"]


def _run(command: list[str]) -> tuple[Run, str] | Failure:
    """One process: what it took and what it printed."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "ignore"}
    load = os.getloadavg()[0]
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as errors:
        start = time.perf_counter()
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=out, stderr=errors)
        status, usage = _wait(process)
        wall_s = time.perf_counter() - start
        out.seek(0)
        errors.seek(0)
        if status != 0:
            lines = errors.read().strip().splitlines()
            return Failure(exit_code=status, message=(lines or ["no message"])[-1][:300])
        text = out.read()
    run = Run(
        wall_s=round(wall_s, DECIMALS),
        cpu_s=round(usage[0], DECIMALS),
        peak_rss_bytes=usage[1],
        load_average=round(load, 2),
    )
    return run, text


def _wait(process: subprocess.Popen[bytes]) -> tuple[int, tuple[float, int]]:
    """The exit status, and (CPU seconds, peak resident bytes) of the process."""
    deadline = time.monotonic() + LIMIT_S
    while True:
        pid, status, usage = os.wait4(process.pid, os.WNOHANG)
        if pid:
            process.returncode = os.waitstatus_to_exitcode(status)
            return process.returncode, (usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024)
        if time.monotonic() > deadline:
            process.kill()
        time.sleep(0.002)


def _line(row: Row) -> str:
    if row.failure is not None:
        return f"{row.model:16s} {row.tool:32s} failed: {row.failure.message[:90]}"
    last = row.runs[-1]
    return (
        f"{row.model:16s} {row.tool:32s} {last.wall_s:7.2f} s wall {last.cpu_s:7.2f} s CPU "
        f"{last.peak_rss_bytes / 1e6:6.0f} MB  error {100 * (row.error or 0):+.2f}%  "
        f"({len(row.runs)} runs, median {median([r.wall_s for r in row.runs]):.2f} s)"
    )


def _start(path: Path, options: argparse.Namespace) -> Record:
    """The record so far, or a new one. Raises SystemExit where it was begun on another commit."""
    fresh = Record(
        command="python benchmarks/bench_counters.py --peers PYTHON",
        commit=_commit(),
        date=datetime.date.today().isoformat(),
        cpu=read_cpu().model,
        cores=os.cpu_count() or 1,
        memory_bytes=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        versions=dict(_versions(options.peers)),
        seed=SEED,
        warm_up=1,
        rows=[],
    )
    if options.fresh or not path.is_file():
        return fresh
    old = _read(path)
    if old.commit != fresh.commit:
        sys.exit(f"{path} was begun on commit {old.commit}, this is {fresh.commit}; use --fresh.")
    return old


def _commit() -> str:
    """This commit; "-dirty" where anything but records and docs differs from it."""
    commit = _git("rev-parse", "--short=10", "HEAD")
    changed = _git("status", "--porcelain", "--", ".", ":!benchmarks/records", ":!docs")
    return f"{commit}-dirty" if changed else commit


def _git(*line: str) -> str:
    done = subprocess.run(["git", *line], cwd=ROOT, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def _versions(peers: Path) -> Iterator[tuple[str, str]]:
    yield "python", sys.version.split()[0]
    yield "torch", version("torch")
    names = ("torch", "transformers", "calflops", "fvcore", "torchinfo")
    code = "import sys; from importlib.metadata import version as v; print(*map(v, sys.argv[1:]))"
    line = [str(peers), "-c", code, *names]
    found = subprocess.run(line, capture_output=True, text=True, check=True).stdout.split()
    yield from ((f"peers' {name}", v) for name, v in zip(names, found, strict=True))


def _read(path: Path) -> Record:
    return msgspec.json.decode(path.read_bytes(), type=Record)


def _write(path: Path, record: Record) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    part.write_bytes(msgspec.json.format(msgspec.json.encode(record)) + b"\n")
    part.replace(path)


if __name__ == "__main__":
    main()
