"""Every operator that converts by a row of our own, one table per family."""

from ridgeline.frontends.onnx.ops import (
    attention,
    casting,
    contrib,
    control,
    convolution,
    elementwise,
    indexing,
    linear,
    loss,
    normalisation,
    pooling,
    quantisation,
    random,
    recurrent,
    reduction,
    resample,
    sequence,
    shape,
    spectral,
    text,
)
from ridgeline.frontends.onnx.table import Row, by_operator

# family -> its rows
FAMILIES: dict[str, tuple[Row, ...]] = {
    "elementwise": elementwise.ROWS,
    "casting": casting.ROWS,
    "reduction": reduction.ROWS,
    "shape": shape.ROWS,
    "indexing": indexing.ROWS,
    "linear algebra": linear.ROWS,
    "convolution": convolution.ROWS,
    "pooling": pooling.ROWS,
    "resampling": resample.ROWS,
    "normalisation": normalisation.ROWS,
    "attention": attention.ROWS,
    "recurrent": recurrent.ROWS,
    "quantisation": quantisation.ROWS,
    "spectral": spectral.ROWS,
    "loss": loss.ROWS,
    "random": random.ROWS,
    "control flow": control.ROWS,
    "sequences and optionals": sequence.ROWS,
    "text": text.ROWS,
    "com.microsoft": contrib.ROWS,
}
_TABLE = by_operator(row for table in FAMILIES.values() for row in table)


def row_of(domain: str, op: str, version: int) -> Row | None:
    """The row of an operator in a version of its operator set, if there is one."""
    return next((r for r in _TABLE.get((domain, op), ()) if r.since <= version), None)


def family_of(domain: str, op: str) -> str:
    """The family of an operator; "other" where it is expanded or has no row."""
    for family, table in FAMILIES.items():
        if any((r.domain, r.op) == (domain, op) for r in table):
            return family
    return "other"
