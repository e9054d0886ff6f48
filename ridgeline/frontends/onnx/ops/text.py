"""Texts: they are known values, whatever is done with them."""

from collections.abc import Callable

import numpy as np

from ridgeline.frontends.onnx.call import Call, Result, Value, several
from ridgeline.frontends.onnx.dtypes import Array
from ridgeline.frontends.onnx.table import Row, rows
from ridgeline.frontends.onnx.weights import known

_CASES: dict[str, Callable[[str], str]] = {"UPPER": str.upper, "LOWER": str.lower, "NONE": str}


def _texts(call: Call, index: int) -> Array:
    array = call.array(index)
    decoded = [v.decode() if isinstance(v, bytes) else str(v) for v in array.reshape(-1)]
    return _array(decoded).reshape(array.shape)


def _array(texts: list[str]) -> Array:
    array: Array = np.empty(len(texts), object)
    array[:] = texts
    return array


def _concat(call: Call) -> Value:
    left, right = np.broadcast_arrays(_texts(call, 0), _texts(call, 1))
    pairs = zip(left.reshape(-1), right.reshape(-1), strict=True)
    return known(_array([f"{a}{b}" for a, b in pairs]).reshape(left.shape))


def _normalise(call: Call) -> Value:
    """Stop words left out, then the case changed."""
    case, is_exact = call.text("case_change_action", "NONE"), call.flag("is_case_sensitive")
    stops = call.texts("stopwords", ())
    stops = stops if is_exact else [s.lower() for s in stops]
    change = _CASES[case]

    def line(texts: list[str]) -> list[str]:
        return [change(t) for t in texts if (t if is_exact else t.lower()) not in stops]

    array = _texts(call, 0)
    lines = [line(list(row)) for row in np.atleast_2d(array)]
    width = max(1, *(len(row) for row in lines))
    filled = [_array([*row, *[""] * (width - len(row))]) for row in lines]
    return known(filled[0] if array.ndim == 1 else np.stack(filled))


def _split(call: Call) -> Result:
    array = _texts(call, 0)
    mark = call.text("delimiter", "") or None
    most = call.integer("maxsplit") if call.given("maxsplit") else -1
    parts = [str(t).split(mark, most) if t else [] for t in array.reshape(-1)]
    counts = np.array([len(p) for p in parts], np.int64).reshape(array.shape)
    width = max((len(p) for p in parts), default=0)
    filled = [t for p in parts for t in (*p, *[""] * (width - len(p)))]
    return several(known(_array(filled).reshape(*array.shape, width)), known(counts))


ROWS: tuple[Row, ...] = rows(
    {
        "StringConcat": _concat,
        "StringNormalizer": _normalise,
        "StringSplit": _split,
    }
)
