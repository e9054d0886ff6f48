"""Writes the tables of docs/accuracy.md from a record of bench_predict.

python benchmarks/predict_table.py [RECORD.json]
"""

import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

import msgspec

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "accuracy.md"
BEGIN, END = "<!-- begin: predict_table.py -->", "<!-- end: predict_table.py -->"
KINDS_SHOWN = 14


class Kind(msgspec.Struct):
    """One op kind of one model, eagerly."""

    op: str
    count: int
    measured_s: float
    predicted_s: float


class Variant(msgspec.Struct):
    """One way to run a model."""

    time_s: float
    num_samples: int
    num_clean: int
    predicted_s: float


class Watched(msgspec.Struct):
    """One product, timed again and again while a model was: FLOP/s."""

    calibrated: float
    rates: list[float]


class Place(msgspec.Struct):
    """A model's products and convolutions by themselves, in seconds."""

    predicted_s: float
    in_turn_s: float


class Model(msgspec.Struct):
    """What the tables show of a model."""

    model: str
    best: str
    error: float
    eager_error: float
    variants: dict[str, Variant]
    kinds: list[Kind]
    explanation: str = ""
    watched: list[Watched] = []
    place: Place | None = None


class Record(msgspec.Struct):
    """What the tables show of a record."""

    commit: str
    date: str
    median_absolute_error: dict[str, float | None]
    models: list[Model]


def main() -> None:
    """Replaces what stands between the marks."""
    path = Path(sys.argv[1]) if len(sys.argv) > 1 else _latest()
    record = msgspec.json.decode(path.read_bytes(), type=Record)
    page = PAGE.read_text(encoding="utf-8")
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    tables = "\n".join(_tables(record, path))
    PAGE.write_text(f"{before}{BEGIN}\n{tables}\n{END}{after}", encoding="utf-8")


def _latest() -> Path:
    found = (ROOT / "benchmarks" / "records").glob("predict-*.json")
    dated = {msgspec.json.decode(path.read_bytes(), type=Record).date: path for path in found}
    if not dated:
        sys.exit("no record; run benchmarks/bench_predict.py first.")
    return dated[max(dated)]


def _tables(record: Record, path: Path) -> Iterable[str]:
    medians = record.median_absolute_error
    yield (
        f"From [{path.name}](../benchmarks/records/{path.name}), commit {record.commit},"
        f" {record.date[:10]}. Median absolute error: best backend"
        f" {_percent(medians['best'])}, eager {_percent(medians['eager'])}.\n"
    )
    head = (
        "model",
        "best",
        "measured",
        "predicted",
        "error",
        "clean samples",
        "eager error",
        "machine",
        "in turn",
    )
    yield from _table(head, [_row(m) for m in record.models])
    yield "\nPer op kind, eager, all models together, longest first:\n"
    yield from _table(
        ("op kind", "nodes", "measured", "predicted", "error"),
        [_kind_row(k) for k in _sums(record.models)[:KINDS_SHOWN]],
    )
    misses = [m for m in record.models if m.explanation]
    if misses:
        yield "\nMisses above 30%:\n"
        yield from (f"- **{m.model}** ({m.error:+.0%}): {m.explanation}" for m in misses)


def _row(model: Model) -> tuple[str, ...]:
    best = model.variants[model.best]
    return (
        model.model,
        model.best,
        _ms(best.time_s),
        _ms(best.predicted_s),
        f"{model.error:+.0%}",
        f"{best.num_clean} of {best.num_samples}",
        f"{model.eager_error:+.0%}",
        _steadiness(model),
        f"{model.place.in_turn_s / model.place.predicted_s:.2f}" if model.place else "-",
    )


def _steadiness(model: Model) -> str:
    """How fast fixed products were meanwhile, beside calibration: the slowest and fastest looks."""
    ratios = [rate / product.calibrated for product in model.watched for rate in product.rates]
    return f"{min(ratios):.2f} to {max(ratios):.2f}" if ratios else "-"


def _kind_row(kind: Kind) -> tuple[str, ...]:
    error = kind.predicted_s / kind.measured_s - 1 if kind.measured_s else 0.0
    return (kind.op, str(kind.count), _ms(kind.measured_s), _ms(kind.predicted_s), f"{error:+.0%}")


def _sums(models: Iterable[Model]) -> list[Kind]:
    sums: dict[str, Kind] = {}
    for kind in (k for m in models for k in m.kinds):
        total = sums.setdefault(kind.op, Kind(kind.op, 0, 0.0, 0.0))
        total.count += kind.count
        total.measured_s += kind.measured_s
        total.predicted_s += kind.predicted_s
    return sorted(sums.values(), key=lambda k: -k.measured_s)


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterable[str]:
    yield f"| {' | '.join(head)} |"
    yield f"|{'|'.join('---' if i == 0 else '---:' for i in range(len(head)))}|"
    yield from (f"| {' | '.join(row)} |" for row in rows)


def _ms(time_s: float) -> str:
    return f"{time_s * 1e3:.3g} ms" if time_s < 1 else f"{time_s * 1e3:.0f} ms"


def _percent(fraction: float | None) -> str:
    return "unknown" if fraction is None else f"{fraction:.1%}"


if __name__ == "__main__":
    main()
