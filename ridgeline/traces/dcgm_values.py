"""One value of a DCGM log: a number, or one of the ways to say there is none."""

import math

from ridgeline.errors import TraceError

# dcgm_fields.h, DCGM 4.6: blank, and after it not found, not supported, not permissioned
_INT64_BLANK = 0x7FFFFFFFFFFFFFF0
_FP64_BLANK = 2.0**47
_NUM_BLANKS = 16
_MOST = 2.0**63  # of what DCGM stores; above are sentinels
_BLANK_WORDS = frozenset({"", "n/a", "na", "nan", "-", "null"})


def _is_blank(text: str) -> bool:
    return text.lower() in _BLANK_WORDS or text.startswith("<<<")


def _is_sentinel(value: float) -> bool:
    """Whether a number stands for no value. A byte total may pass 2**47, but not stop at it."""
    return value >= float(_INT64_BLANK) or _FP64_BLANK <= value < _FP64_BLANK + _NUM_BLANKS


def is_number(text: str) -> bool:
    """Whether a cell holds a number or a blank, and not text such as a device's name."""
    try:
        float(text)
    except ValueError:
        return _is_blank(text.strip())
    return True


def value_of(text: str, where: str) -> float | None:
    """The number in a cell; None for a blank one. Raises TraceError for anything else, with the
    place `where`."""
    text = text.strip()
    if _is_blank(text):
        return None
    try:
        value = float(text)
    except ValueError:
        raise TraceError(f"{where}: {text[:40]!r} is not a number.") from None
    if math.isnan(value) or math.isinf(value) or _is_sentinel(value):
        return None
    if value < -_MOST:
        raise TraceError(f"{where}: {text[:40]} is out of range.")
    return value
