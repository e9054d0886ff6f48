"""The only place where numbers become text and units are converted, and text what a terminal may
print. GiB is 2**30, GB is 1e9."""

KIB, MIB, GIB = 2**10, 2**20, 2**30
KB, MB, GB, TB = 1e3, 1e6, 1e9, 1e12
GIGA, TERA = 1e9, 1e12

_SI = ((1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))
_IEC = ((2**40, "TiB"), (GIB, "GiB"), (MIB, "MiB"), (KIB, "KiB"))
_TIME = ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs"), (1e-9, "ns"))


# C0, DEL and C1 but for the line's end and the tab: what moves a terminal's cursor, or worse.
_CONTROLS = {
    code: f"\\x{code:02x}" for code in (*range(32), *range(127, 160)) if code not in (9, 10)
}


def printable(text: str) -> str:
    """`text` of any origin with its control characters spelled out, `\\x1b`, safe on a terminal."""
    return text.translate(_CONTROLS)


def significant(value: float, digits: int = 3) -> str:
    """`value` with `digits` significant digits, thousands separated, never in exponent form."""
    if value == 0:
        return "0"
    # of the rounded value: 99.96 has two digits before the point, but 100 has three
    exponent = int(f"{value:.{digits - 1}e}".partition("e")[2])
    return f"{value:,.{max(0, digits - 1 - exponent)}f}"


def _reaches(value: float, scale: float) -> bool:
    """Whether `value` as printed is at least one `scale`: 999.96 µs is 1.00 ms."""
    return abs(float(f"{value:.2e}")) >= scale


def counted(count: int, noun: str) -> str:
    """ "1 thread", "2 threads", "1,024 threads"."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def format_count(value: float, unit: str = "") -> str:
    """SI-prefixed count: 29261600000000 with unit "FLOP" is "29.3 TFLOP"."""
    for scale, prefix in _SI:
        if _reaches(value, scale):
            return f"{significant(value / scale)} {prefix}{unit}".rstrip()
    return f"{significant(value)} {unit}".rstrip()


def format_bytes(nbytes: float) -> str:
    """Binary-prefixed bytes: 1048576 is "1.00 MiB"."""
    for scale, name in _IEC:
        if abs(nbytes) >= scale:
            return f"{significant(nbytes / scale)} {name}"
    return f"{int(nbytes)} B"


def format_time(time_s: float) -> str:
    """A duration in its natural unit: 0.0046 is "4.60 ms"."""
    for scale, name in _TIME:
        if _reaches(time_s, scale):
            return f"{significant(time_s / scale)} {name}"
    return "0 s" if time_s == 0 else f"{significant(time_s / 1e-9)} ns"


def format_rate(per_s: float, unit: str) -> str:
    """A rate with its unit: 989.4e12 with "FLOP" is "989 TFLOP/s"."""
    return f"{format_count(per_s, unit)}/s"


def format_percent(fraction: float) -> str:
    """A fraction as a percentage without false precision: 0.7812 is "78%", 0.034 is "3.4%"."""
    return f"{100 * fraction:.0f}%" if abs(fraction) >= 0.1 else f"{100 * fraction:.1f}%"
