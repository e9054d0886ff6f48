"""The wire format of protocol buffers, as much as reading needs: fields of a message, in order.

Source: protobuf.dev, "Encoding". Nothing is trusted: a length that leaves its message, a number of
more than 10 bytes or an unknown kind of field ends the reading with `Torn`."""

import struct
from collections.abc import Iterator
from dataclasses import dataclass

from ridgeline.errors import TraceError

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5  # wire types
_MAX_VARINT_BITS = 70
_WIDTHS = {FIXED64: 8, FIXED32: 4}
_SIGN = 1 << 63


class Torn(TraceError):
    """A message that ends before it is complete, or is no message."""


@dataclass(frozen=True, slots=True)
class Span:
    """Where a message or text lies in the data: [start, end)."""

    start: int
    end: int

    @property
    def nbytes(self) -> int:
        """Its length."""
        return self.end - self.start


def varint(data: bytes, at: int, end: int) -> tuple[int, int]:
    """A number and where the next byte is."""
    if at < end and data[at] < 0x80:
        return data[at], at + 1
    value = shift = 0
    while at < end and shift < _MAX_VARINT_BITS:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
    raise Torn(f"a number at byte {at:,} is torn off.")


def fields(data: bytes, message: Span) -> Iterator[tuple[int, int | Span]]:
    """Every field of a message: its number and a number, or where its bytes lie."""
    at, end = message.start, message.end
    while at < end:
        key = data[at]  # one byte for fields 1 to 15, which is nearly all
        key, at = (key, at + 1) if key < 0x80 else varint(data, at, end)
        kind = key & 7
        if kind == VARINT:
            value, at = varint(data, at, end)
            yield key >> 3, value
            continue
        if kind == BYTES:
            nbytes, at = varint(data, at, end)
        elif kind in _WIDTHS:
            nbytes = _WIDTHS[kind]
        else:
            raise Torn(f"byte {at:,} is no field of a message.")
        if nbytes > end - at:
            raise Torn(f"a field at byte {at:,} is torn off.")
        yield key >> 3, Span(at, at + nbytes)
        at += nbytes


def signed(value: int) -> int:
    """A varint as the int64 it encodes; one of more bits is cut to 64, as all decoders do."""
    value &= 2 * _SIGN - 1
    return value - 2 * _SIGN if value >= _SIGN else value


def text(data: bytes, span: Span) -> str:
    """The text at a place."""
    return data[span.start : span.end].decode("utf-8", "replace")


def double(data: bytes, span: Span) -> float:
    """The double at a place of 8 bytes."""
    return float(struct.unpack_from("<d", data, span.start)[0])
