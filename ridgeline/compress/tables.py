"""The elements and the schemes as tables in Markdown, for the page of the formats."""

from collections.abc import Iterator, Sequence

from ridgeline.compress.elements import ELEMENTS, Element
from ridgeline.compress.presets import SCHEMES
from ridgeline.compress.scheme import Scheme

_SHAPE = (4096, 4096)
_HEADS = (1, 32, 4096, 128)  # a key cache: as many values, in heads


def element_table() -> str:
    """One row per element, widest first within its kind."""
    head = (
        "element",
        "bits",
        "kind",
        "E",
        "M",
        "bias",
        "lowest",
        "largest",
        "smallest",
        "inf",
        "NaN",
    )
    return _table(head, (_element_row(element) for element in ELEMENTS.values()))


def scheme_table() -> str:
    """One row per scheme; bits per weight of 4096×4096 values."""
    head = ("scheme", "element", "scale shared by", "scale", "its element", "bits per weight")
    return _table(head, (_scheme_row(scheme) for scheme in SCHEMES.values()))


def _element_row(element: Element) -> tuple[str, ...]:
    return (
        element.name,
        str(element.bits),
        element.kind.value,
        str(element.exponent_bits or "–"),
        str(element.mantissa_bits or "–"),
        str(element.bias or "–"),
        f"{element.lowest:.6g}",
        f"{element.largest:.6g}",
        f"{element.smallest:.6g}",
        "yes" if element.has_inf else "–",
        "yes" if element.has_nan else "–",
    )


def _scheme_row(scheme: Scheme) -> tuple[str, ...]:
    shape = _HEADS if str(scheme.granularity) == "head" else _SHAPE
    return (
        scheme.name,
        scheme.element.name,
        str(scheme.granularity),
        scheme.scaling.value,
        scheme.scale_element.name,
        f"{scheme.bits_per_weight(shape):.4g}",
    )


def _table(head: Sequence[str], rows: Iterator[tuple[str, ...]]) -> str:
    lines = [head, tuple("---" for _ in head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
