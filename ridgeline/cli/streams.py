"""Standard output and error, made to take every character that a report prints."""

import codecs
import io
import os
import sys

_PLAIN = {"µ": "u", "×": "x", "…": "...", "→": "->", "–": "-", "≥": ">=", "≤": "<="}
_HANDLER = "ridgeline_plain"


def prepare_streams() -> None:
    """Where a stream is closed, opens the null device; where its encoding lacks a character (ASCII
    under LANG=C), prints the nearest plain one.
    """
    codecs.register_error(_HANDLER, _plain)
    sys.stdout = sys.stdout or open(os.devnull, "w", encoding="utf-8")
    sys.stderr = sys.stderr or open(os.devnull, "w", encoding="utf-8")
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=_HANDLER)


def _plain(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    lost = error.object[error.start : error.end]
    return "".join(_PLAIN.get(character, "?") for character in lost), error.end
