"""A place in JSON text that may be cut off or damaged: steps over values, builds none of them.

What json_cursor.h does for the built scanner, step by step the same.
"""

import re
from collections.abc import Iterator

from ridgeline.native.scan import Text

_WHITE = re.compile(rb"[ \n\t\r]*+")
_STRING = re.compile(rb'"((?:[^"\\]++|\\.)*+)"', re.DOTALL)
_WORD = re.compile(rb"[+\-.0-9A-Za-z]*+")
_BRACKET = re.compile(rb'"(?:[^"\\]++|\\.)*+"|["{}\[\]]', re.DOTALL)
_CLOSERS = {b"{": b"}", b"[": b"]"}
_MAX_DEPTH = 256


class Cut(Exception):
    """The text ends in the middle."""


class Broken(Exception):
    """A byte that no JSON has there."""


class Cursor:
    """A place in `data`."""

    def __init__(self, data: Text) -> None:
        self.data = data
        self.offset = 0
        self._end = len(data)

    @property
    def is_at_end(self) -> bool:
        return self.offset == self._end

    def next(self) -> bytes:
        """The next byte that is not white; empty at the end."""
        match = _WHITE.match(self.data, self.offset)
        assert match
        self.offset = match.end()
        return bytes(self.data[self.offset : self.offset + 1])

    def take(self, byte: bytes) -> bool:
        """Whether `byte` is next; then steps over it."""
        is_next = self.next() == byte
        self.offset += is_next
        return is_next

    def expect(self, byte: bytes) -> None:
        """Steps over `byte`. Raises Cut or Broken where it is not next."""
        if not self.take(byte):
            raise Cut if self.is_at_end else Broken

    def string(self) -> bytes:
        """The inside of a string, its escapes as they are written."""
        if self.next() != b'"':
            raise Cut if self.is_at_end else Broken
        match = _STRING.match(self.data, self.offset)
        if not match:
            self.offset = self._end
            raise Cut
        self.offset = match.end()
        return match[1]

    def value(self) -> bytes:
        """The text of a value of any type."""
        first = self.next()
        start = self.offset
        if first == b'"':
            self.string()
        elif first in _CLOSERS:
            self._nested()
        else:
            self._word()
        return bytes(self.data[start : self.offset])

    def members(self) -> Iterator[bytes]:
        """The keys of an object; at each the cursor stands before a value, to be stepped over."""
        self.expect(b"{")
        if self.take(b"}"):
            return
        while True:
            key = self.string()
            self.expect(b":")
            yield key
            if not self.take(b","):
                break
        self.expect(b"}")

    def _nested(self) -> None:
        closers: list[bytes] = []
        for match in _BRACKET.finditer(self.data, self.offset):
            token = match[0]
            self.offset = match.start()
            if token in _CLOSERS:
                if len(closers) == _MAX_DEPTH:
                    raise Broken
                closers.append(_CLOSERS[token])
            elif token == b'"':
                break
            elif len(token) == 1 and closers.pop() != token:
                raise Broken
            if not closers:
                self.offset = match.end()
                return
        self.offset = self._end
        raise Cut

    def _word(self) -> None:
        match = _WORD.match(self.data, self.offset)
        assert match
        is_empty, self.offset = match.end() == self.offset, match.end()
        if self.is_at_end:
            raise Cut
        if is_empty:
            raise Broken
