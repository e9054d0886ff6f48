"""Our MLIR beside torch-mlir's: size, seconds to write and to compile, error, speed, by model.

    python benchmarks/bench_tosa.py [--models resnet50,...] [--stages build,run] [--fresh]
    python benchmarks/bench_tosa.py --render

Stage build: each model as captured goes through torch-mlir's `export_and_import` to TOSA
(stock; where that is refused, also with our decompositions of norm and attention), and after our
passes through our own tables; each module is compiled by IREE with UFront's flags (the target)
and with ours. Stage run: what compiled is loaded in one process, put into large pages and run in
turns, then again loaded in the opposite order; on a quiet machine. What is done is kept in
benchmarks/records/tosa-DATE.json and build/tosa, so that a run that was interrupted goes on where
it stopped. --render writes the newest record into docs/tosa.md.
"""

import argparse
import datetime
import gc
import platform
import re
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

import msgspec
import torch
from bench_optimize import CASES, Case
from torch import Tensor, nn

from ridgeline.backends.agreement import compare
from ridgeline.backends.environment import silent
from ridgeline.backends.measure import Timing
from ridgeline.backends.mlir import iree, torch_mlir
from ridgeline.backends.mlir.emit import emit
from ridgeline.backends.sample import take_samples
from ridgeline.backends.stateless import Raw, Stateless, stateless
from ridgeline.backends.tosa import Iree, reason_of
from ridgeline.frontends import Request
from ridgeline.frontends.target import load_model
from ridgeline.frontends.torch_export import capture
from ridgeline.graph import Phase
from ridgeline.machines.cpu import read_cpu
from ridgeline.native.large_pages import enlarge
from ridgeline.passes.manager import run_passes

ROOT = Path(__file__).resolve().parents[1]
RECORDS, BUILD = ROOT / "benchmarks" / "records", ROOT / "build" / "tosa"
PAGE = ROOT / "docs" / "tosa.md"
BEGIN, END = "<!-- begin: bench_tosa.py -->", "<!-- end: bench_tosa.py -->"
PACKAGES = ("torch", "torch-mlir", "iree-base-compiler")
SEED, THREADS, MS = 0, 2, 1e3
ROUNDS, SAMPLES_PER_TURN = 6, 2
COMPILE_LIMIT_S = 420
# The smallest first, so that a record is of use early.
MODELS = (
    "deepadipose", "mobilenetv3-large", "crnn", "bert-base", "llama-small", "vit-b-16", "resnet50",
    "sd-v1-block", "covid-mtl", "bcnn", "yolox-s", "resnext50-32x4d",
)  # fmt: skip
FLAGS = {"UFront's": ("--iree-llvmcpu-target-cpu=generic",), "tuned": iree.TUNED}
OURS, STOCK, REPAIRED = "ridgeline", "torch-mlir", "torch-mlir, decomposed by us"
_OP = re.compile(r"^\s*(?:%[\w:#, %]+ = )?\"?([a-z_][\w]*\.[\w.]+)")


class Entry(msgspec.Struct, kw_only=True):
    """One module compiled one way. ops: of the functions, constant_ops of them; *_cpu_s: seconds
    of processor time, which other programs lengthen least. refused: why there is none.
    """

    model: str
    writer: str
    flags: str
    ops: int | None = None
    constant_ops: int | None = None
    write_cpu_s: float | None = None
    compile_cpu_s: float | None = None
    compile_wall_s: float | None = None
    code_bytes: int | None = None
    load_s: float | None = None
    max_error: float | None = None
    time_s: float | None = None
    spread_s: float | None = None
    samples: int = 0
    clean_samples: int = 0
    refused: str | None = None


class Record(msgspec.Struct, kw_only=True):
    """Every entry, and where it was measured."""

    command: str
    commit: str
    date: str
    cpu: str
    threads: int
    versions: dict[str, str]
    entries: list[Entry] = []


class Written(msgspec.Struct, kw_only=True):
    """A module ready to compile, and what to run it on."""

    module: str | bytes
    ops: int
    constant_ops: int
    write_cpu_s: float
    inputs: list[Tensor]
    expected: list[Tensor]
    weights: dict[str, Tensor] = {}


def main() -> None:
    """Does what the record lacks; prints and renders."""
    options = _options()
    torch.set_num_threads(THREADS)
    path = options.out or RECORDS / f"tosa-{datetime.date.today().isoformat()}.json"
    if options.render:
        record = msgspec.json.decode(max(RECORDS.glob("tosa-*.json")).read_bytes(), type=Record)
        PAGE.write_text(_with_tables(PAGE.read_text(), record))
        return
    record = (
        msgspec.json.decode(path.read_bytes(), type=Record)
        if path.is_file() and not options.fresh
        else _new()
    )
    for model in options.models:
        for stage in options.stages:
            print(f"{model} {stage} …", file=sys.stderr, flush=True)
            STAGES[stage](record, model)
            path.write_bytes(msgspec.json.format(msgspec.json.encode(record)) + b"\n")
            gc.collect()
    print(_markdown(record))


def _options() -> argparse.Namespace:
    def names(text: str) -> tuple[str, ...]:
        return tuple(text.split(","))

    parser = argparse.ArgumentParser(description="our MLIR beside torch-mlir's.")
    parser.add_argument("--models", type=names, default=MODELS, help="commas between")
    parser.add_argument("--stages", type=names, default=tuple(STAGES), help="build, run")
    parser.add_argument("--out", type=Path, help="the record; default: benchmarks/records")
    parser.add_argument("--fresh", action="store_true", help="forget what the record holds")
    parser.add_argument("--render", action="store_true", help="only write the page")
    options = parser.parse_args()
    for given, known in ((options.models, MODELS), (options.stages, STAGES)):
        if unknown := set(given) - set(known):
            parser.error(f"unknown: {', '.join(sorted(unknown))}; there are {', '.join(known)}.")
    return options


def _build(record: Record, model: str) -> None:
    """Writes and compiles every module of a model that the record lacks."""
    done = {(e.writer, e.flags) for e in record.entries if e.model == model}
    if {(w, f) for w in (OURS, STOCK) for f in FLAGS} <= done:
        return
    module, inputs, phase = _loaded(model, CASES[model])
    ours = _compiled_all(record, model, OURS, lambda: _ours(module, inputs, model, phase))
    stock = _compiled_all(record, model, STOCK, lambda: _stock(module, inputs))
    if ours and not stock:
        _compiled_all(record, model, REPAIRED, lambda: _repaired(module, inputs, model, phase))


def _loaded(model: str, case: Case) -> tuple[nn.Module, tuple[Tensor, ...], Phase]:
    torch.manual_seed(SEED)
    phase = Phase(case.phase)
    loaded = load_model(Request(target=case.target, phase=phase, batch=case.batch, seq=case.seq))
    assert not loaded.kwargs, f"{model} takes inputs by name"
    return loaded.module.eval(), tuple(loaded.inputs), phase


def _compiled_all(record: Record, model: str, writer: str, write: Callable[[], Written]) -> bool:
    """Adds an entry per set of flags; whether any compiled."""
    try:
        with silent():
            written = write()
    except Exception as error:  # exporters raise every kind of exception
        for flags in FLAGS:
            record.entries.append(
                Entry(model=model, writer=writer, flags=flags, refused=reason_of(error))
            )
        return False
    folder = BUILD / model / writer.replace(" ", "-").replace(",", "")
    folder.mkdir(parents=True, exist_ok=True)
    torch.save({"inputs": written.inputs, "expected": written.expected}, folder / "case.pt")
    if written.weights:
        iree.write_weights(written.weights, folder / "weights.irpa")
    entries = [_compiled(model, writer, flags, written, folder) for flags in FLAGS]
    record.entries += entries
    return any(e.refused is None for e in entries)


def _compiled(model: str, writer: str, flags: str, written: Written, folder: Path) -> Entry:
    entry = Entry(
        model=model,
        writer=writer,
        flags=flags,
        ops=written.ops,
        constant_ops=written.constant_ops,
        write_cpu_s=written.write_cpu_s,
    )
    start, cpu_s = time.perf_counter(), _children_s()
    try:
        with _limited(COMPILE_LIMIT_S):
            code = iree.compiled(written.module, "tosa", FLAGS[flags])
    except Exception as error:
        entry.refused = reason_of(error)
        return entry
    entry.compile_wall_s = time.perf_counter() - start
    entry.compile_cpu_s = _children_s() - cpu_s
    entry.code_bytes = len(code)
    (folder / f"{_file(flags)}.vmfb").write_bytes(code)
    return entry


@contextmanager
def _limited(limit_s: int) -> Iterator[None]:
    """Ends what is in the block, and the compiler that it waits for, after some seconds."""

    def stop(*_: object) -> None:
        raise TimeoutError(f"not compiled in {limit_s} s")

    signal.signal(signal.SIGALRM, stop)
    signal.alarm(limit_s)
    try:
        yield
    finally:
        signal.alarm(0)


def _file(flags: str) -> str:
    return flags.replace("'", "").lower()


def _children_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _ours(module: nn.Module, inputs: Sequence[Tensor], name: str, phase: Phase) -> Written:
    """Passes, then our tables. Its seconds are those of both."""
    graph = capture(module, tuple(inputs), phase=phase, name=name, is_trusted=True)
    start = time.process_time()
    graph = run_passes(graph, skip=Iree.declines)[-1].graph
    form = stateless(graph)
    emitted = emit(form)
    write_cpu_s = time.process_time() - start
    given, expected = _eager(form, inputs)
    ops, constants = _count(emitted.text)
    return Written(
        module=emitted.text,
        ops=ops,
        constant_ops=constants,
        write_cpu_s=write_cpu_s,
        inputs=given,
        expected=expected,
        weights=dict(emitted.weights),
    )


def _eager(form: Stateless, inputs: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
    given = [x.contiguous() for x in (*inputs, *form.state)]
    with torch.no_grad():
        return given, [y.clone() for y in form.module(*given)]


def _stock(module: nn.Module, inputs: Sequence[Tensor]) -> Written:
    """What torch-mlir makes of torch.export's program, as its users call it."""
    program = torch.export.export(module, tuple(inputs))
    start = time.process_time()
    found = torch_mlir.imported(program, "tosa")
    write_cpu_s = time.process_time() - start
    with torch.no_grad():
        out = program.module()(*(x.clone() for x in inputs))
    expected = [y for y in torch.utils._pytree.tree_leaves(out) if isinstance(y, Tensor)]
    return _by_torch_mlir(found, write_cpu_s, list(inputs), expected)


def _repaired(module: nn.Module, inputs: Sequence[Tensor], name: str, phase: Phase) -> Written:
    """torch-mlir on the graph as captured, with our decompositions of norm and attention."""
    form = stateless(capture(module, tuple(inputs), phase=phase, name=name, is_trusted=True))
    given, expected = _eager(form, inputs)
    torch_mlir.prepare(form.module)
    program = form.program()
    start = time.process_time()
    found = torch_mlir.imported(program.run_decompositions(torch_mlir.decompositions()), "tosa")
    return _by_torch_mlir(found, time.process_time() - start, given, expected)


def _by_torch_mlir(
    module: "torch_mlir.Module", write_cpu_s: float, inputs: list[Tensor], expected: list[Tensor]
) -> Written:
    text = module.operation.get_asm(large_elements_limit=4, large_resource_limit=4)
    ops, constants = _count(text)
    return Written(
        module=torch_mlir.serialised(module),
        ops=ops,
        constant_ops=constants,
        write_cpu_s=write_cpu_s,
        inputs=[x.contiguous() for x in inputs],
        expected=expected,
    )


def _count(text: str) -> tuple[int, int]:
    """Operations in the text, regions included, and those of them that only name constants."""
    names = [m.group(1) for line in text.splitlines() if (m := _OP.match(line))]
    inside = [n for n in names if n not in ("func.func", "util.global")]
    constants = ("tosa.const", "tosa.const_shape", "arith.constant", "util.global.load")
    return len(inside), sum(n in constants for n in inside)


def _run(record: Record, model: str) -> None:
    """Loads what compiled and was not run, all in this process, and runs it in turns."""
    entries = [e for e in record.entries if e.model == model and e.refused is None]
    if all(e.time_s is not None for e in entries):
        return
    times: list[tuple[list[float], list[bool]]] = [([], []) for _ in entries]
    orders = [range(len(entries)), range(len(entries) - 1, -1, -1)]
    has_peer = len({e.writer for e in entries}) > 1
    for order in orders if has_peer else orders[:1]:
        _timed(entries, order, times)
        gc.collect()
    for entry, (took, clean) in zip(entries, times, strict=True):
        if entry.refused is None:
            timing = Timing(times_s=tuple(took), is_clean=tuple(clean))
            entry.time_s, entry.spread_s = timing.time_s, timing.spread_s
            entry.samples, entry.clean_samples = len(took), sum(clean)


def _timed(
    entries: Sequence[Entry],
    order: Sequence[int],
    times: Sequence[tuple[list[float], list[bool]]],
) -> None:
    """Adds the samples of modules loaded in this order: where in memory one lies is up to that."""
    runs: list[tuple[int, Raw, list[Tensor]]] = []
    for number in order:
        entry = entries[number]
        if entry.refused is not None:
            continue
        try:
            runs.append((number, *_ready(entry)))
        except Exception as error:
            entry.refused = f"does not run: {reason_of(error)}"
    enlarge()  # for all of them: without, a module's place decides by a tenth who is faster
    for turn in range(ROUNDS):
        for number, raw, inputs in runs if turn % 2 == 0 else reversed(runs):
            took, clean = take_samples(lambda *x, r=raw: tuple(r(x)), inputs, SAMPLES_PER_TURN)
            times[number][0].extend(took)
            times[number][1].extend(clean)


def _ready(entry: Entry) -> tuple[Raw, list[Tensor]]:
    folder = BUILD / entry.model / entry.writer.replace(" ", "-").replace(",", "")
    case = torch.load(folder / "case.pt", weights_only=True)
    archive = folder / "weights.irpa"
    start = time.perf_counter()
    index = iree.read_weights(archive) if archive.is_file() else None
    code = (folder / f"{_file(entry.flags)}.vmfb").read_bytes()
    raw = iree.loaded(code, case["expected"], index)
    entry.load_s = time.perf_counter() - start
    entry.max_error = compare(case["expected"], raw(case["inputs"])).max_error
    return raw, case["inputs"]


STAGES: dict[str, Callable[[Record, str], None]] = {"build": _build, "run": _run}


def _new() -> Record:
    line = ["git", "rev-parse", "--short=10", "HEAD"]
    commit = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return Record(
        command="python benchmarks/bench_tosa.py",
        commit=commit.strip(),
        date=datetime.date.today().isoformat(),
        cpu=read_cpu().model,
        threads=THREADS,
        versions={"python": platform.python_version()} | {name: version(name) for name in PACKAGES},
    )


def _with_tables(page: str, record: Record) -> str:
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n\n{_markdown(record)}\n{END}{after}"


def _markdown(record: Record) -> str:
    head = (
        "| model | module by | ops | of them constants | written, CPU s | flags | compiled, CPU s "
        "| code, MB | loaded, s | max error | median, ms | clean samples |"
    )
    lines = [head, "|---|---|" + "---:|" * 3 + "---|" + "---:|" * 6]
    for model in MODELS:
        lines += [_row(e) for e in record.entries if e.model == model]
    versions = ", ".join(f"{name} {number}" for name, number in record.versions.items())
    where = (
        f"Measured {record.date} at commit {record.commit} on {record.cpu}, {record.threads} "
        f"threads. {versions}."
    )
    refused = [e for e in record.entries if e.refused]
    reasons = dict.fromkeys(f"- {e.model}, {e.writer}: {e.refused}" for e in refused)
    parts = ["\n".join(lines), _summary(record), where, "Refused, and why:", "\n".join(reasons)]
    return "\n\n".join(parts if refused else parts[:3]) + "\n"


def _row(entry: Entry) -> str:
    def shown(value: float | None, form: str, factor: float = 1.0) -> str:
        return "–" if value is None else format(value * factor, form)

    cells = [
        entry.model,
        entry.writer,
        shown(entry.ops, ",.0f"),
        shown(entry.constant_ops, ",.0f"),
        shown(entry.write_cpu_s, ".2f"),
        entry.flags,
        "refused" if entry.refused else shown(entry.compile_cpu_s, ".1f"),
        shown(entry.code_bytes, ".1f", 1e-6),
        shown(entry.load_s, ".2f"),
        shown(entry.max_error, ".1e"),
        shown(entry.time_s, ".3g", MS),
        f"{entry.clean_samples} of {entry.samples}" if entry.samples else "–",
    ]
    return f"| {' | '.join(cells)} |"


def _summary(record: Record) -> str:
    """Ours over torch-mlir's, on the models that both run."""
    pairs = (
        ("ops", "ops", "tuned"),
        ("CPU seconds to compile", "compile_cpu_s", "tuned"),
        *(("time, " + flags + " flags", "time_s", flags) for flags in FLAGS),
    )
    found = [s for name, field, flags in pairs if (s := _ratio(record, name, field, flags))]
    return "Ours over torch-mlir's, geometric means. " + "; ".join(found) + "."


def _ratio(record: Record, name: str, field: str, flags: str) -> str:
    """A clause on one field; "" where no model has it on both sides."""
    found = {(e.model, e.writer): e for e in record.entries if e.flags == flags and not e.refused}
    ratios = []
    for model in MODELS:
        ours = found.get((model, OURS))
        theirs = found.get((model, STOCK)) or found.get((model, REPAIRED))
        if ours and theirs and getattr(ours, field) and getattr(theirs, field):
            ratios.append((getattr(ours, field) / getattr(theirs, field), model))
    if not ratios:
        return ""
    mean = torch.tensor([r for r, _ in ratios]).log().mean().exp().item()
    (low, best), (high, worst) = min(ratios), max(ratios)
    return (
        f"{name}: {mean:.2f} (from {low:.2f}, {best}, to {high:.2f}, {worst}; {len(ratios)} models)"
    )


if __name__ == "__main__":
    main()
