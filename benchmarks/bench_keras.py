"""Keras's layers and applications read by Ridgeline, beside Keras's own outputs.

    python benchmarks/bench_keras.py [--out FILE] [--layers-only]
    python benchmarks/bench_keras.py --render [RECORD]

Each case of the tests is built with Keras on its torch backend, its weights redrawn, saved, read
back and run on random inputs; the error is the largest difference over the largest output. The
applications are built without weights, which are then stirred, and without their softmax. --render
writes the tables of a record, the latest where none is named, into docs/keras.md.
"""

import argparse
import datetime
import json
import os
import platform
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests" / "frontends" / "keras"))  # the cases are the tests'
# Keras reads both at import; its settings must not come from, or go to, the user's home.
os.environ["KERAS_BACKEND"] = "torch"
os.environ["KERAS_HOME"] = tempfile.mkdtemp(prefix="keras-home-")

import keras  # noqa: E402
import torch  # noqa: E402
from keras_cases import FAMILIES  # noqa: E402
from keras_oracle import TOLERANCE, error_of, randomise, run_keras, saved  # noqa: E402
from test_keras_models import APPLICATIONS, application  # noqa: E402
from torch.utils._pytree import tree_leaves  # noqa: E402

from ridgeline.cost.rules import cost_of  # noqa: E402
from ridgeline.frontends import Request, capture_target, load_model  # noqa: E402

RECORDS = ROOT / "benchmarks" / "records"
PAGE = ROOT / "docs" / "keras.md"
START, END = "<!-- record -->", "<!-- end of record -->"
SEED = 0


def main() -> None:
    """Runs every case, writes the record; or renders one."""
    parser = argparse.ArgumentParser(description="Keras layers and applications, read back.")
    parser.add_argument("--out", type=Path, help="the record to write")
    parser.add_argument("--layers-only", action="store_true", help="leave the applications out")
    parser.add_argument("--render", nargs="?", const="", help="write a record's tables to the docs")
    options = parser.parse_args()
    if options.render is not None:
        _render(Path(options.render) if options.render else max(RECORDS.glob("keras-*.json")))
        return
    path = options.out or RECORDS / f"keras-{datetime.date.today().isoformat()}.json"
    names = () if options.layers_only else APPLICATIONS
    path.write_text(json.dumps(_record(names), indent=1) + "\n", encoding="utf-8")
    print(_tables(json.loads(path.read_text(encoding="utf-8"))))


def _record(applications: tuple[str, ...]) -> dict[str, object]:
    return {
        "command": " ".join(["python", *sys.argv]),
        "date": datetime.date.today().isoformat(),
        "seed": SEED,
        "tolerance": TOLERANCE,
        "machine": {"processor": platform.machine(), "python": platform.python_version()},
        "versions": {p: version(p) for p in ("keras", "torch", "h5py", "numpy")},
        "layers": [
            {"family": family, **_family(builds)} for family, builds in sorted(FAMILIES.items())
        ],
        "applications": [_application(name) for name in applications],
    }


def _family(builds: dict[str, Callable[[], keras.Model]]) -> dict[str, object]:
    errors = {name: _error(build) for name, build in builds.items()}
    passed = [e for e in errors.values() if e <= TOLERANCE]
    return {
        "cases": len(errors),
        "passed": len(passed),
        "max_error": max(passed, default=0.0),
        "failed": sorted(name for name, e in errors.items() if e > TOLERANCE),
    }


def _error(build: Callable[[], keras.Model]) -> float:
    torch.manual_seed(SEED)
    model = build()
    randomise(model)
    with _file(model) as path:
        return _compared(model, path)


def _compared(model: keras.Model, path: Path) -> float:
    loaded = load_model(Request(target=str(path)))
    found = tree_leaves(loaded.module(*loaded.inputs))
    return error_of(found, run_keras(model, loaded.inputs))


def _application(name: str) -> dict[str, object]:
    torch.manual_seed(SEED)
    model = application(name)
    with _file(model) as path:
        graph = capture_target(Request(target=str(path)))
        error = _compared(model, path)
    print(f"{name}: {error:.1e}", file=sys.stderr)
    return {
        "name": name,
        "parameters": model.count_params(),
        "flops": sum(cost_of(node).flops for node in graph.nodes),
        "nodes": len(graph.nodes),
        "permutes": sum(node.op == "permute" for node in graph.nodes),
        "max_error": error,
    }


@contextmanager
def _file(model: keras.Model) -> Iterator[Path]:
    """A model saved for as long as the block lasts."""
    with tempfile.TemporaryDirectory() as folder:
        yield saved(model, Path(folder))


def _tables(record: dict[str, list[dict[str, object]]]) -> str:
    """The record as Markdown: the layers by family, then the applications."""
    return "\n".join([*_layer_lines(record["layers"]), "", *_model_lines(record["applications"])])


def _layer_lines(rows: list[dict[str, object]]) -> Iterator[str]:
    yield "| layers | cases | equal | largest error |"
    yield "|---|---:|---:|---:|"
    for row in rows:
        yield f"| {row['family']} | {row['cases']} | {row['passed']} | {row['max_error']:.0e} |"


def _model_lines(rows: list[dict[str, object]]) -> Iterator[str]:
    yield "| keras.applications | weights | GFLOP | nodes | permutes | largest error |"
    yield "|---|---:|---:|---:|---:|---:|"
    for row in rows:
        flops = float(str(row["flops"])) / 1e9
        yield (
            f"| {row['name']} | {row['parameters']:,} | {flops:.2f} | {row['nodes']} | "
            f"{row['permutes']} | {row['max_error']:.0e} |"
        )


def _render(path: Path) -> None:
    record = json.loads(path.read_text(encoding="utf-8"))
    versions = ", ".join(f"{k} {v}" for k, v in record["versions"].items())
    note = f"From `benchmarks/records/{path.name}` ({versions}), all in one run."
    text = PAGE.read_text(encoding="utf-8")
    head, rest = text.split(START)
    _, tail = rest.split(END)
    PAGE.write_text(f"{head}{START}\n{_tables(record)}\n\n{note}\n{END}{tail}", encoding="utf-8")


if __name__ == "__main__":
    main()
