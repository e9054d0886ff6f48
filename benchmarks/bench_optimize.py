"""`optimize` beside every peer, model by model, all in one run and in turns.

    python benchmarks/bench_optimize.py [--models resnet50,...] [--stages fp32,lower] [--fresh]

Stage fp32: torch eager, torch.compile (default and max-autotune), AOTInductor, onnxruntime,
OpenVINO and IREE on the model as captured, beside our backends on the rewritten graph. Stage lower:
bf16 and int8. Each model and stage is one race of child processes; what is done is kept in the
record, so that a run that was interrupted goes on where it stopped. The record is
benchmarks/records/optimize-DATE.json; docs/optimize-peers.md is written from it by --render.
"""

import argparse
import datetime
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Collection, Iterable
from importlib.metadata import PackageNotFoundError, version
from math import exp, log
from pathlib import Path
from statistics import median

import msgspec
import torch
from command_line import told
from optimize_peers import CAPTURED, FP32_PEERS, LOWER_PEERS

from ridgeline import graph as graphs
from ridgeline.backends.backend import Backend, Dtype
from ridgeline.backends.choose import Limits, optimize
from ridgeline.backends.predict import predictor
from ridgeline.backends.registry import BACKENDS
from ridgeline.cli.optimize import progress_on_stderr
from ridgeline.errors import RidgelineError
from ridgeline.frontends import Request
from ridgeline.frontends.target import load_model
from ridgeline.frontends.torch_export import capture
from ridgeline.graph import Phase
from ridgeline.machines import load
from ridgeline.machines.cpu import read_cpu

ROOT = Path(__file__).resolve().parents[1]
RECORDS = ROOT / "benchmarks" / "records"
PAGE = ROOT / "docs" / "optimize-peers.md"
BEGIN, END = "<!-- begin: bench_optimize.py -->", "<!-- end: bench_optimize.py -->"
PACKAGES = ("torch", "onnxruntime", "openvino", "nncf", "torchao", "iree-base-compiler")
SEED, REPEATS, THREADS, MS = 0, 30, 2, 1e3
# Compiling everything for everybody is what takes the time; a candidate that needs longer is out.
COMPILE_LIMIT_S, PATIENCE_S = 240.0, 15.0
LEAST_RATIO = 0.98
# Of each the newest record is on the page: lower precisions have one of their own.
RENDERED = ("optimize-*.json", "lower-*.json")
OURS = ("**ours**", "with", "to best peer", "to eager", "roofline", "of it")


class Case(msgspec.Struct, frozen=True, kw_only=True):
    """One model at one size."""

    target: str
    phase: str = "forward"
    batch: int | None = None
    seq: int | None = None


CASES = {
    "deepadipose": Case(target="zoo:deepadipose"),
    "mobilenetv3-large": Case(target="zoo:mobilenetv3-large"),
    "llama-small": Case(target="zoo:llama-small", phase="prefill", seq=128),
    "bert-base": Case(target="zoo:bert-base", seq=128),
    "crnn": Case(target="zoo:crnn", batch=1, seq=280),
    "resnet50": Case(target="zoo:resnet50"),
    "bcnn": Case(target="zoo:bcnn"),
    "vit-b-16": Case(target="zoo:vit-b-16"),
    "sd-v1-block": Case(target="zoo:sd-v1-block"),
    "covid-mtl": Case(target="zoo:covid-mtl", seq=96),
    "yolox-s": Case(target="zoo:yolox-s", seq=416),
    "resnext50-32x4d": Case(target="zoo:resnext50-32x4d"),
    "resnet50-b8": Case(target="zoo:resnet50", batch=8),
}
STAGES: dict[str, tuple[tuple[Dtype, ...], tuple[type[Backend], ...]]] = {
    "fp32": (("fp32",), FP32_PEERS),
    "lower": (("bf16", "int8"), LOWER_PEERS),
}


class Entry(msgspec.Struct, kw_only=True):
    """One candidate of a race. is_peer: on the model as captured, with nothing of ours. times_s:
    every sample, round by round.
    """

    backend: str
    dtype: str
    is_peer: bool
    time_s: float | None
    spread_s: float | None
    samples: int
    clean_samples: int
    max_error: float | None
    skipped: str | None
    times_s: list[float] = []


class Result(msgspec.Struct, kw_only=True):
    """One race. roofline_s: per dtype, what this machine would need at least."""

    model: str
    stage: str
    eager_s: float | None
    roofline_s: dict[str, float | None]
    entries: list[Entry]
    passes: list[str]

    def best(self, *, is_peer: bool) -> Entry | None:
        """The fastest within tolerance."""
        ran = [
            e
            for e in self.entries
            if e.is_peer == is_peer and e.skipped is None and e.time_s is not None
        ]
        return min(ran, key=lambda e: e.time_s or 0.0, default=None)

    @property
    def ratio(self) -> float | None:
        """The best peer's time over ours, as the rounds say: per peer the median of its rounds'
        ratios, as a machine that is slow in a round is so for both, and of the peers the least. Of
        records without samples, the ratio of the medians.
        """
        ours, best = self.best(is_peer=False), self.best(is_peer=True)
        if ours is None or best is None or not ours.time_s or not best.time_s:
            return None
        peers = [e for e in self.entries if e.is_peer and e.skipped is None and e.times_s]
        if not peers or not ours.times_s:
            return best.time_s / ours.time_s
        return min(
            median(p / o for p, o in zip(peer.times_s, ours.times_s, strict=False))
            for peer in peers
        )


class Record(msgspec.Struct, kw_only=True):
    """Every race, and where it was run."""

    command: str
    commit: str
    date: str
    cpu: str
    threads: int
    repeats: int
    versions: dict[str, str]
    machine: str
    results: list[Result]
    failures: dict[str, str] = {}


def main() -> None:
    """Runs what the record lacks; prints and renders."""
    options = _options()
    path = options.out or RECORDS / f"optimize-{datetime.date.today().isoformat()}.json"
    if options.render:
        newest = [max(found) for found in map(list, map(RECORDS.glob, RENDERED)) if found]
        PAGE.write_text(_with_tables(PAGE.read_text(), map(_read, newest)))
        return
    record = _read(path) if path.is_file() and not options.fresh else _new()
    done = {(r.model, r.stage) for r in record.results} | {
        tuple(key.split("/")) for key in record.failures
    }
    for model in options.models:
        for stage in options.stages:
            if (model, stage) in done:
                continue
            print(f"{model} {stage} …", file=sys.stderr, flush=True)
            try:
                record.results.append(_raced(model, stage, options.without))
            except RidgelineError as error:
                record.failures[f"{model}/{stage}"] = str(error)
            path.write_bytes(msgspec.json.format(msgspec.json.encode(record)) + b"\n")
            print(_markdown(record), flush=True)


def _options() -> argparse.Namespace:
    def names(text: str) -> tuple[str, ...]:
        return tuple(text.split(","))

    parser = argparse.ArgumentParser(description="optimize beside every peer.")
    parser.add_argument("--models", type=names, default=tuple(CASES), help="commas between")
    parser.add_argument("--stages", type=names, default=tuple(STAGES), help="fp32, lower")
    parser.add_argument(
        "--without",
        type=names,
        default=(),
        help="backends of ours that do not run, with commas between: iree compiles for minutes",
    )
    parser.add_argument("--out", type=Path, help="the record; default: benchmarks/records")
    parser.add_argument("--fresh", action="store_true", help="forget what the record holds")
    parser.add_argument("--render", action="store_true", help="only write the page")
    options = parser.parse_args()
    for given, known in ((options.models, CASES), (options.stages, STAGES)):
        if unknown := set(given) - set(known):
            parser.error(f"unknown: {', '.join(sorted(unknown))}; there are {', '.join(known)}.")
    return options


def _raced(model: str, stage: str, without: Collection[str]) -> Result:
    case, (dtypes, peers) = CASES[model], STAGES[stage]
    torch.manual_seed(SEED)
    loaded = load_model(
        Request(target=case.target, phase=Phase(case.phase), batch=case.batch, seq=case.seq)
    )
    graph = capture(
        loaded.module,
        loaded.inputs,
        kwargs=loaded.kwargs,
        phase=Phase(case.phase),
        name=model,
        is_trusted=True,
    )
    inputs = tuple(x for x in loaded.inputs if isinstance(x, torch.Tensor))
    own = [
        b
        for b in BACKENDS.values()
        if b.name not in without and (stage == "fp32" or b.name != "eager")
    ]
    predict = predictor(load("this"))
    with tempfile.TemporaryDirectory(prefix="ridgeline-bench-") as folder:
        file = Path(folder) / "captured.pt2"
        graphs.save(graph, file)
        os.environ[CAPTURED] = str(file)
        os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), str(ROOT / "benchmarks")])
        found = optimize(
            graph,
            inputs,
            dtypes=dtypes,
            backends=[*peers, *own],
            repeats=REPEATS,
            threads=THREADS,
            limits=Limits(compile_s=COMPILE_LIMIT_S, patience_s=PATIENCE_S),
            progress=progress_on_stderr(),
            may_split=False,  # bench_split.py has what that gains
        )
    is_peer = {b.name for b in peers}
    return Result(
        model=model,
        stage=stage,
        eager_s=found.baseline.time_s,
        roofline_s={d: predict(found.graph, d, "roofline") for d in dtypes},
        passes=[step.name for step in found.passes if step.diff],
        entries=[
            Entry(
                backend=c.backend,
                dtype=c.dtype,
                is_peer=c.backend in is_peer,
                time_s=c.time_s,
                spread_s=c.spread_s,
                samples=c.samples,
                clean_samples=c.clean_samples,
                max_error=c.max_error,
                skipped=c.skipped,
                times_s=list(c.times_s),
            )
            for c in found.candidates
        ],
    )


def _new() -> Record:
    def git(*line: str) -> str:
        done = subprocess.run(["git", *line], cwd=ROOT, capture_output=True, text=True, check=True)
        return done.stdout.strip()

    versions = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return Record(
        command=" ".join(["python benchmarks/bench_optimize.py", *told(sys.argv[1:])]),
        commit=git("rev-parse", "--short=10", "HEAD"),
        date=datetime.date.today().isoformat(),
        cpu=read_cpu().model,
        threads=THREADS,
        repeats=REPEATS,
        versions=versions,
        machine=load("this").notes,
        results=[],
    )


def _read(path: Path) -> Record:
    return msgspec.json.decode(path.read_bytes(), type=Record)


def _with_tables(page: str, records: Iterable[Record]) -> str:
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    tables = "\n".join(map(_markdown, records))
    return f"{before}{BEGIN}\n\n{tables}\n{END}{after}"


def _markdown(record: Record) -> str:
    parts = [_stage_table(record, stage) for stage in STAGES]
    skipped = "".join(
        f"- {r.model}, {e.backend} {e.dtype}: {e.skipped}\n"
        for r in record.results
        for e in r.entries
        if e.skipped
        and not e.skipped.endswith("does not compute in int8.")
        and not e.skipped.endswith("does not compute in bf16.")
    )
    versions = ", ".join(f"{name} {number}" for name, number in record.versions.items())
    where = (
        f"Measured {record.date} at commit {record.commit} on {record.cpu}, {record.threads} "
        f"threads, medians of at least {record.repeats} samples in turns. {versions}.\n"
    )
    return "\n".join([*filter(None, parts), where, "Left out, and why:\n", skipped])


def _stage_table(record: Record, stage: str) -> str:
    results = [r for r in record.results if r.stage == stage]
    if not results:
        return ""
    peers = list(
        dict.fromkeys((e.backend, e.dtype) for r in results for e in r.entries if e.is_peer)
    )
    peers = [p for p in peers if any(_time(r, *p) is not None for r in results)]
    head = ["model", "eager", *(f"{b} {d}" for b, d in peers), *OURS]
    rows = [head, ["---", *("---:" for _ in head[1:])]]
    ratios: list[float] = []
    gains: list[float] = []
    for result in results:
        ours, ratio = result.best(is_peer=False), result.ratio
        ratios += [ratio] if ratio else []
        gain = result.eager_s / ours.time_s if ours and ours.time_s and result.eager_s else None
        gains += [gain] if gain else []
        roofline_s = result.roofline_s.get(ours.dtype) if ours else None
        rows.append(
            [
                result.model,
                _ms(result.eager_s),
                *(_ms(_time(result, *peer)) for peer in peers),
                f"**{_ms(ours.time_s if ours else None)}**",
                f"{ours.backend} {ours.dtype}" if ours else "-",
                f"{ratio:.2f}" if ratio else "-",
                f"{gain:.1f}" if gain else "-",
                _ms(roofline_s),
                f"{roofline_s / ours.time_s:.0%}" if ours and ours.time_s and roofline_s else "-",
            ]
        )
    is_paired = any(e.times_s for r in results for e in r.entries)
    paired = ", round for round, medians" if is_paired else ""
    table = "".join(f"| {' | '.join(row)} |\n" for row in rows)
    summary = (
        f"Milliseconds. Best peer over ours{paired}: geometric mean "
        f"{_mean(ratios):.3f}, least "
        f"{min(ratios, default=0):.3f}; {sum(r >= LEAST_RATIO for r in ratios)} of {len(ratios)} "
        f"at {LEAST_RATIO} or more. Eager over ours: geometric mean {_mean(gains):.1f}."
    )
    single = _best_single(results, peers)
    return f"### {stage}\n\n{table}\n{summary}{single}\n"


def _best_single(results: list[Result], peers: list[tuple[str, str]]) -> str:
    """The peer that is fastest over all models that it runs, and by how much we beat it."""
    means = []
    for peer in peers:
        pairs = [(_time(r, *peer), r.best(is_peer=False)) for r in results]
        ratios = [t / o.time_s for t, o in pairs if t and o and o.time_s]
        if len(ratios) == len(results):
            means.append((_mean(ratios), " ".join(peer)))
    if not means:
        return ""
    mean, name = min(means)
    return f" Against the best single peer, {name}: geometric mean {mean:.3f}."


def _time(result: Result, backend: str, dtype: str) -> float | None:
    for entry in result.entries:
        if (entry.backend, entry.dtype, entry.is_peer) == (backend, dtype, True):
            return None if entry.skipped else entry.time_s
    return None


def _mean(values: list[float]) -> float:
    return exp(sum(map(log, values)) / len(values)) if values else 0.0


def _ms(time_s: float | None) -> str:
    return "-" if time_s is None else f"{MS * time_s:.3g}"


if __name__ == "__main__":
    main()
