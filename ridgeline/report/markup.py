"""HTML and SVG text that cannot be broken out of: plain strings are escaped, their control
characters spelled out; only `Html` is not."""

from html import escape

from ridgeline.units import printable


class Html(str):
    """Text that is markup already. Everything else is escaped on its way in."""

    __slots__ = ()


Content = str | int | float
_VOID = frozenset({"br", "hr", "img", "input", "meta"})


def markup(content: Content) -> Html:
    """`content` as markup: itself if it is, escaped if not."""
    return (
        content if isinstance(content, Html) else Html(escape(printable(str(content)), quote=True))
    )


def join(parts: "list[Html]", between: str = "") -> Html:
    """Several pieces of markup as one."""
    return Html(escape(between).join(parts))


def element(tag: str, /, *children: Content, **attributes: Content | bool | None) -> Html:
    """One element. `class_` is the attribute class, `data_tip` is data-tip; None leaves one out."""
    words = [tag]
    for key, value in attributes.items():
        key = key.rstrip("_").replace("_", "-")
        if value is True:
            words.append(key)
        elif value is not None and value is not False:
            words.append(f'{key}="{_number(value)}"')
    opening = f"<{' '.join(words)}>"
    if tag in _VOID:
        return Html(opening)
    return Html(f"{opening}{''.join(markup(child) for child in children)}</{tag}>")


def _number(value: Content) -> str:
    """Attribute text; coordinates to a tenth of a pixel, which nobody can tell from the rest."""
    return f"{value:.1f}" if isinstance(value, float) else escape(printable(str(value)), quote=True)


def elided(text: str, most: int = 140) -> str:
    """`text`, its middle left out where it is longer than `most` characters."""
    if len(text) <= most:
        return text
    return f"{text[: most // 2]}…{text[-(most // 2) :]}"
