"""Decimal numbers as integers, exactly: microseconds with a fraction become nanoseconds."""

import re

MAX_TIME_NS = 2**61  # that a start and a duration add up in 64 bits
_NUMBER = re.compile(rb"(-?)(\d++)(?:\.(\d*+))?(?:[eE]([+-]?\d++))?")
_MOST_DIGITS, _MOST_EXPONENT = 38, 100_000


def scaled_decimal(text: bytes, shift: int, limit: int) -> int | None:
    """`text` times 10**shift, rounded half away from zero; None where it is no number or the
    result is beyond `limit`. As decimal.h does it.
    """
    if not (match := _NUMBER.fullmatch(text)):
        return None
    sign, whole, fraction, power = match.groups(b"")
    digits = (whole + fraction).lstrip(b"0")
    exponent = shift - len(fraction) + _clamped(power) + max(0, len(digits) - _MOST_DIGITS)
    mantissa = int(digits[:_MOST_DIGITS] or b"0")
    value = _times_ten(mantissa, exponent)
    if value > limit:
        return None
    return -value if sign else value


def _clamped(power: bytes) -> int:
    digits = power.lstrip(b"+-").lstrip(b"0") or b"0"
    size = _MOST_EXPONENT if len(digits) > 5 else int(digits)
    return -size if power.startswith(b"-") else size


def _times_ten(mantissa: int, exponent: int) -> int:
    """mantissa * 10**exponent, rounded; of more than 60 digits some number as large."""
    if exponent >= 0:
        return mantissa * int(10 ** min(exponent, 60))
    if exponent < -_MOST_DIGITS - 1:
        return 0
    divisor: int = 10**-exponent
    return (2 * mantissa + divisor) // (2 * divisor)


def nanoseconds(text: bytes) -> int | None:
    """Microseconds as nanoseconds; None where `text` is no such time."""
    digits = text[:-4] + text[-3:]
    if 4 < len(text) <= 17 and text[-4:-3] == b"." and digits.isdigit():  # as most are written
        return int(digits)
    whole, point, fraction = text.partition(b".")
    if len(text) <= 17 and whole.isdigit() and (fraction.isdigit() or not point):
        if len(fraction) <= 3:
            value = int(whole) * 1000 + int(fraction.ljust(3, b"0"))
            return value if value <= MAX_TIME_NS else None
    return scaled_decimal(text, 3, MAX_TIME_NS)
