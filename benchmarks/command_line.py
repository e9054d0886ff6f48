"""The command as a record tells it."""

from collections.abc import Sequence

PLACES = ("--work", "--out", "--machine")


def told(arguments: Sequence[str]) -> list[str]:
    """The arguments without those that say where files lie, which means nothing elsewhere."""
    pairs = zip(["", *arguments], arguments, strict=False)
    return [a for before, a in pairs if a not in PLACES and before not in PLACES]
