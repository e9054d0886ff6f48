"""What large pages gain, and what a graph in parts on two backends does, by model and precision.

    python benchmarks/bench_split.py [--models resnet50,...] [--dtypes fp32,int8]
    python benchmarks/bench_split.py --render

One race per model and precision: our kernels, OpenVINO and onnxruntime on the same rewritten graph,
the latter two in small pages too; then the mixture of the two fastest, in turns with both. The
record is benchmarks/records/split-DATE.json; --render writes the newest into docs/split.md.
"""

import argparse
import datetime
import os
import platform
import subprocess
import sys
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from math import ceil, exp, log
from pathlib import Path
from statistics import median

import msgspec
import torch
from bench_optimize import CASES, MS, SEED, THREADS
from command_line import told
from small_pages import SmallOnnxRuntime, SmallOpenVino

from ridgeline.backends.backend import Dtype
from ridgeline.backends.choose import Limits, optimize
from ridgeline.backends.result import Candidate
from ridgeline.cli.optimize import progress_on_stderr
from ridgeline.errors import RidgelineError
from ridgeline.frontends import Request, capture, load_model
from ridgeline.graph import Phase
from ridgeline.machines.cpu import read_cpu

ROOT = Path(__file__).resolve().parents[1]
RECORDS, PAGE = ROOT / "benchmarks" / "records", ROOT / "docs" / "split.md"
BEGIN, END = "<!-- begin: bench_split.py -->", "<!-- end: bench_split.py -->"
PACKAGES = ("torch", "openvino", "nncf", "onnxruntime")
BACKENDS = (SmallOpenVino, SmallOnnxRuntime, "native", "openvino", "onnxruntime")
SMALL = ", small pages"
# Models of which two backends come within half of each other in some precision.
MODELS = ("mobilenetv3-large", "resnet50", "resnext50-32x4d", "bcnn", "covid-mtl", "vit-b-16")
REPEATS, PATIENCE_S = 16, 20.0


class Entry(msgspec.Struct, kw_only=True):
    """One candidate. times_s: every sample, round by round."""

    backend: str
    time_s: float | None
    spread_s: float | None
    samples: int
    clean_samples: int
    max_error: float | None
    skipped: str | None
    times_s: list[float]


class Result(msgspec.Struct, kw_only=True):
    """One race."""

    model: str
    dtype: str
    entries: list[Entry]

    def entry(self, backend: str) -> Entry | None:
        """The candidate of that name, where it ran and agreed."""
        found = [e for e in self.entries if e.backend == backend and not e.skipped and e.time_s]
        return found[0] if found else None

    def pages_gain(self, backend: str) -> float | None:
        """Time in small pages over time in large ones, the median over the rounds of all."""
        small, large = self.entry(backend + SMALL), self.entry(backend)
        if small is None or large is None:
            return None
        pairs = list(zip(small.times_s, large.times_s, strict=False))[: 2 * ceil(REPEATS / 2)]
        return median(s / t for s, t in pairs)

    @property
    def split(self) -> Entry | None:
        """The mixture, whatever became of it; None where it was not tried."""
        return next((e for e in self.entries if "+" in e.backend), None)

    @property
    def split_gain(self) -> float | None:
        """Time of the faster of its two over that of the mixture: the last rounds are common."""
        split = self.split
        if split is None or split.skipped:
            return None
        pair = [e for n in split.backend.split("+") if (e := self.entry(n)) is not None]
        gains = [_paired(e.times_s, split.times_s) for e in pair]
        return min(gains, default=None)


class Record(msgspec.Struct, kw_only=True):
    """Every race, and where it was run."""

    command: str
    commit: str
    date: str
    cpu: str
    threads: int
    versions: dict[str, str]
    results: list[Result] = []


def main() -> None:
    """Runs what the record lacks; prints and renders."""
    options = _options()
    path = options.out or RECORDS / f"split-{datetime.date.today().isoformat()}.json"
    if options.render:
        newest = msgspec.json.decode(max(RECORDS.glob("split-*.json")).read_bytes(), type=Record)
        before, _, rest = PAGE.read_text().partition(BEGIN)
        _, _, after = rest.partition(END)
        PAGE.write_text(f"{before}{BEGIN}\n\n{_markdown(newest)}\n{END}{after}")
        return
    record = msgspec.json.decode(path.read_bytes(), type=Record) if path.is_file() else _new()
    done = {(r.model, r.dtype) for r in record.results}
    for model in options.models:
        for dtype in options.dtypes:
            if (model, dtype) in done:
                continue
            print(f"{model} {dtype} …", file=sys.stderr, flush=True)
            try:
                record.results.append(_raced(model, dtype))
            except RidgelineError as error:  # nothing within tolerance
                print(error, file=sys.stderr)
                continue
            path.write_bytes(msgspec.json.format(msgspec.json.encode(record)) + b"\n")
    print(_markdown(record))


def _options() -> argparse.Namespace:
    def names(text: str) -> tuple[str, ...]:
        return tuple(text.split(","))

    parser = argparse.ArgumentParser(description="large pages, and graphs in parts.")
    parser.add_argument("--models", type=names, default=MODELS, help="commas between")
    parser.add_argument("--dtypes", type=names, default=("fp32", "int8"), help="commas between")
    parser.add_argument("--out", type=Path, help="the record; default: benchmarks/records")
    parser.add_argument("--render", action="store_true", help="only write the page")
    return parser.parse_args()


def _raced(model: str, dtype: Dtype) -> Result:
    case = CASES[model]
    torch.manual_seed(SEED)
    phase = Phase(case.phase)
    loaded = load_model(Request(target=case.target, phase=phase, batch=case.batch, seq=case.seq))
    graph = capture(
        loaded.module,
        loaded.inputs,
        kwargs=loaded.kwargs,
        phase=phase,
        name=model,
        is_trusted=True,
    )
    os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), str(ROOT / "benchmarks")])
    found = optimize(
        graph,
        [x for x in loaded.inputs if isinstance(x, torch.Tensor)],
        dtypes=(dtype,),
        backends=BACKENDS,
        repeats=REPEATS,
        threads=THREADS,
        limits=Limits(patience_s=PATIENCE_S),
        progress=progress_on_stderr(),
    )
    return Result(model=model, dtype=dtype, entries=[_entry(c) for c in found.candidates])


def _entry(c: Candidate) -> Entry:
    return Entry(
        backend=c.backend,
        time_s=c.time_s,
        spread_s=c.spread_s,
        samples=c.samples,
        clean_samples=c.clean_samples,
        max_error=c.max_error,
        skipped=c.skipped,
        times_s=list(c.times_s),
    )


def _paired(those: Sequence[float], these: Sequence[float]) -> float:
    """The median ratio of samples that were taken in turns, the last with the last."""
    return median(a / b for a, b in zip(reversed(those), reversed(these), strict=False))


def _new() -> Record:
    line = ["git", "describe", "--always", "--dirty", "--abbrev=10"]
    commit = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return Record(
        command=" ".join(["python benchmarks/bench_split.py", *told(sys.argv[1:])]),
        commit=commit.strip(),
        date=datetime.date.today().isoformat(),
        cpu=read_cpu().model,
        threads=THREADS,
        versions={"python": platform.python_version()} | {name: version(name) for name in PACKAGES},
    )


def _markdown(record: Record) -> str:
    versions = ", ".join(f"{name} {number}" for name, number in record.versions.items())
    where = (
        f"Measured {record.date} at commit {record.commit} on {record.cpu}, {record.threads} "
        f"threads. {versions}."
    )
    return "\n".join([*_table(record.results), "", _summary(record.results), "", where, ""])


def _table(results: Sequence[Result]) -> Iterator[str]:
    yield (
        "| model | dtype | native | openvino | its gain by pages | onnxruntime | its gain by pages "
        "| mixture | fastest alone over it |"
    )
    yield "|---|---|" + "---:|" * 5 + "---|---:|"
    for result in results:
        cells = [result.model, result.dtype, _ms(result.entry("native"))]
        for name in ("openvino", "onnxruntime"):
            cells += [_ms(result.entry(name)), _ratio(result.pages_gain(name))]
        cells += [_told(result.split), _ratio(result.split_gain)]
        yield f"| {' | '.join(cells)} |"


def _told(split: Entry | None) -> str:
    if split is None:
        return "not tried"
    return f"{split.backend} {_ms(split)}" if not split.skipped else _reason(split.skipped)


def _reason(text: str) -> str:
    return text.partition(": ")[2].removesuffix(".")


def _summary(results: Sequence[Result]) -> str:
    sentences = []
    for name in ("openvino", "onnxruntime"):
        gains = [g for r in results if (g := r.pages_gain(name))]
        if gains:
            mean = exp(sum(map(log, gains)) / len(gains))
            sentences.append(
                f"{name} {mean:.2f} (from {min(gains):.2f} to {max(gains):.2f}, {len(gains)} races)"
            )
    return f"Milliseconds. Gain by large pages, geometric means: {'; '.join(sentences)}."


def _ms(entry: Entry | None) -> str:
    return "–" if entry is None or entry.time_s is None else f"{MS * entry.time_s:.3g}"


def _ratio(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"


if __name__ == "__main__":
    main()
